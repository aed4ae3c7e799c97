//! Calls over HTTP to real servers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aether_core::table::SliceTable;
use aether_invoker::{CallError, CallOptions, Config, Invoker, SessionKind, SliceHandle};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame};

use crate::support::backend::Backend;
use crate::support::control::Control;
use crate::support::{LIMIT, dead_address, set, table, until};

const A: &str = "org.example:a";

/// A control plane that publishes one table, and a handle that follows it.
async fn follow(route: SliceTable) -> (Control, SliceHandle) {
    let control = Control::start(Duration::from_secs(3));
    control.publish(route.table_revision, &[route]);
    let config = Config::new("test", SessionKind::Invoker, vec![control.address]);
    let invoker = Invoker::connect(config).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    let handle = invoker.slice(&A.parse().unwrap());
    (control, handle)
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

async fn read<B>(response: Response<B>) -> Bytes
where
    B: hyper::body::Body,
    B::Error: std::fmt::Debug,
    B::Data: std::fmt::Debug,
{
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_to_three_is_exact_at_the_instances_and_connections_are_reused() {
    let mut backends = Vec::new();
    for name in ["a-1", "a-2", "a-3", "a-4"] {
        backends.push(Backend::start(name).await);
    }
    let mut route = table(A, 2, "1:3");
    route.old = set(1, &[backends[0].row(), backends[1].row(), backends[2].row()]);
    route.new = set(2, &[backends[3].row()]);
    let (_control, handle) = follow(route).await;
    for _ in 0..400 {
        assert_eq!(read(handle.send(get("/hello")).await.unwrap()).await, "hello");
    }
    let hits: Vec<u64> = backends.iter().map(Backend::hits).collect();
    assert_eq!(hits, [100, 100, 100, 100]);
    for backend in &backends {
        // Usually one: a connection may not be ready again for the very next.
        assert!(backend.counters.connections.load(Ordering::SeqCst) < 10);
    }
    let tally = &handle.route_tallies()[0];
    assert_eq!((tally.new, tally.old), (100, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_retried_without_a_failure_and_counts_as_an_error() {
    let good = Backend::start("a-2").await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[("a-1", dead_address()), good.row()]);
    let (control, handle) = follow(route).await;
    for _ in 0..20 {
        let response = handle.send(get("/hello")).await.unwrap();
        assert_eq!(response.headers()["x-instance"], "a-2");
        read(response).await;
    }
    assert_eq!(good.hits(), 20);
    // Errors are the first attempts at a-1: few, because it is skipped.
    let mut figures = BTreeMap::new();
    until("all attempts are reported", || {
        for row in control.reports().into_iter().flat_map(|report| report.telemetry) {
            figures.insert(row.instance_id, (row.requests, row.errors));
        }
        figures.values().map(|(requests, _)| requests).sum::<u64>() == 20
    })
    .await;
    let (requests, errors) = figures["a-1"];
    assert_eq!(requests, errors);
    assert!((1..10).contains(&requests), "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_without_a_reachable_instance_is_helped_out_only_by_one_with_weight() {
    let old = Backend::start("a-1").await;
    let mut route = table(A, 2, "1:1");
    route.new = set(2, &[("a-2", dead_address())]);
    route.old = set(1, &[old.row()]);
    let (control, handle) = follow(route.clone()).await;
    for _ in 0..10 {
        read(handle.send(get("/hello")).await.unwrap()).await;
    }
    assert_eq!(old.hits(), 10);
    // Retries take no ticket: the split is that of first attempts.
    let tally = handle.route_tallies().pop().unwrap();
    assert_eq!((tally.new, tally.old), (5, 5));

    route.weights = "1:0".parse().unwrap();
    (route.table_revision, route.route_revision) = (3, 3);
    control.publish(3, &[route]);
    until("ack of 3", || control.acked() == 3).await;
    let error = handle.send(get("/hello")).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { attempts: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("org.example:a 2.0.0 at instance a-2"), "{error}");
    assert_eq!(old.hits(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsent_request_keeps_its_body_when_it_goes_elsewhere() {
    let good = Backend::start("a-2").await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[("a-1", dead_address()), good.row()]);
    let (_control, handle) = follow(route).await;
    for _ in 0..4 {
        let body = Full::new(Bytes::from_static(b"precious"));
        let request = Request::post("http://shop.example/echo?x=1").body(body).unwrap();
        let response = handle.send(request).await.unwrap();
        assert_eq!(response.headers()["x-saw-host"], "shop.example");
        assert_eq!(response.headers()["x-uri"], "/echo?x=1");
        assert_eq!(read(response).await, "precious");
    }
    assert_eq!(good.hits(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_errors_in_the_telemetry_and_are_not_repeated() {
    let backend = Backend::start("a-1").await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[backend.row()]);
    let (control, handle) = follow(route).await;
    assert_eq!(handle.send(get("/status/503")).await.unwrap().status(), 503);
    assert_eq!(handle.send(get("/status/404")).await.unwrap().status(), 404);
    let broken = handle.send(get("/broken")).await.unwrap();
    assert!(broken.into_body().collect().await.is_err());
    let options = CallOptions { timeout: Some(Duration::from_millis(50)), ..Default::default() };
    let timeout = handle.send_with(get("/slow"), options).await.unwrap_err();
    assert!(matches!(timeout, CallError::Timeout { .. }), "{timeout:?}");
    assert_eq!(backend.hits(), 4);
    until("figures", || {
        let rows = control.reports().into_iter().flat_map(|report| report.telemetry);
        rows.last().is_some_and(|row| (row.requests, row.errors) == (4, 3))
    })
    .await;
}

/// A request body that never comes.
struct Withheld;

impl Body for Withheld {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_late_counts_as_slow_and_one_that_is_soon_does_not() {
    let backend = Backend::start("a-1").await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[backend.row()]);
    let (control, handle) = follow(route).await;
    let give_up = async |patience_ms| {
        let call = handle.send(get("/slow"));
        let patience = Duration::from_millis(patience_ms);
        assert!(tokio::time::timeout(patience, call).await.is_err());
    };
    let figures = || {
        let rows = control.reports().into_iter().flat_map(|report| report.telemetry);
        rows.last().map(|row| (row.requests, row.errors, row.latency_sum_us >= 1_200_000))
    };
    give_up(50).await;
    assert_eq!(read(handle.send(get("/hello")).await.unwrap()).await, "hello");
    until("the answered call", || figures() == Some((1, 0, false))).await;
    give_up(1_200).await;
    until("the call that was given up late", || figures() == Some((2, 0, true))).await;
    // So does not one whose caller did not send what he promised.
    let call = handle.send(Request::post("/slow").body(Withheld).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(1_200), call).await.is_err());
    assert_eq!(read(handle.send(get("/hello")).await.unwrap()).await, "hello");
    until("the last call", || figures() == Some((3, 0, true))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_in_flight_until_the_last_byte_and_then_its_connection_closes() {
    let backend = Backend::start("a-1").await;
    let other = Backend::start("a-2").await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[backend.row()]);
    let (control, handle) = follow(route.clone()).await;
    // A second connection, idle.
    let (one, two) = tokio::join!(handle.send(get("/hello")), handle.send(get("/hello")));
    let (first, second) = (one.unwrap(), two.unwrap());
    read(second).await;
    assert_eq!(backend.counters.open.load(Ordering::SeqCst), 2);

    route.table_revision = 3;
    route.old = set(1, &[other.row()]);
    control.publish(3, &[route]);
    until("busy", || control.acked() == 3 && control.busy() == [("a-1".to_owned(), 1)]).await;
    assert_eq!(read(handle.send(get("/hello")).await.unwrap()).await, "hello");
    assert_eq!(other.hits(), 1);
    assert_eq!(read(first).await, "hello");
    until("idle", || control.busy().is_empty()).await;
    until("closed", || backend.counters.open.load(Ordering::SeqCst) == 0).await;
}

/// Sends GETs from several tasks while `meanwhile` runs, and counts.
async fn under_load<T>(handle: &SliceHandle, meanwhile: impl Future<Output = T>) -> (u64, T) {
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (handle, over, sent) = (handle.clone(), Arc::clone(&over), Arc::clone(&sent));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let response = handle.send(get("/hello")).await.unwrap();
                    assert_eq!(response.status(), 200);
                    assert_eq!(read(response).await, "hello");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let result = meanwhile.await;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    (sent.load(Ordering::Relaxed), result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_close_idle_connections_fail_no_request() {
    let lifetime = Duration::from_millis(20);
    let one = Backend::start_closing("a-1", lifetime).await;
    let two = Backend::start_closing("a-2", lifetime).await;
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[one.row(), two.row()]);
    let (_control, handle) = follow(route).await;
    let connections = || one.counters.connections.load(Ordering::SeqCst);
    let (sent, ()) = under_load(&handle, until("many closings", || connections() > 500)).await;
    println!("{sent} calls over {} connections to one of two", connections());
    assert!(sent > 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_and_adding_instances_under_load_fails_no_request() {
    let backends = [Backend::start("a-1").await, Backend::start("a-2").await];
    let mut route = table(A, 2, "0:1");
    route.old = set(1, &[backends[0].row(), backends[1].row()]);
    let (control, handle) = follow(route.clone()).await;
    let churn = async {
        for revision in 3..60 {
            let rows = match revision % 3 {
                0 => vec![backends[0].row()],
                1 => vec![backends[1].row()],
                _ => vec![backends[0].row(), backends[1].row()],
            };
            route.table_revision = revision;
            route.old = set(1, &rows);
            control.publish(revision, &[route.clone()]);
            until("ack", || control.acked() == revision).await;
            if rows.len() == 1 {
                let gone_index = usize::from(rows[0].0 == "a-1");
                let (gone, stays) = (&backends[gone_index], &backends[1 - gone_index]);
                until("idle", || control.busy().is_empty()).await;
                // The instance would be stopped now: no call may come any more.
                let (hits, others) = (gone.hits(), stays.hits());
                until("some calls", || stays.hits() > others + 20).await;
                assert_eq!(gone.hits(), hits, "revision {revision}");
            }
        }
    };
    let (sent, ()) = under_load(&handle, churn).await;
    assert!(sent > 100);
    let calls: u64 = backends.iter().map(Backend::hits).sum();
    assert_eq!(calls, handle.tally().values().sum::<u64>());
}
