//! An instance: a real HTTP/1.1 server that counts what reaches it.
//!
//! It echoes bodies and says what it saw in headers. `/slow` answers when the
//! test says so, `/status/N` with that status, `/broken` breaks off its body.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

type Body = BoxBody<Bytes, std::io::Error>;

/// What a test sees of an instance.
pub struct Counters {
    pub hits: AtomicU64,
    pub connections: AtomicU64,
    pub open: AtomicU64,
    slow: watch::Sender<bool>,
    crash: watch::Sender<bool>,
}

pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

impl Backend {
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, None).await
    }

    /// Closes each connection in order after a time that varies below
    /// `lifetime`, counted from its first request, without telling the client
    /// before.
    pub async fn start_closing(name: &str, lifetime: Duration) -> Self {
        Self::start_with(name, Some(lifetime)).await
    }

    async fn start_with(name: &str, lifetime: Option<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters {
            hits: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            slow: watch::Sender::new(false),
            crash: watch::Sender::new(false),
        });
        let (shared, owner) = (Arc::clone(&counters), name.to_owned());
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let nth = shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                // 1/16 to 16/16 of the lifetime, in a scattered order.
                let lifetime = lifetime.map(|lifetime| lifetime * (nth * 7 % 16 + 1) as u32 / 16);
                tokio::spawn(serve(stream, owner.clone(), Arc::clone(&shared), lifetime));
            }
        });
        Self { name: name.to_owned(), address, counters, accepting }
    }

    pub fn hits(&self) -> u64 {
        self.counters.hits.load(Ordering::SeqCst)
    }

    pub fn row(&self) -> (&str, SocketAddr) {
        (&self.name, self.address)
    }

    /// Answers all slow requests.
    pub fn let_go(&self) {
        self.counters.slow.send_replace(true);
    }

    /// Refuses further connections, and drops those that are open where they
    /// stand.
    pub async fn crash(&mut self) {
        self.refuse().await;
        self.counters.crash.send_replace(true);
        while self.counters.open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Refuses further connections; those that are open go on.
    pub async fn refuse(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

async fn serve(
    stream: TcpStream,
    name: String,
    counters: Arc<Counters>,
    lifetime: Option<Duration>,
) {
    let _ = stream.set_nodelay(true);
    let used = Notify::new();
    let service = service_fn(|request| {
        used.notify_one();
        answer(request, &name, &counters)
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let end = async {
        match lifetime {
            Some(lifetime) => {
                used.notified().await;
                tokio::time::sleep(lifetime).await;
            }
            None => std::future::pending().await,
        }
    };
    let mut crash = counters.crash.subscribe();
    let crashed = async move { drop(crash.wait_for(|crash| *crash).await) };
    tokio::select! {
        _ = connection.as_mut() => {}
        () = crashed => {}
        () = end => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    counters.open.fetch_sub(1, Ordering::SeqCst);
}

async fn answer(
    request: Request<Incoming>,
    name: &str,
    counters: &Counters,
) -> Result<Response<Body>, Infallible> {
    counters.hits.fetch_add(1, Ordering::SeqCst);
    let header = |name: &str| {
        let values = request.headers().get_all(name).iter();
        let values: Vec<_> = values.map(|value| value.to_str().unwrap_or("?")).collect();
        values.join("|")
    };
    let mut response = Response::builder()
        .header("x-instance", name)
        .header("x-method", request.method().as_str())
        .header("x-uri", request.uri().to_string())
        .header("keep-alive", "timeout=5");
    for (name, _) in request.headers() {
        response = response.header(format!("x-saw-{name}"), header(name.as_str()));
    }
    let path = request.uri().path().to_owned();
    if path == "/slow" {
        let mut slow = counters.slow.subscribe();
        let _ = slow.wait_for(|let_go| *let_go).await;
    }
    if let Some(status) = path.strip_prefix("/status/") {
        response = response.status(status.parse::<u16>().unwrap());
    }
    let body = match path.as_str() {
        "/broken" => {
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"half"))),
                Err(std::io::Error::other("broken on purpose")),
            ];
            // A pause before each, so that what came before is sent.
            let paused = tokio_stream::iter(frames).then(async |frame| {
                tokio::task::yield_now().await;
                frame
            });
            BoxBody::new(StreamBody::new(Box::pin(paused)))
        }
        "/hello" => Full::new(Bytes::from_static(b"hello")).map_err(never).boxed(),
        "/empty" => Empty::new().map_err(never).boxed(),
        _ => request.into_body().map_err(std::io::Error::other).boxed(),
    };
    Ok(response.body(body).unwrap())
}

fn never(never: Infallible) -> std::io::Error {
    match never {}
}
