//! Versions that cannot run: the reason is named where people look, what was
//! asked for happens, and nobody who calls the slice notices.

use std::collections::BTreeSet;

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::Load;
use aether_invoker::Invoker;
use aether_tests::{Stage, assert_none_failed, ids, stage, states, until_alone};
use serde_json::Value;

/// Requests per second.
const RATE: u32 = 300;
/// Requests that are looked at after each step.
const ENOUGH: u64 = 150;
/// Instances of the slice.
const INSTANCES: usize = 3;

/// A version that cannot run.
struct Kind {
    version: &'static str,
    /// What an instance's reason says.
    code: &'static str,
    text: &'static str,
}

const NEVER_READY: Kind =
    Kind { version: "2.0.0", code: "probe_failed", text: "/ready: http status 503" };
const CRASHING: Kind = Kind { version: "3.0.0", code: "crash_loop", text: "exited with status 7" };
const DEAF: Kind = Kind { version: "4.0.0", code: "port_closed", text: "nothing listens on" };

/// A cluster under load, with 1.0.0 deployed.
struct Scene {
    stage: Stage,
    invoker: Invoker,
    load: Load,
    old: Vec<String>,
}

impl Scene {
    async fn set() -> Self {
        let stage = stage(&[
            ("1.0.0", &[]),
            (NEVER_READY.version, &["--never-ready"]),
            (CRASHING.version, &["--exit-on-start", "7"]),
            (DEAF.version, &["--no-listen"]),
        ])
        .await;
        let old = ids(&stage).await;
        let invoker = stage.invoker("caller").await.unwrap();
        let load = Load::start(stage.ways(&invoker), "/", RATE, "1.0.0 alone");
        load.until_requests(ENOUGH).await;
        Self { stage, invoker, load, old }
    }

    async fn start(&self, kind: &Kind, options: &[&str]) -> String {
        self.load.phase(&format!("{} {}", kind.code, options.join(" ")));
        self.stage.start(kind.version, options).await.unwrap()
    }

    /// `status` and `explain` name what is wrong with the version while the
    /// update waits, which it does in a pause.
    async fn is_named(&self, kind: &Kind, update: &str, pause: &str) {
        let named = |seen: &Value| {
            let instances = seen["newInstancesState"].as_array().map(Vec::as_slice);
            let has_reason = |instance: &Value| {
                let reason = &instance["reason"];
                reason["code"] == kind.code && contains(&reason["message"], kind.text)
            };
            seen["pause"].is_object() && instances.unwrap_or_default().iter().all(has_reason)
        };
        let seen = self.stage.until(update, named).await.unwrap();
        assert_eq!(seen["state"], "DEPLOYING", "{seen:#}");
        assert_eq!(seen["pause"]["code"], pause, "{seen:#}");
        assert!(contains(&seen["pause"]["message"], kind.text), "{seen:#}");
        assert_eq!(seen["routing"], "0:1", "{seen:#}");
        assert_eq!(seen["newInstancesState"].as_array().unwrap().len(), INSTANCES, "{seen:#}");
        assert_eq!(states(&seen["oldInstancesState"]), ["READY"; INSTANCES], "{seen:#}");
        println!("pause: {}: {}", seen["pause"]["code"], seen["pause"]["message"]);

        let explains = |seen: &Value| {
            let waits = seen["waits"].as_array().map(Vec::as_slice).unwrap_or_default();
            waits.iter().any(|wait| {
                wait["code"] == "instances_ready"
                    && contains(&wait["message"], kind.code)
                    && contains(&wait["message"], kind.text)
                    && contains(&wait["unblock"], "aether logs")
            })
        };
        let verb = ["update", "explain", update];
        let seen = self.stage.until_verb(&verb, "the reason", explains).await.unwrap();
        println!("explain: {}", seen["waits"][0]["message"]);
        assert_eq!(seen["deadline"]["action"], "ALERT", "a pause ends for nobody: {seen:#}");
    }

