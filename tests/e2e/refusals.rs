//! What is refused, and how: each refusal has its own message and code, its
//! exit code and its status code, and changes nothing.

mod arguments;
mod asking;
mod grpc;
mod peers;
mod requests;
mod starting;

use std::collections::BTreeSet;

use aether_cluster::artifacts::{EXAMPLE, example_slice};
use aether_proto::v1;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use aether_proto::v1::push_request::Part;
use aether_tests::{PATIENCE, Topology, Versions, rest, stage_with};
use asking::{Ask, Desk, Kind, Row, cli, get, post};
use serde_json::{Value, json};

const START: &str = "/rolling-update/start";

/// One node with room for 12 instances, three of 1.0.0 deployed.
async fn desk(versions: Versions<'_>) -> Desk {
    let topology =
        Topology { extra: "\n[agent]\ninstances_max = 12\n".to_owned(), ..Topology::all_in_one(1) };
    desk_on(&topology, versions).await
}

/// Likewise on other nodes, the first of which is asked.
pub async fn desk_on(topology: &Topology, versions: Versions<'_>) -> Desk {
    Desk { stage: stage_with(topology, versions).await }
}

fn start(version: &str, options: serde_json::Value) -> Ask {
    let mut body = json!({"artifactBase": EXAMPLE, "version": version});
    let all = body.as_object_mut().expect("it was just made");
    all.extend(options.as_object().cloned().unwrap_or_default());
    post(START, body)
}

fn routing(id: &str, ratio: &str) -> Vec<Ask> {
    vec![
        cli(format!("update routing {id} -r {ratio}")),
        post(format!("/rolling-update/{id}/routing"), json!({"routing": ratio})),
    ]
}

/// A change of an update that has no options, by its verb.
fn change(id: &str, verb: &str) -> Vec<Ask> {
    vec![
        cli(format!("update {verb} {id}")),
        post(format!("/rolling-update/{id}/{verb}"), json!({})),
        post(format!("/api/rolling-update/{id}/{verb}"), json!({})),
    ]
}

