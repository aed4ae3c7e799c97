//! Clients that are wrong, slow, or about to be sent home.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aether_ingress::Config;
use aether_invoker::{Invoker, SessionKind};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Client, get, problem, raw};
use crate::support::backend::Backend;
use crate::support::control::Control;
use crate::support::{dead_address, rule, set, table, until};
use crate::{Setup, one_backend};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_and_reach_nobody() {
    let (setup, backend) = one_backend(Config::default()).await;
    let close = "connection: close\r\n";
    let long = "x".repeat(40_000);
    let many = "a: b\r\n".repeat(500);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\n{close}\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n{close}\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\nhost: a/b\r\n{close}\r\n"), "400"),
        (format!("GET https://a/ HTTP/1.1\r\nhost: a\r\n{close}\r\n"), "400"),
        (format!("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n{close}\r\n"), "405"),
        (format!("OPTIONS * HTTP/1.1\r\nhost: a\r\n{close}\r\n"), "404"),
        (format!("NONSENSE / HTTP/1.1\r\nhost a\r\n{close}\r\n"), "400"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = raw(setup.ingress.address(), &request).await;
        let start: String = request.chars().take(60).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{start}: {answer}");
    }
    assert_eq!(backend.hits(), 0);
    for good in [
        format!("GET http://a.example:80/hello HTTP/1.1\r\nhost: other\r\n{close}\r\n"),
        format!("GET /hello HTTP/1.1\r\nhost: a.example:80\r\n{close}\r\n"),
        "GET /hello HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let answer = raw(setup.ingress.address(), &good).await;
        assert!(answer.contains(" 200 OK") && answer.ends_with("hello"), "{answer}");
        assert!(good.ends_with("1.0\r\n\r\n") || answer.contains("x-saw-host: a.example:80"));
    }
    assert_eq!(backend.hits(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_to_be_told_to_continue_is() {
    let (setup, _backend) = one_backend(Config::default()).await;
    let mut stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 OK") && answer.ends_with("body"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_its_head_too_slowly_is_told_and_cut_off() {
    let config = Config { header_timeout: Duration::from_millis(100), ..Config::default() };
    let (setup, backend) = one_backend(config).await;
    let answer = raw(setup.ingress.address(), "GET / HTTP/1.1\r\nhost: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    assert!(body.contains("\"status\":408"), "{answer}");
    // An idle one may be about to send a request, which this is no answer to.
    assert_eq!(raw(setup.ingress.address(), "").await, "");
    assert_eq!(backend.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_before_the_answer_ends_the_call() {
    let (setup, backend) = one_backend(Config::default()).await;
    let mut stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until("the call arrives", || backend.hits() == 1).await;
    setup.control.remove(3, "org.example:a");
    until("busy", || setup.control.busy() == [("a-1".to_owned(), 1)]).await;
    drop(stream);
    until("idle", || setup.control.busy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_no_answer_does_not_hold_up_a_drain() {
    let config = Config { stall_timeout: Duration::from_millis(200), ..Config::default() };
    let (setup, backend) = one_backend(config).await;
    let mut stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
    let length: usize = 64 * 1_024 * 1_024;
    let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let part = vec![b'x'; 64 * 1_024];
    // Sends until it is cut off, and never reads.
    let send = tokio::spawn(async move {
        loop {
            if let Err(error) = stream.write_all(&part).await {
                return error.kind();
            }
        }
    });
    until("the call arrives", || backend.hits() == 1).await;
    setup.control.remove(3, "org.example:a");
    until("gone", || setup.control.acked() == 3 && setup.control.busy().is_empty()).await;
    let end = send.await.unwrap();
    assert!(matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_the_limit_wait_for_a_place() {
    let (setup, backend) = one_backend(Config { connections_max: 1, ..Config::default() }).await;
    let address = setup.ingress.address();
    let mut first = Client::connect(address).await;
    first.get("h", "/hello").await;
    let second =
        tokio::spawn(async move { Client::connect(address).await.get("h", "/hello").await });
    // The first goes on for as long as it likes; only it is served.
    for _ in 0..50 {
        first.get("h", "/hello").await;
    }
    assert_eq!(backend.hits(), 51);
    drop(first);
    assert_eq!(second.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_answers_what_is_in_flight_and_takes_nothing_new() {
    let (setup, backend) = one_backend(Config::default()).await;
    let address = setup.ingress.address();
    let mut idle = Client::connect(address).await;
    idle.get("h", "/hello").await;
    let mut busy = Client::connect(address).await;
    let slow = tokio::spawn(async move { busy.send(get("h", "/slow")).await.unwrap() });
    until("the slow call arrives", || backend.hits() == 2).await;
    let Setup { control: _control, invoker, ingress } = setup;
    let down = tokio::spawn(ingress.shutdown());
    let refused = || async { TcpStream::connect(address).await.is_err() };
    while !refused().await {}
    assert!(idle.send(get("h", "/hello")).await.is_err());
    assert!(!down.is_finished());
    backend.let_go();
    let answer = slow.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();
    down.await.unwrap();
    invoker.close().await;
    until("closed", || backend.counters.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tables_it_says_that_they_have_not_arrived() {
    let nodes = vec![dead_address()];
    let config = aether_invoker::Config::new("edge", SessionKind::Ingress, nodes);
    let invoker = Invoker::connect(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Longer than this no request waits for anything.
    let config = Config { request_timeout: Duration::from_millis(50), ..Config::default() };
    let ingress = aether_ingress::Ingress::start(listener, invoker, config).unwrap();
    let answer = Client::connect(ingress.address()).await.get("h", "/").await;
    let text = problem(&answer, StatusCode::SERVICE_UNAVAILABLE)["detail"].to_string();
    assert!(text.contains("tables"), "{text}");
    assert!(!ingress.readiness()());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_before_the_first_tables_wait_for_them() {
    let backend = Backend::start("a-1").await;
    let control = Control::start(Duration::from_secs(3));
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    control.publish(2, &[route]);
    // Accepts the invoker, and leads to the control plane only later.
    let way = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nodes = vec![way.local_addr().unwrap()];
    let config = aether_invoker::Config::new("edge", SessionKind::Ingress, nodes);
    let invoker = Invoker::connect(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ingress = aether_ingress::Ingress::start(listener, invoker, Config::default()).unwrap();
    let address = ingress.address();
    let get = |path: &'static str| {
        tokio::spawn(async move { Client::connect(address).await.get("h", path).await })
    };
    let (mut first, second) = (get("/hello"), get("/hello"));
    let held = tokio::time::timeout(Duration::from_millis(100), &mut first).await;
    assert!(held.is_err() && !ingress.readiness()(), "{held:?}");

    let there = control.address;
    tokio::spawn(async move {
        while let Ok((mut from, _)) = way.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(there).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    assert!(ingress.readiness()());
    // From now on what has no rule is told at once.
    let none = Client::connect(address).await.get("", "*").await.status();
    assert_ne!(none, StatusCode::SERVICE_UNAVAILABLE);
}
