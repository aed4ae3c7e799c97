//! Every error is a typed problem, and nothing malformed reaches a service.

use crate::support::Gateway;
use aether_proto::errors::{OUTCOME_UNKNOWN, Problem};
use axum::body::Body;
use http::Request;
use tonic::{Code, Status};

const ROUTING: &str = "/rolling-update/u1f/routing";
const START: &str = "/rolling-update/start";

#[tokio::test]
async fn a_refusal_keeps_its_code_and_text() {
    let gateway = Gateway::new();
    for (code, http, fallback) in [
        (Code::InvalidArgument, 400, "invalid_argument"),
        (Code::NotFound, 404, "not_found"),
        (Code::FailedPrecondition, 409, "failed_precondition"),
        (Code::AlreadyExists, 409, "already_exists"),
        (Code::Aborted, 412, "aborted"),
        (Code::ResourceExhausted, 429, "resource_exhausted"),
        (Code::Unavailable, 503, "unavailable"),
        (Code::Internal, 500, "internal"),
        (Code::Unimplemented, 501, "unimplemented"),
    ] {
        gateway.fake.refuse(Status::new(code, "what to do next"));
        let answer = gateway.post(ROUTING, r#"{"routing":"1:1"}"#).await;
        assert_eq!(answer.problem(http), fallback);
        assert_eq!(answer.json()["error"], "what to do next");
        gateway.fake.refuse(Problem::new(code, "capacity_guard", "what to do next").status());
        let answer = gateway.post(ROUTING, r#"{"routing":"1:1"}"#).await;
        assert_eq!(answer.problem(http), "capacity_guard");
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_said_of_writes_only() {
    let gateway = Gateway::new();
    for code in [Code::DeadlineExceeded, Code::Unknown] {
        gateway.fake.refuse(Status::new(code, "lost"));
        let write = gateway.post("/rolling-update/u1f/complete", "").await;
        assert_eq!(write.problem(504), "outcome_unknown");
    }
    assert_eq!(gateway.get("/rolling-updates").await.problem(500), "internal");
    gateway.fake.refuse(Status::deadline_exceeded("late"));
    assert_eq!(gateway.get("/rolling-updates").await.problem(504), "deadline_exceeded");
    let moved = "leadership moved while it was written";
    gateway.fake.refuse(Problem::new(Code::Unavailable, OUTCOME_UNKNOWN, moved).status());
    let write = gateway.post("/rolling-update/u1f/rollback", "").await;
    assert_eq!(write.problem(504), "outcome_unknown");
}

#[tokio::test]
async fn malformed_bodies_reach_no_service() {
    let gateway = Gateway::new();
    let nested = "[".repeat(10_000);
    let nested_member = format!(r#"{{"routing":{nested}"#);
    let routing = [
        (r#"{"routing":"1:1""#, "bad_json"),
        (r#"{"routing":"1:1","routing":"1:0"}"#, "bad_member"),
        (r#"{"routing":"1:1","colour":"red"}"#, "bad_member"),
        (r#"["1:1", true]"#, "not_an_object"),
        (r#""1:1""#, "not_an_object"),
        ("null", "not_an_object"),
        (&nested, "not_an_object"),
        (&nested_member, "bad_member"),
        (r#"{"routing":1}"#, "bad_member"),
        (r#"{"routing":null}"#, "bad_member"),
        ("{}", "bad_member"),
        (r#"{"routing":"1:1"} trailing"#, "bad_json"),
        (" ", "bad_json"),
    ];
    for (body, code) in routing {
        let shown = &body[..body.len().min(60)];
        assert_eq!(gateway.post(ROUTING, body).await.problem(400), code, "{shown}");
    }
    for member in [
        r#""instances":9223372036854775808"#,
        r#""instances":-1"#,
        r#""instances":1.5"#,
        r#""instances":"3""#,
        r#""maxErrorRate":1e309"#,
        r#""maxErrorRate":NaN"#,
        r#""requireManualApproval":"yes""#,
        r#""version":"1.0.0""#,
    ] {
        let body = format!(r#"{{"artifactBase":"a.b:c","version":"1.0.0",{member}}}"#);
        let code = gateway.post(START, &body).await.problem(400);
        assert!(code == "bad_member" || code == "bad_json", "{member}: {code}");
    }
    assert_eq!(gateway.post(START, r#"{"version":"1.0.0"}"#).await.problem(400), "bad_member");
    for path in ["complete", "rollback", "approve", "resume"] {
        let path = format!("/rolling-update/u1f/{path}");
        assert_eq!(gateway.post(&path, r#"{"colour":1}"#).await.problem(400), "bad_member");
        assert_eq!(gateway.post(&path, "[]").await.problem(400), "not_an_object");
    }
    assert_eq!(gateway.fake.asked(), None);
}

#[tokio::test]
async fn bytes_that_are_not_utf8_are_refused() {
    let gateway = Gateway::new();
    // An overlong encoding of '/', inside a string.
    let body = b"{\"routing\":\"\xc0\xaf\"}".to_vec();
    let request =
        Request::post(ROUTING).header("content-type", "application/json").body(Body::from(body));
    assert_eq!(gateway.send(request.unwrap()).await.problem(400), "bad_json");
    assert_eq!(gateway.fake.asked(), None);
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let gateway = Gateway::new();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for headers in [&form[..], &[]] {
        let mut request = Request::post(ROUTING);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(r#"{"routing":"1:1"}"#)).unwrap();
        assert_eq!(gateway.send(request).await.problem(415), "not_json");
    }
    let request = Request::post(ROUTING)
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(Body::from(r#"{"routing":"1:1"}"#))
        .unwrap();
    assert_eq!(gateway.send(request).await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_cap_is_refused() {
    let gateway = Gateway::new();
    let body = format!(r#"{{"routing":"{}"}}"#, "1".repeat(aether_gateway::BODY_BYTES_MAX));
    for path in [ROUTING, START, "/rolling-update/u1f/complete"] {
        assert_eq!(gateway.post(path, &body).await.problem(413), "body_too_large");
    }
    let body = format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000));
    assert_eq!(gateway.post(ROUTING, &body).await.problem(400), "bad_member");
}

#[tokio::test]
async fn ids_that_are_none_are_refused_before_the_service() {
    let gateway = Gateway::new();
    let long = "u".repeat(100);
    let ids = ["%2e%2e%2f", "%2e%2e", "%00", "u1%00", "%ff%fe", "%c0%af", "a%20b", "a%2fb", "U1"];
    for id in ids.into_iter().chain([long.as_str()]) {
        for path in [format!("/rolling-update/{id}"), format!("/api/rolling-update/{id}/health")] {
            assert_eq!(gateway.get(&path).await.problem(400), "bad_id", "{id}");
        }
        let path = format!("/rolling-update/{id}/rollback");
        assert_eq!(gateway.post(&path, "").await.problem(400), "bad_id", "{id}");
    }
    assert_eq!(gateway.fake.asked(), None);
}

#[tokio::test]
async fn unknown_paths_methods_and_queries_are_problems() {
    let gateway = Gateway::new();
    for path in
        ["/", "/nothing", "/api", "/api/nothing", "/rolling-update/", "/rolling-update/u/x/y"]
    {
        assert_eq!(gateway.get(path).await.problem(404), "unknown_path", "{path}");
    }
    for (path, allow) in
        [(START, "POST"), (ROUTING, "POST"), ("/api/rolling-update/u1f/approve", "POST")]
    {
        let answer = gateway.get(path).await;
        assert_eq!(answer.problem(405), "wrong_method", "{path}");
        assert_eq!(answer.header("allow"), allow);
    }
    for path in ["/rolling-updates", "/metrics", "/health/live", "/api/status"] {
        assert_eq!(gateway.post(path, "").await.problem(405), "wrong_method", "{path}");
    }
    for path in [
        "/rolling-updates?colour=red",
        "/rolling-update/u1f?stale=maybe",
        "/api/slices?x",
        "/api/slices?slice=",
    ] {
        assert_eq!(gateway.get(path).await.problem(400), "bad_query", "{path}");
    }
    assert_eq!(gateway.fake.asked(), None);
}

#[tokio::test]
async fn headers_of_writes_are_checked() {
    let gateway = Gateway::new();
    let long = "k".repeat(65);
    for header in [
        ("idempotency-key", long.as_str()),
        ("idempotency-key", ""),
        ("idempotency-key", "two words"),
        ("aether-actor", long.as_str()),
    ] {
        let answer = gateway.post_with("/rolling-update/u1f/complete", "", &[header]).await;
        assert_eq!(answer.problem(400), "bad_header", "{header:?}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let answer = gateway.post_with("/rolling-update/u1f/complete", "", &twice).await;
    assert_eq!(answer.problem(400), "bad_header");
    for tag in ["42", "", "\"1\" \"2\"", "*, \"1\"", "\"1"] {
        let answer = gateway.post_with(ROUTING, r#"{"routing":"1:1"}"#, &[("if-match", tag)]).await;
        assert_eq!(answer.problem(400), "bad_if_match", "{tag}");
    }
    for (path, body) in [
        (START, r#"{"artifactBase":"a.b:c","version":"1.0.0"}"#),
        ("/api/slices", r#"{"artifact":"a.b:c:1.0.0"}"#),
        ("/api/slices/a.b:c/scale", r#"{"instances":1}"#),
        ("/api/slices/a.b:c/set-current", r#"{"version":"1.0.0"}"#),
    ] {
        let answer = gateway.post_with(path, body, &[("if-match", "\"42\"")]).await;
        assert_eq!(answer.problem(400), "if_match_unsupported", "{path}");
    }
    assert_eq!(gateway.fake.asked(), None);
}
