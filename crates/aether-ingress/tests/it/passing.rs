//! What passes through, and where it goes.

use std::time::Duration;

use aether_ingress::Config;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, get, header, problem, raw};
use crate::support::backend::Backend;
use crate::support::{dead_address, rule, set, table, until};
use crate::{one_backend, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_by_host_and_path_and_rules_change_with_the_tables() {
    let (shop, blog) = (Backend::start("shop-1").await, Backend::start("blog-1").await);
    let mut shop_table = table("org.example:shop", 2, "0:1");
    shop_table.old = set(1, &[shop.row()]);
    shop_table.ingress = vec![rule("", "/api/shop")];
    let mut blog_table = table("org.example:blog", 2, "0:1");
    blog_table.old = set(1, &[blog.row()]);
    blog_table.ingress = vec![rule("blog.example", "/")];
    let setup = start(Config::default(), &[shop_table.clone(), blog_table]).await;
    let mut client = Client::connect(setup.ingress.address()).await;

    let answer = client.get("any.example", "/api/shop/a%2Fb//c?x=%20&y").await;
    assert_eq!(header(&answer, "x-instance"), "shop-1");
    assert_eq!(header(&answer, "x-uri"), "/api/shop/a%2Fb//c?x=%20&y");
    let answer = client.get("BLOG.example:8070", "/api/shop").await;
    assert_eq!(header(&answer, "x-instance"), "blog-1");
    let answer = client.get("any.example", "/api/shopping").await;
    let text = problem(&answer, StatusCode::NOT_FOUND)["detail"].to_string();
    assert!(text.contains("any.example") && text.contains("/api/shopping"), "{text}");

    shop_table.table_revision = 3;
    shop_table.ingress = vec![rule("", "/shop")];
    setup.control.publish(3, &[shop_table.clone()]);
    let mut status = StatusCode::NOT_FOUND;
    while status != StatusCode::OK {
        status = client.get("any.example", "/shop").await.status();
    }
    problem(&client.get("any.example", "/api/shop").await, StatusCode::NOT_FOUND);

    shop_table.table_revision = 4;
    shop_table.old = set(1, &[]);
    setup.control.publish(4, &[shop_table]);
    until("ack of 4", || setup.control.acked() == 4).await;
    let answer = client.get("any.example", "/shop").await;
    let text = problem(&answer, StatusCode::SERVICE_UNAVAILABLE)["detail"].to_string();
    assert!(text.contains("org.example:shop"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_split_is_exact_at_the_instances() {
    let (old, new) = (Backend::start("a-1").await, Backend::start("a-2").await);
    let mut route = table("org.example:a", 2, "1:3");
    route.old = set(1, &[old.row()]);
    route.new = set(2, &[new.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    for _ in 0..200 {
        assert_eq!(client.get("h", "/hello").await.body(), "hello");
    }
    assert_eq!((new.hits(), old.hits()), (50, 150));
    let tally = &setup.invoker.route_tallies(&"org.example:a".parse().unwrap())[0];
    assert_eq!((tally.new, tally.old), (50, 150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_the_connection_stay_and_those_of_a_proxy_are_set() {
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route.clone()]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    let request = Request::get("/hello")
        .header("host", "shop.example:8070")
        .header("connection", "keep-alive, x-mine")
        .header("x-mine", "1")
        .header("te", "trailers")
        .header("cookie", "a=b")
        .body(crate::client::empty())
        .unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(header(&answer, "x-saw-host"), "shop.example:8070");
    assert_eq!(header(&answer, "x-saw-x-forwarded-for"), "127.0.0.1");
    assert_eq!(header(&answer, "x-saw-x-forwarded-proto"), "http");
    assert_eq!(header(&answer, "x-saw-x-forwarded-host"), "shop.example:8070");
    assert_eq!(header(&answer, "x-saw-x-request-id").len(), 16);
    assert_eq!(header(&answer, "x-saw-cookie"), "a=b");
    for gone in ["x-saw-connection", "x-saw-x-mine", "x-saw-te", "keep-alive"] {
        assert_eq!(header(&answer, gone), "", "{gone}");
    }
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("x-aether")));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");

    let debug = start(Config { debug: true, ..Config::default() }, &[route]).await;
    let mut client = Client::connect(debug.ingress.address()).await;
    let answer = client.get("h", "/hello").await;
    assert_eq!(header(&answer, "x-aether-slice"), "org.example:a");
    assert_eq!(header(&answer, "x-aether-version"), "1.0.0");
    assert_eq!(header(&answer, "x-aether-instance"), "a-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_statuses_and_empty_answers_pass() {
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    for status in [200u16, 204, 304, 404, 500, 503] {
        assert_eq!(client.get("h", &format!("/status/{status}")).await.status(), status);
    }
    let mut head = get("h", "/hello");
    *head.method_mut() = http::Method::HEAD;
    let answer = client.send(head).await.unwrap();
    assert_eq!(header(&answer, "content-length"), "5");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
    assert_eq!(client.get("h", "/empty").await.body(), "");
    assert_eq!(client.get("h", "/hello").await.body(), "hello");
    assert_eq!(backend.counters.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways_while_neither_has_ended() {
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    let (parts, stream) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(ReceiverStream::new(stream).map(|part| Ok(Frame::data(part))));
    let request = Request::post("/echo").header("host", "h").body(body.boxed()).unwrap();
    let answer = client.send(request).await.unwrap();
    let mut answer = answer.into_body();
    for part in ["one", "two", "three"] {
        // Each part comes back before the next is sent.
        parts.send(Bytes::from(part)).await.unwrap();
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), part);
    }
    drop(parts);
    assert!(answer.frame().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_64_mib_comes_back_whole() {
    const PARTS: u64 = 1_024;
    const PART: usize = 64 * 1_024;
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    let setup = start(Config::default(), &[route]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    let part = |index: u64| Bytes::from(index.to_le_bytes().repeat(PART / 8));
    let parts = tokio_stream::iter(0..PARTS).map(move |index| Ok(Frame::data(part(index))));
    let body = StreamBody::new(parts).boxed();
    let request = Request::put("/echo").header("host", "h").body(body).unwrap();
    let mut answer = client.send(request).await.unwrap().into_body();
    let mut offset = 0u64;
    while let Some(frame) = answer.frame().await {
        for byte in frame.unwrap().into_data().unwrap() {
            let expected = (offset / PART as u64).to_le_bytes()[(offset % 8) as usize];
            assert_eq!(byte, expected, "at {offset}");
            offset += 1;
        }
    }
    assert_eq!(offset, PARTS * PART as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_name_slice_version_and_instance() {
    let slow = Backend::start("slow-1").await;
    let mut gone = table("org.example:gone", 2, "0:1");
    gone.old = set(3, &[("gone-1", dead_address())]);
    gone.ingress = vec![rule("", "/gone")];
    let mut slow_table = table("org.example:slow", 2, "0:1");
    slow_table.old = set(1, &[slow.row()]);
    slow_table.ingress = vec![rule("", "/")];
    let config = Config { request_timeout: Duration::from_millis(100), ..Config::default() };
    let setup = start(config, &[gone, slow_table]).await;
    let mut client = Client::connect(setup.ingress.address()).await;
    let gone = problem(&client.get("h", "/gone").await, StatusCode::BAD_GATEWAY);
    assert_eq!(gone["slice"], "org.example:gone");
    assert_eq!(gone["version"], "3.0.0");
    assert_eq!(gone["instance"], "gone-1");
    let slow = problem(&client.get("h", "/slow").await, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(slow["instance"], "slow-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_of_a_get_passes_too() {
    let (setup, backend) = one_backend(Config::default()).await;
    let head = "GET /echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    let chunked = "transfer-encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n";
    let sized = "content-length: 5\r\n\r\nquery";
    for body in [chunked, sized] {
        let answer = raw(setup.ingress.address(), &format!("{head}{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("query"), "{answer}");
    }
    assert_eq!(backend.hits(), 2);
}
