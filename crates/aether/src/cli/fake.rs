//! A fake node for tests: every method of our gRPC services, over a real
//! connection. It notes what it is asked, and answers with what the test gave it.
//!
//! It knows no service by its type: a method is named as in the protocol, such
//! as `Updates/Get`, so that a new one needs nothing here. The program's own
//! tests use it, and those of the command line as a whole (`tests/cli`).
#![allow(dead_code, reason = "each of the two uses a part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use aether_proto::PUBLIC_DESCRIPTORS;
use bytes::{Buf, BufMut};
use futures::stream;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// What a method is answered with.
#[derive(Clone)]
struct Answer {
    messages: Vec<Result<Vec<u8>, Status>>,
    /// Whether the answer ends there, or more may come for ever.
    ends: bool,
}

#[derive(Default)]
struct Inner {
    asked: Vec<String>,
    answers: BTreeMap<String, Answer>,
    refusals: BTreeMap<String, Status>,
    refusal: Option<Status>,
    hangs_up: bool,
}

/// The node; clones are the same.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>, Arc<Notify>);

/// An address that accepts connections, as long as the listener is held, and
/// says nothing.
pub fn frozen() -> (String, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}

impl Fake {
    /// What a method answers.
    pub fn will_answer<M: Message>(&self, method: &str, message: &M) {
        self.will_tell(method, vec![Ok(message.encode_to_vec())], true);
    }

    /// What a method streams, one message after the other; then nothing more
    /// comes, and the stream stays open.
    pub fn will_stream<M: Message>(&self, method: &str, story: Vec<Result<M, Status>>) {
        let story = story.into_iter().map(|told| told.map(|message| message.encode_to_vec()));
        self.will_tell(method, story.collect(), false);
    }

    /// What a method streams until it ends.
    pub fn will_stream_all<M: Message>(&self, method: &str, story: &[M]) {
        self.will_tell(
            method,
            story.iter().map(|message| Ok(message.encode_to_vec())).collect(),
            true,
        );
    }

    fn will_tell(&self, method: &str, messages: Vec<Result<Vec<u8>, Status>>, ends: bool) {
        let answer = Answer { messages, ends };
        self.0.lock().unwrap().answers.insert(method.to_owned(), answer);
    }

    /// What every request is answered with.
    pub fn will_refuse(&self, status: Status) {
        self.0.lock().unwrap().refusal = Some(status);
    }

    /// What one method is answered with.
    pub fn will_refuse_method(&self, method: &str, status: Status) {
        self.0.lock().unwrap().refusals.insert(method.to_owned(), status);
    }

    /// What was asked so far: the method and the fields of the request.
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// What was asked since this was called last.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    /// Serves on a port of its own until the runtime ends; gives the address.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = self.clone();
        let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let fake = fake.clone();
            async move { fake.handle(request).await }
        });
        let server = Server::builder().add_routes(Routes::from(router));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Serves one connection; whoever comes later is refused.
    pub async fn serve_one(&self) -> String {
        let behind = self.serve().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut from, _) = listener.accept().await.unwrap();
            drop(listener);
            let mut to = TcpStream::connect(behind).await.unwrap();
            copy_bidirectional(&mut from, &mut to).await
        });
        address
    }

    /// Serves, and breaks every connection as soon as something was asked.
    pub async fn serve_until_asked(&self) -> String {
        self.0.lock().unwrap().hangs_up = true;
        let behind = self.serve().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = self.1.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (behind, asked) = (behind.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(behind).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        () = asked.notified() => {}
                    }
                });
            }
        });
        address
    }

    async fn handle(
        self,
        request: axum::extract::Request,
    ) -> Result<axum::response::Response, Infallible> {
        let path = request.uri().path().to_owned();
        let service = tower::service_fn(move |request: Request<Streaming<Vec<u8>>>| {
            let (fake, path) = (self.clone(), path.clone());
            async move { fake.answer(&path, request.into_inner()).await }
        });
        let response = Grpc::new(Raw).streaming(service, request).await;
        Ok(response.map(axum::body::Body::new))
    }

    async fn answer(
        &self,
        path: &str,
        mut messages: Streaming<Vec<u8>>,
    ) -> Result<Response<Told>, Status> {
        // A client knocks at others first.
        let Some(method) = path.strip_prefix("/aether.v1.") else {
            return Err(Status::unimplemented("not ours"));
        };
        let known = described(method);
        let mut asked = method.to_owned();
        while let Some(message) = messages.next().await {
            asked.push_str(&fields(&known, &message?));
        }
        let (refusal, answer, hangs_up) = {
            let mut inner = self.0.lock().unwrap();
            inner.asked.push(asked);
            let refusal = inner.refusals.get(method).or(inner.refusal.as_ref()).cloned();
            (refusal, inner.answers.get(method).cloned(), inner.hangs_up)
        };
        if hangs_up {
            self.1.notify_waiters();
            std::future::pending::<()>().await;
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let answer = answer
            .ok_or_else(|| Status::unimplemented(format!("the fake has no answer to {method}")))?;
        let told = stream::iter(answer.messages);
        Ok(Response::new(match answer.ends {
            true => Box::pin(told),
            false => Box::pin(told.chain(stream::pending())),
        }))
    }
}

type Told = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

fn described(method: &str) -> MethodDescriptor {
    let pool = DescriptorPool::decode(PUBLIC_DESCRIPTORS).unwrap();
    let (service, name) = method.split_once('/').unwrap();
    let service = pool.get_service_by_name(&format!("aether.v1.{service}")).unwrap();
    service.methods().find(|known| known.name() == name).unwrap()
}

/// The fields of a request that are set, as ` name=value`.
fn fields(method: &MethodDescriptor, message: &[u8]) -> String {
    let message = DynamicMessage::decode(method.input(), message).unwrap();
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(|(field, _)| field.number());
    fields.iter().map(|(field, value)| format!(" {}={}", field.name(), shown(value))).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) => format!("({} bytes)", bytes.len()),
        Value::Message(message) => {
            let inner: Vec<String> = message
                .fields()
                .map(|(field, value)| format!("{}={}", field.name(), shown(value)))
                .collect();
            format!("{{{}}}", inner.join(" "))
        }
        Value::List(values) => format!("{:?}", values.iter().map(shown).collect::<Vec<_>>()),
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::EnumNumber(value) => value.to_string(),
        Value::Map(values) => format!("({} entries)", values.len()),
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}
