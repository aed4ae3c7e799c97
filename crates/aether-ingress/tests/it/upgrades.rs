//! Connections that leave HTTP behind, and what becomes of them when the world
//! changes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_core::table::SliceTable;
use aether_ingress::Config;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Body, Client, empty, header};
use crate::support::backend::Backend;
use crate::support::{rule, set, table, until};
use crate::{Setup, start};

/// An instance that switches to a protocol of which each message is a line: it
/// says its name, and then what it hears.
struct Echo {
    name: &'static str,
    address: SocketAddr,
    open: Arc<AtomicU64>,
    hits: Arc<AtomicU64>,
}

impl Echo {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, hits) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (tunnels, heard) = (Arc::clone(&open), Arc::clone(&hits));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tunnels, heard) = (Arc::clone(&tunnels), Arc::clone(&heard));
                let service = service_fn(move |request| {
                    heard.fetch_add(1, Ordering::SeqCst);
                    let answer = answer(request, name, Arc::clone(&tunnels));
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        Self { name, address, open, hits }
    }

    fn row(&self) -> (&str, SocketAddr) {
        (self.name, self.address)
    }

    fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }
}

fn answer(
    mut request: Request<Incoming>,
    name: &'static str,
    open: Arc<AtomicU64>,
) -> Response<Body> {
    let asked = header_of(&request, "upgrade");
    let answer = Response::builder()
        .header("x-instance", name)
        .header("x-saw-upgrade", &asked)
        .header("x-saw-connection", header_of(&request, "connection"));
    let answer = match request.uri().path() {
        "/refused" => answer.status(403),
        "/required" => answer.status(426).header("upgrade", "lines"),
        "/other" => answer.status(101).header("upgrade", "something-else"),
        _ if asked.is_empty() => answer.status(200),
        _ => {
            open.fetch_add(1, Ordering::SeqCst);
            let switched = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = switched.await {
                    let (mut reads, mut writes) = tokio::io::split(TokioIo::new(upgraded));
                    let _ = writes.write_all(format!("{name}\n").as_bytes()).await;
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                    let _ = writes.write_all(b"bye\n").await;
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
            answer.status(101).header("connection", "upgrade").header("upgrade", asked)
        }
    };
    answer.body(empty()).unwrap()
}

fn header_of(request: &Request<Incoming>, name: &str) -> String {
    request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

const SWITCH: &str = "GET /lines HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: h2c, lines\r\n\r\n";

/// A tunnel, and the name of the instance at its other end.
async fn tunnel(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(SWITCH.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("\r\nupgrade: lines\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    let name = line(&mut stream).await;
    (stream, name)
}

async fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

async fn echoes(stream: &mut TcpStream, text: &str) {
    stream.write_all(format!("{text}\n").as_bytes()).await.unwrap();
    assert_eq!(line(stream).await, text);
}

fn route(old: &Echo) -> SliceTable {
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[old.row()]);
    route.ingress = vec![rule("", "/")];
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_outlasts_an_update_and_the_drain_waits_for_it() {
    let (old, new) = (Echo::start("a-1").await, Echo::start("b-1").await);
    let mut route = route(&old);
    // A request may take less long than the tunnel.
    let config = Config { request_timeout: Duration::from_millis(300), ..Config::default() };
    let setup = start(config, &[route.clone()]).await;
    let (mut first, name) = tunnel(setup.ingress.address()).await;
    assert_eq!(name, "a-1");
    for (revision, ratio) in (3..).zip(["1:1", "1:0"]) {
        (route.table_revision, route.route_revision) = (revision, revision);
        route.weights = ratio.parse().unwrap();
        route.new = set(2, &[new.row()]);
        setup.control.publish(revision, &[route.clone()]);
        until("acked", || setup.control.acked() == revision).await;
        echoes(&mut first, ratio).await;
    }
    let (mut second, name) = tunnel(setup.ingress.address()).await;
    assert_eq!(name, "b-1");
    route.table_revision = 5;
    route.old = None;
    setup.control.publish(5, &[route.clone()]);
    until("busy", || setup.control.busy() == [("a-1".to_owned(), 1)]).await;
    // Longer than a request may take.
    tokio::time::sleep(Duration::from_millis(400)).await;
    echoes(&mut first, "still here").await;
    assert_eq!(setup.control.busy(), [("a-1".to_owned(), 1)]);
    // The end of one direction is passed on, and the other goes on until its own.
    first.shutdown().await.unwrap();
    assert_eq!(line(&mut first).await, "bye");
    assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
    until("idle", || setup.control.busy().is_empty()).await;
    assert_eq!((old.open(), new.open()), (0, 1));
    echoes(&mut second, "on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_ends_its_tunnel() {
    let echo = Echo::start("a-1").await;
    let setup = start(Config::default(), &[route(&echo)]).await;
    let (stream, _) = tunnel(setup.ingress.address()).await;
    setup.control.remove(3, "org.example:a");
    until("busy", || setup.control.busy().len() == 1).await;
    drop(stream);
    until("idle", || setup.control.busy().is_empty() && echo.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_switch_is_a_plain_answer_and_the_connection_goes_on() {
    let echo = Echo::start("a-1").await;
    let setup = start(Config::default(), &[route(&echo)]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    let switch = |path: &str, protocol: &str| {
        Request::get(path)
            .header("host", "h")
            .header("connection", "upgrade, x-mine")
            .header("x-mine", "1")
            .header("upgrade", protocol)
            .body(empty())
            .unwrap()
    };
    let answer = client.send(switch("/refused", "lines")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(header(&answer, "x-saw-upgrade"), "lines");
    assert_eq!(header(&answer, "x-saw-connection"), "upgrade");
    let answer = client.send(switch("/required", "lines")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(header(&answer, "upgrade"), "lines");
    // HTTP/2 is not spoken past the routes.
    let answer = client.send(switch("/lines", "h2c")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "x-saw-upgrade"), "");
    assert_eq!(header(&answer, "x-saw-connection"), "");
    let answer = client.send(switch("/other", "lines")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(echo.hits.load(Ordering::SeqCst), 4);
    assert_eq!(client.get("h", "/refused").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_goes_past_an_instance_that_cannot_be_reached_but_is_sent_once() {
    let echo = Echo::start("a-1").await;
    let mut gone = Backend::start("a-2").await;
    gone.refuse().await;
    let mut route = route(&echo);
    route.old = set(1, &[echo.row(), gone.row()]);
    let setup = start(Config { retry_safe: true, ..Config::default() }, &[route.clone()]).await;
    for _ in 0..4 {
        assert_eq!(tunnel(setup.ingress.address()).await.1, "a-1");
    }
    assert_eq!(echo.hits.load(Ordering::SeqCst), 4);
    // One that takes a request and goes away may have switched.
    let (listener, hits) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), AtomicU64::new(0));
    let address = listener.local_addr().unwrap();
    route.table_revision = 3;
    route.old = set(1, &[("a-3", address), ("a-4", address)]);
    setup.control.publish(3, &[route]);
    until("acked", || setup.control.acked() == 3).await;
    let taking = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_024]).await;
            hits.fetch_add(1, Ordering::SeqCst);
        }
    };
    let lost = async {
        let mut stream = TcpStream::connect(setup.ingress.address()).await.unwrap();
        stream.write_all(SWITCH.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    tokio::select! {
        () = taking => unreachable!("it never ends"),
        answer = lost => assert_eq!(answer, *b"HTTP/1.1 502"),
    }
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_the_time_that_a_shutdown_has() {
    let echo = Echo::start("a-1").await;
    let config = Config { shutdown_timeout: Duration::from_millis(300), ..Config::default() };
    let Setup { control, invoker, ingress } = start(config, &[route(&echo)]).await;
    let (mut stream, _) = tunnel(ingress.address()).await;
    let address = ingress.address();
    let down = tokio::spawn(ingress.shutdown());
    while TcpStream::connect(address).await.is_ok() {}
    echoes(&mut stream, "not yet").await;
    down.await.unwrap();
    let end = stream.read(&mut [0; 1]).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    until("the instance sees the end", || echo.open() == 0).await;
    control.remove(3, "org.example:a");
    until("idle", || control.acked() == 3 && control.busy().is_empty()).await;
    invoker.close().await;
}
