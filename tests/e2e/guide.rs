//! The guide, line by line, against three nodes of a real `aether dev`.

mod dev;
mod examples;

use std::collections::BTreeMap;
use std::time::Instant;

use aether_cluster::artifacts::example_slice_as;
use aether_tests::{binary, rest, states};
use dev::{Dev, members};
use serde_json::{Value, json};

const SLICE: &str = "org.example:my-slice";
const PAYMENT: &str = "org.example:payment-service";

#[tokio::test]
async fn every_line_of_the_guide() {
    let mut dev = Dev::new();
    dev.start().await;
    push_and_deploy(&dev).await;
    quick_start(&dev).await;
    cleanup_manual(&dev).await;
    update_stuck_in_deploying(&dev).await;
    health_thresholds_and_monitoring(&dev).await;
    cleanup_grace_period(&dev).await;
    gradual_traffic_shifting(&dev).await;
    critical_services(&dev).await;
    rest_api(&dev).await;
    rest_rollback_and_twins(&dev).await;
    what_operators_look_at(&dev).await;
    starts_again(&mut dev).await;
}

async fn push_and_deploy(dev: &Dev) {
    for (version, flags) in [("1.0.0", &[][..]), ("2.0.0", &[]), ("3.0.0", &["--never-ready"])] {
        push(dev, SLICE, version, "/", flags).await;
    }
    for version in ["1.0.0", "2.0.0"] {
        push(dev, PAYMENT, version, "/payment", &[]).await;
    }
    dev.line("aether deploy org.example:my-slice:1.0.0 -n 3 --wait").await;
    dev.line("aether deploy org.example:payment-service:1.0.0 --wait").await;
}

async fn push(dev: &Dev, base: &str, version: &str, path: &str, flags: &[&str]) {
    let artifact = format!("{base}:{version}");
    let dir = example_slice_as(dev.scratch(), &binary(), &artifact, path, flags).unwrap();
    dev.line(&format!("aether artifact push {}", dir.display())).await;
}

/// The states that an update went through, in order.
fn states_of(update: &Value) -> Vec<String> {
    let history = update["history"].as_array().expect("an update has a history");
    let mut states: Vec<String> =
        history.iter().map(|entry| entry["state"].as_str().unwrap().to_owned()).collect();
    states.dedup();
    states
}

async fn slice(dev: &Dev) -> Value {
    dev.json("aether slices org.example:my-slice").await
}

/// Waits until a version runs alone on all its instances.
async fn alone(dev: &Dev, version: &str) {
    dev.until("aether slices org.example:my-slice", |slice| {
        let instances = slice["instancesState"].as_array().unwrap();
        slice["version"] == version
            && states(&slice["instancesState"]) == ["READY"; 3]
            && instances.iter().all(|instance| instance["version"] == version)
    })
    .await;
    dev.split("0:1", "none", version).await;
}

async fn quick_start(dev: &Dev) {
    let (id, deployed) = dev.start_update("aether update start org.example:my-slice 2.0.0").await;
    assert_eq!(deployed["artifactBase"], SLICE);
    assert_eq!(
        (&deployed["oldVersion"], &deployed["newVersion"]),
        (&json!("1.0.0"), &json!("2.0.0"))
    );
    assert_eq!(states(&deployed["newInstancesState"]), ["READY"; 3], "matches the old number");
    // The guide's defaults.
    assert_eq!(deployed["maxErrorRate"], 0.01);
    assert_eq!(deployed["maxLatencyMs"], 500);
    assert_eq!(deployed["requireManualApproval"], false);
    assert_eq!(deployed["cleanupPolicy"], "IMMEDIATE");
    dev.split("0:1", "2.0.0", "1.0.0").await;
    for ratio in ["1:3", "1:1", "1:0"] {
        dev.shift(&id, ratio, "2.0.0", "1.0.0").await;
    }
    dev.line(&format!("aether update complete {id}")).await;
    let completed = dev.until_state(&id, "COMPLETED").await;
    assert_eq!(
        states_of(&completed),
        ["PENDING", "DEPLOYING", "DEPLOYED", "ROUTING", "COMPLETING", "COMPLETED"]
    );
    // IMMEDIATE: nothing of the old version is left.
    let slice = slice(dev).await;
    assert_eq!((&slice["version"], &slice["retainedVersion"]), (&json!("2.0.0"), &Value::Null));
    assert!(slice["instancesState"].as_array().unwrap().iter().all(|i| i["version"] == "2.0.0"));
    alone(dev, "2.0.0").await;
}

