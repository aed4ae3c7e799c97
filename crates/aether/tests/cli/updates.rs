//! `aether update …`

use aether_proto::v1;
use tonic::Status;

use super::answers::{ended, fresh, instance, old, reason, refused, update};
use super::scene::Scene;

#[tokio::test]
async fn start() {
    let mut scene = Scene::new().await;
    let started = v1::Update { note: "room for 3 more instances".into(), ..update("PENDING") };
    scene.node.will_answer("Updates/Start", &started);
    scene.run("update start org.example:my-slice 2.0.0").await;
    scene
        .run(
            "update start org.example:my-slice@blue 2.0.0 -n 3 --max-error-rate 0.001 \
               --max-latency-ms 200 --manual-approval --cleanup grace_period --grace 1m \
               --deploy-timeout 2m --on-failure pause --healthy-time 500ms -o json",
        )
        .await;
    scene.node.will_stream(
        "Updates/Watch",
        vec![Ok(update("DEPLOYING")), Ok(update("DEPLOYING")), Ok(update("DEPLOYED"))],
    );
    scene.run("update start org.example:my-slice 2.0.0 --wait").await;
    let failed = ended("ROLLED_BACK", "crash_loop", "my-slice-1f-0 ended 5 times with status 1");
    scene.node.will_stream("Updates/Watch", vec![Ok(update("DEPLOYING")), Ok(failed)]);
    scene.run("update start org.example:my-slice 2.0.0 --wait").await;
    scene.node.will_stream("Updates/Watch", vec![Ok(update("DEPLOYING"))]);
    scene.run("update start org.example:my-slice 2.0.0 --wait --wait-timeout 4s").await;
    scene.ends("update_start");
}

#[tokio::test]
async fn start_by_steps() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Updates/Start", &by_steps(update("DEPLOYED")));
    scene.run("update start org.example:my-slice 2.0.0 --auto --on-step-failure rollback").await;
    scene.run("update start org.example:my-slice 2.0.0 --step-percent 20 --hold 30s").await;
    scene
        .run(
            "update start org.example:my-slice 2.0.0 --strategy blue-green --verify 1m \
             --auto-promote --supersede --patience 10m --warm-up 0s --one-way-from 1 -o json",
        )
        .await;
    scene.run("update start org.example:my-slice 2.0.0 --steps 1:x").await;
    scene
        .run(
            "update start org.example:my-slice 2.0.0 --strategy rolling --max-unavailable 2 \
             --batches 1,25% --stagger 30s -o json",
        )
        .await;
    scene.run("update start org.example:my-slice 2.0.0 --strategy recreate").await;
    scene.run("update start org.example:my-slice 2.0.0 --strategy shadow").await;
    scene.ends("update_start_by_steps");
}

/// A comparison that has not decided yet.
fn comparison() -> v1::Comparison {
    let tested = |odds| v1::Tested {
        worse_odds: odds,
        worse_odds_needed: 200.0,
        sound_odds: 7.5,
        sound_odds_needed: 100.0,
    };
    v1::Comparison {
        verdict: "continue".into(),
        detail: "errors 3 of 1000 beside 2 of 9000".into(),
        errors: Some(tested(12.25)),
        latency: Some(tested(0.5)),
        promote_if_alike_ms: None,
        roll_back_if_harmful_ms: Some(61_000),
    }
}

/// A gate that has said nothing yet.
fn gate_state() -> v1::GateState {
    v1::GateState {
        name: "errors".into(),
        when: "BEFORE".into(),
        step: 2,
        measured: 1,
        inconclusive: 1,
        last: "INCONCLUSIVE".into(),
        message: "no data".into(),
        ago_ms: Some(4_000),
        ..Default::default()
    }
}

/// An update between its first steps.
fn by_steps(update: v1::Update) -> v1::Update {
    let counts = |requests| v1::StepCounts { requests, errors: 0, slow: 1, timed: requests };
    let progress = v1::Progress {
        strategy: "CANARY".into(),
        steps: vec!["1:9 5m".into(), "1:0 5m".into()],
        step: 1,
        held_ms: 2_000,
        on_failure: "PAUSE".into(),
        patience_ms: 3_600_000,
        warm_up_ms: 10_000,
        new_counts: Some(counts(10)),
        old_counts: Some(counts(90)),
        gate_states: vec![gate_state()],
        ..Default::default()
    };
    v1::Update { progress: Some(progress), ..update }
}