#[tokio::test]
async fn without_an_update() {
    let desk = desk(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let mut rows = nothing_like_it();
    rows.extend(no_such_update());
    rows.extend(makes_no_sense());
    desk.refuses("without an update", rows).await;
    push_of_other_content(&desk).await;
    desk.stage.end().await;
}

/// What is named does not exist, exists already, or has no room.
fn nothing_like_it() -> Vec<Row> {
    use Kind::{NotFound, State};
    let other = json!({"artifactBase": "org.example:nothing", "version": "1.0.0"});
    vec![
        (
            NotFound,
            "unknown_artifact",
            "org.example:hello:9.9.9 is unknown; push it first",
            vec![
                cli("update start org.example:hello 9.9.9"),
                start("9.9.9", json!({})),
                cli("deploy org.example:hello:9.9.9@green"),
                Ask::Deploy("org.example:hello:9.9.9@green", 1),
            ],
        ),
        (
            NotFound,
            "unknown_artifact",
            "org.example:nothing:1.0.0 is unknown",
            vec![cli("update start org.example:nothing 1.0.0"), post(START, other)],
        ),
        (
            State,
            "same_revision",
            "already runs version 1.0.0 (same revision)",
            vec![cli("update start org.example:hello 1.0.0"), start("1.0.0", json!({}))],
        ),
        (
            State,
            "no_capacity",
            "room for 9 more, 100 are needed",
            vec![
                cli("update start org.example:hello 2.0.0 -i 100"),
                start("2.0.0", json!({"instances": 100})),
                cli("deploy org.example:hello:1.0.0@green -n 100"),
                Ask::Deploy("org.example:hello:1.0.0@green", 100),
                cli("scale org.example:hello -i 103"),
                Ask::Scale("org.example:hello", 103),
            ],
        ),
        (
            State,
            "already_deployed",
            "already deployed at 1.0.0",
            vec![
                cli("deploy org.example:hello:2.0.0"),
                Ask::Deploy("org.example:hello:2.0.0", 1),
                Ask::Deploy("org.example:hello:1.0.0", 3),
            ],
        ),
        (
            NotFound,
            "unknown_slice",
            "is not deployed",
            vec![
                cli("scale org.example:nothing -i 1"),
                Ask::Scale("org.example:nothing", 1),
                cli("undeploy org.example:nothing"),
                Ask::Undeploy("org.example:hello@green"),
                cli("slices org.example:nothing"),
                get("/api/slices?slice=org.example:nothing"),
                cli("logs org.example:nothing"),
            ],
        ),
        (NotFound, "no_instances", "has no instances", vec![cli("logs org.example:hello:7.0.0")]),
        (NotFound, "unknown_instance", "does not exist", vec![cli("logs hello-zz-9")]),
        (NotFound, "unknown_key", "no record has key", vec![cli("kv get rolling-update/nope")]),
        (NotFound, "unknown_artifact", "unknown", vec![cli("artifact info a.b:c:1.0.0")]),
    ]
}

fn no_such_update() -> Vec<Row> {
    let mut unknown = routing("nope", "1:1");
    let mut none_live = routing("current", "1:1");
    for verb in ["complete", "rollback", "approve", "resume"] {
        unknown.extend(change("nope", verb));
        none_live.extend(change("current", verb));
    }
    for verb in ["status", "health", "explain", "watch"] {
        unknown.push(cli(format!("update {verb} nope")));
        none_live.push(cli(format!("update {verb} current")));
    }
    for path in ["/rolling-update", "/api/rolling-update"] {
        unknown.push(get(format!("{path}/nope")));
        unknown.push(get(format!("{path}/nope/health")));
        none_live.push(get(format!("{path}/current")));
    }
    vec![
        (Kind::NotFound, "unknown_update", "update 'nope' does not exist", unknown),
        (Kind::NotFound, "unknown_update", "no update is live", none_live),
    ]
}

/// Values that are no request, whatever the state.
fn makes_no_sense() -> Vec<Row> {
    use Kind::{Invalid, State};
    let at = |base: &str| post(START, json!({"artifactBase": base, "version": "2.0.0"}));
    let option = |name: &str, value: serde_json::Value| start("2.0.0", json!({name: value}));
    vec![
        (
            Invalid,
            "invalid_argument",
            "artifactBase: ",
            ["", "hello", "org:hello", "org.example:Hello", "../x", "org.example:hello:1.0.0"]
                .map(at)
                .into(),
        ),
        (
            Invalid,
            "invalid_argument",
            "version: ",
            ["", "two", "2.0", "../2.0.0"].map(|version| start(version, json!({}))).into(),
        ),
        (
            Invalid,
            "invalid_argument",
            "must be",
            vec![cli("update start org:hello 2.0.0"), cli("deploy Org.Example:hello:1.0.0")],
        ),
        (
            Invalid,
            "invalid_argument",
            "version",
            vec![
                cli("update start org.example:hello two"),
                cli("deploy org.example:hello"),
                Ask::Deploy("org.example:hello", 1),
            ],
        ),
        (
            State,
            "not_deployed",
            "is not deployed, 1.0.0 is",
            vec![cli("undeploy org.example:hello:2.0.0"), Ask::Undeploy("org.example:hello:2.0.0")],
        ),
        (
            Invalid,
            "bad_instances",
            "must be 1 to 10000",
            vec![
                option("instances", json!(0)),
                option("instances", json!(10_001)),
                Ask::Deploy("org.example:hello:1.0.0@green", 0),
                Ask::Scale("org.example:hello", 0),
                Ask::Scale("org.example:nothing", 0),
            ],
        ),
        // The command line knows that by itself.
        (Invalid, "", "0 is not in 1..", vec![cli("scale org.example:hello -i 0")]),
        (
            Invalid,
            "invalid_argument",
            "is not a share between 0 and 1",
            vec![option("maxErrorRate", json!(1.5)), option("maxErrorRate", json!(-0.1))],
        ),
        (Invalid, "bad_option", "latency must be", vec![option("maxLatencyMs", json!(0))]),
        (
            Invalid,
            "invalid_argument",
            "'SOMETIMES' is none of",
            vec![
                option("cleanupPolicy", json!("SOMETIMES")),
                option("onDeployFailure", json!("SOMETIMES")),
            ],
        ),
        (
            Invalid,
            "bad_option",
            "at most 30 days",
            vec![
                option("graceMs", json!(u64::MAX)),
                option("deployTimeoutMs", json!(2_592_000_001_u64)),
                option("healthyMs", json!(2_592_000_001_u64)),
                cli("update start org.example:hello 2.0.0 --cleanup GRACE_PERIOD --grace 721h"),
                cli("update start org.example:hello 2.0.0 --healthy-time 721h"),
            ],
        ),
        (
            Invalid,
            "bad_option",
            "deploy timeout must be above zero",
            vec![
                option("deployTimeoutMs", json!(0)),
                cli("update start org.example:hello 2.0.0 --deploy-timeout 0s"),
            ],
        ),
    ]
}

/// A pushed version is immutable.
async fn push_of_other_content(desk: &Desk) {
    let before = desk.rows().await;
    let binary = desk.stage.cluster.binary();
    let dir = desk.stage.scratch().join("other");
    let dir = example_slice(&dir, binary, "1.0.0", &["--latency", "5ms"]).unwrap();
    let said = desk.stage.refused(&["artifact", "push", dir.to_str().unwrap()]).await.unwrap();
    assert!(said.contains("already pushed with digest"), "{said}");

    let header = v1::PushHeader {
        artifact: format!("{EXAMPLE}:1.0.0"),
        sha256: "0".repeat(64),
        size_bytes: 1,
        ..Default::default()
    };
    let parts =
        tonic::codegen::tokio_stream::iter([v1::PushRequest { part: Some(Part::Header(header)) }]);
    let mut client = ArtifactsClient::new(desk.stage.cluster.channel(0));
    let status = client.push(parts).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
    assert_eq!(asking::code_of(&status), "artifact_differs", "{status}");
    assert_eq!(desk.rows().await, before);
    nothing_is_left_of_a_refused_push(desk, &dir).await;
    assert_eq!(desk.rows().await, before);
}

/// What is only known to be wrong once the bytes are there: pushed without a
/// digest, or under another name. An archive that has a name stays.
async fn nothing_is_left_of_a_refused_push(desk: &Desk, other: &std::path::Path) {
    let archives = desk.stage.cluster.nodes[0].data_dir().join("artifacts");
    let held = || {
        let entries = std::fs::read_dir(&archives).unwrap();
        let names: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names
    };
    let before = held();
    let packed = desk.stage.scratch().join("other.tar.gz");
    let mut tar = std::process::Command::new("tar");
    let tar = tar.arg("czf").arg(&packed).arg("-C").arg(other).arg(".").status().unwrap();
    assert!(tar.success(), "tar: {tar}");
    let fresh = std::fs::read(&packed).unwrap();
    let named = stage_digest(desk, "2.0.0").await;
    let named = std::fs::read(archives.join(format!("{named}.tar.gz"))).unwrap();
    for (version, body, status, code) in [
        ("1.0.0", &fresh, 409, "artifact_differs"),
        ("7.0.0", &fresh, 400, "artifact_mismatch"),
        ("7.0.0", &b"no archive".to_vec(), 400, "invalid_argument"),
        ("7.0.0", &named, 400, "artifact_mismatch"),
    ] {
        let path = format!("/api/artifacts/{EXAMPLE}:{version}");
        let answer = rest::send(desk.http(), "PUT", &path, &[], body.clone()).await.unwrap();
        let (said, error) = answer.problem().unwrap();
        assert_eq!((answer.status, &*said), (status, code), "{version}: {error}");
        assert_eq!(held(), before, "after a push of {version} that is {code}");
    }
}

async fn stage_digest(desk: &Desk, version: &str) -> String {
    let artifact = format!("{EXAMPLE}:{version}");
    let known = desk.stage.cli(&["artifact", "info", &artifact]).await.unwrap();
    known["sha256"].as_str().expect("an artifact has a digest").to_owned()
}

#[tokio::test]
async fn in_every_state_of_an_update() {
    let versions: Versions<'_> = &[
        ("1.0.0", &[]),
        ("2.0.0", &[]),
        ("3.0.0", &["--never-ready"]),
        ("4.0.0", &["--fail-rate", "1"]),
    ];
    let desk = desk(versions).await;
    while_deploying(&desk).await;
    with_too_little_capacity(&desk).await;
    while_paused(&desk).await;
    with_two_live(&desk).await;
    while_routing(&desk).await;
    desk.stage.end().await;
}

