//! What is written down of requests, and how long they may be.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use aether_ingress::Config;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use crate::client::{Body, Client, empty, get, problem};
use crate::one_backend;
use crate::support::{rule, set, table, until};

/// The access log of this process.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn of_process() -> Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let install = || {
            let lines = Self::default();
            let writer = lines.clone();
            let subscriber =
                tracing_subscriber::fmt().json().with_env_filter("aether::access=info");
            subscriber.with_writer(move || writer.clone()).init();
            lines
        };
        LINES.get_or_init(install).clone()
    }

    /// What was said of the request with an id, once it has been said.
    async fn of(&self, id: &str) -> Value {
        let find = || {
            let all = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let mut lines = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.find(|line| line["fields"]["request_id"] == id)
        };
        until("it is said", || find().is_some()).await;
        let line = find().unwrap();
        assert_eq!(line["target"], "aether::access");
        line["fields"].clone()
    }
}

fn asks(path: &str, id: &str) -> Request<Body> {
    let mut request = get("shop.example:8070", path);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_written_down_once_its_answer_has_ended() {
    let lines = Lines::of_process();
    let config = Config { access_log: true, ..Config::default() };
    let (setup, backend) = one_backend(config).await;
    let mut gone = table("org.example:gone", 3, "0:1");
    gone.old = set(3, &[("gone-1", crate::support::dead_address())]);
    gone.ingress = vec![rule("", "/gone")];
    setup.control.publish(3, &[gone]);
    let mut client = Client::connect(setup.ingress.address()).await;
    let answer = client.send(asks("/hello?secret=1", "hello-1")).await.unwrap();
    // It says nothing of this to the client.
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-aether")));
    answer.into_body().collect().await.unwrap();
    let said = lines.of("hello-1").await;
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "shop.example:8070"),
        ("path", "/hello"),
        ("protocol", "HTTP/1.1"),
        ("slice", "org.example:a"),
        ("version", "1.0.0"),
        ("instance", "a-1"),
    ] {
        assert_eq!(said[field], value, "{said}");
    }
    assert_eq!((&said["status"], &said["bytes"]), (&200.into(), &5.into()), "{said}");
    assert!(said["whole"] == true && said["duration_us"].as_u64().unwrap() > 0, "{said}");

    until("applied", || setup.control.acked() == 3).await;
    let mut status = StatusCode::OK;
    let mut nth = 0;
    while status != StatusCode::BAD_GATEWAY {
        nth += 1;
        let answer = client.send(asks("/gone", &format!("gone-{nth}"))).await.unwrap();
        status = answer.status();
        answer.into_body().collect().await.unwrap();
    }
    let said = lines.of(&format!("gone-{nth}")).await;
    assert_eq!((&said["status"], &said["instance"]), (&502.into(), &"gone-1".into()), "{said}");

    // One whose client goes away has no answer.
    let hits = backend.hits();
    let slow = tokio::spawn(async move { client.send(asks("/slow", "slow-1")).await });
    until("it arrives", || backend.hits() > hits).await;
    slow.abort();
    let said = lines.of("slow-1").await;
    assert_eq!((&said["status"], &said["whole"]), (&499.into(), &false.into()), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_refused() {
    let config = Config { body_bytes_max: Some(100_000), ..Config::default() };
    let (setup, backend) = one_backend(config).await;
    let post = |parts: usize, said: Option<usize>| {
        let part = |_| Ok(Frame::data(Bytes::from(vec![b'x'; 10_000])));
        let body = StreamBody::new(tokio_stream::iter((0..parts).map(part))).boxed();
        let mut request = Request::post("/status/200").header("host", "h");
        if let Some(said) = said {
            request = request.header("content-length", said);
        }
        request.body(body).unwrap()
    };
    let send = async |request| {
        let mut client = Client::connect(setup.ingress.address()).await;
        let (head, body) = client.send(request).await.unwrap().into_parts();
        http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    };
    for said in [None, Some(100_000)] {
        let answer = send(post(10, said)).await;
        assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 100_000));
    }
    assert_eq!(backend.hits(), 2);
    // Before it is sent, if it is said how long it is.
    let answer = send(post(11, Some(110_000))).await;
    let text = problem(&answer, StatusCode::PAYLOAD_TOO_LARGE)["detail"].to_string();
    assert!(text.contains("100000 bytes"), "{text}");
    assert_eq!(backend.hits(), 2);
    // On the way otherwise. The instance has seen a part of it by then, and this one
    // answers with what it has seen: that answer is broken off, if it has begun.
    let mut client = Client::connect(setup.ingress.address()).await;
    let answer = client.send(post(11, None)).await.unwrap();
    match answer.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {}
        StatusCode::OK => drop(answer.into_body().collect().await.unwrap_err()),
        other => panic!("{other}"),
    }
    let answer = send(Request::get("/hello").header("host", "h").body(empty()).unwrap()).await;
    assert_eq!(answer.body(), "hello");
}
