//! Unary gRPC calls straight on HTTP/2, for a load that costs its machine little:
//! what the members do with two cores is to be seen, not what a client does.

use std::net::SocketAddr;
use std::time::Duration;

use aether_proto::v1;
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderValue, Request, Uri};
use prost::Message;
use tokio::net::TcpStream;

use crate::etcd::pb;
use crate::member::Store;

/// The flag and the length in front of a message.
const PREFIX_BYTES: usize = 5;
/// What an answer may fill before it is read: more than all calls of a
/// connection together.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// A connection to one member. Clones share it.
#[derive(Clone)]
pub struct Wire {
    store: Store,
    requests: SendRequest<Bytes>,
    put: Uri,
    get: Uri,
    timeout: HeaderValue,
}

impl Wire {
    /// Connects; calls are to be answered within `patience`, which the member is
    /// told.
    ///
    /// # Errors
    /// The member does not take it.
    pub async fn connect(store: Store, address: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = h2::client::Builder::new();
        connection.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (requests, connection) = connection.handshake(stream).await?;
        tokio::spawn(connection);
        let (put, get) = match store {
            Store::Aether => ("/aether.v1.Cluster/KvPut", "/aether.v1.Cluster/KvGet"),
            Store::Etcd => ("/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"),
        };
        let uri = |path: &str| format!("http://{address}{path}").parse::<Uri>();
        let timeout = HeaderValue::from_str(&format!("{}S", patience.as_secs()))?;
        Ok(Self { store, requests, put: uri(put)?, get: uri(get)?, timeout })
    }

    /// A durable write.
    ///
    /// # Errors
    /// It was not acknowledged.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let message = match self.store {
            Store::Aether => framed(&v1::KvPutRequest {
                key: key.to_owned(),
                value: value.to_owned(),
                ..Default::default()
            }),
            Store::Etcd => framed(&pb::PutRequest {
                key: key.as_bytes().to_vec(),
                value: value.as_bytes().to_vec(),
            }),
        };
        self.call(self.put.clone(), message).await.map(drop)
    }

    /// A linearizable read of a key that is there.
    ///
    /// # Errors
    /// It was not answered, with a value, and linearizably.
    pub async fn get(&mut self, key: &str) -> Result<()> {
        let fresh = match self.store {
            Store::Aether => {
                let get = v1::KvGetRequest { key: key.to_owned(), stale: false };
                let answer = self.call(self.get.clone(), framed(&get)).await?;
                v1::KvEntry::decode(answer)?.as_of.is_some_and(|as_of| !as_of.stale)
            }
            Store::Etcd => {
                let get = pb::RangeRequest { key: key.as_bytes().to_vec(), serializable: false };
                let answer = self.call(self.get.clone(), framed(&get)).await?;
                !pb::RangeResponse::decode(answer)?.kvs.is_empty()
            }
        };
        ensure!(fresh, "no linearizable answer");
        Ok(())
    }

    /// One call: a message there, and the one that came back.
    async fn call(&mut self, method: Uri, message: Bytes) -> Result<Bytes> {
        let mut request = Request::post(method).body(())?;
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("grpc-timeout", self.timeout.clone());
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        let (answer, mut body) = self.requests.send_request(request, false)?;
        body.send_data(message, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut status = head.headers.get("grpc-status").cloned();
        let mut received = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            received.extend_from_slice(&part);
        }
        if let Some(trailers) = body.trailers().await? {
            status = trailers.get("grpc-status").cloned().or(status);
        }
        let status = status.context("an answer without a status")?;
        if status != HeaderValue::from_static("0") {
            bail!("answered with gRPC status {status:?}");
        }
        ensure!(received.len() >= PREFIX_BYTES, "an answer without a message");
        Ok(received.split_off(PREFIX_BYTES).freeze())
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}
