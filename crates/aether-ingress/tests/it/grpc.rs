//! Calls of gRPC: streams both ways, trailers, refusals and ends, through to real
//! servers of HTTP/2.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aether_core::table::SliceTable;
use aether_ingress::Config;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::client::header;
use crate::support::backend::Backend;
use crate::support::{dead_address, rule, set, table, until};
use crate::{Setup, start};

/// What a test sees and wants of an instance.
#[derive(Default)]
struct State {
    calls: AtomicU64,
    connections: AtomicU64,
    /// Calls that were taken back.
    resets: AtomicU64,
    /// Refuses all calls unseen.
    refuses: AtomicBool,
    /// Ends all connections once the calls on them have ended.
    retire: Notify,
}

/// A server that echoes messages; `/head/N` answers with a status alone,
/// `/trailers/N` after a message, `/cut` without one, `/hang` never, `/reset` with
/// a reset in the midst.
struct Instance {
    name: &'static str,
    address: SocketAddr,
    state: Arc<State>,
}

impl Instance {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(name, listener, u32::MAX)
    }

    fn on(name: &'static str, listener: TcpListener, streams_max: u32) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, name, Arc::clone(&shared), streams_max));
            }
        });
        Self { name, address, state }
    }

    fn row(&self) -> (&str, SocketAddr) {
        (self.name, self.address)
    }

    fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    fn resets(&self) -> u64 {
        self.state.resets.load(Ordering::SeqCst)
    }

    fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, name: &'static str, state: Arc<State>, streams_max: u32) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams_max);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = state.retire.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, mut respond))) = accepted else { return };
        if state.refuses.load(Ordering::SeqCst) {
            respond.send_reset(Reason::REFUSED_STREAM);
            continue;
        }
        state.calls.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            if answer(request, respond, name).await.is_none() {
                state.resets.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
}

/// None if the call is taken back.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    name: &'static str,
) -> Option<()> {
    let path = request.uri().path().to_owned();
    let mut head = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-instance", name)
        .header("x-authority", request.uri().authority().unwrap().as_str());
    for name in ["te", "host", "grpc-timeout", "x-forwarded-for"] {
        if let Some(value) = request.headers().get(name) {
            head = head.header(format!("x-saw-{name}"), value);
        }
    }
    if let Some(code) = path.strip_prefix("/head/") {
        let head = head.header("grpc-status", code).body(()).unwrap();
        respond.send_response(head, true).ok()?;
        return Some(());
    }
    if path == "/hang" {
        std::future::poll_fn(|context| respond.poll_reset(context)).await.ok()?;
        return None;
    }
    let mut messages = request.into_body();
    let mut sends = respond.send_response(head.body(()).unwrap(), false).ok()?;
    if path == "/cut" || path == "/reset" {
        sends.send_data(Bytes::from_static(b"half"), path == "/cut").ok()?;
        if path == "/reset" {
            messages.data().await;
            sends.send_reset(Reason::INTERNAL_ERROR);
        }
        return Some(());
    }
    loop {
        let message = tokio::select! {
            message = messages.data() => message,
            _ = std::future::poll_fn(|context| sends.poll_reset(context)) => return None,
        };
        let Some(message) = message else { break };
        let message = message.ok()?;
        messages.flow_control().release_capacity(message.len()).ok()?;
        send_all(&mut sends, message).await?;
    }
    let code = path.strip_prefix("/trailers/").unwrap_or("0");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("x-said-last", name.parse().unwrap());
    sends.send_trailers(trailers).ok()
}

