//! The HTTP server over a real socket: slow heads, too many headers, shutdown.

use std::time::Duration;

use crate::support::Gateway;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

async fn served() -> (TcpStream, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(aether_gateway::serve(listener, Gateway::new().router, async {
        drop(stopped.await);
    }));
    (TcpStream::connect(address).await.unwrap(), stop, serving)
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let reading = stream.read_to_end(&mut text);
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("an end").unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_and_shutdown_ends_idle_connections() {
    let (mut stream, stop, serving) = served().await;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stop.send(()).unwrap();
    answer(&mut stream).await;
    serving.await.unwrap();
}

#[tokio::test]
async fn five_hundred_headers_are_refused() {
    let (mut stream, _stop, _serving) = served().await;
    let headers: String = (0..500).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let request = format!("GET /health/live HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_head_that_never_ends_is_answered_and_cut() {
    let (mut stream, _stop, _serving) = served().await;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHo").await.unwrap();
    let text = answer(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("head_too_slow"), "{text}");
}
