//! `/events` as Server-Sent Events, and `/api/kv`.

use std::time::Duration;

use crate::support::Gateway;
use aether_proto::v1;
use axum::body::Body;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: &[u8] = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n";

fn told(index: u64, n: u32) -> Result<v1::EventsResponse, Status> {
    let event = v1::Event {
        index,
        n,
        wall_ms: 5,
        actor: "me".into(),
        kind: "update".into(),
        id: "u1f".into(),
        event: "two\nlines".into(),
    };
    let position = Some(v1::EventPosition { index, n });
    Ok(v1::EventsResponse { event: Some(event), position, as_of: None })
}

fn mark(index: u64) -> Result<v1::EventsResponse, Status> {
    let position = Some(v1::EventPosition { index, n: 0 });
    Ok(v1::EventsResponse { event: None, position, as_of: Some(v1::AsOf::default()) })
}

#[tokio::test]
async fn an_event_has_its_position_its_kind_and_the_record() {
    let gateway = Gateway::new();
    gateway.fake.will_tell(vec![told(12, 1), mark(15)]);
    for path in ["/events", "/api/events?follow=true"] {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, "text/event-stream")
        );
        assert_eq!(answer.header("cache-control"), "no-cache");
        let (first, rest) = answer.text.split_once("\n\n").unwrap();
        assert!(first.contains("retry: 1000") || first.contains("retry:1000"), "{first}");
        let (event, rest) = rest.split_once("\n\n").unwrap();
        let field = |name: &str| {
            let mut lines = event.lines().filter_map(|line| line.split_once(':'));
            let (_, value) = lines.find(|(field, _)| *field == name).unwrap();
            value.trim_start().to_owned()
        };
        assert_eq!((field("id").as_str(), field("event").as_str()), ("12.1", "update"));
        let data: serde_json::Value = serde_json::from_str(&field("data")).unwrap();
        assert_eq!(
            (&data["index"], &data["n"], &data["wallMs"]),
            (&12.into(), &1.into(), &5.into())
        );
        assert_eq!((&data["id"], &data["event"]), (&"u1f".into(), &"two\nlines".into()));
        let mark: Vec<&str> = rest.trim_end().lines().collect();
        assert_eq!(mark.len(), 2, "a comment and an id, no data: {rest}");
        assert!(mark[0].starts_with(": all up to 15.0") || mark[0].starts_with(":all up to 15.0"));
        assert!(mark[1].ends_with("15.0") && mark[1].starts_with("id:"), "{rest}");
        assert!(gateway.fake.asked().unwrap().contains("follow: true"));
    }
}

async fn with_last_id(gateway: &Gateway, path: &str, id: &str) -> crate::support::Answer {
    let request = Request::get(path).header("last-event-id", id).body(Body::empty());
    gateway.send(request.unwrap()).await
}

#[tokio::test]
async fn a_client_goes_on_after_the_last_id_it_got() {
    let gateway = Gateway::new();
    let at = "after: Some(EventPosition { index: 12, n: 1 })";
    gateway.get("/events?after=12.1&subject=update/u1f&follow=false").await;
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains(at) && asked.contains("subject: \"update/u1f\""), "{asked}");
    assert!(asked.contains("follow: false"), "{asked}");
    with_last_id(&gateway, "/events?after=3", "12.1").await;
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains(at), "the address stays, the header is of now: {asked}");
    for id in ["x", "-1", "1.2.3", "12.1 "] {
        if id != "12.1 " {
            assert_eq!(with_last_id(&gateway, "/events", id).await.problem(400), "bad_position");
        }
        let path = format!("/api/events?after={}", id.replace(' ', "%20"));
        assert_eq!(gateway.get(&path).await.problem(400), "bad_position", "{id:?}");
    }
    assert_eq!(gateway.get("/events?colour=red").await.problem(400), "bad_query");
    assert_eq!(gateway.fake.asked(), None);
}

#[tokio::test]
async fn what_cannot_be_told_is_a_problem_before_the_first_event_and_an_end_later() {
    let gateway = Gateway::new();
    let coded = |code: &str| {
        aether_proto::errors::Problem::new(Code::OutOfRange, code, "the oldest is 30.0").status()
    };
    for (code, http) in [("compacted", 410), ("future_position", 400)] {
        gateway.fake.refuse(coded(code));
        let answer = gateway.get("/events?after=1").await;
        assert_eq!(answer.problem(http), code);
        assert_eq!(answer.json()["error"], "the oldest is 30.0");
    }
    let gateway = Gateway::new();
    gateway.fake.will_tell(vec![told(1, 0), Err(Status::unavailable("cut\noff")), told(2, 0)]);
    let answer = gateway.get("/events").await;
    assert!(answer.text.trim_end().ends_with("cut off"), "{}", answer.text);
    assert!(!answer.text.contains("2.0"), "{}", answer.text);
}

/// A gateway on a socket of its own.
async fn served(gateway: &Gateway) -> (std::net::SocketAddr, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(aether_gateway::serve(listener, gateway.router.clone(), async {
        drop(stopped.await);
    }));
    (address, stop)
}

/// Opens a stream, and reads until it has begun or was refused.
async fn open(address: std::net::SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut text = Vec::new();
    while !text.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut some = [0; 256];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut some)).await;
        let length = read.expect("an answer").unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&some[..length]);
    }
    (stream, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn open_streams_leave_room_for_requests_and_end_with_the_node() {
    const STREAMS_MAX: usize = 64;
    let gateway = Gateway::new();
    gateway.fake.goes_on();
    let (address, stop) = served(&gateway).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let (stream, head) = open(address).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        streams.push(stream);
    }
    let (_, head) = open(address).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 1"), "{head}");
    // A place is free again soon after its reader left.
    streams.pop();
    let freed = async {
        while !open(address).await.1.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("the place of the one that left");
    assert_eq!(gateway.get("/rolling-updates").await.status, 200);

    stop.send(()).unwrap();
    let mut stream = streams.pop().unwrap();
    let mut rest = String::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut rest));
    ended.await.expect("well before requests are cut off").unwrap();
    assert!(rest.contains("this node is stopping"), "{rest}");
}

#[tokio::test]
async fn records_are_listed_and_read_by_their_keys() {
    let gateway = Gateway::new();
    let list = gateway.get("/api/kv?prefix=nodes/&pageSize=5&pageToken=6e").await.json();
    assert_eq!(list["entries"][0]["key"], "nodes/n1");
    assert_eq!(list["entries"][0]["value"]["name"], "n1");
    assert_eq!((&list["nextPageToken"], &list["asOf"]["index"]), (&"6e6f".into(), &7.into()));
    let asked = gateway.fake.asked().unwrap();
    for part in ["prefix: \"nodes/\"", "page_size: 5", "page_token: \"6e\"", "stale: false"] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let entry = gateway.get("/api/kv/version-routing/a.b:c@blue").await.json();
    assert_eq!(entry["key"], "version-routing/a.b:c@blue");
    assert_eq!((&entry["value"]["name"], &entry["asOf"]["index"]), (&"n1".into(), &7.into()));
    for path in ["/api/kv?pageSize=-1", "/api/kv?colour=red", "/api/kv?pageSize=x"] {
        assert_eq!(gateway.get(path).await.problem(400), "bad_query", "{path}");
    }
    assert_eq!(gateway.get("/api/kv/%ff").await.problem(400), "bad_key");
    gateway.fake.refuse(Status::not_found("no record has key 'x'"));
    assert_eq!(gateway.get("/api/kv/x").await.problem(404), "not_found");
    assert_eq!(gateway.post("/api/kv/x", "").await.problem(405), "wrong_method");
}
