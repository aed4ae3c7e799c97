//! What a client may send to REST by mistake or malice: a 4xx problem, and the
//! node goes on as if nothing had been.

use std::net::SocketAddr;

use aether_tests::PATIENCE;
use aether_tests::rest::{self, Answer};
use http::{HeaderName, HeaderValue};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::asking::Desk;
use super::{START, desk};

const ROUTING: &str = "/rolling-update/current/routing";
/// The gateway's cap of a body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Asserts a problem with this status and code.
fn is(answer: &Answer, status: u16, code: &str, what: &str) {
    let (said, error) = answer.problem().unwrap_or_else(|e| panic!("{what}: {e:#}"));
    assert_eq!((answer.status, &*said), (status, code), "{what}: {error}");
    assert!(!error.is_empty() && error.len() < 2_500, "{what}: {} bytes", error.len());
}

#[tokio::test]
async fn malformed_requests_change_nothing() {
    let desk = desk(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let id = desk.stage.start("2.0.0", &[]).await.unwrap();
    desk.stage.until_state(&id, "DEPLOYED").await.unwrap();
    let before = desk.rows().await;
    // They take their time, beside all the others.
    let (slow_head, slow_body) = too_slow(desk.http());
    bodies(desk.http()).await;
    numbers(desk.http()).await;
    headers(desk.http()).await;
    paths(desk.http()).await;
    heads(desk.http()).await;
    slow_head.await.unwrap();
    half_open(&desk).await;
    // A request that is being read keeps its place all through that.
    slow_body.await.unwrap();
    assert_eq!(desk.rows().await, before, "something changed");
    reused_keys(&desk).await;
    still_well(&desk, &id).await;
    desk.stage.end().await;
}

async fn bodies(to: SocketAddr) {
    let open = "[".repeat(10_000);
    let nested = format!(r#"{{"routing":"1:1","x":{open}{}}}"#, "]".repeat(10_000));
    let objects = format!("{}1{}", r#"{"routing":"#.repeat(10_000), "}".repeat(10_000));
    let bodies: [(&[u8], &str); 18] = [
        (br#"{"routing":"1:1""#, "bad_json"),
        (br#"{"routing":"#, "bad_json"),
        (b"{", "bad_json"),
        (b" ", "bad_json"),
        (br#"{"routing":"1:1"} {}"#, "bad_json"),
        (b"{\"routing\":\"\xc0\xaf\"}", "bad_json"),
        (br#"{"routing":"1:1","routing":"1:0"}"#, "bad_member"),
        (br#"{"routing":"1:1","force":true,"force":false}"#, "bad_member"),
        (br#"{"routing":"1:1","colour":"red"}"#, "bad_member"),
        (br#"{"routing":["1:1"]}"#, "bad_member"),
        (br#"{"routing":1}"#, "bad_member"),
        (b"{}", "bad_member"),
        (br#"["1:1", true]"#, "not_an_object"),
        (br#""1:1""#, "not_an_object"),
        (b"null", "not_an_object"),
        (open.as_bytes(), "not_an_object"),
        (nested.as_bytes(), "bad_member"),
        (objects.as_bytes(), "bad_member"),
    ];
    for (body, code) in bodies {
        let what = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        is(&rest::post(to, ROUTING, body.to_vec()).await.unwrap(), 400, code, &what);
    }
    // What is inside the text is the service's to judge.
    for ratio in ["", "1", "0:0", "-1:2", "1:x", "NaN", "1e309:1", "10001:1", "１:１", "1:1\\u0000"]
    {
        let body = format!(r#"{{"routing":"{ratio}"}}"#);
        let answer = rest::post(to, ROUTING, body).await.unwrap();
        is(&answer, 400, "invalid_argument", ratio);
    }
    for path in [ROUTING, START, "/rolling-update/current/complete"] {
        let body = format!(r#"{{"routing":"{}"}}"#, "1".repeat(BODY_BYTES_MAX));
        is(&rest::post(to, path, body).await.unwrap(), 413, "body_too_large", path);
    }
}

async fn numbers(to: SocketAddr) {
    for member in [
        r#""instances":9223372036854775808"#,
        r#""instances":18446744073709551616"#,
        r#""instances":-1"#,
        r#""instances":1.5"#,
        r#""instances":"3""#,
        r#""maxErrorRate":1e309"#,
        r#""maxErrorRate":NaN"#,
        r#""maxLatencyMs":9223372036854775808"#,
        r#""graceMs":18446744073709551616"#,
        r#""requireManualApproval":"yes""#,
    ] {
        let body = format!(r#"{{"artifactBase":"org.example:hello","version":"1.0.0",{member}}}"#);
        let answer = rest::post(to, START, body).await.unwrap();
        let code = answer.problem().map(|(code, _)| code).unwrap_or_default();
        assert!(["bad_json", "bad_member"].contains(&&*code), "{member}: {}", answer.text());
        is(&answer, 400, &code, member);
    }
}

async fn headers(to: SocketAddr) {
    let body = r#"{"routing":"1:1"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
        let answer = rest::send(to, "POST", ROUTING, &[("content-type", kind)], body).await;
        is(&answer.unwrap(), 415, "not_json", kind);
    }
    is(&rest::send(to, "POST", ROUTING, &[], body).await.unwrap(), 415, "not_json", "no type");
    let long = "k".repeat(65);
    for (name, value, code) in [
        ("idempotency-key", &*long, "bad_header"),
        ("idempotency-key", "a b", "bad_header"),
        ("aether-actor", &*long, "bad_header"),
        ("if-match", "42", "bad_if_match"),
        ("if-match", "*, \"42\"", "bad_if_match"),
    ] {
        let headers = [("content-type", "application/json"), (name, value)];
        let answer = rest::send(to, "POST", ROUTING, &headers, body).await.unwrap();
        is(&answer, 400, code, name);
    }
    for tag in ["\"1\"", "\"1\", \"2\"", "W/\"1\"", "\"99999999999999999999\""] {
        let stale = [("content-type", "application/json"), ("if-match", tag)];
        for (verb, body) in [("routing", body), ("complete", "{}"), ("rollback", "{}")] {
            let path = format!("/rolling-update/current/{verb}");
            let answer = rest::send(to, "POST", &path, &stale, body).await.unwrap();
            is(&answer, 412, "modified", &format!("{path} with If-Match: {tag}"));
        }
        let path = "/api/slices/org.example:hello/scale";
        let answer = rest::send(to, "POST", path, &stale, r#"{"instances":1}"#).await.unwrap();
        is(&answer, 400, "if_match_unsupported", path);
    }
    for (path, body) in [(ROUTING, body), (START, "{}"), ("/api/slices", "{}")] {
        let packed = [("content-type", "application/json"), ("content-encoding", "gzip")];
        let answer = rest::send(to, "POST", path, &packed, body).await.unwrap();
        is(&answer, 415, "packed_body", path);
    }
}

/// A key that stands for another request.
async fn reused_keys(desk: &Desk) {
    let to = desk.http();
    let post = async |path: &str, body: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "used-before")];
        rest::send(to, "POST", path, &headers, body.to_owned()).await.unwrap()
    };
    // A refusal does not use the key up.
    is(&post(ROUTING, r#"{"routing":"0:0"}"#).await, 400, "invalid_argument", "not yet used");
    let first = post(ROUTING, r#"{"routing":"1:9"}"#).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let before = desk.rows().await;
    let again = post(ROUTING, r#"{"routing":"1:9"}"#).await;
    assert_eq!(again.json().unwrap()["modified"], first.json().unwrap()["modified"]);
    for (path, body) in [
        (ROUTING, r#"{"routing":"1:3"}"#),
        ("/rolling-update/current/rollback", "{}"),
        ("/api/slices/org.example:hello/scale", r#"{"instances":2}"#),
        ("/api/slices", r#"{"artifact":"org.example:hello:1.0.0@green"}"#),
    ] {
        is(&post(path, body).await, 409, "request_reused", path);
    }
    assert_eq!(desk.rows().await, before, "something changed");
}

/// Heads that no route ever sees.
async fn heads(to: SocketAddr) {
    let headers: String = (0..500).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let long = "u".repeat(100_000);
    for (head, status, code) in [
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"), 431, "head_too_large"),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "uri_too_long"),
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), 400, "bad_head"),
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_head"),
    ] {
        let shown = head[..head.len().min(40)].to_owned();
        is(&raw(to, head.as_bytes()).await, status, code, &shown);
    }
}

/// Sends bytes and reads the one answer that ends the connection.
async fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may have answered and closed before it was sent everything.
    let _ = stream.write_all(bytes).await;
    let mut text = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text));
    let _ = reading.await.expect("the server ends it");
    parsed(text)
}

fn parsed(text: Vec<u8>) -> Answer {
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
    });
    Answer { status, headers: headers.collect(), body: body.to_owned().into() }
}

/// A head or a body at a byte each second is told so before it is cut off.
fn too_slow(to: SocketAddr) -> (JoinHandle<()>, JoinHandle<()>) {
    const HEAD: &str = "GET /health/live HTTP/1.1\r\n";
    const BODY: &str = "POST /rolling-update/current/routing HTTP/1.1\r\nHost: a\r\n\
                        Content-Type: application/json\r\nContent-Length: 100\r\n\r\n";
    let head = tokio::spawn(drips(to, HEAD, "head_too_slow"));
    (head, tokio::spawn(drips(to, BODY, "body_too_slow")))
}

/// Sends a beginning at once and the rest in drops, until there is an answer.
async fn drips(to: SocketAddr, begin: &'static str, code: &'static str) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(begin.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    let mut text = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut text));
    // A drop that came after the end may have been answered by a reset.
    let _ = reading.await.expect("the server ends it");
    dripping.abort();
    is(&parsed(text), 408, code, begin);
}

/// Who keeps thousands of connections open, a byte each second at most, keeps
/// nobody out: not of REST, and not of gRPC.
async fn half_open(desk: &Desk) {
    /// At each of the two.
    const HALF_OPEN: u64 = 1_500;
    let (rest, grpc) = (desk.http(), desk.stage.cluster.nodes[0].addresses.grpc);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    // As many as this process may have, with some left for the test.
    let each = HALF_OPEN.min(most.saturating_sub(200) / 2);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut open = tokio::task::JoinSet::new();
    for (to, bytes) in [
        (rest, b"GET / HTTP/1.1\r\nHost: somewhere\r\n".as_slice()),
        (grpc, b"PRI * HTTP/2.0\r\n\r\nSM".as_slice()),
    ] {
        for _ in 0..each {
            let mut stopped = stopped.clone();
            open.spawn(async move {
                let mut stream = TcpStream::connect(to).await?;
                for byte in bytes {
                    stream.write_all(&[*byte]).await?;
                    tokio::select! {
                        () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
                        _ = stopped.wait_for(|stop| *stop) => break,
                    }
                }
                std::io::Result::Ok(())
            });
        }
    }
    for _ in 0..3 {
        // On a machine so busy that a request takes longer than silent ones are
        // borne with, its connection may have to make way too: then once more.
        let answer = async {
            loop {
                if let Ok(answer) = rest::get(rest, "/health/live").await {
                    return answer;
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time");
        assert_eq!(answer.status, 200);
        // A process and a connection of its own, over gRPC.
        desk.stage.cli(&["status"]).await.unwrap();
    }
    stop.send(true).unwrap();
    while open.join_next().await.is_some() {}
}

async fn paths(to: SocketAddr) {
    let long = "u".repeat(100);
    let ids = ["%2e%2e%2f", "%2e%2e", "%00", "u1%00", "%ff%fe", "%c0%af", "a%20b", "a%2fb", "U1"];
    for id in ids.into_iter().chain([long.as_str()]) {
        for path in [
            format!("/rolling-update/{id}"),
            format!("/rolling-update/{id}/health"),
            format!("/api/rolling-update/{id}"),
        ] {
            is(&rest::get(to, &path).await.unwrap(), 400, "bad_id", &path);
        }
        for verb in ["routing", "complete", "rollback", "approve", "resume"] {
            let path = format!("/rolling-update/{id}/{verb}");
            is(&rest::post(to, &path, "{}").await.unwrap(), 400, "bad_id", &path);
        }
    }
    for (method, path) in [
        ("GET", START),
        ("DELETE", "/rolling-update/current"),
        ("PUT", ROUTING),
        ("POST", "/rolling-updates"),
        ("POST", "/rolling-update/current/health"),
        ("POST", "/metrics"),
        ("DELETE", "/api/status"),
    ] {
        let answer = rest::send(to, method, path, &[], "").await.unwrap();
        is(&answer, 405, "wrong_method", path);
        assert!(!answer.header("allow").is_empty(), "{method} {path} names no other method");
    }
    for path in ["/", "/nowhere", "/api", "/rolling-update", "/rolling-update/a/b/c", "/..%2f"] {
        is(&rest::get(to, path).await.unwrap(), 404, "unknown_path", path);
    }
    for path in [
        "/rolling-updates?colour=red",
        "/rolling-updates?all=maybe",
        "/rolling-updates?all=true&all=false",
        "/rolling-update/current?x=1",
    ] {
        is(&rest::get(to, path).await.unwrap(), 400, "bad_query", path);
    }
    let path = "/api/slices?slice=%00";
    is(&rest::get(to, path).await.unwrap(), 400, "invalid_argument", path);
}

/// The node answers, and the update it was asked about can go on.
async fn still_well(desk: &Desk, id: &str) {
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(rest::get(desk.http(), path).await.unwrap().status, 200, "{path}");
    }
    let node = &desk.stage.cluster.nodes[0];
    assert!(node.is_alive(), "the node ended");
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let path = format!("/rolling-update/{id}/routing");
    let answer = rest::post(desk.http(), &path, r#"{"routing":"1:1"}"#).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
