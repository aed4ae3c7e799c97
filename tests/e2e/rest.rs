//! Everything over REST alone, on a cluster that loses its leader: archives in
//! and out, a slice from deployment to removal, and retries under a key.

use std::net::SocketAddr;

use aether_cluster::artifacts::{EXAMPLE, example_slice};
use aether_tests::rest::{self, Answer};
use aether_tests::{PATIENCE, Stage, Topology, binary};
use serde_json::{Value, json};
use tokio::time::Instant;

/// REST of a node.
fn at(stage: &Stage, node: usize) -> SocketAddr {
    stage.cluster.nodes[node].addresses.http
}

/// A POST with a key, asked again as a client would while the cluster cannot
/// answer.
async fn keyed(to: SocketAddr, path: &str, key: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rest::send(to, "POST", path, &headers, body.to_string()).await {
            Ok(answer) if ![503, 504].contains(&answer.status) => return answer,
            other => assert!(Instant::now() < deadline, "{path}: {other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A resource once it is as it should be.
async fn until(to: SocketAddr, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = rest::get(to, path).await.and_then(|answer| answer.json());
        if let Some(value) = seen.as_ref().ok().filter(|value| is_so(value)) {
            return value.clone();
        }
        assert!(Instant::now() < deadline, "{path}: waited for {what}, saw {seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn push(stage: &Stage, to: SocketAddr, version: &str) -> Answer {
    let archive = archive(stage, version);
    let path = format!("/api/artifacts/{EXAMPLE}:{version}");
    rest::send(to, "PUT", &path, &[("content-type", "application/gzip")], archive).await.unwrap()
}

/// The example slice, packed by the system's tar.
fn archive(stage: &Stage, version: &str) -> Vec<u8> {
    let dir = stage.scratch().join(format!("rest-{version}"));
    let packed = dir.with_extension("tar.gz");
    if !packed.exists() {
        let dir = example_slice(&dir, &binary(), version, &[]).unwrap();
        let tar = std::process::Command::new("tar")
            .arg("-czf")
            .arg(&packed)
            .arg("-C")
            .arg(&dir)
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
    }
    std::fs::read(packed).unwrap()
}

#[tokio::test]
async fn a_slice_lives_over_rest_alone_and_a_retry_is_the_same_request_after_a_failover() {
    let topology = Topology::split(3, 1);
    let mut stage = Stage::set(&binary(), &topology, &[]).await.unwrap();
    let worker = at(&stage, 3);
    // By a voter, and by a worker that hands it on.
    for (to, version) in [(at(&stage, 0), "1.0.0"), (worker, "2.0.0")] {
        let pushed = push(&stage, to, version).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        assert_eq!(push(&stage, to, version).await.status, 200);
        let path = format!("{}/archive", pushed.header("location"));
        for node in [0, 1, 3] {
            let answer = rest::get(at(&stage, node), &path).await.unwrap();
            assert!(answer.body == archive(&stage, version), "node {node}: {}", answer.status);
        }
    }
    let path = format!("/api/artifacts/{EXAMPLE}:1.0.0");
    let other = rest::send(worker, "PUT", &path, &[], archive(&stage, "2.0.0")).await.unwrap();
    assert_eq!(other.problem().unwrap().0, "artifact_mismatch");

    let body = json!({"artifact": format!("{EXAMPLE}:1.0.0"), "instances": 1});
    let deployed = keyed(worker, "/api/slices", "deploy-1", &body).await;
    assert_eq!(deployed.status, 201, "{}", deployed.text());
    let slice = deployed.header("location").to_owned();
    until(worker, &slice, "one ready", |slice| slice["ready"] == 1).await;
    let scale = format!("{slice}/scale");
    let scaled = keyed(worker, &scale, "scale-1", &json!({"instances": 2})).await;
    assert_eq!(scaled.status, 200, "{}", scaled.text());
    until(worker, &slice, "two ready", |slice| slice["ready"] == 2).await;

    let body = json!({"artifactBase": EXAMPLE, "version": "2.0.0", "maxLatencyMs": 60_000});
    let started = keyed(at(&stage, 0), "/rolling-update/start", "start-1", &body).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let update = started.header("location").to_owned();
    until(worker, &update, "DEPLOYED", |update| update["state"] == "DEPLOYED").await;
    let routing = format!("{update}/routing");
    let routed = keyed(worker, &routing, "routing-1", &json!({"routing": "1:1"})).await;
    let routed = routed.json().unwrap();

    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].kill();
    let other = (0..3).find(|node| *node != leader).unwrap();
    for to in [at(&stage, other), worker] {
        let again = keyed(to, "/rolling-update/start", "start-1", &body).await;
        assert_eq!((again.status, again.header("location")), (201, &*update));
        let again = keyed(to, &routing, "routing-1", &json!({"routing": "1:1"})).await;
        let again = again.json().unwrap();
        assert_eq!(again["modified"], routed["modified"], "it was carried out twice: {again}");
        let reused = keyed(to, &routing, "routing-1", &json!({"routing": "1:3"})).await;
        assert_eq!((reused.status, &*reused.problem().unwrap().0), (409, "request_reused"));
    }
    let explained = rest::get(worker, &format!("{update}/explain")).await.unwrap();
    assert_eq!(explained.json().unwrap()["state"], "ROUTING", "{}", explained.text());

    let seen = rest::get(worker, &update).await.unwrap();
    let tag = seen.header("etag").to_owned();
    let known = rest::send(worker, "GET", &update, &[("if-none-match", &tag)], "").await.unwrap();
    assert_eq!((known.status, known.body.len()), (304, 0));
    let path = format!("{update}/rollback");
    let back = rest::send(worker, "POST", &path, &[("if-match", &tag)], "").await.unwrap();
    assert_eq!(back.status, 200, "{}", back.text());
    let late = rest::send(worker, "POST", &path, &[("if-match", &tag)], "").await.unwrap();
    assert_eq!((late.status, &*late.problem().unwrap().0), (412, "modified"));
    until(worker, &update, "ROLLED_BACK", |update| update["state"] == "ROLLED_BACK").await;

    let logs = rest::get(worker, &format!("{slice}/logs?tail=5")).await.unwrap();
    assert_eq!(logs.header("content-type"), "application/x-ndjson");
    assert!(logs.text().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    let gone = rest::send(worker, "DELETE", &slice, &[], "").await.unwrap();
    assert_eq!(gone.status, 202, "{}", gone.text());
    until(worker, &slice, "it to be gone", |answer| answer["code"] == "unknown_slice").await;
    stage.end().await;
}