/// Routes everything to the new version and completes.
async fn complete(dev: &Dev, id: &str) -> Value {
    dev.line(&format!("aether update routing {id} -r 1:0")).await;
    dev.line(&format!("aether update complete {id}")).await;
    dev.until_state(id, "COMPLETED").await
}

/// What is kept of a version that was replaced: its instances, still ready.
async fn kept(dev: &Dev, version: &str) -> Value {
    let slice = slice(dev).await;
    assert_eq!(slice["retainedVersion"], version, "{slice:#}");
    let instances = slice["instancesState"].as_array().unwrap();
    let ready = instances.iter().filter(|i| i["version"] == version && i["state"] == "READY");
    assert_eq!(ready.count(), 3, "{slice:#}");
    let table = dev.line("aether slices org.example:my-slice").await;
    assert!(table.contains("retained") && table.contains(version), "{table}");
    dev.json("aether kv get retained/org.example:my-slice").await["value"].clone()
}

/// MANUAL: the old version stays until it is removed by hand.
async fn cleanup_manual(dev: &Dev) {
    let line = "aether update start org.example:my-slice 1.0.0 --cleanup MANUAL";
    let (id, deployed) = dev.start_update(line).await;
    assert_eq!(deployed["cleanupPolicy"], "MANUAL");
    complete(dev, &id).await;
    let record = kept(dev, "2.0.0").await;
    assert_eq!((&record["instances"], &record["expiresAtMs"]), (&json!(3), &Value::Null));
    dev.line("aether undeploy org.example:my-slice:2.0.0").await;
    alone(dev, "1.0.0").await;
    assert_eq!(slice(dev).await["retainedVersion"], Value::Null);
}

/// Troubleshooting: a version that does not become healthy, the logs, and the
/// way out.
async fn update_stuck_in_deploying(dev: &Dev) {
    let started = dev.json("aether update start org.example:my-slice 3.0.0 -i 1").await;
    let id = started["updateId"].as_str().unwrap();
    dev.until_state(id, "DEPLOYING").await;
    let explained = dev
        .until(&format!("aether update explain {id}"), |e| {
            e["waits"][0]["code"] == "instances_ready"
        })
        .await;
    assert_eq!(explained["state"], "DEPLOYING");
    dev.until("aether slices org.example:my-slice", |slice| {
        slice["instancesState"].as_array().unwrap().iter().any(|i| i["reason"].is_object())
    })
    .await;
    assert_eq!(dev.json("aether status").await["quorum"], true);
    let listed = dev.line("aether artifact list org.example:my-slice").await;
    assert!(listed.contains("org.example:my-slice:3.0.0"), "{listed}");
    dev.line("aether undeploy org.example:my-slice:3.0.0").await;
    let back = dev.until_state(id, "ROLLED_BACK").await;
    assert_eq!(states_of(&back), ["PENDING", "DEPLOYING", "ROLLING_BACK", "ROLLED_BACK"]);

    // And one that cannot be helped ends as FAILED.
    let line = "aether update start org.example:my-slice 3.0.0 -i 1 --deploy-timeout 2s \
                --on-failure FAIL";
    let id = dev.json(line).await["updateId"].as_str().unwrap().to_owned();
    dev.until_state(&id, "FAILED").await;

    // Force undeploy of a new version that gets no traffic.
    let (id, _) = dev.start_update("aether update start org.example:my-slice 2.0.0").await;
    let logs = dev.line("aether logs org.example:my-slice:2.0.0").await;
    let lines = logs.lines().filter(|line| line.contains("2.0.0 my-slice-"));
    assert_eq!(lines.count(), 3, "each instance says that it listens: {logs}");
    dev.line("aether undeploy org.example:my-slice:2.0.0").await;
    dev.until_state(&id, "ROLLED_BACK").await;
    alone(dev, "1.0.0").await;
}

