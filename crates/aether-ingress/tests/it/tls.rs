//! Clients that speak TLS, and certificates that change under them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aether_ingress::{CertificateFiles, Config, TlsConfig, TlsError};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{get, header, raw};
use crate::one_backend;
use crate::support::until;

/// Writes a new certificate for some names, signed by itself.
fn issue(dir: &Path, file: &str, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = rcgen::generate_simple_self_signed(names).unwrap();
    // The key first: a look in between finds a pair that does not fit.
    std::fs::write(dir.join(format!("{file}.key")), issued.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.pem")), issued.cert.pem()).unwrap();
    issued.cert.der().clone()
}

fn files(dir: &Path, file: &str) -> CertificateFiles {
    CertificateFiles {
        certificate: dir.join(format!("{file}.pem")),
        key: dir.join(format!("{file}.key")),
    }
}

fn config(tls: TlsConfig) -> Config {
    Config { tls: Some(tls), ..Config::default() }
}

/// A connection of a client that trusts `roots` alone.
async fn connect(
    address: SocketAddr,
    name: &'static str,
    roots: &[CertificateDer<'static>],
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // A small window, as of a client that is far away.
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(16 * 1_024)?;
    let stream = socket.connect(address).await?;
    let name = ServerName::try_from(name).unwrap();
    TlsConnector::from(Arc::new(client)).connect(name, stream).await
}

fn presented(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_chooses_the_certificate_and_the_handshake_the_protocol() {
    let dir = TempDir::new().unwrap();
    let first = issue(dir.path(), "first", &["first.example", "*.any.example"]);
    let second = issue(dir.path(), "second", &["second.example"]);
    let pairs = vec![files(dir.path(), "first"), files(dir.path(), "second")];
    let (setup, backend) = one_backend(config(TlsConfig::new(pairs))).await;
    let address = setup.ingress.address();
    let both = [first.clone(), second.clone()];
    for (name, expected) in
        [("first.example", &first), ("x.any.example", &first), ("second.example", &second)]
    {
        let stream = connect(address, name, &both, &[]).await.unwrap();
        assert_eq!(presented(&stream), *expected, "{name}");
    }
    assert!(connect(address, "third.example", &both, &[]).await.is_err());

    let stream = connect(address, "first.example", &both, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://first.example/hello").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "x-saw-x-forwarded-proto"), "https");
    assert_eq!(header(&answer, "x-saw-host"), "first.example");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");

    let stream = connect(address, "first.example", &both, &[b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(get("first.example", "/hello")).await.unwrap();
    assert_eq!(header(&answer, "x-saw-x-forwarded-proto"), "https");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    // Who speaks in the clear gets nowhere.
    let clear = raw(address, "GET /hello HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!clear.contains("HTTP/1.1"), "{clear}");
    assert_eq!(backend.hits(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_under_load_without_a_failed_handshake() {
    let dir = TempDir::new().unwrap();
    let mut roots = vec![issue(dir.path(), "one", &["one.example"])];
    let tls = TlsConfig {
        reload_interval: Duration::from_millis(5),
        ..TlsConfig::new(vec![files(dir.path(), "one")])
    };
    // All that will ever be used, so that clients trust them from the start.
    let spare = TempDir::new().unwrap();
    for nth in 0..5 {
        roots.push(issue(spare.path(), &nth.to_string(), &["one.example"]));
    }
    let (setup, _backend) = one_backend(config(tls)).await;
    let address = setup.ingress.address();
    let (over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (over, made, roots) = (Arc::clone(&over), Arc::clone(&made), roots.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let mut stream =
                        connect(address, "one.example", &roots, &[]).await.expect("a handshake");
                    let ask = b"GET /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
                    stream.write_all(ask).await.unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).await.unwrap();
                    assert!(answer.ends_with("hello"), "{answer}");
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for nth in 0..5 {
        let before = made.load(Ordering::Relaxed);
        until("handshakes", || made.load(Ordering::Relaxed) > before + 10).await;
        for end in ["key", "pem"] {
            let from = spare.path().join(format!("{nth}.{end}"));
            std::fs::copy(from, dir.path().join(format!("one.{end}"))).unwrap();
        }
        let stop = std::time::Instant::now() + crate::support::LIMIT;
        // Whoever comes from now on gets the new one.
        loop {
            let stream = connect(address, "one.example", &roots, &[]).await.unwrap();
            if presented(&stream) == roots[nth + 1] {
                break;
            }
            assert!(std::time::Instant::now() < stop, "never read again");
        }
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!("{} handshakes over 5 changes", made.load(Ordering::Relaxed));
    until("no problem is left", || setup.ingress.tls_status().unwrap().problems.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_pair_is_refused_at_the_start_and_passed_over_later() {
    let dir = TempDir::new().unwrap();
    let good = issue(dir.path(), "one", &["one.example"]);
    // Only read again when told to.
    let tls = TlsConfig {
        reload_interval: Duration::from_secs(3_600),
        ..TlsConfig::new(vec![files(dir.path(), "one")])
    };
    let (setup, _backend) = one_backend(config(tls.clone())).await;
    let address = setup.ingress.address();
    let other = issue(dir.path(), "other", &["one.example"]);
    let path = |name: &str| dir.path().join(name);
    let good_pem = std::fs::read(path("one.pem")).unwrap();
    let breaks: [&dyn Fn(); 4] = [
        &|| std::fs::write(path("one.pem"), std::fs::read(path("other.pem")).unwrap()).unwrap(),
        &|| std::fs::write(path("one.pem"), "nothing of use").unwrap(),
        &|| std::fs::write(path("one.pem"), vec![b'x'; 300_000]).unwrap(),
        &|| std::fs::remove_file(path("one.pem")).unwrap(),
    ];
    for (nth, broken) in breaks.into_iter().enumerate() {
        broken();
        let status = setup.ingress.reload_certificates().await.unwrap();
        assert_eq!((status.loads, status.problems.len()), (1, 1), "{nth}");
        let text = status.problems[0].to_string();
        assert!(text.contains("one.pem"), "{text}");
        let stream = connect(address, "one.example", std::slice::from_ref(&good), &[]).await;
        assert_eq!(presented(&stream.unwrap()), good);
        // No ingress begins with that.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(tls.clone());
        let error = aether_ingress::Ingress::start(listener, setup.invoker.clone(), config);
        let error = error.unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref::<TlsError>().unwrap().clone();
        assert_eq!(error, status.problems[0]);
    }
    std::fs::write(path("one.pem"), good_pem).unwrap();
    assert!(setup.ingress.reload_certificates().await.unwrap().problems.is_empty());
    std::fs::copy(path("other.pem"), path("one.pem")).unwrap();
    std::fs::copy(path("other.key"), path("one.key")).unwrap();
    assert!(setup.ingress.reload_certificates().await.unwrap().problems.is_empty());
    let stream = connect(address, "one.example", std::slice::from_ref(&other), &[]).await;
    assert_eq!(presented(&stream.unwrap()), other);
    assert_eq!(setup.ingress.tls_status(), setup.ingress.reload_certificates().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_finish_a_handshake_loses_his_place() {
    let dir = TempDir::new().unwrap();
    let root = issue(dir.path(), "one", &["one.example"]);
    let tls = TlsConfig {
        handshake_timeout: Duration::from_millis(200),
        ..TlsConfig::new(vec![files(dir.path(), "one")])
    };
    let config = Config { connections_max: 1, ..config(tls) };
    let (setup, backend) = one_backend(config).await;
    // It has the only place there is, and loses it.
    let mut silent = TcpStream::connect(setup.ingress.address()).await.unwrap();
    let mut stream = connect(setup.ingress.address(), "one.example", &[root], &[]).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let ask = b"GET /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello") && backend.hits() == 1, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_over_tls_does_not_hold_up_a_drain() {
    let dir = TempDir::new().unwrap();
    let root = issue(dir.path(), "one", &["one.example"]);
    let tls = TlsConfig::new(vec![files(dir.path(), "one")]);
    let config = Config { stall_timeout: Duration::from_millis(200), ..config(tls) };
    let (setup, backend) = one_backend(config).await;
    let mut stream = connect(setup.ingress.address(), "one.example", &[root], &[]).await.unwrap();
    let length = 64 << 20;
    let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let part = vec![b'x'; 64 * 1_024];
    // Sends until it is cut off, and never reads.
    let send = tokio::spawn(async move { while stream.write_all(&part).await.is_ok() {} });
    until("the call arrives", || backend.hits() == 1).await;
    setup.control.remove(3, "org.example:a");
    until("gone", || setup.control.acked() == 3 && setup.control.busy().is_empty()).await;
    send.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_an_answer_slowly_over_tls_gets_all_of_it() {
    let dir = TempDir::new().unwrap();
    let root = issue(dir.path(), "one", &["one.example"]);
    let tls = TlsConfig::new(vec![files(dir.path(), "one")]);
    let stall_timeout = Duration::from_secs(1);
    let (setup, _backend) = one_backend(Config { stall_timeout, ..config(tls) }).await;
    let stream = connect(setup.ingress.address(), "one.example", &[root], &[]).await.unwrap();
    let (mut reads, mut writes) = tokio::io::split(stream);
    // More than the sockets on the way hold.
    let length = 12 << 20;
    let send = tokio::spawn(async move {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        writes.write_all(head.as_bytes()).await.unwrap();
        let part = vec![b'x'; 64 * 1_024];
        for _ in 0..length / part.len() {
            writes.write_all(&part).await.unwrap();
        }
        writes
    });
    // Something in each pause that is allowed, for several times as long.
    let (mut came, mut part) = (0, vec![0; 256 * 1_024]);
    let mut pace = tokio::time::interval(stall_timeout / 25);
    loop {
        pace.tick().await;
        match reads.read(&mut part).await.unwrap() {
            0 => break,
            more => came += more,
        }
    }
    assert!(came > length, "{came}");
    drop(send.await.unwrap());
}
