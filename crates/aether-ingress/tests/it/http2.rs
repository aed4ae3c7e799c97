//! Clients that speak HTTP/2 by prior knowledge, on the port of HTTP/1.1.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aether_ingress::Config;
use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::client::{Client, get, header, problem, raw};
use crate::start;
use crate::support::backend::Backend;
use crate::support::{rule, set, table, until};
use crate::{Setup, one_backend};

/// One connection, and the task that drives it.
async fn connect(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    connect_with(address, &h2::client::Builder::new()).await
}

async fn connect_with(
    address: SocketAddr,
    builder: &h2::client::Builder,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://shop.example:80{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// The whole answer.
async fn whole(answer: ResponseFuture) -> Result<Response<Bytes>, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    Ok(Response::from_parts(head, all.into()))
}

async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
) -> Result<Response<Bytes>, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    whole(sender.send_request(request, true)?.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_connection_pass_beside_each_other() {
    let (setup, backend) = one_backend(Config::default()).await;
    let (sender, _driven) = connect(setup.ingress.address()).await;
    let slow = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request(Method::GET, "/slow")).await.unwrap().status() }
    });
    until("the slow call arrives", || backend.hits() == 1).await;
    let all: Vec<_> = (0..300)
        .map(|_| {
            let sender = sender.clone();
            tokio::spawn(async move { ask(&sender, request(Method::GET, "/hello")).await.unwrap() })
        })
        .collect();
    for answer in all {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"hello"[..]));
    }
    assert!(!slow.is_finished());
    backend.let_go();
    assert_eq!(slow.await.unwrap(), StatusCode::OK);
    // The same port speaks HTTP/1.1.
    let mut client = Client::connect(setup.ingress.address()).await;
    assert_eq!(client.get("h", "/hello").await.body(), "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_become_those_of_http1_and_back() {
    let (setup, _backend) = one_backend(Config::default()).await;
    let (sender, _driven) = connect(setup.ingress.address()).await;
    let mut asked = request(Method::GET, "/hello");
    asked.headers_mut().append("cookie", "a=b".parse().unwrap());
    asked.headers_mut().append("cookie", "c=d".parse().unwrap());
    asked.headers_mut().append("te", "trailers".parse().unwrap());
    let answer = ask(&sender, asked).await.unwrap();
    assert_eq!(header(&answer, "x-saw-host"), "shop.example:80");
    assert_eq!(header(&answer, "x-saw-cookie"), "a=b; c=d");
    assert_eq!(header(&answer, "x-saw-te"), "");
    assert_eq!(header(&answer, "x-saw-x-forwarded-proto"), "http");
    assert_eq!(header(&answer, "x-uri"), "/hello");
    assert_eq!(header(&answer, "keep-alive"), "");
    let answer = ask(&sender, request(Method::HEAD, "/hello")).await.unwrap();
    assert_eq!((header(&answer, "content-length"), answer.body().len()), ("5", 0));
    let mut asked = request(Method::GET, "/hello");
    asked.headers_mut().append("host", "other.example".parse().unwrap());
    problem(&ask(&sender, asked).await.unwrap(), StatusCode::BAD_REQUEST);
    let connect = Request::connect("shop.example:443").body(()).unwrap();
    let refused = ask(&sender, connect).await.unwrap();
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    // A problem has no text for HEAD.
    let mut head = request(Method::HEAD, "/hello");
    head.headers_mut().append("host", "other.example".parse().unwrap());
    let refused = ask(&sender, head).await.unwrap();
    assert_eq!((refused.status(), refused.body().len()), (StatusCode::BAD_REQUEST, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_8_mib_come_back_whole_side_by_side() {
    let (setup, _backend) = one_backend(Config::default()).await;
    let stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let all: Vec<_> = (1..5u8)
        .map(|nth| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let body = Bytes::from(vec![nth; 8 << 20]);
                let request = Request::post("http://h/echo").body(Full::new(body.clone()));
                let answer = sender.send_request(request.unwrap()).await.unwrap();
                assert!(answer.into_body().collect().await.unwrap().to_bytes() == body);
            })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_shutdown_a_stream_in_flight_is_answered_and_none_begins() {
    let (setup, backend) = one_backend(Config::default()).await;
    let address = setup.ingress.address();
    let (sender, driven) = connect(address).await;
    let (idle, idle_driven) = connect(address).await;
    ask(&idle, request(Method::GET, "/hello")).await.unwrap();
    let mut old = Client::connect(address).await;
    let slow = tokio::spawn({
        let sender = sender.clone();
        async move { ask(&sender, request(Method::GET, "/slow")).await.unwrap() }
    });
    let old_slow = tokio::spawn(async move { old.send(get("h", "/slow")).await.unwrap() });
    until("both slow calls arrive", || backend.hits() == 3).await;
    let Setup { control: _control, invoker: _invoker, ingress } = setup;
    let down = tokio::spawn(ingress.shutdown());
    // A connection without a stream ends in order.
    idle_driven.await.unwrap().unwrap();
    let refused = loop {
        match ask(&sender, request(Method::GET, "/hello")).await {
            // Begun before the client had heard of the end.
            Ok(answer) => assert_eq!(answer.status(), StatusCode::OK),
            Err(error) => break error,
        }
    };
    assert!(refused.is_go_away() && refused.reason() == Some(Reason::NO_ERROR), "{refused}");
    assert!(!down.is_finished());
    backend.let_go();
    assert_eq!(slow.await.unwrap().status(), StatusCode::OK);
    driven.await.unwrap().unwrap();
    let answer = old_slow.await.unwrap();
    assert_eq!(header(&answer, "connection"), "close");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "");
    down.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginnings_that_make_no_sense_are_refused_and_reach_nobody() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let config = Config { header_timeout: Duration::from_millis(200), ..Config::default() };
    let (setup, backend) = one_backend(config).await;
    let address = setup.ingress.address();
    for broken in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_owned(),
        format!("{PREFACE}GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        // A frame longer than any that is allowed, and HEADERS of stream 0.
        format!("{PREFACE}\u{7f}\u{7f}\u{7f}\0\0\0\0\0\0"),
        format!("{PREFACE}\0\0\0\u{4}\0\0\0\0\0\0\0\u{1}\u{1}\u{5}\0\0\0\0x"),
        // No more than that.
        PREFACE.to_owned(),
    ] {
        // It ends, whatever it says.
        let answer = raw(address, &broken).await;
        assert!(!answer.contains(" 200"), "{answer}");
    }
    // One that began as HTTP/2 does, and stopped.
    assert!(raw(address, "PRI * HT").await.starts_with("HTTP/1.1 408"));
    let (sender, _driven) = connect(address).await;
    let mut large = request(Method::GET, "/hello");
    large.headers_mut().append("x-large", "x".repeat(40_000).parse().unwrap());
    match ask(&sender, large).await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(backend.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_that_are_taken_back_is_cut_off() {
    const FLOOD: usize = 20_000;
    let (setup, backend) = one_backend(Config::default()).await;
    let address = setup.ingress.address();
    let (flood, mut driven) = connect(address).await;
    let mut sent = 0;
    while sent < FLOOD {
        let Ok(mut ready) = flood.clone().ready().await else { break };
        let Ok((answer, _)) = ready.send_request(request(Method::GET, "/slow"), true) else {
            break;
        };
        sent += 1;
        // Some are begun, some are not, when they are taken back.
        if sent % 3 == 0 {
            tokio::task::yield_now().await;
        }
        drop(answer);
    }
    assert!(sent < FLOOD, "never cut off");
    let end = tokio::time::timeout(crate::support::LIMIT, &mut driven).await.unwrap().unwrap();
    println!("{sent} sent, {} arrived, {end:?}", backend.hits());
    assert!(backend.hits() < 1_000, "{}", backend.hits());
    // Others are served on, and nothing stays behind.
    let (sender, _driven) = connect(address).await;
    assert_eq!(ask(&sender, request(Method::GET, "/hello")).await.unwrap().status(), 200);
    setup.control.remove(3, "org.example:a");
    until("idle", || setup.control.acked() == 3 && setup.control.busy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_as_soon_as_they_arrive_are_cut_off_too() {
    let (setup, backend) = one_backend(Config::default()).await;
    let (flood, driven) = connect(setup.ingress.address()).await;
    for nth in 1..=1_000 {
        let Ok(mut ready) = flood.clone().ready().await else { break };
        let sent = ready.send_request(request(Method::GET, "/slow"), true);
        let Ok((answer, _)) = sent else { break };
        until("it arrives", || backend.hits() == nth || driven.is_finished()).await;
        drop(answer);
    }
    until("cut off", || driven.is_finished()).await;
    assert!((200..250).contains(&backend.hits()), "{}", backend.hits());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_read_is_reset_and_the_others_go_on() {
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    let config = Config { stall_timeout: Duration::from_millis(300), ..Config::default() };
    let setup = start(config, &[route]).await;
    // That of the whole connection leaves room for others.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (sender, _driven) = connect_with(setup.ingress.address(), &builder).await;
    let mut ready = sender.clone().ready().await.unwrap();
    let (answer, mut body) = ready.send_request(request(Method::POST, "/echo"), false).unwrap();
    // More than the window of the answer, which is never opened.
    body.send_data(Bytes::from(vec![b'x'; 200_000]), false).unwrap();
    let mut unread = answer.await.unwrap().into_body();
    let end = loop {
        assert_eq!(ask(&sender, request(Method::GET, "/hello")).await.unwrap().body(), "hello");
        match tokio::time::timeout(Duration::from_millis(1), unread.data()).await {
            Ok(Some(Err(error))) => break error,
            Ok(Some(Ok(_))) | Err(_) => {}
            Ok(None) => panic!("it ended"),
        }
    };
    assert!(end.is_reset() && end.is_remote(), "{end}");
    setup.control.remove(3, "org.example:a");
    until("idle", || setup.control.acked() == 3 && setup.control.busy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_silent_connections_end() {
    let config = Config { header_timeout: Duration::from_millis(100), ..Config::default() };
    let (setup, _backend) = one_backend(config).await;
    let (sender, driven) = connect(setup.ingress.address()).await;
    ask(&sender, request(Method::GET, "/hello")).await.unwrap();
    driven.await.unwrap().unwrap();

    // Takes part in nothing after it began.
    let wait = Duration::from_millis(100);
    let config = Config { ping_interval: wait, ping_timeout: wait, ..Config::default() };
    let (setup, _backend) = one_backend(config).await;
    let mut stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(settings).await.unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    assert!(!heard.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_taken_back_ends_its_call() {
    let (setup, backend) = one_backend(Config::default()).await;
    let (sender, _driven) = connect(setup.ingress.address()).await;
    let mut ready = sender.clone().ready().await.unwrap();
    let (answer, _) = ready.send_request(request(Method::GET, "/slow"), true).unwrap();
    until("the call arrives", || backend.hits() == 1).await;
    setup.control.remove(3, "org.example:a");
    until("busy", || setup.control.busy() == [("a-1".to_owned(), 1)]).await;
    drop(answer);
    until("idle", || setup.control.busy().is_empty()).await;
    until("closed", || backend.counters.open.load(Ordering::SeqCst) == 0).await;
}