async fn health_thresholds_and_monitoring(dev: &Dev) {
    let line = "aether update start org.example:my-slice 2.0.0 \
                --max-error-rate 0.01 --max-latency-ms 500";
    let (id, deployed) = dev.start_update(line).await;
    assert_eq!((&deployed["maxErrorRate"], &deployed["maxLatencyMs"]), (&json!(0.01), &json!(500)));
    let mut to_new = 0;
    for ratio in ["1:3", "1:1", "3:1", "1:0", "0:1", "1:1"] {
        to_new += dev.shift(&id, ratio, "2.0.0", "1.0.0").await;
    }

    let status = dev.line(&format!("aether update status {id}")).await;
    assert!(status.contains("ROUTING") && status.contains("1:1"), "{status}");
    // The route's record, where the guide says it is.
    let route = dev.json("aether kv get version-routing/org.example:my-slice").await;
    assert_eq!(route["value"]["weights"], "1:1", "{route:#}");
    assert_eq!(route["value"]["new"]["version"], "2.0.0", "{route:#}");
    assert_eq!(route["value"]["old"]["version"], "1.0.0", "{route:#}");
    let update = dev.json(&format!("aether kv get rolling-update/{id}")).await;
    assert_eq!(update["value"]["state"], "ROUTING", "{update:#}");
    // Complete requires 1:0.
    let early = dev.type_in(&format!("aether update complete {id}")).await;
    assert_eq!(early.code, Some(5), "{early:?}");
    assert!(early.stderr.contains("-r 1:0"), "{early:?}");
    // The presets, of an update that is under way.
    for (preset, rate, ms) in [("strict", 0.001, 200), ("relaxed", 0.05, 1000)] {
        let set = dev.json(&format!("aether update set {id} --preset {preset}")).await;
        let thresholds = (&set["maxErrorRate"], &set["maxLatencyMs"]);
        assert_eq!(thresholds, (&json!(rate), &json!(ms)), "{preset}");
    }
    dev.line(&format!("aether update set {id} --preset default")).await;

    let list = dev.json("aether update list").await;
    let ids: Vec<&Value> =
        list["updates"].as_array().unwrap().iter().map(|update| &update["updateId"]).collect();
    assert_eq!(ids, [&json!(id)], "the active updates, and only those");
    let table = dev.line("aether update list").await;
    assert!(table.contains(&id) && table.contains("ROUTING"), "{table}");
    dev.line(&format!("aether update health {id}")).await;

    // Every call is counted, once its ingress has told.
    let line = format!("aether update health {id}");
    let health = dev.until(&line, |h| h["newVersion"]["requestCount"] == to_new).await;
    check_health(&health, &id, ["1.0.0", "2.0.0"]);
    assert_eq!(health["newVersion"]["errorRate"], 0.0, "{health:#}");

    // Rollback is instant: the answer already routes everything back.
    let back = dev.json(&format!("aether update rollback {id}")).await;
    assert_eq!(back["routing"], "0:1", "{back:#}");
    dev.split("0:1", "2.0.0", "1.0.0").await;
    let back = dev.until_state(&id, "ROLLED_BACK").await;
    let states = states_of(&back);
    assert!(states.ends_with(&["ROLLING_BACK".to_owned(), "ROLLED_BACK".to_owned()]), "{states:?}");
    alone(dev, "1.0.0").await;
}

/// The members of the guide's example, each of its kind.
fn check_health(health: &Value, id: &str, versions: [&str; 2]) {
    assert_eq!(health["updateId"], id, "{health:#}");
    for (side, version) in ["oldVersion", "newVersion"].into_iter().zip(versions) {
        let side = members(&health[side]);
        assert_eq!(side["version"], version, "{health:#}");
        assert!(side["requestCount"].as_u64() > Some(0), "{health:#}");
        assert!((0.0..=1.0).contains(&side["errorRate"].as_f64().unwrap()), "{health:#}");
        assert!(side["avgLatencyMs"].as_f64() > Some(0.0), "{health:#}");
        // The same by instance.
        let instances = side["instances"].as_array().unwrap().iter();
        let called = instances.filter(|one| one["requestCount"].as_u64() > Some(0));
        for one in called {
            for figure in ["avgLatencyMs", "p99LatencyMs"] {
                assert!(one[figure].as_f64() > Some(0.0), "{figure}: {health:#}");
            }
        }
    }
    // Milliseconds since 1970; the guide was written in 2024.
    assert!(health["collectedAt"].as_u64() > Some(1_704_067_200_000), "{health:#}");
}