/// What nobody may do to a slice while an update of it is live.
fn beside_a_live_update() -> Vec<Row> {
    use Kind::State;
    vec![
        (
            State,
            "update_live",
            "complete it or roll it back first",
            vec![
                cli("update start org.example:hello 2.0.0"),
                start("2.0.0", json!({})),
                cli("update start org.example:hello 1.0.0"),
                cli("deploy org.example:hello:2.0.0"),
                Ask::Deploy("org.example:hello:2.0.0", 1),
                cli("scale org.example:hello -i 2"),
                Ask::Scale("org.example:hello", 2),
                cli("undeploy org.example:hello"),
                Ask::Undeploy("org.example:hello"),
            ],
        ),
        (
            State,
            "still_serving",
            "takes traffic or is not part of a live update at weight 0",
            vec![
                cli("undeploy org.example:hello:1.0.0"),
                Ask::Undeploy("org.example:hello:1.0.0"),
                Ask::Undeploy("org.example:hello:9.9.9"),
            ],
        ),
    ]
}

/// Nothing waits for a person's word.
fn nothing_waits(id: &str) -> Vec<Row> {
    vec![
        (
            Kind::State,
            "nothing_to_approve",
            "no routing change that waits for approval",
            change(id, "approve"),
        ),
        (Kind::State, "not_paused", "nothing to resume", change(id, "resume")),
    ]
}

