//! Any request: to a path of ours with a bad id, with any query, headers and
//! body. It is answered, never with a failure of ours; what is refused is a
//! well-formed problem, and no service was asked.

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, check, near, text};
use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request};

use crate::support::Gateway;

/// `{}` is where a path names something.
const PATHS: &[&str] = &[
    "/rolling-update/start",
    "/rolling-update/{}",
    "/rolling-update/{}/routing",
    "/rolling-update/{}/complete",
    "/rolling-update/{}/rollback",
    "/rolling-update/{}/approve",
    "/rolling-update/{}/resume",
    "/rolling-update/{}/pause",
    "/rolling-update/{}/promote",
    "/rolling-update/{}/health",
    "/rolling-updates",
    "/api/rolling-update/{}/routing",
    "/api/rolling-updates",
    "/api/status",
    "/api/nodes",
    "/api/slices",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/{}",
];

const BODIES: &[&str] = &[
    r#"{"artifactBase":"org.example:my-slice","version":"2.0.0","instances":3,"maxErrorRate":0.01,
        "maxLatencyMs":500,"requireManualApproval":false,"cleanupPolicy":"GRACE_PERIOD"}"#,
    r#"{"routing":"1:1","force":true}"#,
    r#"{"now":true,"force":false}"#,
    "{}",
    "",
];

const QUERIES: &[&str] = &["all=true&stale=false", "slice=org.example:my-slice", "stale=true", ""];

#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// What a text looks like in a target: mostly escaped, as clients do it.
fn escaped(text: &str, every: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let raw = |b: u8| !every && b.is_ascii_graphic() && b != b'#';
    text.bytes()
        .map(|b| match plain(b) || raw(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect()
}

fn asked() -> impl Strategy<Value = Asked> {
    let method = prop_oneof![
        3 => Just(Method::POST),
        3 => Just(Method::GET),
        1 => select(vec![Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS]),
    ];
    let id = prop_oneof![2 => Just("u1f".to_owned()), 1 => text(), 1 => near(&["u1f", "current"])];
    let query = prop_oneof![3 => Just(String::new()), 2 => near(QUERIES), 1 => text()];
    let header = prop_oneof![
        3 => Just(("content-type", "application/json".to_owned())),
        1 => (
            select(vec![
                "content-type", "content-length", "if-match", "idempotency-key", "aether-actor",
                "accept", "transfer-encoding", "expect", "host", "range", "x-unknown",
            ]),
            prop_oneof![text(), near(&["\"42\"", "application/json; charset=utf-8", "me"])],
        ),
    ];
    let near_body = near(BODIES).prop_map(String::into_bytes);
    let deep =
        (1usize..10_000).prop_map(|n| [b"{\"routing\":".as_slice(), &b"[".repeat(n)].concat());
    let long = (1usize..200_000).prop_map(|n| format!("{{\"{}\":1}}", "k".repeat(n)).into_bytes());
    let any_body = vec(any::<u8>(), 0..200);
    let body = prop_oneof![5 => near_body, 1 => any_body, 1 => deep, 1 => long];
    (method, select(PATHS), (id, any::<bool>()), query, vec(header, 0..4), body).prop_map(
        |(method, path, (id, every), query, headers, body)| {
            let mut target = path.replace("{}", &escaped(&id, every));
            if !query.is_empty() {
                target.push('?');
                target.push_str(&escaped(&query, false));
            }
            Asked { method, target, headers, body }
        },
    )
}

/// `None` where HTTP itself has no such request.
fn request(asked: Asked) -> Option<Request<Body>> {
    let mut request = Request::builder().method(asked.method).uri(&asked.target);
    for (name, value) in &asked.headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        request = request.header(HeaderName::from_static(name), value);
    }
    request.body(Body::from(asked.body)).ok()
}

#[test]
fn any_request_is_answered_and_what_is_refused_asks_no_service() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = Gateway::new();
    check(4 * CASES, asked(), |asked| {
        let Some(request) = request(asked) else { return };
        drop(gateway.fake.asked());
        let answer = runtime.block_on(gateway.send(request));
        let status = answer.status.as_u16();
        assert!(status < 500, "{}", answer.text);
        if status >= 400 {
            assert_ne!(answer.problem(status), "internal");
            assert_eq!(gateway.fake.asked(), None, "refused with {status}");
        }
    });
}

/// A header that HTTP has and that makes no sense here is refused as well.
#[test]
fn many_and_long_headers_change_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = Gateway::new();
    let value = select(vec!["", "x", "\u{e9}", "a,b", "\"1\", \"2\"", "W/\"1\""]);
    let names = select(vec!["if-match", "idempotency-key", "aether-actor", "content-type"]);
    check(CASES, vec((names, value, 1usize..3_000), 1..30), |headers| {
        let mut request = Request::post("/rolling-update/u1f/routing");
        for (name, value, times) in &headers {
            let value = HeaderValue::from_bytes(value.repeat(*times).as_bytes()).unwrap();
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(r#"{"routing":"1:1"}"#)).unwrap();
        let answer = runtime.block_on(gateway.send(request));
        let status = answer.status.as_u16();
        assert!((400..500).contains(&status) && !answer.problem(status).is_empty());
        assert_eq!(gateway.fake.asked(), None);
    });
}