async fn send_all(sends: &mut SendStream<Bytes>, mut message: Bytes) -> Option<()> {
    while !message.is_empty() {
        sends.reserve_capacity(message.len());
        let room = std::future::poll_fn(|context| sends.poll_capacity(context)).await?.ok()?;
        sends.send_data(message.split_to(room.min(message.len())), false).ok()?;
    }
    Some(())
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://shop.example{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Begins a call whose messages are still to be sent.
async fn begin(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
) -> (ResponseFuture, SendStream<Bytes>) {
    sender.clone().ready().await.unwrap().send_request(request, false).unwrap()
}

/// A call with one message: the head, all messages, and the trailers.
async fn unary(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
) -> Result<(Response<Bytes>, HeaderMap), h2::Error> {
    let (answer, mut messages) = begin(sender, request).await;
    tokio::spawn(async move {
        if send_all(&mut messages, message).await.is_some() {
            let _ = messages.send_data(Bytes::new(), true);
        }
    });
    let (head, mut body) = answer.await?.into_parts();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        all.extend_from_slice(&part);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok((Response::from_parts(head, all.into()), trailers))
}

fn route(rows: &[(&str, SocketAddr)]) -> SliceTable {
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, rows);
    route.ingress = vec![rule("", "/")];
    route
}

/// (requests, errors) of each instance, as they were last reported.
fn figures(setup: &Setup) -> HashMap<String, (u64, u64)> {
    let rows = setup.control.reports().into_iter().flat_map(|report| report.telemetry);
    rows.map(|row| (row.instance_id, (row.requests, row.errors))).collect()
}

