//! Versions that never come as far as DEPLOYED, or late.

use std::sync::Arc;

use super::scene::{House, INSTANCES, Scene, Version, all_at_once};

/// A version, how it is named, and what ends its second update by itself.
struct Case {
    version: Version,
    code: &'static str,
    text: &'static str,
    deadline: &'static str,
    /// What the second update does, its state then, and why.
    action: &'static str,
    end: &'static str,
    outcome: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        version: Version::new("mute", &["--hang-ready", "--ignore-sigterm", "--fork"]),
        code: "probe_failed",
        text: "/ready: no answer within",
        deadline: "4s",
        action: "rollback",
        end: "ROLLED_BACK",
        outcome: "deadline",
    },
    Case {
        version: Version::new("elsewhere", &["--listen-elsewhere"]),
        code: "port_closed",
        text: "nothing listens on",
        deadline: "4s",
        action: "fail",
        end: "FAILED",
        outcome: "deadline",
    },
    Case {
        version: Version::new("late", &["--listen-after", "1h"]),
        code: "port_closed",
        text: "nothing listens on",
        deadline: "4s",
        action: "rollback",
        end: "ROLLED_BACK",
        outcome: "deadline",
    },
    Case {
        version: Version::new("flapping", &["--flap", "2s"]),
        code: "probe_failed",
        text: "/ready: http status 503",
        deadline: "8s",
        action: "fail",
        end: "FAILED",
        outcome: "deadline",
    },
    Case {
        version: Version::new("content", &["--exit-after", "200ms"]),
        code: "crash_loop",
        text: "exited with status 0",
        deadline: "5m",
        action: "rollback",
        end: "ROLLED_BACK",
        outcome: "crash_loop",
    },
    Case {
        version: Version::new("crashing", &["--crash-after", "300ms", "--fork"]),
        code: "crash_loop",
        text: "exited with status 101",
        deadline: "5m",
        action: "fail",
        end: "FAILED",
        outcome: "crash_loop",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_never_becomes_healthy_is_named_and_the_action_follows() {
    all_at_once(&CASES, play).await;
}

async fn play(house: Arc<House>, case: &'static Case) {
    let scene = Scene::set(house, case.version).await;
    // Longer than what flaps stays up.
    let healthy = if case.version.name == "flapping" { "5s" } else { "1s" };
    let options = |action| {
        ["--healthy-time", healthy, "--deploy-timeout", case.deadline, "--on-failure", action]
    };

    scene.load.phase("misbehaving");
    let update = scene.start(&options("pause")).await;
    let paused = scene.until(&update, "a pause", |seen| seen.pause.is_some()).await;
    assert_eq!(paused.state, "DEPLOYING", "{paused:#?}");
    assert_eq!(paused.pause.as_ref().unwrap().code, case.outcome, "{paused:#?}");
    assert_eq!(paused.routing, "0:1", "{paused:#?}");
    let old = paused.old_instances_state.iter().filter(|i| i.state == "READY");
    assert_eq!(old.count(), INSTANCES, "{paused:#?}");
    scene.is_named(&update, case.code, case.text).await;
    scene.roll_back(&update).await;

    scene.load.phase("misbehaving");
    let update = scene.start(&options(case.action)).await;
    let new = scene.until(&update, "instances", |seen| !seen.new_instances_state.is_empty()).await;
    let new: Vec<_> = new.new_instances_state.into_iter().map(|i| i.instance_id).collect();
    let ended = ["ROLLED_BACK", "FAILED", "COMPLETED"];
    let seen = scene.until(&update, "its end", |seen| ended.contains(&seen.state.as_str())).await;
    assert_eq!(seen.state, case.end, "{seen:#?}");
    let outcome = seen.outcome.clone().unwrap();
    println!("{}: {}: {}", scene.name, outcome.code, outcome.message);
    assert_eq!(outcome.code, case.outcome, "{seen:#?}");
    let steady = "without a break";
    assert!(outcome.message.contains(case.text) || outcome.message.contains(steady), "{seen:#?}");
    scene.is_as_before(&new).await;
    scene.end(false, false).await;
}

const SLOW: [Version; 2] = [
    Version::new("sluggish", &["--listen-after", "1500ms"]),
    Version::new("dawdling", &["--start-delay", "1500ms"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_starts_slowly_is_waited_for() {
    all_at_once(&SLOW, play_slow).await;
}

async fn play_slow(house: Arc<House>, version: &'static Version) {
    let scene = Scene::set(house, *version).await;
    scene.load.phase("2.0.0 comes");
    let update = scene.start(&[]).await;
    scene.until_state(&update, "DEPLOYED").await;
    let verb = ["update", "routing", &update, "-r", "1:0"];
    scene.house.stage.cli(&verb).await.unwrap();
    scene.house.stage.cli(&["update", "complete", &update]).await.unwrap();
    scene.until_state(&update, "COMPLETED").await;
    scene.end(false, false).await;
}
