//! Versions that are good until they are deployed, take calls, or are all that
//! is left, and bad from then on.

use std::sync::Arc;

use aether_proto::v1;
use aether_tests::evidence::LongCall;
use aether_tests::{states, until};

use super::scene::{House, INSTANCES, Scene, Version, all_at_once, contains};

/// How it is noticed that a version misbehaves.
enum Seen {
    /// The update pauses with this code, and the pause says this.
    Pause(&'static str, &'static str),
    /// Instances have this code and say this; the update goes on.
    Reason(&'static str, &'static str),
    /// Not at all: it harms nobody.
    Harmless,
}

struct Case {
    version: Version,
    seen: Seen,
    /// Whether calls to it may fail, and whether they may get no answer.
    may_fail: bool,
    may_hang: bool,
}

const fn case(version: Version, seen: Seen) -> Case {
    Case { version, seen, may_fail: false, may_hang: false }
}

const fn failing(case: Case) -> Case {
    Case { may_fail: true, ..case }
}

/// Beyond what a busy machine does to a good version, and below `GIVE_UP_AFTER`
/// of the scene, and the latency of a slow one.
const LATENCY: [&str; 2] = ["--max-latency-ms", "2000"];

const IN_TRAFFIC: [Case; 7] = [
    failing(case(
        Version::new("failing", &["--once", "ONCE", "--fail-rate", "0.3"]),
        Seen::Pause("threshold_exceeded", "error rate"),
    )),
    failing(case(
        Version::new("cutting", &["--once", "ONCE", "--cut-rate", "0.3"]),
        Seen::Pause("threshold_exceeded", "error rate"),
    )),
    Case {
        version: Version {
            drain: "8s",
            ..Version::new(
                "tardy",
                &["--once", "ONCE", "--latency", "2500ms", "--slow-rate", "0.2"],
            )
        },
        seen: Seen::Pause("threshold_exceeded", "p99 latency"),
        may_fail: false,
        may_hang: true,
    },
    Case {
        version: Version::new("hanging", &["--once", "ONCE", "--hang-rate", "1"]),
        seen: Seen::Pause("threshold_exceeded", "p99 latency"),
        // Those that nobody gave up break when it is killed.
        may_fail: true,
        may_hang: true,
    },
    failing(case(
        Version::new("fragile", &["--once", "ONCE", "--crash-at-call", "20"]),
        Seen::Pause("crash_loop", "exited with status 101"),
    )),
    failing(case(
        // Data is what a process may change; the slice itself needs little.
        Version {
            before: Some("ulimit -d 200000"),
            ..Version::new("leaking", &["--once", "ONCE", "--leak", "150"])
        },
        Seen::Pause("crash_loop", "ended by signal SIGABRT"),
    )),
    case(
        Version::new("flapping", &["--once", "ONCE", "--flap", "2s"]),
        Seen::Reason("probe_failed", "/ready: http status 503"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_traffic_pauses_or_is_named_and_is_taken_back() {
    all_at_once(&IN_TRAFFIC, play_in_traffic).await;
}

async fn play_in_traffic(house: Arc<House>, case: &'static Case) {
    let scene = Scene::set(house, case.version).await;
    // The calls that a crash cuts off are errors, which would be noticed first.
    let crashes = matches!(case.seen, Seen::Pause("crash_loop", _));
    let errors = ["--max-error-rate", if crashes { "1" } else { "0.01" }];
    let update = scene.start(&[LATENCY, errors].concat()).await;
    scene.until_state(&update, "DEPLOYED").await;
    scene.load.phase("both are good");
    let stage = &scene.house.stage;
    stage.cli(&["update", "routing", &update, "-r", "1:1"]).await.unwrap();
    scene.load.until_requests(60).await;

    scene.load.phase("misbehaving");
    scene.provoke(None);
    is_noticed(&scene, &update, &case.seen).await;
    let seen = scene.until(&update, "an answer", |_| true).await;
    assert_eq!((seen.state.as_str(), seen.routing.as_str()), ("ROUTING", "1:1"), "{seen:#?}");
    if matches!(case.seen, Seen::Pause(..)) {
        let said = stage.refused(&["update", "routing", &update, "-r", "3:1"]).await.unwrap();
        assert!(said.contains("paused"), "{said}");
    }
    scene.roll_back(&update).await;
    scene.end(case.may_fail, case.may_hang).await;
}

async fn is_noticed(scene: &Scene, update: &str, seen: &Seen) {
    match seen {
        Seen::Harmless => {}
        Seen::Reason(code, text) => scene.is_named(update, code, text).await,
        Seen::Pause(code, text) => {
            let paused = scene.until(update, "a pause", |seen| seen.pause.is_some()).await;
            let pause = paused.pause.clone().unwrap();
            println!("{}: {}: {}", scene.name, pause.code, pause.message);
            assert_eq!(pause.code, *code, "{paused:#?}");
            assert!(pause.message.contains(text), "{paused:#?}");
            let verb = ["update", "explain", update];
            let seen = scene.house.stage.cli(&verb).await.unwrap();
            assert_eq!(seen["pause"]["code"], *code, "{seen:#}");
            assert!(contains(&seen["pause"]["message"], text), "{seen:#}");
        }
    }
}

const DEPLOYED: [Case; 4] = [
    case(
        Version::new("crashing", &["--once", "ONCE", "--crash-after", "0s"]),
        Seen::Pause("crash_loop", "exited with status 101"),
    ),
    case(
        Version::new("unready", &["--once", "ONCE", "--never-ready"]),
        Seen::Reason("probe_failed", "/ready: http status 503"),
    ),
    case(
        Version::new("mute", &["--once", "ONCE", "--hang-ready"]),
        Seen::Reason("probe_failed", "/ready: no answer within"),
    ),
    case(
        Version::new("stubborn", &["--ignore-sigterm", "--fork", "--flood", "16"]),
        Seen::Harmless,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_before_traffic_gets_none_and_is_taken_back() {
    all_at_once(&DEPLOYED, play_deployed).await;
}

async fn play_deployed(house: Arc<House>, case: &'static Case) {
    let scene = Scene::set(house, case.version).await;
    let update = scene.start(&LATENCY).await;
    scene.until_state(&update, "DEPLOYED").await;
    scene.load.phase("misbehaving");
    scene.provoke(None);
    is_noticed(&scene, &update, &case.seen).await;
    let stage = &scene.house.stage;
    if !matches!(case.seen, Seen::Harmless) {
        // One instance that is not found out yet would carry the ratio.
        let out = |seen: &v1::Update| {
            seen.pause.is_some() || seen.new_instances_state.iter().all(|i| !i.takes_calls)
        };
        scene.until(&update, "all instances to be out", out).await;
        let routing = ["update", "routing", &update, "-r", "1:1"];
        let said = stage.refused(&routing).await.unwrap();
        println!("{}: {said}", scene.name);
        scene.until_state(&update, "DEPLOYED").await;
    }
    if scene.version.name == "stubborn" {
        its_log_is_bounded_and_can_be_read(&scene, &update).await;
    }
    scene.roll_back(&update).await;
    if scene.version.name == "stubborn" {
        let seen = scene.until(&update, "an answer", |_| true).await;
        let how = "it did not end within 1s of SIGTERM and was killed";
        let killed = seen.history.iter().filter(|entry| entry.event.contains(how));
        assert!(killed.count() >= 1, "{:#?}", seen.history);
    }
    scene.end(false, false).await;
}

/// Files of a log beside each other are of 8 MiB, and four of a stream.
async fn its_log_is_bounded_and_can_be_read(scene: &Scene, update: &str) {
    let cluster = &scene.house.stage.cluster;
    let new = scene.new_instances(update).await;
    let logs = |id: &String| {
        let nodes = cluster.nodes.iter().filter(|node| node.roles.agent);
        let dirs = nodes.map(|node| node.data_dir().join("instances").join(id).join("logs"));
        dirs.into_iter().find(|dir| dir.is_dir()).expect("it writes somewhere")
    };
    for id in &new {
        let dir = logs(id);
        let rotated = || dir.join("stdout.log.3").is_file();
        until("its log to have been rotated often", rotated).await;
        let files = std::fs::read_dir(&dir).unwrap().flatten();
        let bytes: u64 = files.map(|file| file.metadata().map_or(0, |data| data.len())).sum();
        assert!(bytes <= 34 << 20, "{bytes} bytes in {}", dir.display());
        let said = cluster.cli(&["logs", id, "--tail", "2"]).await.unwrap();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stdout.contains("~~~~"), "{said:?}");
    }
}

const LAST: [Case; 3] = [
    failing(case(
        Version {
            drain: "60s",
            ..Version::new("quitting", &["--once", "ONCE.${INSTANCE}", "--exit-after", "0s"])
        },
        Seen::Reason("crash_loop", "exited with status 0"),
    )),
    case(
        Version {
            drain: "60s",
            ..Version::new("unready", &["--once", "ONCE.${INSTANCE}", "--never-ready"])
        },
        Seen::Reason("probe_failed", "/ready: http status 503"),
    ),
    case(
        Version {
            drain: "60s",
            ..Version::new("mute", &["--once", "ONCE.${INSTANCE}", "--hang-ready"])
        },
        Seen::Reason("probe_failed", "/ready: no answer within"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_while_the_old_version_leaves_is_taken_back() {
    all_at_once(&LAST, play_completing).await;
}

/// One instance misbehaves, so that the other one takes the calls, while one
/// of the old ones is kept by a call that does not end.
async fn play_completing(house: Arc<House>, case: &'static Case) {
    let scene = Scene::set(house, case.version).await;
    let update = scene.start(&LATENCY).await;
    scene.until_state(&update, "DEPLOYED").await;
    scene.load.phase("both are good");
    let held = LongCall::start(&scene.slice()).await;
    assert_eq!(held.version(), "1.0.0");
    let stage = &scene.house.stage;
    stage.cli(&["update", "routing", &update, "-r", "1:0"]).await.unwrap();
    scene.load.until_requests(60).await;
    stage.cli(&["update", "complete", &update]).await.unwrap();
    let one_left = |seen: &serde_json::Value| {
        seen["state"] == "COMPLETING" && states(&seen["oldInstancesState"]) == ["DRAINING"]
    };
    stage.until(&update, one_left).await.unwrap();

    scene.load.phase("misbehaving");
    let new = scene.new_instances(&update).await;
    assert_eq!(new.len(), INSTANCES);
    scene.provoke(Some(&new[0]));
    is_noticed(&scene, &update, &case.seen).await;
    let seen = scene.until(&update, "an answer", |_| true).await;
    assert_eq!(seen.state, "COMPLETING", "{seen:#?}");
    // The call goes on: its instance is one that comes back.
    scene.roll_back(&update).await;
    held.end().await;
    scene.end(case.may_fail, case.may_hang).await;
}
