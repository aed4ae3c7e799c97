//! Clients that somebody else wrote, over a slice.

use std::net::SocketAddr;
use std::time::Duration;

use aether_invoker::{CallError, CallOptions};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Served;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;
use tower_service::Service;

use crate::support::backend::Backend;
use crate::support::control::Control;
use crate::support::{LIMIT, dead_address, set, table, until};
use crate::{A, connect, publish_one};

const LEASE: Duration = Duration::from_secs(30);

/// A server of gRPC that says of the service `a` what it is told to.
async fn serve(says: ServingStatus) -> (SocketAddr, HealthReporter) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("a", says).await;
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, reporter)
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_made_by_tonic_calls_both_versions_by_the_ratio() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let (new, _new) = serve(ServingStatus::Serving).await;
    let (old, _old) = serve(ServingStatus::NotServing).await;
    let mut table = table(A, 5, "1:3");
    (table.new, table.old) = (set(2, &[("a-2", new)]), set(1, &[("a-1", old)]));
    control.publish(5, &[table]);
    until("ack of 5", || control.acked() == 5).await;

    let client = HealthClient::new(handle.service(CallOptions::default()));
    let calls = (0..40).map(|_| {
        let mut client = client.clone();
        async move { client.check(about("a")).await.unwrap().into_inner().status() }
    });
    let mut by_new = 0;
    for call in calls {
        by_new += usize::from(call.await == Served::Serving);
    }
    assert_eq!(by_new, 10);

    // What the instance answers passes, and what it says of itself is evidence.
    let missing = client.clone().check(about("b")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let totals = || {
        let rows: Vec<_> = control.reports().into_iter().flat_map(|r| r.telemetry).collect();
        let last = |revision| rows.iter().rfind(|row| row.revision == revision);
        (last(2).map_or(0, |row| row.requests), last(1).map_or(0, |row| row.requests))
    };
    until("the figures", || totals().0 + totals().1 == 41).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_its_instance_busy_until_it_ends() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let (address, reporter) = serve(ServingStatus::NotServing).await;
    let mut table = table(A, 5, "0:1");
    table.old = set(1, &[("a-1", address)]);
    control.publish(5, &[table.clone()]);
    until("ack of 5", || control.acked() == 5).await;

    let mut client = HealthClient::new(handle.service(CallOptions::default()));
    let mut stream = client.watch(about("a")).await.unwrap().into_inner();
    let said = |message: Option<Result<HealthCheckResponse, _>>| message.unwrap().unwrap().status();
    assert_eq!(said(stream.next().await), Served::NotServing);
    control.remove(6, A);
    until("ack of 6", || control.acked() == 6).await;
    assert_eq!(control.busy(), [("a-1".to_owned(), 1)]);
    // It goes on over the change.
    reporter.set_service_status("a", ServingStatus::Serving).await;
    assert_eq!(said(stream.next().await), Served::Serving);
    drop(stream);
    until("idle", || control.busy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_a_call_of_grpc_are_statuses_that_say_why() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let mut client = HealthClient::new(handle.service(CallOptions::default()));
    let no_table = client.check(about("a")).await.unwrap_err();
    assert_eq!(no_table.code(), Code::Unavailable);
    assert!(no_table.message().contains(A), "{no_table}");

    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut table = table(A, 5, "0:1");
    table.old = set(1, &[("a-1", silent.local_addr().unwrap())]);
    control.publish(5, &[table.clone()]);
    until("ack of 5", || control.acked() == 5).await;
    let mut request = tonic::Request::new(about("a"));
    request.set_timeout(Duration::from_millis(100));
    let late = client.check(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("a-1"), "{late}");

    table.old = set(1, &[("a-3", dead_address())]);
    table.table_revision = 6;
    control.publish(6, &[table]);
    until("ack of 6", || control.acked() == 6).await;
    let refused = client.check(about("a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let source = std::error::Error::source(&refused).unwrap();
    assert!(source.downcast_ref::<CallError>().is_some(), "{source:?}");

    // The refusal is held against its instance, and the haste of the caller against none.
    until("the figures", || figures(&control, "a-3").1 == 1).await;
    assert_eq!(figures(&control, "a-1"), (0, 0));
}

/// (requests, errors) that were last told of an instance.
fn figures(control: &Control, instance: &str) -> (u64, u64) {
    let rows: Vec<_> = control.reports().into_iter().flat_map(|r| r.telemetry).collect();
    let last = rows.iter().rfind(|row| row.instance_id == instance);
    last.map_or((0, 0), |row| (row.requests, row.errors))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_grpc_to_who_never_spoke_it_are_no_evidence_against_it() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let backend = Backend::start("a-1").await;
    publish_one(&control, backend.row()).await;
    let mut service = handle.service(CallOptions::default());
    let request = || Request::get("/hello").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(service.call(request()).await.unwrap().status(), StatusCode::OK);
    let mut client = HealthClient::new(handle.service(CallOptions::default()));
    for _ in 0..3 {
        assert_eq!(client.check(about("a")).await.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(service.call(request()).await.unwrap().status(), StatusCode::OK);
    until("the figures", || figures(&control, "a-1").0 == 2).await;
    assert_eq!(figures(&control, "a-1"), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_breaks_off_after_the_answer_began_is_no_evidence() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let backend = Backend::start("a-1").await;
    publish_one(&control, backend.row()).await;
    let (parts, body) = tokio::sync::mpsc::channel(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = Request::post("/echo").body(body).unwrap();
    parts.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let response = handle.send(request).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    parts.send(Err(std::io::Error::other("the caller is gone"))).await.unwrap();
    assert!(body.collect().await.is_err());
    // One that an instance breaks off is.
    let request = Request::get("/broken").body(Full::new(Bytes::new())).unwrap();
    assert!(handle.send(request).await.unwrap().into_body().collect().await.is_err());
    until("the figures", || figures(&control, "a-1") == (2, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_grpc_goes_over_http_1() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let mut service = handle.service(CallOptions::default());
    let request = || Request::get("/hello").body(Full::new(Bytes::new())).unwrap();
    let error = service.call(request()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(CallError::Pick(_))), "{error}");
    let backend = Backend::start("a-1").await;
    publish_one(&control, backend.row()).await;
    let response = service.call(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

/// An instance that answers with a head and no more, and gives the reason for which
/// the call is reset.
async fn silent_stream() -> (SocketAddr, tokio::sync::oneshot::Receiver<h2::Reason>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, reason) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc");
        let mut answer = respond.send_response(head.body(()).unwrap(), false).unwrap();
        let reset = std::future::poll_fn(|context| answer.poll_reset(context));
        tokio::select! {
            reason = reset => drop(told.send(reason.unwrap())),
            // There is no other call.
            _ = connection.accept() => {}
        }
    });
    (address, reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_drops_an_answer_ends_the_call_also_while_the_request_is_open() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let (address, reason) = silent_stream().await;
    publish_one(&control, ("a-1", address)).await;
    let (_open, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = Request::post("/a/b").header("content-type", "application/grpc");
    let call = async {
        drop(handle.send(request.body(body).unwrap()).await.unwrap());
        reason.await.unwrap()
    };
    assert_eq!(tokio::time::timeout(LIMIT, call).await.unwrap(), h2::Reason::CANCEL);
}