#[tokio::test]
async fn changes() {
    let mut scene = Scene::new().await;
    for method in ["SetRouting", "Approve", "Pause", "Resume", "Promote", "Rollback", "Complete"] {
        scene.node.will_answer(&format!("Updates/{method}"), &update("ROUTING"));
    }
    scene
        .run_all(&[
            "update routing current -r 1:3",
            "update routing u1f --ratio 2:6 --force",
            "update approve u1f",
            "update approve u1f -r 2:6",
            "update pause u1f",
            "update pause u1f --why lunch",
            "update resume u1f",
            "update promote u1f",
            "update promote u1f --full --force --yes",
            "update rollback u1f",
            "update rollback u1f --now --force --yes",
            "update complete u1f",
            "update complete u1f --force -o yaml",
        ])
        .await;
    let waits = v1::Update { pending_routing: Some("1:1".into()), ..update("ROUTING") };
    scene.node.will_answer("Updates/SetRouting", &waits);
    scene.run("update routing u1f -r 1:1").await;
    scene.ends("update_changes");
}

#[tokio::test]
async fn waiting_for_the_end() {
    let mut scene = Scene::new().await;
    let (completed, failed) =
        (ended("COMPLETED", "", ""), ended("FAILED", "timeout", "not drained in time"));
    scene.node.will_answer("Updates/Complete", &update("COMPLETING"));
    scene.node.will_answer("Updates/Rollback", &update("ROLLING_BACK"));
    scene.node.will_stream("Updates/Watch", vec![Ok(update("COMPLETING")), Ok(completed)]);
    scene.run("update complete u1f --wait").await;
    scene.node.will_stream("Updates/Watch", vec![Ok(update("ROLLING_BACK")), Ok(failed)]);
    scene.run("update rollback u1f --wait").await;
    let rolled_back = ended("ROLLED_BACK", "operator", "asked for by tester");
    scene.node.will_stream("Updates/Watch", vec![Ok(rolled_back)]);
    scene.run("update rollback u1f --wait -o json").await;
    scene.ends("update_wait");
}

#[tokio::test]
async fn status_and_list() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Updates/Get", &update("ROUTING"));
    scene.run_all(&["update status current", "update status u1f -o json"]).await;
    scene.run("update status u1f -o yaml").await;
    let held_back = v1::Update {
        effective_routing: "0:1".into(),
        actual_new_ppm: None,
        counted_ms: None,
        pause: Some(v1::Reason {
            code: "threshold_exceeded".into(),
            message: "error rate 4 % is above 1 %".into(),
        }),
        deadline: Some(v1::Deadline { in_ms: -1_500, action: "ROLLBACK".into() }),
        waits_for: vec!["one thing".into(), "another".into()],
        as_of: old(),
        ..update("ROUTING")
    };
    scene.node.will_answer("Updates/Get", &held_back);
    scene.run("update status u1f --stale").await;
    let list = v1::ListUpdatesResponse {
        updates: vec![update("ROUTING"), ended("COMPLETED", "", "")],
        as_of: old(),
        ..Default::default()
    };
    scene.node.will_answer("Updates/List", &list);
    scene.run_all(&["update list --all --stale", "update list -o json"]).await;
    let none = v1::ListUpdatesResponse { as_of: fresh(), ..Default::default() };
    scene.node.will_answer("Updates/List", &none);
    scene.run_all(&["update list", "update list -o json", "update list -o yaml"]).await;
    scene.ends("update_status");
}

#[tokio::test]
async fn health_and_explain() {
    let mut scene = Scene::new().await;
    let version = |version: &str, p99| v1::VersionHealth {
        version: version.into(),
        request_count: 1_000,
        error_count: 1,
        error_rate: 0.001,
        avg_latency_ms: 45.0,
        p99_latency_ms: p99,
        window_requests: 250,
        window_error_rate: 0.04,
        window_p99_ms: p99,
        instances: vec![v1::InstanceHealth {
            instance_id: format!("my-slice-{version}"),
            node: "n1".into(),
            request_count: 1_000,
            error_count: 1,
            error_rate: 0.001,
            avg_latency_ms: 45.0,
            p99_latency_ms: p99,
        }],
    };
    let health = v1::UpdateHealth {
        update_id: "u1f".into(),
        old_version: Some(version("1.0.0", Some(120.0))),
        new_version: Some(version("2.0.0", None)),
        collected_at: 1_704_067_200_000,
        verdict: "exceeded".into(),
        detail: "error rate 4 % is above 1 %".into(),
        as_of: old(),
        exceeded: vec![v1::Exceeded {
            figure: "error_rate".into(),
            value: 0.04,
            threshold: 0.01,
            since_ms: 1_500,
        }],
        max_error_rate: 0.01,
        max_latency_ms: 500,
        min_requests: 20,
        pause: Some(reason("threshold_exceeded", "error rate 4 % is above 1 %")),
        paused_ms: Some(2_500),
        comparison: Some(comparison()),
        gates: vec![gate_state()],
    };
    scene.node.will_answer("Updates/Health", &health);
    scene.run_all(&["update health u1f", "update health u1f -o yaml"]).await;
    let explanation = v1::Explanation {
        update_id: "u1f".into(),
        state: "COMPLETING".into(),
        waits: vec![v1::Wait {
            code: "session_ack".into(),
            message: "ingress n2 has not applied index 40".into(),
            since_ms: 2_500,
            unblock: "it acks, or --force".into(),
        }],
        deadline: Some(v1::Deadline { in_ms: 60_000, action: "PAUSE".into() }),
        next: vec!["aether update complete u1f --force".into()],
        as_of: fresh(),
        ..Default::default()
    };
    scene.node.will_answer("Updates/Explain", &explanation);
    scene.run_all(&["update explain u1f", "update explain u1f -o json"]).await;
    scene.ends("update_health_explain");
}

