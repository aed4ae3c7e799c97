//! What a completed update keeps warm, and for how long; also while leaders die.

use std::time::{Duration, Instant};

use aether_cluster::artifacts::EXAMPLE;
use aether_tests::evidence::{eventually, processes};
use aether_tests::{PATIENCE, Stage, stage, states, until_alone};
use serde_json::Value;

/// How long the old version is kept: two failovers take a few seconds of it.
const GRACE: Duration = Duration::from_secs(15);
/// How late its end may be noticed: the planner looks once a second, and a busy
/// machine lets it wait.
const LATE_MAX: Duration = Duration::from_secs(10);

/// Takes an update to its end; returns it as it is then.
async fn complete(stage: &Stage, version: &str, options: &[&str]) -> (String, Value) {
    let update = stage.start(version, options).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:0").await.unwrap();
    stage.cli(&["update", "complete", &update]).await.unwrap();
    let completed = stage.until_state(&update, "COMPLETED").await.unwrap();
    (update, completed)
}

/// Kills the leader, and starts it again once another one leads.
async fn fail_over(stage: &mut Stage) {
    let dead = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[dead].kill();
    stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[dead].start().unwrap();
    stage.cluster.ready(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_period_ends_on_time_across_two_failovers() {
    let mut stage = stage(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let grace = format!("{}s", GRACE.as_secs());
    let before = Instant::now();
    let (update, completed) =
        complete(&stage, "2.0.0", &["--cleanup", "GRACE_PERIOD", "--grace", &grace]).await;
    let remaining_ms = completed["retainedForMs"].as_i64().unwrap();
    let ends = Instant::now() + Duration::from_millis(remaining_ms as u64);
    assert!(ends >= before + GRACE, "{completed:#}");
    fail_over(&mut stage).await;
    fail_over(&mut stage).await;
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    if Instant::now() < ends {
        assert_eq!(slice["retainedVersion"], "1.0.0", "{slice:#}");
        assert_eq!(slice["retainedUpdate"], Value::String(update.clone()));
        assert_eq!(states(&slice["instancesState"]), ["READY"; 6], "{slice:#}");
    }
    let gone = |slice: &Value| slice["retainedVersion"].is_null();
    stage.until_verb(&["slices", EXAMPLE], "the end of the grace period", gone).await.unwrap();
    let off = Instant::now();
    // What is shown is rounded down to milliseconds, and log time is estimated
    // anew by each leader.
    let early = ends.saturating_duration_since(off);
    let late = off.saturating_duration_since(ends);
    println!("the grace period of {GRACE:?} ended {early:.1?} early, {late:.1?} late");
    assert!(early <= Duration::from_millis(500) && late <= LATE_MAX, "{early:?} {late:?}");
    until_alone(&stage, "2.0.0", 3).await;
    eventually("only the new processes", async || processes(&stage.cluster).len() == 3).await;
    let refused = stage.refused(&["update", "undo", &update]).await.unwrap();
    assert!(refused.contains("left no set that is still kept"), "{refused}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_keeps_the_old_version_until_told_and_the_plan_names_it() {
    let stage = stage(&[("1.0.0", &[]), ("2.0.0", &[]), ("3.0.0", &[])]).await;
    let (update, completed) = complete(&stage, "2.0.0", &["--cleanup", "MANUAL"]).await;
    assert!(completed["retainedForMs"].is_null(), "{completed:#}");
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    assert_eq!(states(&slice["instancesState"]), ["READY"; 6], "{slice:#}");

    // The plan of another start: what it removes, its peak, and its steps; and
    // nothing of it happens.
    let hash = |status: Value| status["stateHash"].as_str().unwrap().to_owned();
    let before = hash(stage.cli(&["status"]).await.unwrap());
    let plan = ["update", "plan", EXAMPLE, "3.0.0"];
    let planned = stage.cli(&plan).await.unwrap();
    assert_eq!(planned["retiresVersion"], "1.0.0", "{planned:#}");
    assert_eq!((&planned["instancesBefore"], &planned["instancesAfter"]), (&6.into(), &3.into()));
    assert!(planned["instancesPeak"].as_u64() >= Some(6), "{planned:#}");
    assert_eq!(planned["steps"][0]["state"], "PENDING");
    let last = planned["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(last["state"], "COMPLETED", "{planned:#}");
    let said = stage.cluster.cli(&[&plan[..], &["--detailed-exitcode"]].concat()).await.unwrap();
    assert_eq!(said.code, Some(10), "{said:?}");
    let same = ["update", "plan", EXAMPLE, "2.0.0", "--detailed-exitcode"];
    let said = stage.cluster.cli(&same).await.unwrap();
    assert_eq!(said.code, Some(0), "nothing to do: {said:?}");
    let said = stage.cluster.cli(&["update", "plan", EXAMPLE, "9.9.9"]).await.unwrap();
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.stderr.contains("artifact push"), "{said:?}");
    assert_eq!(hash(stage.cli(&["status"]).await.unwrap()), before, "a plan changes nothing");

    // How the two revisions differ, and what happened, with its place in the log.
    let diff = stage.cli(&["update", "diff", &update]).await.unwrap();
    let paths: Vec<&str> =
        diff["changes"].as_array().unwrap().iter().filter_map(|c| c["path"].as_str()).collect();
    assert!(paths.contains(&"version"), "{diff:#}");
    let history = stage.cli(&["update", "history", &update]).await.unwrap();
    let entries = history["entries"].as_array().unwrap();
    assert!(
        entries.windows(2).all(|pair| { pair[0]["index"].as_u64() < pair[1]["index"].as_u64() })
    );
    assert!(entries.iter().all(|entry| entry["actor"].as_str().is_some_and(|a| !a.is_empty())));

    stage.cli(&["update", "cleanup", "current"]).await.unwrap();
    until_alone(&stage, "2.0.0", 3).await;
    stage.refused(&["update", "cleanup", &update]).await.unwrap();
    stage.end().await;
}