/// GRACE_PERIOD: the old version stays for five minutes.
async fn cleanup_grace_period(dev: &Dev) {
    let line = "aether update start org.example:my-slice 2.0.0 --cleanup GRACE_PERIOD";
    let (id, deployed) = dev.start_update(line).await;
    assert_eq!(deployed["cleanupPolicy"], "GRACE_PERIOD");
    let completed = complete(dev, &id).await;
    let record = kept(dev, "1.0.0").await;
    assert_eq!((&record["update"], &record["side"]["version"]), (&json!(id), &json!("1.0.0")));
    let update = dev.json(&format!("aether kv get rolling-update/{id}")).await;
    let left_ms =
        record["expiresAtMs"].as_u64().unwrap() - update["value"]["stateSinceMs"].as_u64().unwrap();
    assert_eq!(left_ms, 300_000, "five minutes after completion: {completed:#}");
}

/// The recommended progression. Its start retires what the last update kept.
async fn gradual_traffic_shifting(dev: &Dev) {
    let line = "aether update start org.example:my-slice 1.0.0 --cleanup IMMEDIATE --instances 3";
    let (id, _) = dev.start_update(line).await;
    assert_eq!(slice(dev).await["retainedVersion"], Value::Null);
    for ratio in ["1:9", "1:3", "1:1", "3:1", "1:0"] {
        dev.shift(&id, ratio, "1.0.0", "2.0.0").await;
        let health = dev.json(&format!("aether update health {id}")).await;
        assert_eq!(health["updateId"], id);
    }
    dev.line(&format!("aether update complete {id}")).await;
    dev.until_state(&id, "COMPLETED").await;
    alone(dev, "1.0.0").await;
}

/// Strict thresholds and a person's word for every change of the ratio.
async fn critical_services(dev: &Dev) {
    let line = "aether update start org.example:payment-service 2.0.0 --max-error-rate 0.001 \
                --max-latency-ms 200 --manual-approval";
    let (id, deployed) = dev.start_update(line).await;
    assert_eq!(deployed["maxErrorRate"], 0.001);
    assert_eq!(deployed["maxLatencyMs"], 200);
    assert_eq!(deployed["requireManualApproval"], true);
    assert_eq!(deployed["artifactBase"], PAYMENT);
    for ratio in ["1:1", "1:0"] {
        let before = dev.json(&format!("aether update status {id}")).await;
        let waits = dev.json(&format!("aether update routing {id} -r {ratio}")).await;
        assert_eq!(waits["pendingRouting"], ratio, "{waits:#}");
        assert_eq!(waits["routing"], before["routing"], "not without approval: {waits:#}");
        let approved = dev.json(&format!("aether update approve {id}")).await;
        assert_eq!((&approved["routing"], &approved["state"]), (&json!(ratio), &json!("ROUTING")));
        assert_eq!(approved["pendingRouting"], Value::Null, "{approved:#}");
    }
    dev.line("aether update complete current").await;
    dev.until_state(&id, "COMPLETED").await;
}

