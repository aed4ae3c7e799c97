//! The server over real sockets.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn start(options: Options) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let options = Options { version: "1.2.3".into(), instance: "a-1-0".into(), ..options };
    let slice = Arc::new(Slice::new(&options, Onset::new(options.once.as_deref())));
    let server = tokio::spawn(serve(listener, slice, async {
        let _ = stopped.await;
    }));
    Running { address, stop, server }
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

fn get(path: &str, close: bool) -> String {
    let close = if close { "connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{close}\r\n")
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn fetch(address: SocketAddr, path: &str) -> String {
    rest(send(address, &get(path, true)).await).await
}

/// Reads one answer of a connection that stays open.
async fn one(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with('}') {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    text
}

#[tokio::test]
async fn every_path_says_who_answered() {
    let running = start(Options::default()).await;
    let answer = fetch(running.address, "/shop/\"1\"?q=1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-aether-version: 1.2.3\r\n"), "{answer}");
    assert!(answer.contains("x-aether-instance: a-1-0\r\n"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "version": "1.2.3", "instance": "a-1-0", "n": 1, "path": "/shop/\"1\""
    });
    assert_eq!(body, expected);
    assert!(fetch(running.address, "/").await.contains("\"n\":2"));
}

#[tokio::test]
async fn echo_sends_the_body_back() {
    let running = start(Options::default()).await;
    let body = "x".repeat(200_000);
    let length = body.len();
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let stream = TcpStream::connect(running.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(body.as_bytes()).await.unwrap();
        writer
    });
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.split("\r\n\r\n").nth(1).unwrap().len(), length);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn readiness_follows_its_switches() {
    let status = |text: String| text[9..12].to_owned();
    let ready = start(Options::default()).await;
    assert_eq!(status(fetch(ready.address, "/ready").await), "200");
    let never = start(Options { never_ready: true, ..Options::default() }).await;
    assert_eq!(status(fetch(never.address, "/ready").await), "503");
    assert_eq!(status(fetch(never.address, "/").await), "200");
    let delayed = Options { start_delay: Duration::from_millis(100), ..Options::default() };
    let delayed = start(delayed).await;
    let mut answers = Vec::new();
    while answers.last().is_none_or(|last| last != "200") {
        answers.push(status(fetch(delayed.address, "/ready").await));
    }
    assert_eq!(answers[0], "503");
}

#[test]
fn flapping_is_ready_first_and_then_in_turn() {
    let half = Duration::from_secs(2);
    let slice = Slice::new(&Options { flap: Some(half), ..Options::default() }, Onset::default());
    let at = |seconds| slice.is_ready(Duration::from_secs(seconds));
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(at), [true, true, false, false, true, true, false]);
}

#[tokio::test]
async fn calls_that_hang_are_taken_and_never_answered() {
    let ready = start(Options { hang_ready: true, ..Options::default() }).await;
    let silent = send(ready.address, &get("/ready", true)).await;
    assert!(fetch(ready.address, "/").await.contains("\"n\":1"), "calls are answered");
    let calls = start(Options { hang_ppm: 500_000, ..Options::default() }).await;
    let first = fetch(calls.address, "/").await;
    assert!(first.contains("\"n\":1"), "every second one hangs: {first}");
    let hung = send(calls.address, &get("/", true)).await;
    // It is in the works once the next call is the third.
    while !fetch(calls.address, "/ready").await.contains("true") {}
    let mut next = fetch(calls.address, "/slow?ms=0").await;
    while !next.contains("\"n\":3") {
        assert!(next.contains("\"n\":2"), "{next}");
        next = fetch(calls.address, "/slow?ms=0").await;
    }
    for stream in [silent, hung] {
        let mut byte = [0];
        let error = stream.try_read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "no answer, no end");
    }
}

