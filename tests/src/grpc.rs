//! gRPC calls with bytes in place of messages.

use aether_proto::raft::Route;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// Takes messages as they travel.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A call with bytes of the caller's.
pub struct Call {
    path: PathAndQuery,
    request: Request<()>,
}

impl Call {
    /// Of a method, such as `/aether.v1.Updates/Get`.
    ///
    /// # Panics
    /// When that is no path.
    pub fn of(path: &str) -> Self {
        Self { path: path.parse().expect("a method is a path"), request: Request::new(()) }
    }

    /// With this text as `grpc-timeout`, whatever it is.
    ///
    /// # Panics
    /// When no header can hold it.
    #[must_use]
    pub fn timeout(mut self, text: &str) -> Self {
        let text = text.parse().expect("a header");
        self.request.metadata_mut().insert("grpc-timeout", text);
        self
    }

    /// As a call between voters, meant for this one.
    #[must_use]
    pub fn route(mut self, route: &Route) -> Self {
        let value = MetadataValue::from_bytes(&route.encode_to_vec());
        self.request.metadata_mut().insert_bin("aether-route-bin", value);
        self
    }

    /// Sends messages, and gives the first answer.
    ///
    /// # Errors
    /// The status that came instead, also if a stream ended without an answer.
    pub async fn send(self, to: Channel, messages: Vec<Bytes>) -> Result<Bytes, Status> {
        let mut client = tonic::client::Grpc::new(to);
        let unreached = |error| Status::unavailable(format!("not reached: {error}"));
        client.ready().await.map_err(unreached)?;
        let (metadata, extensions, ()) = self.request.into_parts();
        let messages = tonic::codegen::tokio_stream::iter(messages);
        let request = Request::from_parts(metadata, extensions, messages);
        let answer = client.streaming(request, self.path, Raw).await?;
        let mut answers: Streaming<Bytes> = answer.into_inner();
        answers.message().await?.ok_or_else(|| Status::ok("it ended without an answer"))
    }
}