#[tokio::test]
async fn watch() {
    let mut scene = Scene::new().await;
    let story = |last: v1::Update| vec![Ok(update("DEPLOYED")), Ok(update("ROUTING")), Ok(last)];
    scene.node.will_stream("Updates/Watch", story(ended("COMPLETED", "", "")));
    let lines = ["update watch current", "update watch u1f -o json", "update watch u1f -o yaml"];
    scene.run_all(&lines).await;
    scene.node.will_stream("Updates/Watch", story(ended("FAILED", "lost", "n1 is lost")));
    scene.run("update watch u1f").await;
    scene.node.will_refuse_method("Updates/Watch", Status::not_found("update u9 is not there"));
    scene.run("update watch u9").await;
    scene.node.will_refuse_method("Updates/Watch", refused());
    scene.run("update watch u9").await;
    scene.ends("update_watch");
}

/// A version that is kept warm after the end.
fn kept() -> v1::Update {
    v1::Update {
        cleanup_policy: "GRACE_PERIOD".into(),
        grace_ms: 300_000,
        retained: true,
        retained_for_ms: Some(61_000),
        routing: "1:0".into(),
        old_instances_state: vec![instance("my-slice-5-0", "1.0.0", "READY")],
        ..ended("COMPLETED", "", "")
    }
}

#[tokio::test]
async fn what_is_kept_is_taken_back_or_removed() {
    let mut scene = Scene::new().await;
    let undone = |routing: &str| v1::Update {
        update_id: "u2b".into(),
        old_version: Some("2.0.0".into()),
        new_version: "1.0.0".into(),
        routing: routing.into(),
        note: "undoes update u1f".into(),
        ..update("ROUTING")
    };
    scene.node.will_answer("Updates/Undo", &undone("1:0"));
    scene.run_all(&["update undo u1f", "update undo current --force -o json"]).await;
    scene.node.will_answer("Updates/Undo", &undone("1:3"));
    scene.run("update undo u1f -r 1:3 --cleanup grace_period --grace 1m").await;
    scene.node.will_answer("Updates/Cleanup", &kept());
    scene.run_all(&["update cleanup current", "update cleanup u1f --yes -o yaml"]).await;
    let gone = "update u1f keeps no version any more; 'aether update list --all' lists updates";
    scene.node.will_refuse(Status::failed_precondition(gone));
    scene.run_all(&["update undo u1f", "update cleanup u1f"]).await;
    scene.ends("update_undo");
}

#[tokio::test]
async fn set() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Updates/SetOptions", &update("ROUTING"));
    scene
        .run_all(&[
            "update set current --max-error-rate 0.02",
            "update set u1f --preset relaxed --max-latency-ms 900 --min-requests 5 \
             --manual-approval --cleanup manual --grace 1m --deploy-timeout 2m \
             --on-failure pause --healthy-time 500ms --if-modified 41 -o json",
            "update set u1f --manual-approval false",
            "update set u1f",
            "update set u1f --if-modified 41",
        ])
        .await;
    let changed = "update u1f was modified at 42, not 41; look at it and try again";
    scene.node.will_refuse(Status::aborted(changed));
    scene.run("update set u1f --preset strict --if-modified 41").await;
    scene.ends("update_set");
}

fn change(path: &str, before: Option<&str>, after: Option<&str>) -> v1::FieldChange {
    let owned = |value: Option<&str>| value.map(str::to_owned);
    v1::FieldChange { path: path.into(), before: owned(before), after: owned(after) }
}

