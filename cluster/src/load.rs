//! Load on a slice, through ingresses and embedded invokers, at a steady rate.
//!
//! Requests are sent on schedule whatever the earlier ones do (an open loop),
//! by a fixed number of senders. Each is counted to the phase in which it
//! started.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aether_invoker::{CallError, RequestBody, SliceHandle};
use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::task::JoinSet;

/// Requests that may be under way at once. At 1,000 requests/s it takes
/// answers of 256 ms to hold the schedule up.
const SENDERS: usize = 256;
/// Failures whose text is kept per phase.
const FAILURES_KEPT: usize = 10;
/// A request without an answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where requests go in.
#[derive(Clone)]
pub enum Way {
    /// HTTP to an ingress.
    Ingress(SocketAddr),
    /// An invoker embedded in this process.
    Invoker(SliceHandle),
}

/// What one version answered.
#[derive(Debug, Clone, Default)]
pub struct VersionCount {
    /// Its answers.
    pub requests: u64,
    /// Those with a 5xx status.
    pub errors: u64,
    /// Requests that it took and gave no whole answer to: the connection broke,
    /// or nothing came in time. They count as failed too.
    pub broken: u64,
    /// When the last request that it answered had started.
    pub last_start: Option<Instant>,
    /// When its first whole answer had arrived.
    pub first_answer: Option<Instant>,
}

/// What happened to the requests that started in one phase.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Requests without an answer, or with one that no instance gave.
    pub failed: u64,
    /// Those of them that the sender gave up on, so that nobody can say which
    /// version did not answer.
    pub given_up: u64,
    /// The first of the failures, in words.
    pub failures: Vec<String>,
    /// Answers by the version that gave them.
    pub versions: BTreeMap<String, VersionCount>,
    /// Latencies in microseconds, of all requests.
    pub latency_us: Histogram<u64>,
}

impl Phase {
    fn new(name: &str) -> Self {
        // Three digits up to ten minutes.
        let latency_us = Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        Self {
            name: name.to_owned(),
            requests: 0,
            failed: 0,
            given_up: 0,
            failures: Vec::new(),
            versions: BTreeMap::new(),
            latency_us,
        }
    }

    fn fail(&mut self, text: String) {
        self.failed += 1;
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(text);
        }
    }

    /// Failed requests that no version is to blame for.
    pub fn nobodys_failures(&self) -> u64 {
        self.failed - self.given_up - self.versions.values().map(|v| v.broken).sum::<u64>()
    }

    /// Answers of a version.
    pub fn answers(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |count| count.requests)
    }
}

/// How one request ended.
enum Ending {
    Answered {
        version: String,
        error: bool,
    },
    /// A version took the request and gave no whole answer.
    Broken {
        version: String,
        text: String,
    },
    GivenUp(String),
    Failed(String),
}

struct Shared {
    ways: Vec<Way>,
    path: String,
    started: Instant,
    interval_ns: u64,
    next: AtomicU64,
    stopping: AtomicBool,
    patience: Duration,
    phases: Mutex<Vec<Phase>>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// Load that is being sent.
pub struct Load {
    shared: Arc<Shared>,
    senders: JoinSet<()>,
}

impl Load {
    /// Starts to send `rate_per_s` requests for `path`, the ways in turn, in a
    /// phase called `phase`.
    pub fn start(ways: Vec<Way>, path: &str, rate_per_s: u32, phase: &str) -> Self {
        Self::start_with(ways, path, rate_per_s, phase, PATIENCE)
    }

    /// Likewise with senders that give up after `patience`.
    pub fn start_with(
        ways: Vec<Way>,
        path: &str,
        rate_per_s: u32,
        phase: &str,
        patience: Duration,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let shared = Arc::new(Shared {
            ways,
            path: path.to_owned(),
            started: Instant::now(),
            interval_ns: 1_000_000_000 / u64::from(rate_per_s.max(1)),
            next: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            patience,
            phases: Mutex::new(vec![Phase::new(phase)]),
            client: Client::builder(TokioExecutor::new()).build(connector),
        });
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(send(Arc::clone(&shared)));
        }
        Self { shared, senders }
    }

    /// Requests from now on count to a new phase.
    pub fn phase(&self, name: &str) {
        self.shared.phases().push(Phase::new(name));
    }

