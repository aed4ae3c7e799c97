//! A public listener over the loopback device, and what a client of any kind
//! gets of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aether_proto::PUBLIC_SERVICES;
use aether_proto::errors::{self, Problem};
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::any;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use super::*;

/// No condition takes this long unless something is broken.
const LIMIT: Duration = Duration::from_secs(30);
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// An answer that breaks off after its first bytes.
async fn breaks_off() -> impl IntoResponse {
    let mut trailers = HeaderMap::new();
    Status::internal("the disk is gone").add_header(&mut trailers).unwrap();
    let frames = [Ok::<_, Status>(Frame::data("\0\0\0\0\0".into())), Ok(Frame::trailers(trailers))];
    ([(CONTENT_TYPE, "application/grpc")], Body::new(StreamBody::new(tokio_stream::iter(frames))))
}

fn services() -> Routes {
    Routes::from(
        Router::new()
            .route("/test/Stalls", any(std::future::pending::<()>))
            .route("/test/BreaksOff", any(breaks_off))
            .fallback(|| async { Status::unimplemented("").into_http::<Body>() }),
    )
}

async fn serve_with(health: &Health) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, public(services(), None, health).unwrap()));
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn who_does_not_begin_makes_way_or_is_closed_and_who_did_stays() {
    let health = Health::new(false).await;
    let served = async |connections, preface| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = public(services(), None, &health).unwrap();
        tokio::spawn(serve_within(Bounds { connections, preface }, listener, routes));
        address
    };
    let end_of = async |mut stream: TcpStream| {
        let mut rest = Vec::new();
        let reading = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest));
        // A reset ends it too.
        let _ = reading.await.expect("it is closed");
    };
    let channel = async |address| {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut health = HealthClient::new(endpoint.connect().await.unwrap());
        health.check(HealthCheckRequest::default()).await.unwrap();
        health
    };

    let address = served(2, LIMIT * 10).await;
    let mut first = channel(address).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0").await.unwrap();
    for _ in 0..3 {
        let next = TcpStream::connect(address).await.unwrap();
        end_of(std::mem::replace(&mut silent, next)).await;
    }
    let mut second = channel(address).await;
    end_of(silent).await;
    for client in [&mut first, &mut second] {
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    // All places belong to others: it waits for one.
    drop(second);
    channel(address).await;
    first.check(HealthCheckRequest::default()).await.unwrap();

    let address = served(2, Duration::from_millis(100)).await;
    let mut began = channel(address).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0").await.unwrap();
    end_of(half).await;
    began.check(HealthCheckRequest::default()).await.unwrap();
}

