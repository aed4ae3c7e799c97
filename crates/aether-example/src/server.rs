//! The HTTP side: answers, and an end that loses no call.

use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
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
use tokio::sync::{SetOnce, watch};

use crate::cut::Cut;
use crate::onset::Onset;
use crate::options::Options;

/// How long a connection that was accepted while stopping may take to send its
/// request: it was made before the end, but may be an idle one.
const LATE_REQUEST_MAX: Duration = Duration::from_secs(1);

/// Longest delay that `/slow` takes, so that no call lasts for ever.
const SLOW_MAX: Duration = Duration::from_secs(600);

const VERSION: HeaderName = HeaderName::from_static("x-aether-version");
const INSTANCE: HeaderName = HeaderName::from_static("x-aether-instance");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

type Body = Either<Either<Full<Bytes>, Cut>, Incoming>;

/// What answers the calls.
#[derive(Debug)]
pub(crate) struct Slice {
    said: RwLock<Said>,
    instance: HeaderValue,
    calls: AtomicU64,
    onset: Onset,
    /// Calls since the onset.
    bad_calls: AtomicU64,
    crash: SetOnce<()>,
    options: Options,
}

/// What it says of itself.
#[derive(Debug)]
struct Said {
    version: HeaderValue,
    /// The answer up to the number of the call.
    prefix: Vec<u8>,
    /// The last file that it read has one word, and nothing else.
    is_understood: bool,
}

/// Names that are no header values are left out of headers only.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

impl Said {
    fn new(options: &Options, version: &str) -> Self {
        let json = |text: &str| serde_json::Value::from(text).to_string();
        // So that it can be seen whether it is still the same process.
        let pid = match options.version_file {
            Some(_) => format!("\"pid\":{},", std::process::id()),
            None => String::new(),
        };
        let (version_json, instance) = (json(version), json(&options.instance));
        let prefix = format!("{{\"version\":{version_json},\"instance\":{instance},{pid}\"n\":");
        let (version, prefix) = (header(version), prefix.into_bytes());
        Self { version, prefix, is_understood: true }
    }
}

impl Slice {
    /// Reads the file that has its version, if there is one. What it does not
    /// understand leaves it with the version that it has, and not ready.
    pub fn read_version_file(&self) {
        let Some(file) = &self.options.version_file else { return };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut words = text.split_whitespace();
        let mut said = self.said.write().unwrap_or_else(PoisonError::into_inner);
        match (words.next(), words.next()) {
            (Some(version), None) => *said = Said::new(&self.options, version),
            _ => said.is_understood = false,
        }
        let state = if said.is_understood { "read" } else { "not understood" };
        println!("{}: {state}", file.display());
    }

    /// A slice that misbehaves from the onset on.
    pub fn new(options: &Options, onset: Onset) -> Self {
        Self {
            said: RwLock::new(Said::new(options, &options.version)),
            instance: header(&options.instance),
            calls: AtomicU64::new(0),
            onset,
            bad_calls: AtomicU64::new(0),
            crash: SetOnce::new(),
            options: options.clone(),
        }
    }

    /// Waits for the call that crashes it.
    pub async fn crashed(&self) {
        self.crash.wait().await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (status, body) = match request.uri().path() {
            "/ready" => self.ready().await,
            "/echo" => (StatusCode::OK, Either::Right(request.into_body())),
            "/slow" => {
                tokio::time::sleep(slow_time(request.uri().query())).await;
                let text = self.describe(self.count(), "/slow");
                (StatusCode::OK, Either::Left(Either::Left(Full::new(text))))
            }
            path => self.call(path).await,
        };
        let json = matches!(body, Either::Left(_));
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(VERSION, self.said().version.clone());
        headers.insert(INSTANCE, self.instance.clone());
        if json {
            headers.insert(CONTENT_TYPE, JSON);
        }
        response
    }

    async fn call(&self, path: &str) -> (StatusCode, Body) {
        let n = self.count();
        let whole = |text| Either::Left(Either::Left(Full::new(text)));
        if self.onset.since().is_none() {
            return (StatusCode::OK, whole(self.describe(n, path)));
        }
        let bad = self.bad_calls.fetch_add(1, Ordering::Relaxed) + 1;
        let Options { crash_at_call, hang_ppm, slow_ppm, latency, fail_ppm, cut_ppm, .. } =
            &self.options;
        let crashes = crash_at_call.is_some_and(|at| bad >= at);
        if crashes {
            let _ = self.crash.set(()); // Another call may have been quicker.
        }
        if crashes || falls_on(bad, *hang_ppm) {
            std::future::pending::<()>().await;
        }
        if !latency.is_zero() && falls_on(bad, *slow_ppm) {
            tokio::time::sleep(*latency).await;
        }
        let status = match falls_on(bad, *fail_ppm) {
            true => StatusCode::INTERNAL_SERVER_ERROR,
            false => StatusCode::OK,
        };
        let text = self.describe(n, path);
        match falls_on(bad, *cut_ppm) {
            true => (status, Either::Left(Either::Right(Cut::new(&text)))),
            false => (status, whole(text)),
        }
    }

    fn said(&self) -> RwLockReadGuard<'_, Said> {
        self.said.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn ready(&self) -> (StatusCode, Body) {
        let is_understood = self.said().is_understood;
        let (status, text) = match self.onset.since() {
            _ if !is_understood => {
                (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"{\"ready\":false}"))
            }
            Some(_) if self.options.hang_ready => std::future::pending().await,
            Some(since) if !self.is_ready(since.elapsed()) => {
                (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"{\"ready\":false}"))
            }
            _ => (StatusCode::OK, Bytes::from_static(b"{\"ready\":true}")),
        };
        (status, Either::Left(Either::Left(Full::new(text))))
    }

    /// Whether it says that it is ready, so long after the onset.
    fn is_ready(&self, after: Duration) -> bool {
        let Options { never_ready, start_delay, flap, .. } = &self.options;
        let flapped = flap.is_some_and(|half| after.as_nanos() / half.as_nanos() % 2 == 1);
        !never_ready && after >= *start_delay && !flapped
    }

    fn describe(&self, n: u64, path: &str) -> Bytes {
        let said = self.said();
        let mut text = Vec::with_capacity(said.prefix.len() + path.len() + 40);
        text.extend_from_slice(&said.prefix);
        drop(said);
        // Writing to memory does not fail.
        let _ = write!(text, "{n},\"path\":");
        let _ = serde_json::to_writer(&mut text, path);
        text.push(b'}');
        Bytes::from(text)
    }
}

/// Whether something that a share of calls meets falls on the `n`-th, n from 1:
/// as evenly as the share allows, so that any run of calls shows it.
fn falls_on(n: u64, ppm: u32) -> bool {
    let before = |n: u64| u128::from(n) * u128::from(ppm) / 1_000_000;
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
pub(crate) async fn serve(
    listener: TcpListener,
    slice: Arc<Slice>,
    stop: impl Future<Output = ()>,
) {
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