    /// The phases so far; the requests under way are not in them yet.
    pub fn so_far(&self) -> Vec<Phase> {
        self.shared.phases().clone()
    }

    /// Waits until the present phase has this many requests.
    pub async fn until_requests(&self, requests: u64) {
        loop {
            let sent = self.shared.phases().last().map_or(0, |phase| phase.requests);
            if sent >= requests {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops to send, waits for the requests under way, and returns all phases.
    pub async fn stop(mut self) -> Vec<Phase> {
        self.shared.stopping.store(true, Ordering::Release);
        while self.senders.join_next().await.is_some() {}
        self.shared.phases().clone()
    }
}

impl Shared {
    fn phases(&self) -> std::sync::MutexGuard<'_, Vec<Phase>> {
        self.phases.lock().expect("nothing panics while it holds this lock")
    }

    /// Latency counts from when the request was due, so that a stall is seen in
    /// all the requests that it held up.
    fn record(&self, phase: usize, due: Instant, started: Instant, ending: Ending) {
        let mut phases = self.phases();
        let phase = &mut phases[phase];
        phase.requests += 1;
        phase.latency_us.saturating_record(due.elapsed().as_micros() as u64);
        match ending {
            Ending::Answered { version, error } => {
                let count = phase.versions.entry(version).or_default();
                count.requests += 1;
                count.errors += u64::from(error);
                count.last_start = count.last_start.max(Some(started));
                count.first_answer.get_or_insert_with(Instant::now);
            }
            Ending::Broken { version, text } => {
                phase.versions.entry(version).or_default().broken += 1;
                phase.fail(text);
            }
            Ending::GivenUp(text) => {
                phase.given_up += 1;
                phase.fail(text);
            }
            Ending::Failed(text) => phase.fail(text),
        }
    }
}

async fn send(shared: Arc<Shared>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let ticket = shared.next.fetch_add(1, Ordering::Relaxed);
        let due = shared.started + Duration::from_nanos(ticket * shared.interval_ns);
        tokio::time::sleep_until(due.into()).await;
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let way = &shared.ways[ticket as usize % shared.ways.len()];
        let phase = shared.phases().len() - 1;
        let started = Instant::now();
        let patience = shared.patience;
        let ending = match tokio::time::timeout(patience, request(&shared, way)).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => Ending::Failed(format!("{error:#}")),
            Err(_) => Ending::GivenUp(format!("no answer within {patience:?}")),
        };
        shared.record(phase, due, started, ending);
    }
}

async fn request(shared: &Shared, way: &Way) -> Result<Ending> {
    match way {
        Way::Ingress(address) => {
            let uri = format!("http://{address}{}", shared.path);
            let request = Request::get(uri).body(Empty::new())?;
            read(shared.client.request(request).await.context("ingress")?).await
        }
        Way::Invoker(slice) => {
            let request = Request::get(&shared.path).body(RequestBody::empty())?;
            match slice.send(request).await {
                Ok(response) => read(response).await,
                Err(CallError::Broken { target, source }) => {
                    let (version, text) = (target.version.to_string(), format!("{source}"));
                    Ok(Ending::Broken { version, text })
                }
                Err(error) => Err(error).context("invoker"),
            }
        }
    }
}

/// Reads the whole answer: a body that breaks off is a failure of the version
/// that began it. An answer without a version comes from no instance; that of
/// an ingress names the version that took the request and did not answer.
async fn read<B>(response: Response<B>) -> Result<Ending>
where
    B: Body,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let status = response.status();
    let version = response.headers().get("x-aether-version");
    let version = version.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await;
    let body = match (version, body) {
        (Some(version), Ok(_)) => {
            return Ok(Ending::Answered { version, error: status.is_server_error() });
        }
        (Some(version), Err(error)) => {
            return Ok(Ending::Broken { version, text: format!("body: {error}") });
        }
        (None, body) => body.context("body")?.to_bytes(),
    };
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let taken = status == StatusCode::GATEWAY_TIMEOUT
        || problem["detail"].as_str().is_some_and(|detail| detail.contains("before a response"));
    Ok(match problem["version"].as_str() {
        Some(version) if taken => Ending::Broken { version: version.to_owned(), text },
        _ => Ending::Failed(format!("{status}: {text}")),
    })
}