/// Sends these bytes to a method, and gives the status that comes back. Without
/// a client, which would keep deadlines itself and send no nonsense.
async fn send(to: &Front, path: &str, timeout: Option<&str>, body: Vec<u8>) -> Status {
    let mut request = Request::post(path).header(CONTENT_TYPE, "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let request = request.body(Body::from(body)).unwrap();
    let answer = tokio::time::timeout(LIMIT, to.answer(request)).await;
    let (parts, body) = answer.expect("it answers").into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    Status::from_header_map(&trailers).expect("an answer has a status")
}

/// A message as it travels.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

#[tokio::test]
async fn every_error_says_what_it_is_whoever_made_it() {
    let node = public(services(), None, &Health::new(true).await).unwrap();
    let too_large = {
        let mut bytes = framed(&[]);
        bytes[1..5].copy_from_slice(&(5_u32 << 20).to_be_bytes());
        bytes
    };
    let unknown_service = framed(&[0x0a, 1, b'x']);
    for (path, timeout, body, code, reason) in [
        (CHECK, None, framed(&[0xff; 9]), Code::InvalidArgument, "malformed_message"),
        (CHECK, None, framed(&[0x0a, 200]), Code::InvalidArgument, "malformed_message"),
        (CHECK, None, vec![0, 0, 0, 0, 9, 1], Code::InvalidArgument, "malformed_message"),
        (CHECK, None, vec![7, 0, 0, 0, 0], Code::InvalidArgument, "malformed_message"),
        (CHECK, None, vec![1, 0, 0, 0, 0], Code::InvalidArgument, "malformed_message"),
        (CHECK, None, Vec::new(), Code::InvalidArgument, "malformed_message"),
        (CHECK, None, too_large, Code::ResourceExhausted, "message_too_large"),
        (CHECK, None, unknown_service, Code::NotFound, "not_found"),
        ("/grpc.health.v1.Health/Cure", None, framed(&[]), Code::Unimplemented, "unimplemented"),
        ("/no.Such/Service", None, framed(&[]), Code::Unimplemented, "unimplemented"),
        (CHECK, Some("0S"), framed(&[]), Code::DeadlineExceeded, "expired_deadline"),
        (CHECK, Some("999999n"), framed(&[]), Code::DeadlineExceeded, "expired_deadline"),
        (CHECK, Some("soon"), framed(&[]), Code::InvalidArgument, "invalid_argument"),
        (CHECK, Some("-1S"), framed(&[]), Code::InvalidArgument, "invalid_argument"),
        (CHECK, Some("999999999S"), framed(&[]), Code::InvalidArgument, "invalid_argument"),
        ("/test/Stalls", Some("50m"), framed(&[]), Code::DeadlineExceeded, "deadline_exceeded"),
        ("/test/BreaksOff", None, framed(&[]), Code::Internal, "internal"),
    ] {
        let status = send(&node, path, timeout, body).await;
        let info = status.get_details_error_info();
        let info = info.unwrap_or_else(|| panic!("{path} {timeout:?} {reason}: {status:?}"));
        assert_eq!((status.code(), &*info.reason), (code, &*reason.to_uppercase()), "{status}");
        assert_eq!(info.domain, errors::DOMAIN);
        assert!(!status.message().is_empty(), "{path} {timeout:?} {reason}");
    }
    // What makes sense gets through, with the longest time that can be said.
    let status = send(&node, CHECK, Some("99999999H"), framed(&[])).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
}

#[tokio::test]
async fn other_voters_get_errors_that_say_what_they_are_too() {
    let node = peer(services());
    for (path, code, reason) in [
        ("/test/BreaksOff", Code::Internal, "internal"),
        ("/no.Such/Service", Code::Unimplemented, "unimplemented"),
    ] {
        let status = send(&node, path, None, framed(&[])).await;
        assert_eq!((status.code(), errors::code_of(&status).as_deref()), (code, Some(reason)));
    }
}

#[tokio::test]
async fn an_error_that_says_what_it_is_stays_as_it_is() {
    let refuses = || async {
        let problem = Problem::new(Code::Aborted, "modified", "it changed").figure("actual", "7");
        problem.status().into_http::<Body>()
    };
    let services = Routes::from(Router::new().route("/test/Refuses", any(refuses)));
    let node = public(services, None, &Health::new(true).await).unwrap();
    let status = send(&node, "/test/Refuses", None, framed(&[])).await;
    assert_eq!((status.code(), status.message()), (Code::Aborted, "it changed"));
    let info = status.get_details_error_info().unwrap();
    assert_eq!((&*info.reason, &*info.metadata["actual"]), ("MODIFIED", "7"));
}

#[tokio::test]
async fn health_is_readiness_and_ends_when_the_node_begins_to_stop() {
    let health = Health::new(true).await;
    let mut client = HealthClient::new(serve_with(&health).await);
    for service in PUBLIC_SERVICES.iter().chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let answer = client.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, ServingStatus::NotServing as i32, "{service}");
    }
    let request = HealthCheckRequest { service: "aether.v1.Updates".to_owned() };
    let mut watched = client.watch(request).await.unwrap().into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(LIMIT, watched.message()).await;
        next.expect("it is told").unwrap().unwrap().status
    };
    assert_eq!(next().await, ServingStatus::NotServing as i32);

    let is_ready = Arc::new(AtomicBool::new(false));
    let ready = {
        let is_ready = Arc::clone(&is_ready);
        move || match is_ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    };
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(health.report(ready, stopping));
    for serves in [true, false, true] {
        is_ready.store(serves, Ordering::Relaxed);
        let expected = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        assert_eq!(next().await, expected as i32);
    }
    stop.send(true).unwrap();
    assert_eq!(next().await, ServingStatus::NotServing as i32, "though its parts are ready");
}

#[tokio::test]
async fn reflection_shows_what_is_public_and_nothing_else() {
    let channel = serve_with(&Health::new(true).await).await;
    let mut client = ServerReflectionClient::new(channel);
    let ask =
        |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let symbols = ["aether.v1.Updates.Start", "aether.v1.Update", "aether.raft.v1.Raft"];
    let mut questions = vec![ask(MessageRequest::ListServices(String::new()))];
    let of = |symbol: &str| ask(MessageRequest::FileContainingSymbol(symbol.to_owned()));
    questions.extend(symbols.map(of));
    let answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap();
    let mut answers = answers.into_inner();
    let begun = Instant::now();
    let mut next = async || {
        assert!(begun.elapsed() < LIMIT);
        let answer = answers.message().await?;
        Ok::<_, Status>(answer.unwrap().message_response.unwrap())
    };
    let MessageResponse::ListServicesResponse(list) = next().await.unwrap() else {
        panic!("no list")
    };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    let mut expected: Vec<String> = PUBLIC_SERVICES.iter().map(|s| (*s).to_owned()).collect();
    expected.extend(OWN_SERVICES.map(str::to_owned));
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    for symbol in &symbols[..2] {
        let answer = next().await.unwrap();
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{symbol}");
    }
    assert_eq!(next().await.unwrap_err().code(), Code::NotFound, "Raft is not shown");
}