async fn rest_api(dev: &Dev) {
    let body = json!({
        "artifactBase": SLICE,
        "version": "2.0.0",
        "instances": 3,
        "maxErrorRate": 0.01,
        "maxLatencyMs": 500,
        "requireManualApproval": false,
        "cleanupPolicy": "GRACE_PERIOD"
    });
    let (status, started) = dev.curl("POST", "/rolling-update/start", Some(body)).await;
    assert_eq!(status, 201, "{started:#}");
    assert_eq!(
        (&started["instances"], &started["cleanupPolicy"]),
        (&json!(3), &json!("GRACE_PERIOD"))
    );
    let id = started["updateId"].as_str().unwrap();
    dev.until_state(id, "DEPLOYED").await;
    let routing = format!("/rolling-update/{id}/routing");
    let routed = dev.curled("POST", &routing, Some(json!({"routing": "1:1"}))).await;
    assert_eq!((&routed["state"], &routed["routing"]), (&json!("ROUTING"), &json!("1:1")));
    let to_new = dev.split("1:1", "2.0.0", "1.0.0").await;

    let update = dev.curled("GET", &format!("/rolling-update/{id}"), None).await;
    assert_eq!((&update["updateId"], &update["state"]), (&json!(id), &json!("ROUTING")));
    let updates = dev.curled("GET", "/rolling-updates", None).await;
    assert_eq!(updates["updates"][0]["updateId"], id, "{updates:#}");
    let line = format!("aether update health {id}");
    let of_cli = dev.until(&line, |h| h["newVersion"]["requestCount"] == to_new).await;
    let health = dev.curled("GET", &format!("/rolling-update/{id}/health"), None).await;
    check_health(&health, id, ["1.0.0", "2.0.0"]);
    assert_eq!(health["newVersion"]["requestCount"], of_cli["newVersion"]["requestCount"]);

    dev.curled("POST", &routing, Some(json!({"routing": "1:0"}))).await;
    let completing = dev.curled("POST", &format!("/rolling-update/{id}/complete"), None).await;
    let state = completing["state"].as_str().unwrap();
    assert!(["COMPLETING", "COMPLETED"].contains(&state), "{completing:#}");
    dev.until_state(id, "COMPLETED").await;
    kept(dev, "1.0.0").await;
}

/// Rollback over REST, with the same paths below `/api` and with `current`.
async fn rest_rollback_and_twins(dev: &Dev) {
    let body = json!({"artifactBase": SLICE, "version": "1.0.0", "requireManualApproval": true});
    let started = dev.curled("POST", "/api/rolling-update/start", Some(body)).await;
    let id = started["updateId"].as_str().unwrap();
    dev.until_state(id, "DEPLOYED").await;
    let path = "/api/rolling-update/current";
    let routing = json!({"routing": "1:3"});
    let waits = dev.curled("POST", &format!("{path}/routing"), Some(routing)).await;
    assert_eq!(waits["pendingRouting"], "1:3");
    let approved = dev.curled("POST", &format!("{path}/approve"), None).await;
    assert_eq!((&approved["updateId"], &approved["routing"]), (&json!(id), &json!("1:3")));
    for (path, twin) in [
        ("/rolling-updates".to_owned(), "/api/rolling-updates".to_owned()),
        (format!("/rolling-update/{id}"), path.to_owned()),
    ] {
        let (mut one, mut other) =
            (dev.curled("GET", &path, None).await, dev.curled("GET", &twin, None).await);
        for answer in [&mut one, &mut other] {
            forget_time(answer);
        }
        assert_eq!(one, other, "{path} and {twin}");
    }
    let health = dev.curled("GET", &format!("{path}/health"), None).await;
    assert_eq!(health["updateId"], id);
    let back = dev.curled("POST", &format!("/rolling-update/{id}/rollback"), None).await;
    assert_eq!(back["routing"], "0:1", "{back:#}");
    dev.until_state(id, "ROLLED_BACK").await;
    alone(dev, "2.0.0").await;
    let (status, none) = dev.curl("GET", path, None).await;
    assert_eq!((status, &none["code"]), (404, &json!("unknown_update")), "nothing is live");
}

/// Leaves out what differs between two looks at the same thing.
fn forget_time(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["asOf", "sinceMs", "inMs", "countedMs", "actualRequests", "actualNewPpm"] {
                members.remove(name);
            }
            members.values_mut().for_each(forget_time);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_time),
        _ => {}
    }
}

