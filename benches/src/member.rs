//! One member of either store, as its clients see it: the same calls over the
//! same gRPC client.

use std::net::SocketAddr;
use std::time::Duration;

use aether_proto::v1;
use aether_proto::v1::cluster_client::ClusterClient;
use anyhow::{Context, Result, bail};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::etcd::pb;
use crate::etcd::pb::kv_client::KvClient;
use crate::etcd::pb::watch_client::WatchClient;

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// This project.
    Aether,
    /// etcd.
    Etcd,
}

/// A connection to one member.
#[derive(Clone)]
pub struct Member {
    store: Store,
    channel: Channel,
}

/// What a watcher calls for each change: the value that was put.
type OnValue = Box<dyn FnMut(&[u8]) + Send>;

impl Member {
    /// A connection of its own; made at its first use.
    pub fn connect(store: Store, address: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true);
        Ok(Self { store, channel: endpoint.connect_lazy() })
    }

    /// A durable write.
    ///
    /// # Errors
    /// It was not acknowledged within `patience`.
    pub async fn put(&self, key: &str, value: &str, patience: Duration) -> Result<(), Status> {
        let channel = self.channel.clone();
        match self.store {
            Store::Aether => {
                let put = v1::KvPutRequest {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    ..Default::default()
                };
                let mut request = Request::new(put);
                request.set_timeout(patience);
                ClusterClient::new(channel).kv_put(request).await.map(drop)
            }
            Store::Etcd => {
                let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
                let mut request = Request::new(pb::PutRequest { key, value });
                request.set_timeout(patience);
                KvClient::new(channel).put(request).await.map(drop)
            }
        }
    }

    /// Watches one key; returns once the watch stands, and tells of each put from
    /// then on until the task is dropped.
    ///
    /// # Errors
    /// The member does not take it.
    pub async fn watch(
        &self,
        key: &str,
        mut on_value: OnValue,
    ) -> Result<tokio::task::JoinHandle<()>> {
        let channel = self.channel.clone();
        match self.store {
            Store::Aether => {
                let request = v1::KvWatchRequest { prefix: key.to_owned(), from_index: None };
                let mut changes = ClusterClient::new(channel).kv_watch(request).await?.into_inner();
                while let Some(change) = changes.next().await {
                    if change?.kind == "SYNCED" {
                        return Ok(tokio::spawn(async move {
                            while let Some(Ok(change)) = changes.next().await {
                                let record = change.value_json.unwrap_or_default();
                                on_value(record.as_bytes());
                            }
                        }));
                    }
                }
                bail!("the watch of {key} ended before it began")
            }
            Store::Etcd => {
                let create =
                    pb::WatchCreateRequest { key: key.as_bytes().to_vec(), range_end: Vec::new() };
                let create = pb::watch_request::RequestUnion::CreateRequest(create);
                let (requests, stream) = tokio::sync::mpsc::channel(1);
                requests.send(pb::WatchRequest { request_union: Some(create) }).await?;
                let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
                let mut answers = WatchClient::new(channel).watch(stream).await?.into_inner();
                let first = answers.next().await.context("the watch ended")??;
                if !first.created {
                    bail!("the watch of {key} was not created");
                }
                Ok(tokio::spawn(async move {
                    // Held so that the watch goes on.
                    let _requests = requests;
                    while let Some(Ok(answer)) = answers.next().await {
                        for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                            on_value(&kv.value);
                        }
                    }
                }))
            }
        }
    }
}
