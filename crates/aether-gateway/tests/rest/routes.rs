//! Each route of the guide reaches its service, with and without `/api`.

use crate::support::Gateway;

/// The guide's example, word for word.
const START: &str = r#"{
    "artifactBase": "org.example:my-slice",
    "version": "2.0.0",
    "instances": 3,
    "maxErrorRate": 0.01,
    "maxLatencyMs": 500,
    "requireManualApproval": false,
    "cleanupPolicy": "GRACE_PERIOD"
}"#;

#[tokio::test]
async fn the_guides_start_is_created_with_a_location() {
    let gateway = Gateway::new();
    let answer = gateway.post("/rolling-update/start", START).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    assert_eq!(answer.header("location"), "/rolling-update/u1f");
    assert_eq!(answer.header("etag"), "\"42\"");
    let json = answer.json();
    assert_eq!(json["updateId"], "u1f");
    assert_eq!(json["artifactBase"], "org.example:my-slice");
    assert_eq!(json["oldVersion"], "1.0.0");
    assert!(json.get("pause").is_none(), "absent members are left out");
    let asked = gateway.fake.asked().unwrap();
    for part in [
        "artifact_base: \"org.example:my-slice\"",
        "version: \"2.0.0\"",
        "instances: Some(3)",
        "max_error_rate: Some(0.01)",
        "max_latency_ms: Some(500)",
        "manual_approval: false",
        "cleanup_policy: \"GRACE_PERIOD\"",
        "grace_ms: None",
        "actor: \"rest\"",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(gateway.fake.saw_deadline());
}

#[tokio::test]
async fn our_additions_to_start_are_optional_members() {
    let gateway = Gateway::new();
    let body = r#"{"artifactBase":"a.b:c","version":"1.0.0","graceMs":1000,"deployTimeoutMs":2000,
        "onDeployFailure":"PAUSE","healthyMs":10,"instances":null}"#;
    let headers = [("idempotency-key", "k-1"), ("aether-actor", "ci")];
    let answer = gateway.post_with("/api/rolling-update/start", body, &headers).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let asked = gateway.fake.asked().unwrap();
    for part in [
        "grace_ms: Some(1000)",
        "deploy_timeout_ms: Some(2000)",
        "on_deploy_failure: \"PAUSE\"",
        "healthy_ms: Some(10)",
        "instances: None",
        "request_id: \"k-1\"",
        "actor: \"ci\"",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
}

#[tokio::test]
async fn every_route_exists_at_the_root_and_under_api() {
    let gateway = Gateway::new();
    for prefix in ["", "/api"] {
        for (path, asks) in [
            ("/rolling-update/u1f", "GetUpdateRequest { update_id: \"u1f\", stale: false }"),
            ("/rolling-update/current?stale=true", "update_id: \"current\", stale: true"),
            ("/rolling-update/u1f/health", "UpdateRef { update_id: \"u1f\""),
            ("/rolling-update/u1f/history", "UpdateRef { update_id: \"u1f\""),
            ("/rolling-update/u1f/diff", "DiffRequest { update_id: \"u1f\", slice: \"\""),
            ("/rolling-update/u1f/explain", "UpdateRef { update_id: \"u1f\""),
            ("/rolling-updates", "ListUpdatesRequest { all: false, stale: false, page_size: 0"),
            ("/rolling-updates?all=true", "ListUpdatesRequest { all: true, stale: false"),
            ("/rolling-updates?pageSize=7&pageToken=t", "page_size: 7, page_token: \"t\""),
        ] {
            let answer = gateway.get(&format!("{prefix}{path}")).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            let asked = gateway.fake.asked().unwrap();
            assert!(asked.contains(asks), "{path}: {asked}");
        }
        for (path, body, asks) in [
            ("routing", r#"{"routing":"1:1"}"#, "routing: \"1:1\", force: false"),
            ("routing", r#"{"routing":"1:1","force":true}"#, "routing: \"1:1\", force: true"),
            ("complete", "", "CompleteRequest { update_id: \"u1f\", force: false"),
            ("complete", r#"{"force":true}"#, "force: true"),
            ("rollback", "", "RollbackRequest { update_id: \"u1f\", now: false, force: false"),
            ("rollback", r#"{"now":true}"#, "now: true, force: false"),
            (
                "approve",
                "",
                "ApproveRequest { update_id: \"u1f\", routing: \"\", if_modified: None",
            ),
            ("resume", "{}", "UpdateRef { update_id: \"u1f\""),
            ("cleanup", "", "UpdateRef { update_id: \"u1f\""),
            ("pause", "", "PauseRequest { update_id: \"u1f\", why: \"\""),
            ("pause", r#"{"why":"lunch"}"#, "why: \"lunch\""),
            ("promote", "", "PromoteRequest { update_id: \"u1f\", full: false, force: false"),
            ("promote", r#"{"full":true,"force":true}"#, "full: true, force: true"),
        ] {
            let answer = gateway.post(&format!("{prefix}/rolling-update/u1f/{path}"), body).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            assert_eq!(answer.json()["state"], "DEPLOYED");
            let asked = gateway.fake.asked().unwrap();
            assert!(asked.contains(asks), "{path}: {asked}");
        }
    }
}

#[tokio::test]
async fn a_configuration_is_pushed_read_and_moved_to() {
    let gateway = Gateway::new();
    let path = "/api/slices/org.example:my-slice/config";
    let body = r#"{"files":{"app.conf":"x = 1\n"},"env":{"MODE":"fast"},"ifLatest":2}"#;
    let answer = gateway.post(path, body).await;
    assert_eq!((answer.status, &answer.json()["number"]), (201.try_into().unwrap(), &3.into()));
    let asked = gateway.fake.asked().unwrap();
    let expected = r#"files: {"app.conf": "x = 1\n"}, env: {"MODE": "fast"}, if_latest: Some(2)"#;
    assert!(asked.contains(expected), "{asked}");
    for (query, asks) in
        [("", "number: 0, stale: false"), ("?number=3&stale=true", "number: 3, stale: true")]
    {
        let answer = gateway.get(&format!("{path}{query}")).await;
        assert_eq!(answer.json()["files"]["app.conf"], "x = 1\n");
        let asked = gateway.fake.asked().unwrap();
        assert!(asked.contains(asks), "{asked}");
    }
    let list = gateway.get("/api/slices/org.example:my-slice/configs").await.json();
    assert_eq!(list["configs"][0]["number"], 3);
    for bad in [r#"{"file":{}}"#, r#"{"files":[]}"#, r#"{"files":{"a":1}}"#] {
        assert_eq!(gateway.post(path, bad).await.status, 400, "{bad}");
    }
    let start = r#"{"artifactBase":"org.example:my-slice","version":"1.0.0","config":"latest","restart":true}"#;
    gateway.post("/rolling-update/start", start).await;
    let asked = gateway.fake.asked().unwrap();
    assert!(asked.contains(r#"config: "latest", restart: true"#), "{asked}");
}

#[tokio::test]
async fn list_and_health_have_the_guides_shape() {
    let gateway = Gateway::new();
    let list = gateway.get("/rolling-updates").await.json();
    assert_eq!(list["updates"][0]["updateId"], "u1f");
    let health = gateway.get("/rolling-update/u1f/health").await.json();
    assert_eq!(health["updateId"], "u1f");
    assert_eq!(health["oldVersion"]["version"], "1.0.0");
    assert_eq!(health["oldVersion"]["requestCount"], 1000);
    assert_eq!(health["oldVersion"]["errorRate"], 0.001);
    assert_eq!(health["newVersion"]["avgLatencyMs"], 50.0);
    assert_eq!(health["collectedAt"], 1_704_067_200_000_u64);
}

#[tokio::test]
async fn if_match_at_routing_becomes_the_precondition() {
    let gateway = Gateway::new();
    let path = "/rolling-update/u1f/routing";
    let body = r#"{"routing":"1:3"}"#;
    let answer = gateway.post_with(path, body, &[("if-match", "\"42\"")]).await;
    assert_eq!(answer.status, 200);
    assert!(gateway.fake.asked().unwrap().contains("if_modified: Some(42)"));
    let verbs =
        ["complete", "rollback", "approve", "resume", "cleanup", "undo", "pause", "promote"];
    for verb in verbs {
        let (path, done) =
            (format!("/rolling-update/u1f/{verb}"), if verb == "undo" { 201 } else { 200 });
        for (tag, expected) in
            [("\"41\"", "Some(41)"), ("*", "None"), ("\"7\", W/\"9\", \"42\"", "Some(42)")]
        {
            let answer = gateway.post_with(&path, "", &[("if-match", tag)]).await;
            assert_eq!(answer.status, done, "{verb} {tag}: {}", answer.text);
            let asked = gateway.fake.asked().unwrap();
            assert!(asked.contains(&format!("if_modified: {expected}")), "{verb} {tag}: {asked}");
        }
        // None of these can be what the record has: the write is not even asked for.
        for tag in ["W/\"42\"", "\"7\", \"9\"", "\"x\""] {
            let answer = gateway.post_with(&path, "", &[("if-match", tag)]).await;
            assert_eq!(answer.problem(412), "modified", "{verb} {tag}");
            assert!(gateway.fake.asked().unwrap().contains("GetUpdateRequest"), "{verb} {tag}");
        }
    }
}

#[tokio::test]
async fn cluster_views_answer_under_api() {
    let gateway = Gateway::new();
    assert_eq!(gateway.get("/api/status").await.json()["stateHash"], "ff");
    assert_eq!(gateway.fake.asked().unwrap(), "StatusRequest { verbose: false }");
    gateway.get("/api/status?verbose=true").await;
    assert_eq!(gateway.fake.asked().unwrap(), "StatusRequest { verbose: true }");
    assert_eq!(gateway.get("/api/nodes").await.json()["nodes"][0]["instancesMax"], 7);
    let slices = gateway.get("/api/slices?slice=org.example:my-slice").await.json();
    assert_eq!(slices["slices"][0]["slice"], "org.example:my-slice");
    assert!(gateway.fake.asked().unwrap().contains("slice: \"org.example:my-slice\""));
    for path in ["/api/slices", "/api/nodes"] {
        let answer = gateway.get(&format!("{path}?pageSize=2&pageToken=t")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let asked = gateway.fake.asked().unwrap();
        assert!(asked.contains("page_size: 2, page_token: \"t\""), "{asked}");
        let answer = gateway.get(&format!("{path}?pageSize=-1")).await;
        assert_eq!(answer.problem(400), "bad_query");
    }
}

#[tokio::test]
async fn supervisors_get_liveness_readiness_and_metrics() {
    let gateway = Gateway::new();
    assert_eq!(gateway.get("/health/live").await.status, 200);
    assert_eq!(gateway.get("/health/ready").await.status, 200);
    let metrics = gateway.get("/metrics").await;
    assert_eq!(metrics.text, "aether_up 1\n");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let gateway = Gateway::with_readiness(Err("no leader is known".into()));
    assert_eq!(gateway.get("/health/live").await.status, 200);
    let answer = gateway.get("/health/ready").await;
    assert_eq!(answer.problem(503), "not_ready");
    assert_eq!(answer.json()["error"], "no leader is known");
    assert_eq!(answer.header("retry-after"), "1");
}