/// Probes, metrics, and the records behind it all, at every node.
async fn what_operators_look_at(dev: &Dev) {
    for node in 0..dev::NODES {
        let to = dev.http(node);
        for (path, says) in [("/health/live", "live"), ("/health/ready", "ready")] {
            let answer = rest::get(to, path).await.unwrap();
            assert_eq!((answer.status, &answer.json().unwrap()["status"]), (200, &json!(says)));
        }
        let metrics = rest::get(to, "/metrics").await.unwrap();
        assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
        let text = metrics.text();
        assert!(text.contains("# TYPE aether_") && text.contains(SLICE), "{text}");
        let status = rest::get(to, "/api/status").await.unwrap().json().unwrap();
        assert_eq!((&status["quorum"], &status["liveUpdates"]), (&json!(true), &json!(0)));
        let nodes = rest::get(to, "/api/nodes").await.unwrap().json().unwrap();
        assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(3), "{nodes:#}");
        let slices = rest::get(to, "/api/slices").await.unwrap().json().unwrap();
        assert_eq!(slices["slices"].as_array().map(Vec::len), Some(2), "{slices:#}");
    }
    let route = dev.line("aether kv get version-routing/org.example:my-slice").await;
    let route: Value = serde_json::from_str(&route).unwrap();
    assert_eq!(route["slice"], SLICE, "{route:#}");
    let all = dev.json("aether update list --all").await;
    for update in all["updates"].as_array().unwrap() {
        let id = update["updateId"].as_str().unwrap();
        let record = dev.json(&format!("aether kv get rolling-update/{id}")).await;
        assert_eq!(record["value"]["state"], update["state"], "{record:#}");
    }
}

/// Ctrl-C ends everything; the same data directory brings it all back. Nothing
/// is called READY meanwhile that does not run, and once the nodes are ready
/// and the instances too, every call is served.
async fn starts_again(dev: &mut Dev) {
    let before = dev.processes_of("my-slice");
    let stopping = Instant::now();
    let last = dev::last_seen(dev.grpc(), SLICE, dev.interrupt(false)).await;
    let stopped = stopping.elapsed();
    // The control plane knew it before it ended itself.
    assert!(last.keys().eq(before.keys()), "{last:?}");
    let gone = |state: &String| ["STOPPING", "STOPPED"].contains(&state.as_str());
    assert!(last.values().all(gone), "{last:?}");
    restart(dev).await;
    println!("an orderly stop took {stopped:?}");
    let slice = slice(dev).await;
    assert_eq!((&slice["version"], &slice["instances"]), (&json!("2.0.0"), &json!(3)), "{slice:#}");
    for instance in slice["instancesState"].as_array().unwrap() {
        assert_eq!((&instance["restarts"], &instance["reason"]), (&json!(0), &Value::Null));
    }
    let after = dev.processes_of("my-slice");
    assert!(after.keys().eq(before.keys()), "the same instances: {before:?} {after:?}");
    assert!(after.iter().all(|(id, pid)| before[id] != *pid), "{before:?} {after:?}");
    let all = dev.json("aether update list --all").await;
    assert!(all["updates"].as_array().unwrap().len() >= 9, "history is kept: {all:#}");

    // Nodes that are killed leave their instances running, and find them again.
    dev.kill().await;
    assert_eq!(dev.processes_of("my-slice"), after);
    restart(dev).await;
    assert_eq!(dev.processes_of("my-slice"), after);
    // Killed instances are missed only by the next agents.
    dev.interrupt_twice().await;
    assert_eq!(dev.processes_of(""), BTreeMap::new());
    dev.start().await;
    alone(dev, "2.0.0").await;
    dev.interrupt(true).await;
}

/// Starts `dev` again and waits until everything serves.
async fn restart(dev: &mut Dev) {
    let started = Instant::now();
    dev.launch();
    let served = async {
        dev.until_up().await;
        for node in 0..dev::NODES {
            let answer = rest::get(dev.http(node), "/health/ready").await.unwrap();
            assert_eq!(answer.status, 200, "node {node}: {}", answer.text());
        }
        println!("all nodes were ready {:?} after the start", started.elapsed());
        alone(dev, "2.0.0").await;
        println!("all instances were READY by {:?}", started.elapsed());
    };
    let looks = dev.never_ready_in_vain(SLICE, served).await;
    println!("{looks} looks at instances meanwhile");
    assert!(looks > 0, "nothing was looked at");
    dev.all_served().await;
}