fn wrong_state(says: &'static str, asks: Vec<Ask>) -> Row {
    (Kind::State, "wrong_state", says, asks)
}

async fn while_deploying(desk: &Desk) {
    let stage = &desk.stage;
    let id = stage.start("3.0.0", &["-i", "1", "--deploy-timeout", "1h"]).await.unwrap();
    let said = |instance: &Value| instance["reason"]["code"].is_string();
    stage
        .until(&id, |seen| {
            seen["state"] == "DEPLOYING"
                && seen["newInstancesState"].as_array().is_some_and(|all| all.iter().all(said))
        })
        .await
        .unwrap();
    let mut rows = beside_a_live_update();
    rows.extend(nothing_waits("current"));
    rows.push(wrong_state(
        "in state DEPLOYING; a routing change is possible in DEPLOYED and ROUTING",
        routing(&id, "1:3"),
    ));
    rows.push(wrong_state(
        "in state DEPLOYING; 'complete' is possible in ROUTING",
        change(&id, "complete"),
    ));
    desk.refuses("in DEPLOYING", rows).await;

    stage.cli(&["update", "rollback", &id]).await.unwrap();
    let says = "a rollback is possible in PENDING, DEPLOYING, DEPLOYED, ROUTING and COMPLETING";
    let twice = vec![wrong_state(says, change(&id, "rollback"))];
    desk.refuses_amid_change("after a rollback", twice).await;
    let ended = stage.until_state(&id, "ROLLED_BACK").await.unwrap();
    nobody_but_the_coordinator(&ended, "ROLLING_BACK");
    desk.refuses("in ROLLED_BACK", after_the_end(&id, "in state ROLLED_BACK; ")).await;
}