    /// Waits for the end, which the reason is kept with, and looks at what the
    /// old version did meanwhile: nothing.
    async fn ends(&self, update: &str, state: &str) -> Value {
        let ended = |seen: &Value| ["ROLLED_BACK", "FAILED", "COMPLETED"].contains(&text(seen));
        let seen = self.stage.until(update, ended).await.unwrap();
        assert_eq!(seen["state"], state, "{seen:#}");
        println!("{state}: {}: {}", seen["outcome"]["code"], seen["outcome"]["message"]);
        until_alone(&self.stage, "1.0.0", INSTANCES).await;
        assert_eq!(ids(&self.stage).await, self.old, "the old instances are the same ones");
        self.load.phase(state);
        self.load.until_requests(ENOUGH).await;
        seen
    }

    /// What the instances of a version said last can be read when they are gone,
    /// by the version and by each id.
    async fn is_still_said(&self, version: &str, line: &str) {
        let target = format!("{EXAMPLE}:{version}");
        let said = self.stage.cluster.cli(&["logs", &target]).await.unwrap();
        assert_eq!(said.code, Some(0), "{said:?}");
        let ids: BTreeSet<&str> =
            said.stdout.lines().filter_map(|line| Some(line.split_once(" | ")?.0)).collect();
        assert_eq!(ids.len(), INSTANCES, "{said:?}");
        for id in ids {
            assert!(said.stderr.contains(&format!("instance {id} ({version}) has ")), "{said:?}");
            let said = self.stage.cluster.cli(&["logs", id]).await.unwrap();
            assert_eq!(said.code, Some(0), "{said:?}");
            assert!(said.stdout.contains(&format!("{id} | {line}")), "{said:?}");
            assert!(said.stderr.contains(&format!("instance {id} ({version}) has ")), "{said:?}");
        }
    }

    async fn end(self) {
        let phases = self.load.stop().await;
        assert_none_failed(&phases);
        for phase in &phases {
            let others: Vec<_> = phase.versions.keys().filter(|v| *v != "1.0.0").collect();
            assert!(others.is_empty(), "in '{}': {others:?}", phase.name);
        }
        self.invoker.close().await;
        self.stage.end().await;
    }
}

fn text(seen: &Value) -> &str {
    seen["state"].as_str().unwrap_or_default()
}

fn contains(text: &Value, part: &str) -> bool {
    text.as_str().is_some_and(|text| text.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_in_status_and_explain_and_the_update_pauses() {
    let scene = Scene::set().await;
    // A crash loop is certain before any deadline; the others only then.
    for (kind, deadline, pause) in [
        (&NEVER_READY, "3s", "deadline"),
        (&DEAF, "3s", "deadline"),
        (&CRASHING, "5m", "crash_loop"),
    ] {
        let options = ["--deploy-timeout", deadline, "--on-failure", "pause"];
        let update = scene.start(kind, &options).await;
        scene.is_named(kind, &update, pause).await;
        scene.stage.cli(&["update", "rollback", &update]).await.unwrap();
        scene.ends(&update, "ROLLED_BACK").await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_run_is_rolled_back_or_fails_by_itself() {
    let scene = Scene::set().await;
    for (kind, deadline, action, state, code) in [
        (&NEVER_READY, "3s", "rollback", "ROLLED_BACK", "deadline"),
        (&DEAF, "3s", "fail", "FAILED", "deadline"),
        (&CRASHING, "5m", "rollback", "ROLLED_BACK", "crash_loop"),
        (&CRASHING, "5m", "fail", "FAILED", "crash_loop"),
    ] {
        let options = ["--deploy-timeout", deadline, "--on-failure", action];
        let update = scene.start(kind, &options).await;
        let seen = scene.ends(&update, state).await;
        if code == "crash_loop" && action == "rollback" {
            scene.is_still_said(kind.version, "ending at once with status 7").await;
        }
        assert_eq!(seen["outcome"]["code"], code, "{seen:#}");
        assert!(contains(&seen["outcome"]["message"], kind.text), "{seen:#}");
        assert_eq!(seen["routing"], "0:1", "{seen:#}");
        let by_itself = seen["history"].as_array().unwrap().iter().any(|entry| {
            entry["actor"] == "coordinator" && contains(&entry["event"], "rolling back")
        });
        assert!(by_itself, "{seen:#}");
    }
    scene.end().await;
}