const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_stream_both_ways_and_trailers_come_last() {
    let instance = Instance::start("a-1").await;
    let setup = start(Config::default(), &[route(&[instance.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let (answer, mut messages) = begin(&sender, call("/echo")).await;
    // The head comes before the first message.
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "x-authority"), "shop.example");
    assert_eq!(header(&answer, "x-saw-te"), "trailers");
    assert_eq!(header(&answer, "x-saw-host"), "");
    assert_eq!(header(&answer, "x-saw-x-forwarded-for"), "127.0.0.1");
    let mut body = answer.into_body();
    for message in ["one", "two", "three"] {
        messages.send_data(Bytes::from(message), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), message);
    }
    messages.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-said-last"]),
        (&"0".parse().unwrap(), &"a-1".parse().unwrap())
    );

    // A long one, and many side by side on one connection to the instance.
    let long = Bytes::from(vec![7; 8 << 20]);
    let (answer, trailers) = unary(&sender, call("/echo"), long.clone()).await.unwrap();
    assert!(*answer.body() == long && trailers["grpc-status"] == "0");
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let sender = sender.clone();
            let message = Bytes::from_static(MESSAGE);
            tokio::spawn(async move { unary(&sender, call("/echo"), message).await.unwrap() })
        })
        .collect();
    for call in calls {
        let (answer, trailers) = call.await.unwrap();
        assert!(answer.body() == MESSAGE && trailers["grpc-status"] == "0");
    }
    assert!(instance.connections() <= 2, "{}", instance.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_statuses_are_errors_of_their_version() {
    let instance = Instance::start("a-1").await;
    let setup = start(Config::default(), &[route(&[instance.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let message = || Bytes::from_static(MESSAGE);
    // OK, NOT_FOUND, INTERNAL, UNIMPLEMENTED and PERMISSION_DENIED.
    for code in ["0", "5", "13", "12", "7"] {
        let (answer, _) = unary(&sender, call(&format!("/head/{code}")), message()).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], code);
        let (_, trailers) =
            unary(&sender, call(&format!("/trailers/{code}")), message()).await.unwrap();
        assert_eq!(trailers["grpc-status"], code);
    }
    until("reported", || figures(&setup).get("a-1") == Some(&(10, 4))).await;
    let (answer, trailers) = unary(&sender, call("/cut"), message()).await.unwrap();
    assert!(answer.body() == "half" && trailers.is_empty());
    let (answer, mut messages) = begin(&sender, call("/reset")).await;
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "half");
    messages.send_data(message(), false).unwrap();
    let reset = body.data().await.unwrap().unwrap_err();
    assert!(reset.is_reset() && reset.reason() == Some(Reason::INTERNAL_ERROR), "{reset}");
    until("reported", || figures(&setup).get("a-1") == Some(&(12, 6))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_our_own_are_told_as_grpc_tells_them() {
    let instance = Instance::start("a-1").await;
    let mut gone = table("org.example:gone", 2, "0:1");
    gone.old = set(3, &[("gone-1", dead_address())]);
    gone.ingress = vec![rule("", "/gone")];
    let mut route = route(&[instance.row()]);
    route.ingress = vec![rule("", "/hang")];
    let config = Config { request_timeout: Duration::from_millis(200), ..Config::default() };
    let setup = start(config, &[route, gone]).await;
    let sender = connect(setup.ingress.address()).await;
    let message = || Bytes::from_static(MESSAGE);
    for (path, code, text) in [
        ("/nobody/Call", "12", "no ingress rule"),
        ("/gone/Call", "14", "org.example:gone 3.0.0 at instance gone-1"),
        ("/hang", "4", "no response within 200 ms"),
    ] {
        let (answer, _) = unary(&sender, call(path), message()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "content-type"), "application/grpc");
        assert_eq!(header(&answer, "grpc-status"), code, "{path}");
        let said = header(&answer, "grpc-message");
        assert!(said.contains(text), "{said}");
    }
    // The caller's own limit goes before ours.
    let mut patient = call("/hang");
    patient.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let (answer, _) = unary(&sender, patient, message()).await.unwrap();
    assert_eq!(header(&answer, "grpc-status"), "4");
    assert!(header(&answer, "grpc-message").contains("within 50 ms"), "{answer:?}");
    until("taken back", || instance.resets() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_not_done_is_no_slow_instance() {
    // Answers with the head only once it has all messages.
    let backend = hyper_instance().await;
    let config = Config { request_timeout: Duration::from_millis(100), ..Config::default() };
    let setup = start(config, &[route(&[("a-1", backend)])]).await;
    let sender = connect(setup.ingress.address()).await;
    let (answer, mut messages) = begin(&sender, call("/collect")).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        messages.send_data(Bytes::from_static(b"x"), false).unwrap();
    }
    messages.send_data(Bytes::new(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(header(&answer, "grpc-status"), "0");
    assert_eq!(header(&answer, "x-bytes"), "5");
}

async fn hyper_instance() -> SocketAddr {
    use http_body_util::{BodyExt, Empty};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
        let all = request.into_body().collect().await?.to_bytes();
        let head = Response::builder().header("grpc-status", "0").header("x-bytes", all.len());
        Ok::<_, hyper::Error>(head.body(Empty::<Bytes>::new()).unwrap())
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let builder = hyper::server::conn::http2::Builder::new(executor);
            tokio::spawn(builder.serve_connection(io, service));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_taken_back_ends_at_the_instance() {
    let instance = Instance::start("a-1").await;
    let setup = start(Config::default(), &[route(&[instance.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let (unanswered, _messages) = begin(&sender, call("/hang")).await;
    let (streaming, more) = begin(&sender, call("/echo")).await;
    let streaming = streaming.await.unwrap();
    until("both arrive", || instance.calls() == 2).await;
    setup.control.remove(3, "org.example:a");
    until("busy", || setup.control.busy() == [("a-1".to_owned(), 2)]).await;
    drop((unanswered, _messages));
    until("one is taken back", || instance.resets() == 1).await;
    until("the other is there", || setup.control.busy() == [("a-1".to_owned(), 1)]).await;
    drop((streaming, more));
    until("both are taken back", || instance.resets() == 2).await;
    until("idle", || setup.control.busy().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_not_looked_at_go_elsewhere() {
    let (refusing, other) = (Instance::start("a-1").await, Instance::start("a-2").await);
    refusing.state.refuses.store(true, Ordering::SeqCst);
    let rows = [refusing.row(), other.row(), ("a-3", dead_address())];
    let setup = start(Config::default(), &[route(&rows)]).await;
    let sender = connect(setup.ingress.address()).await;
    for nth in 0..30u32 {
        let message = Bytes::from(nth.to_be_bytes().to_vec());
        let (answer, trailers) = unary(&sender, call("/echo"), message.clone()).await.unwrap();
        assert_eq!(answer.body(), &message);
        assert_eq!(
            (header(&answer, "x-instance"), &trailers["grpc-status"]),
            ("a-2", &"0".parse().unwrap())
        );
    }
    assert_eq!((refusing.calls(), other.calls()), (0, 30));
    // With nobody else it is told so.
    let setup = start(Config::default(), &[route(&[refusing.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let (answer, _) = unary(&sender, call("/echo"), Bytes::from_static(MESSAGE)).await.unwrap();
    assert_eq!(header(&answer, "grpc-status"), "14");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_ends_its_connections_fails_no_call() {
    let instance = Instance::start("a-1").await;
    let setup = start(Config::default(), &[route(&[instance.row()])]).await;
    let address = setup.ingress.address();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let sender = connect(address).await;
                let mut made = 0u64;
                while !over.load(Ordering::Relaxed) {
                    let message = Bytes::from_static(MESSAGE);
                    let (answer, trailers) = unary(&sender, call("/echo"), message).await.unwrap();
                    assert_eq!(trailers.get("grpc-status").unwrap(), "0", "{answer:?}");
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut retired = 0;
    until("many ends", || {
        instance.state.retire.notify_waiters();
        retired += 1;
        instance.connections() > 50
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let mut made = 0;
    for client in clients {
        made += client.await.unwrap();
    }
    println!("{made} calls over {} connections", instance.connections());
    assert_eq!(instance.calls(), made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_above_the_last_that_was_looked_at_is_made_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let setup = start(Config::default(), &[route(&[("a-1", address)])]).await;
    let sender = connect(setup.ingress.address()).await;
    let message = Bytes::from_static(MESSAGE);
    let asked = tokio::spawn(async move { unary(&sender, call("/echo"), message).await });
    // The first connection takes the call in and says that it looked at none.
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(MESSAGE.len()).any(|window| window == MESSAGE) {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it ended");
    }
    let (settings, go_away) = (b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0");
    stream.write_all(&[&settings[..], &go_away[..]].concat()).await.unwrap();
    let instance = Instance::on("a-1", listener, u32::MAX);
    let (answer, trailers) = asked.await.unwrap().unwrap();
    assert!(answer.body() == MESSAGE && trailers["grpc-status"] == "0");
    assert_eq!(instance.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlasts_the_tables_and_its_connection_goes_with_it() {
    let (old, new) = (Instance::start("a-1").await, Instance::start("b-1").await);
    let mut route = route(&[old.row()]);
    let setup = start(Config::default(), &[route.clone()]).await;
    let sender = connect(setup.ingress.address()).await;
    let (answer, mut messages) = begin(&sender, call("/echo")).await;
    let mut body = answer.await.unwrap().into_body();
    route.table_revision = 3;
    route.old = set(2, &[new.row()]);
    setup.control.publish(3, &[route]);
    until("busy", || setup.control.busy() == [("a-1".to_owned(), 1)]).await;
    messages.send_data(Bytes::from_static(b"still"), false).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "still");
    let (answer, _) = unary(&sender, call("/echo"), Bytes::from_static(MESSAGE)).await.unwrap();
    assert_eq!(header(&answer, "x-instance"), "b-1");
    messages.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    until("idle", || setup.control.busy().is_empty()).await;
    assert_eq!((old.calls(), new.calls()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_what_a_connection_takes_get_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let instance = Instance::on("a-1", listener, 10);
    let setup = start(Config::default(), &[route(&[instance.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let mut open = Vec::new();
    // None of them ends, so that each needs its place.
    for nth in 1..=35 {
        let (answer, messages) = begin(&sender, call("/echo")).await;
        open.push((answer.await.unwrap(), messages));
        assert_eq!(instance.calls(), nth);
    }
    assert_eq!(instance.connections(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_http2_is_named_and_plain_calls_go_on() {
    let backend = Backend::start("a-1").await;
    let setup = start(Config::default(), &[route(&[backend.row()])]).await;
    let sender = connect(setup.ingress.address()).await;
    let (answer, _) = unary(&sender, call("/echo"), Bytes::from_static(MESSAGE)).await.unwrap();
    assert_eq!(header(&answer, "grpc-status"), "14");
    assert!(header(&answer, "grpc-message").contains("a-1"), "{answer:?}");
    // gRPC-Web is made for HTTP/1.1.
    let mut web = call("/echo");
    web.headers_mut().insert("content-type", "application/grpc-web".parse().unwrap());
    let (answer, _) = unary(&sender, web, Bytes::from_static(MESSAGE)).await.unwrap();
    assert_eq!(answer.body(), MESSAGE);
}