/// A request that was refused on the way left no entry: after the one that
/// entered `state`, all are the coordinator's.
fn nobody_but_the_coordinator(update: &Value, state: &str) {
    let history = update["history"].as_array().expect("an update has a history");
    let entered = history.iter().position(|entry| entry["state"] == state);
    let (first, later) = history[entered.expect("it was entered")..].split_first().unwrap();
    assert_ne!(first["actor"], "coordinator", "a person asked: {update:#}");
    assert!(!later.is_empty(), "{update:#}");
    assert!(later.iter().all(|entry| entry["actor"] == "coordinator"), "{update:#}");
}

/// An update that has ended changes no more.
fn after_the_end(id: &str, says: &'static str) -> Vec<Row> {
    let mut asks = routing(id, "1:1");
    asks.extend(change(id, "complete"));
    asks.extend(change(id, "rollback"));
    let mut rows = nothing_waits(id);
    rows.push(wrong_state(says, asks));
    rows
}

async fn with_too_little_capacity(desk: &Desk) {
    use Kind::{Invalid, Precondition, State};
    let stage = &desk.stage;
    let id = stage.start("2.0.0", &["-i", "1"]).await.unwrap();
    stage.until_state(&id, "DEPLOYED").await.unwrap();
    let path = format!("/rolling-update/{id}/routing");
    let with = |name: &'static str, value: &str, ratio: &str| {
        Ask::Post(path.clone(), json!({"routing": ratio}), vec![(name, value.to_owned())])
    };
    let mut rows = vec![
        (
            State,
            "capacity_guard",
            "need 3 ready instances of the new version (2.0.0), 1 are ready",
            routing(&id, "1:0"),
        ),
        (
            State,
            "capacity_guard",
            "need 2 ready instances of the new version (2.0.0), 1 are ready",
            routing("current", "1:1"),
        ),
        wrong_state("in state DEPLOYED; 'complete'", change(&id, "complete")),
        (Invalid, "invalid_argument", "ratio 0:0 sends calls nowhere", routing(&id, "0:0")),
        (Invalid, "invalid_argument", "10001:1 has a weight above 10000", routing(&id, "10001:1")),
        (
            Invalid,
            "invalid_argument",
            "is not of the form new:old",
            ["101", "1:x", "1:2:3", "NaN", "1e309:1"]
                .iter()
                .flat_map(|ratio| routing(&id, ratio))
                .collect(),
        ),
        (Precondition, "modified", "read it again", vec![with("if-match", "\"1\"", "1:9")]),
        (
            Invalid,
            "bad_if_match",
            "ETags as this server gave them",
            vec![with("if-match", "new", "1:9")],
        ),
    ];
    rows.extend(nothing_waits(&id));
    desk.refuses("in DEPLOYED", rows).await;

    // The same key again is the same request; with another body it is a mistake.
    let headers = [("content-type", "application/json"), ("idempotency-key", "once")];
    for _ in 0..2 {
        let body = json!({"routing": "1:9"}).to_string();
        let answer = rest::send(desk.http(), "POST", &path, &headers, body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let again = with("idempotency-key", "once", "1:4");
    let reused = "Idempotency-Key 'once' was already used for another command";
    desk.refuses("again", vec![(State, "request_reused", reused, vec![again])]).await;
    stage.cli(&["update", "rollback", &id]).await.unwrap();
    stage.until_state(&id, "ROLLED_BACK").await.unwrap();
}

/// Beyond a threshold the ratio can be lowered and not raised.
async fn while_paused(desk: &Desk) {
    let stage = &desk.stage;
    let id = stage.start("4.0.0", &[]).await.unwrap();
    stage.until_state(&id, "DEPLOYED").await.unwrap();
    stage.route("1:1").await.unwrap();
    let ingress = stage.cluster.ingresses()[0];
    let deadline = std::time::Instant::now() + PATIENCE;
    while stage.cli(&["update", "status", &id]).await.unwrap()["pause"].is_null() {
        for _ in 0..20 {
            rest::get(ingress, "/").await.unwrap();
        }
        assert!(std::time::Instant::now() < deadline, "no threshold was exceeded");
    }
    let paused = (Kind::State, "paused", "is paused (threshold_exceeded: ", routing(&id, "1:0"));
    let unfinished =
        (Kind::State, "not_all_new", "'complete' needs a committed 1:0", change(&id, "complete"));
    desk.refuses("while paused", vec![paused, unfinished]).await;
    stage.route("1:3").await.unwrap();
    stage.cli(&["update", "rollback", &id]).await.unwrap();
    stage.until_state(&id, "ROLLED_BACK").await.unwrap();
}

async fn with_two_live(desk: &Desk) {
    let stage = &desk.stage;
    let blue = "org.example:hello@blue";
    stage.cli(&["deploy", "org.example:hello:1.0.0@blue", "--wait"]).await.unwrap();
    let one = stage.start("2.0.0", &[]).await.unwrap();
    let two = stage.cli(&["update", "start", blue, "2.0.0"]).await.unwrap();
    let two = two["updateId"].as_str().unwrap();
    for id in [&*one, two] {
        stage.until_state(id, "DEPLOYED").await.unwrap();
    }
    let current = ["routing current -r 1:1", "status current", "complete current"];
    let mut asks: Vec<Ask> = current.iter().map(|words| cli(format!("update {words}"))).collect();
    asks.push(get("/rolling-update/current"));
    asks.extend(change("current", "rollback"));
    let prefix = vec![cli("update status u"), get("/rolling-update/u/health")];
    let rows = vec![
        (Kind::Invalid, "invalid_argument", "'current' is ambiguous, name one of u", asks),
        (Kind::Invalid, "invalid_argument", "'u' is ambiguous, name one of u", prefix),
    ];
    desk.refuses("with two live updates", rows).await;
    for id in [&*one, two] {
        stage.cli(&["update", "rollback", id]).await.unwrap();
        stage.until_state(id, "ROLLED_BACK").await.unwrap();
    }
}

async fn while_routing(desk: &Desk) {
    let stage = &desk.stage;
    let id = stage.start("2.0.0", &[]).await.unwrap();
    stage.until_state(&id, "DEPLOYED").await.unwrap();
    stage.route("1:1").await.unwrap();
    let mut rows = beside_a_live_update();
    rows.extend(nothing_waits(&id));
    rows.push((
        Kind::State,
        "not_all_new",
        "routes 1:1; 'complete' needs a committed 1:0: run 'aether update routing",
        change(&id, "complete"),
    ));
    rows.push((
        Kind::State,
        "still_serving",
        "version 2.0.0 of org.example:hello takes traffic",
        vec![cli("undeploy org.example:hello:2.0.0"), Ask::Undeploy("org.example:hello:2.0.0")],
    ));
    desk.refuses("in ROUTING", rows).await;

    stage.route("1:0").await.unwrap();
    stage.cli(&["update", "complete", &id]).await.unwrap();
    let twice = vec![wrong_state("'complete' is possible in ROUTING", change(&id, "complete"))];
    desk.refuses_amid_change("after 'complete'", twice).await;
    let ended = stage.until_state(&id, "COMPLETED").await.unwrap();
    nobody_but_the_coordinator(&ended, "COMPLETING");
    desk.refuses("in COMPLETED", after_the_end(&id, "in state COMPLETED; ")).await;
}