#[tokio::test]
async fn answers_break_off_after_half_of_what_they_promised() {
    let running = start(Options { cut_ppm: 500_000, ..Options::default() }).await;
    assert!(fetch(running.address, "/").await.ends_with('}'));
    let mut stream = send(running.address, &get("/", false)).await;
    let mut text = String::new();
    // A connection that breaks may be reset, after what was sent.
    let _ = stream.read_to_string(&mut text).await;
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let promised = head.split_once("content-length: ").expect("a length").1;
    let promised: usize = promised.split("\r\n").next().unwrap().parse().unwrap();
    assert_eq!(body.len(), promised / 2, "{text}");
    assert!(head.contains("x-aether-version: 1.2.3"), "{text}");
}

#[tokio::test]
async fn a_share_of_calls_is_slow() {
    let latency = Duration::from_millis(300);
    let running = start(Options { latency, slow_ppm: 500_000, ..Options::default() }).await;
    let began = Instant::now();
    fetch(running.address, "/").await;
    let first = began.elapsed();
    fetch(running.address, "/").await;
    assert!(began.elapsed() - first >= latency, "the second is: {first:?}");
}

#[tokio::test]
async fn the_nth_call_crashes_it_without_an_answer() {
    let options = Options { crash_at_call: Some(2), ..Options::default() };
    let slice = Slice::new(&options, Onset::new(None));
    let (status, _) = slice.call("/").await;
    assert_eq!(status, StatusCode::OK);
    tokio::select! {
        _ = slice.call("/") => panic!("it was answered"),
        () = slice.crashed() => {}
    }
}

#[tokio::test]
async fn it_behaves_well_until_the_file_exists() {
    let file = std::env::temp_dir().join(format!("aether-example-once-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let once = Some(file.clone());
    let options = Options { once, never_ready: true, fail_ppm: 1_000_000, ..Options::default() };
    let onset = Onset::new(options.once.as_deref());
    let slice = Slice::new(&options, onset.clone());
    assert_eq!(slice.call("/").await.0, StatusCode::OK);
    assert_eq!(slice.ready().await.0, StatusCode::OK);
    std::fs::write(&file, "").unwrap();
    tokio::join!(onset.look_for(&file), onset.begun());
    assert_eq!(slice.call("/").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(slice.ready().await.0, StatusCode::SERVICE_UNAVAILABLE);
    // A process that starts later finds it.
    assert!(Onset::new(Some(&file)).since().is_some());
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn failures_are_spread_evenly() {
    let failing =
        |ppm: u32, calls: u64| (1..=calls).filter(|n| falls_on(*n, ppm)).collect::<Vec<_>>();
    assert_eq!(failing(200_000, 20), [5, 10, 15, 20]);
    assert_eq!(failing(300_000, 10), [4, 7, 10]);
    assert_eq!(failing(1_000_000, 3), [1, 2, 3]);
    assert!(failing(0, 1_000).is_empty());
    assert_eq!(failing(1, 1_000_000), [1_000_000]);
}

#[tokio::test]
async fn stopping_finishes_calls_and_closes_idle_connections() {
    let running = start(Options::default()).await;
    // Idle after a call, idle before any, and one in flight.
    let mut idle = send(running.address, &get("/", false)).await;
    assert!(one(&mut idle).await.contains("\"n\":1"));
    let silent = TcpStream::connect(running.address).await.unwrap();
    let slow = send(running.address, &get("/slow?ms=300", false)).await;
    // Another call on a new connection is answered: so the slow one was read.
    fetch(running.address, "/").await;
    running.stop.send(()).unwrap();
    assert_eq!(rest(idle).await, "", "closed in order, without a reset");
    assert_eq!(rest(silent).await, "");
    assert!(!running.server.is_finished());
    let answer = rest(slow).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("/slow"), "{answer}");
    running.server.await.unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_call_whose_connection_waits_to_be_accepted_is_answered() {
    // Nothing runs between connecting and stopping, so nothing is accepted yet.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut client, get("/", false).as_bytes()).unwrap();
    serve(listener, Arc::new(Slice::new(&Options::default(), Onset::new(None))), async {}).await;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut client, &mut text).unwrap();
    assert!(text.contains("\"n\":1"), "{text}");
}