fn plan() -> v1::UpdatePlan {
    let step = |after_ms, by_person, state: &str, routing: &str, event: &str| v1::PlanStep {
        after_ms,
        state: state.into(),
        routing: routing.into(),
        event: event.into(),
        by_person,
        instances: 6,
    };
    v1::UpdatePlan {
        same_version: false,
        artifact_base: "org.example:my-slice".into(),
        old_version: Some("1.0.0".into()),
        new_version: "2.0.0".into(),
        instances: 3,
        has_changes: true,
        changes: vec![
            change("version", Some("\"1.0.0\""), Some("\"2.0.0\"")),
            change("run.env.LEVEL", None, Some(&format!("\"{}\"", "x".repeat(80)))),
        ],
        steps: vec![
            step(0, true, "PENDING", "0:1", "started"),
            step(1_000, false, "DEPLOYED", "0:1", "all instances are ready"),
            step(1_000, true, "ROUTING", "1:0", "routing set"),
        ],
        refused_ratios: vec![v1::PlanRefusedRatio { routing: "3:1".into(), needed: 3, ready: 1 }],
        retires_version: Some("0.9.0".into()),
        instances_before: 3,
        instances_peak: 6,
        instances_after: 3,
        nodes: vec![v1::PlanNode {
            node: "n1".into(),
            before: 3,
            peak: 6,
            after: 3,
            total_peak: 7,
            instances_max: 64,
        }],
        least_ms: 1_000,
        stuck: "it waits for an approval of each routing change".into(),
        as_of: fresh(),
        refused: None,
    }
}

#[tokio::test]
async fn planned() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Updates/Plan", &plan());
    let line = "update plan org.example:my-slice 2.0.0";
    for more in ["", "--detailed-exitcode -n 3", "-o json", "-o yaml"] {
        scene.run(&format!("{line} {more}")).await;
    }
    let refused = |code: &str, message: &str, has_changes| v1::UpdatePlan {
        refused: Some(reason(code, message)),
        has_changes,
        ..plan()
    };
    let full = refused("no_capacity", "no node has room for 1 of 3 instances", true);
    scene.node.will_answer("Updates/Plan", &full);
    scene.run(&format!("{line} --detailed-exitcode")).await;
    let same = v1::UpdatePlan {
        changes: Vec::new(),
        steps: Vec::new(),
        ..refused("same_revision", "version 2.0.0 serves already", false)
    };
    scene.node.will_answer("Updates/Plan", &same);
    scene.run(&format!("{line} --detailed-exitcode")).await;
    scene.ends("update_plan");
}

#[tokio::test]
async fn history() {
    let mut scene = Scene::new().await;
    let mut entries = update("ROUTING").history;
    entries.push(v1::HistoryEntry {
        index: 55,
        wall_ms: 1_704_067_260_000,
        actor: "coordinator".into(),
        reason: Some(reason("threshold_exceeded", "error rate 4 % is above 1 %")),
        ..entries[1].clone()
    });
    let history = v1::UpdateHistory {
        update_id: "u1f".into(),
        artifact_base: "org.example:my-slice".into(),
        entries,
        as_of: old(),
        left_out: 403,
    };
    scene.node.will_answer("Updates/History", &history);
    for format in ["", "-o json", "-o yaml"] {
        scene.run(&format!("update history u1f {format}")).await;
    }
    scene.ends("update_history");
}

#[tokio::test]
async fn compared() {
    let mut scene = Scene::new().await;
    let revision = |number, version: &str| v1::Revision {
        config: None,
        restarts: 0,
        number,
        version: version.into(),
        sha256: "0123456789abcdef".repeat(4),
    };
    let differ = v1::RevisionDiff {
        slice: "org.example:my-slice".into(),
        from: Some(revision(1, "1.0.0")),
        to: Some(revision(2, "2.0.0")),
        changes: plan().changes,
        as_of: old(),
    };
    scene.node.will_answer("Updates/Diff", &differ);
    scene
        .run_all(&[
            "update diff current",
            "update diff org.example:my-slice 1 2 -o json",
            "update diff org.example:my-slice 1 -o yaml",
            "update diff u1f 3",
            "update diff org.example:my-slice",
        ])
        .await;
    let same = v1::RevisionDiff {
        to: Some(revision(1, "1.0.0")),
        changes: Vec::new(),
        as_of: fresh(),
        ..differ
    };
    scene.node.will_answer("Updates/Diff", &same);
    scene.run("update diff org.example:my-slice 1").await;
    scene.ends("update_diff");
}
