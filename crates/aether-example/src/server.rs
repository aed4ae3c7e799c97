//! The HTTP side: answers, and an end that loses no call.

use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::options::Options;

/// How long a connection that was accepted while stopping may take to send its
/// request: it was made before the end, but may be an idle one.
const LATE_REQUEST_MAX: Duration = Duration::from_secs(1);

/// Longest delay that `/slow` takes, so that no call lasts for ever.
const SLOW_MAX: Duration = Duration::from_secs(600);

const VERSION: HeaderName = HeaderName::from_static("x-aether-version");
const INSTANCE: HeaderName = HeaderName::from_static("x-aether-instance");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

type Body = Either<Full<Bytes>, Incoming>;

/// What answers the calls.
#[derive(Debug)]
pub struct Slice {
    version: HeaderValue,
    instance: HeaderValue,
    /// The answer up to the number of the call.
    prefix: Vec<u8>,
    calls: AtomicU64,
    fail_ppm: u64,
    latency: Duration,
    /// Never, if absent.
    ready_at: Option<Instant>,
}

impl Slice {
    /// A slice that started now.
    pub fn new(options: &Options) -> Self {
        // Names that are no header values are left out of headers only.
        let header =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let (version, instance) = (&options.version, &options.instance);
        let json = |text: &str| serde_json::Value::from(text).to_string();
        let prefix =
            format!("{{\"version\":{},\"instance\":{},\"n\":", json(version), json(instance));
        Self {
            version: header(version),
            instance: header(instance),
            prefix: prefix.into_bytes(),
            calls: AtomicU64::new(0),
            fail_ppm: options.fail_ppm.into(),
            latency: options.latency,
            ready_at: (!options.never_ready).then(|| Instant::now() + options.start_delay),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (status, body) = match request.uri().path() {
            "/ready" => self.ready(),
            "/echo" => (StatusCode::OK, Either::Right(request.into_body())),
            "/slow" => {
                tokio::time::sleep(slow_time(request.uri().query())).await;
                (StatusCode::OK, self.describe(self.count(), "/slow"))
            }
            path => {
                let n = self.count();
                if !self.latency.is_zero() {
                    tokio::time::sleep(self.latency).await;
                }
                let status = match fails(n, self.fail_ppm) {
                    true => StatusCode::INTERNAL_SERVER_ERROR,
                    false => StatusCode::OK,
                };
                (status, self.describe(n, path))
            }
        };
        let json = matches!(body, Either::Left(_));
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(VERSION, self.version.clone());
        headers.insert(INSTANCE, self.instance.clone());
        if json {
            headers.insert(CONTENT_TYPE, JSON);
        }
        response
    }

    fn count(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn ready(&self) -> (StatusCode, Body) {
        match self.ready_at.is_some_and(|at| at <= Instant::now()) {
            true => {
                (StatusCode::OK, Either::Left(Full::new(Bytes::from_static(b"{\"ready\":true}"))))
            }
            false => (
                StatusCode::SERVICE_UNAVAILABLE,
                Either::Left(Full::new(Bytes::from_static(b"{\"ready\":false}"))),
            ),
        }
    }

    fn describe(&self, n: u64, path: &str) -> Body {
        let mut text = Vec::with_capacity(self.prefix.len() + path.len() + 40);
        text.extend_from_slice(&self.prefix);
        // Writing to memory does not fail.
        let _ = write!(text, "{n},\"path\":");
        let _ = serde_json::to_writer(&mut text, path);
        text.push(b'}');
        Either::Left(Full::new(Bytes::from(text)))
    }
}

/// Whether the `n`-th call fails, n from 1: as evenly as the share allows, so
/// that any run of calls shows it.
fn fails(n: u64, fail_ppm: u64) -> bool {
    let before = |n: u64| u128::from(n) * u128::from(fail_ppm) / 1_000_000;
    before(n) > before(n - 1)
}

fn slow_time(query: Option<&str>) -> Duration {
    let ms = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("ms="));
    let ms = ms.and_then(|text| text.parse().ok()).unwrap_or(1_000);
    Duration::from_millis(ms).min(SLOW_MAX)
}

/// Serves until `stop` is done. Then it accepts nothing new, but for what the
/// kernel had accepted already, closes idle connections, finishes the calls in
/// flight, and returns.
pub async fn serve(listener: TcpListener, slice: Arc<Slice>, stop: impl Future<Output = ()>) {
    let stopping = watch::Sender::new(false);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, slice.clone(), stopping.subscribe()));
            }
            // Out of files: those in use have to be closed first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    for stream in close(listener).unwrap_or_default() {
        tokio::spawn(converse_once(stream, slice.clone(), stopping.subscribe()));
    }
    stopping.send_replace(true);
    stopping.closed().await; // When the last connection dropped its receiver.
}

/// Closes the listener; gives the connections that clients already hold for
/// established. Asks the kernel itself: the runtime may not know of them yet.
fn close(listener: TcpListener) -> std::io::Result<Vec<TcpStream>> {
    let listener = listener.into_std()?;
    let mut streams = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        streams.push(TcpStream::from_std(stream)?);
    }
    Ok(streams)
}

async fn converse(stream: TcpStream, slice: Arc<Slice>, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true); // Slower answers, nothing worse.
    let service = service_fn(|request| async { Ok::<_, Infallible>(slice.answer(request).await) });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return, // Errors are the client's: it is gone.
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// One call, which has to come soon. The receiver only counts the connection.
async fn converse_once(stream: TcpStream, slice: Arc<Slice>, _open: watch::Receiver<bool>) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(slice.answer(request).await) });
    let _ = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(LATE_REQUEST_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
