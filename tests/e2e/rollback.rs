//! The way back, from every state that an update waits in, under load.
//!
//! PENDING is not here: it lasts one pass of the planner, and a start that has
//! no room is refused, so nothing that a person can do holds an update there.
//! `aether-core/tests/update/scenarios.rs` rolls back from it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aether_cluster::load::{Load, Phase};
use aether_invoker::{Invoker, SliceHandle};
use aether_proto::v1;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_tests::{
    PATIENCE, Stage, Versions, assert_none_failed, ids, phase, stage, states, until_alone,
};
use http::Request;
use http_body_util::{BodyExt, Empty};
use serde_json::Value;
use tokio::task::JoinHandle;

/// Requests per second.
const RATE: u32 = 300;
/// Requests that are looked at on either side of a step.
const ENOUGH: u64 = 150;
/// Instances of the slice: `B` of the capacity guard.
const INSTANCES: u64 = 3;
/// How long after the answer a call may still start on the new version.
const LATE_MAX: Duration = Duration::from_millis(100);

/// A cluster under load, watched.
struct Scene {
    stage: Stage,
    invoker: Invoker,
    load: Load,
    picks: Picks,
    answers: Vec<Answered>,
}

/// When one rollback was asked for and answered, and what was seen of it.
struct Answered {
    from: &'static str,
    asked: Instant,
    at: Instant,
    last_pick: Option<Instant>,
}

impl Scene {
    async fn set(versions: Versions<'_>) -> Self {
        let stage = stage(versions).await;
        let invoker = stage.invoker("caller").await.unwrap();
        let load = Load::start(stage.ways(&invoker), "/", RATE, "1.0.0 alone");
        let picks = Picks::watch(stage.slice(&invoker));
        load.until_requests(ENOUGH).await;
        Self { stage, invoker, load, picks, answers: Vec::new() }
    }

    /// Takes an update to ROUTING at a ratio. What is called by it belongs to a
    /// phase of its own, not to what came before.
    async fn at_ratio(&self, ratio: &str) -> String {
        let update = self.stage.start("2.0.0", &[]).await.unwrap();
        self.stage.until_state(&update, "DEPLOYED").await.unwrap();
        self.load.phase(ratio);
        self.stage.route(ratio).await.unwrap();
        update
    }

    /// Rolls back and looks until the old version is whole and alone.
    async fn roll_back(&mut self, update: &str, from: &'static str) -> v1::Update {
        let seen = self.stage.cli(&["update", "status", update]).await.unwrap();
        assert_eq!(seen["state"].as_str(), from.split(',').next(), "{seen:#}");
        // Over a connection that is open already: a process of the command
        // line takes longer to end than this is to measure.
        let leader = self.stage.cluster.leader(PATIENCE).await.unwrap();
        let mut updates = UpdatesClient::new(self.stage.cluster.channel(leader));
        updates.list(v1::ListUpdatesRequest::default()).await.unwrap();
        let request = v1::RollbackRequest { update_id: update.to_owned(), ..Default::default() };
        let asked = Instant::now();
        let answer = updates.rollback(request).await.unwrap().into_inner();
        let at = Instant::now();
        self.load.phase(&format!("back from {from}"));
        assert_eq!(answer.state, "ROLLING_BACK", "{answer:#?}");
        self.is_refused(update).await;
        self.stage
            .until(update, |seen| {
                assert_capacity(seen);
                seen["state"] == "ROLLED_BACK"
            })
            .await
            .unwrap();
        self.answers.push(Answered { from, asked, at, last_pick: self.picks.last() });
        self.load.phase(&format!("after {from}"));
        self.is_refused(update).await;
        self.is_whole().await;
        let ended = self.stage.cli(&["update", "status", update]).await.unwrap();
        assert_eq!(ended["routing"], "0:1", "{ended:#}");
        self.load.until_requests(ENOUGH).await;
        answer
    }

    /// A rollback is never rolled back.
    async fn is_refused(&self, update: &str) {
        let said = self.stage.refused(&["update", "rollback", update]).await.unwrap();
        assert!(said.contains("ROLL"), "the refusal names the state: {said}");
    }

    /// The old version serves alone and with all its instances.
    async fn is_whole(&self) {
        until_alone(&self.stage, "1.0.0", INSTANCES as usize).await;
        let table = self.stage.slice(&self.invoker).table().expect("the slice has a table");
        assert!(table.new.is_none() || table.weights.new_side() == 0, "{table:?}");
    }

    /// Ends the load, checks what it counted, and ends the cluster.
    async fn end(self) {
        let phases = self.load.stop().await;
        assert_none_failed(&phases);
        for answered in &self.answers {
            answered.check(&phases);
        }
        self.invoker.close().await;
        self.stage.end().await;
    }
}

impl Answered {
    fn check(&self, phases: &[Phase]) {
        let back = phase(phases, &format!("back from {}", self.from));
        let http = back.versions.get("2.0.0").and_then(|count| count.last_start);
        let late = |last: Option<Instant>| {
            last.map_or(Duration::ZERO, |last| last.saturating_duration_since(self.at))
        };
        let (http, picked) = (late(http), late(self.last_pick));
        println!(
            "back from {}: last start of a request that 2.0.0 answered {http:.1?}, last pick of \
             2.0.0 {picked:.1?} after the answer, which took {:.1?}",
            self.from,
            self.at - self.asked
        );
        assert_eq!(phase(phases, &format!("after {}", self.from)).answers("2.0.0"), 0);
        if !self.from.ends_with("late") {
            assert!(http <= LATE_MAX && picked <= LATE_MAX, "from {}", self.from);
        }
    }
}

/// Asks an embedded invoker a thousand times a second where a call would go,
/// which shows the moment of the switch better than a few hundred requests.
struct Picks {
    last: Arc<Mutex<Option<Instant>>>,
    task: JoinHandle<()>,
}

impl Picks {
    fn watch(slice: SliceHandle) -> Self {
        let last = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&last);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                // Dropped at once, a pick is no evidence and holds nothing.
                let is_new = slice.pick().is_ok_and(|pick| pick.version().to_string() == "2.0.0");
                if is_new {
                    *shared.lock().unwrap() = Some(Instant::now());
                }
            }
        });
        Self { last, task }
    }

    /// When a pick gave the new version last.
    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap()
    }
}

impl Drop for Picks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// No side has more weight than its instances carry: `w * B <= ready * T`.
/// Instances that fail a probe on a busy machine were not taken away by us.
fn assert_capacity(seen: &Value) {
    // An update that has ended lists no instances: they are of the slice.
    if seen["state"] == "ROLLED_BACK" {
        return;
    }
    let carrying = |list: &str| {
        let carries = |state: &&str| ["READY", "UNREADY", "UNREACHABLE"].contains(state);
        states(&seen[list]).into_iter().filter(carries).count() as u64
    };
    let routing = seen["routing"].as_str().unwrap();
    let (new, old) = routing.split_once(':').unwrap();
    let (new, old): (u64, u64) = (new.parse().unwrap(), old.parse().unwrap());
    for (weight, list) in [(new, "newInstancesState"), (old, "oldInstancesState")] {
        let carried = weight * INSTANCES <= carrying(list) * (new + old);
        assert!(carried, "{routing} is more than {list} carries: {seen:#}");
    }
}

/// A call that an old instance is busy with for a while.
fn slow_call(slice: &SliceHandle, ms: u64) -> JoinHandle<()> {
    let slice = slice.clone();
    tokio::spawn(async move {
        let request = Request::get(format!("/slow?ms={ms}")).body(Empty::new()).unwrap();
        let response = slice.send(request).await.expect("the instance was not stopped");
        assert_eq!(response.headers()["x-aether-version"], "1.0.0");
        assert!(response.status().is_success());
        response.into_body().collect().await.expect("the instance was not stopped");
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_before_traffic_leaves_the_old_version_as_it_was() {
    let mut scene =
        Scene::set(&[("1.0.0", &[]), ("2.0.0", &[]), ("2.0.1", &["--never-ready"])]).await;
    let before = ids(&scene.stage).await;

    let update = scene.stage.start("2.0.1", &[]).await.unwrap();
    let starting = |seen: &Value| {
        seen["state"] == "DEPLOYING"
            && states(&seen["newInstancesState"]) == ["STARTING"; INSTANCES as usize]
    };
    scene.stage.until(&update, starting).await.unwrap();
    scene.roll_back(&update, "DEPLOYING").await;

    let update = scene.stage.start("2.0.0", &[]).await.unwrap();
    scene.stage.until_state(&update, "DEPLOYED").await.unwrap();
    scene.roll_back(&update, "DEPLOYED").await;

    assert_eq!(ids(&scene.stage).await, before, "no old instance was replaced");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_with_the_old_set_whole_takes_every_call_back_at_once() {
    let mut scene = Scene::set(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let before = ids(&scene.stage).await;

    let update = scene.at_ratio("3:1").await;
    scene.load.until_requests(ENOUGH).await;
    scene.roll_back(&update, "ROUTING").await;

    // Each old instance is busy, so that none is stopped before its drain time
    // of 10 s is over. A session of their own, so that each gets one.
    let holder = scene.stage.invoker("holder").await.unwrap();
    let slice = scene.stage.slice(&holder);
    let slow: Vec<_> = (0..INSTANCES).map(|_| slow_call(&slice, 9_000)).collect();
    let update = scene.at_ratio("1:0").await;
    scene.load.until_requests(ENOUGH).await;
    scene.stage.cli(&["update", "complete", &update]).await.unwrap();
    let draining =
        |seen: &Value| states(&seen["oldInstancesState"]) == ["DRAINING"; INSTANCES as usize];
    scene.stage.until(&update, draining).await.unwrap();
    let answer = scene.roll_back(&update, "COMPLETING, early").await;
    assert_eq!(answer.routing, "0:1", "all at once: {answer:#?}");
    for call in slow {
        call.await.unwrap();
    }
    assert_eq!(ids(&scene.stage).await, before, "no old instance was replaced");
    holder.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_takes_every_call_back_to_the_set_that_was_kept_warm() {
    let mut scene = Scene::set(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let before = ids(&scene.stage).await;
    let update = scene.at_ratio("1:0").await;
    let kept = ["--cleanup", "GRACE_PERIOD", "--grace", "10m"];
    scene.stage.cli(&[&["update", "set", &update][..], &kept].concat()).await.unwrap();
    scene.stage.cli(&["update", "complete", &update]).await.unwrap();
    let completed = scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    assert_eq!(completed["retained"], true, "{completed:#}");
    scene.load.phase("2.0.0 alone");
    scene.load.until_requests(ENOUGH).await;

    let leader = scene.stage.cluster.leader(PATIENCE).await.unwrap();
    let mut updates = UpdatesClient::new(scene.stage.cluster.channel(leader));
    updates.list(v1::ListUpdatesRequest::default()).await.unwrap();
    let request = v1::UndoRequest { update_id: "current".to_owned(), ..Default::default() };
    let asked = Instant::now();
    let undo = updates.undo(request).await.unwrap().into_inner();
    let at = Instant::now();
    scene.load.phase("back from COMPLETED");
    assert_eq!((undo.state.as_str(), undo.routing.as_str()), ("ROUTING", "1:0"), "{undo:#?}");
    assert_eq!(undo.new_version, "1.0.0");
    let states: Vec<&str> = undo.history.iter().map(|entry| entry.state.as_str()).collect();
    assert_eq!(states, ["DEPLOYED", "ROUTING"], "it starts deployed: the set was warm");
    scene.load.until_requests(ENOUGH).await;
    let last_pick = scene.picks.last();
    scene.answers.push(Answered { from: "COMPLETED", asked, at, last_pick });
    scene.load.phase("after COMPLETED");
    scene.load.until_requests(ENOUGH).await;

    // What was undone cannot be undone again, and the undo ends as any update.
    scene.stage.refused(&["update", "undo", &update]).await.unwrap();
    scene.stage.cli(&["update", "complete", &undo.update_id]).await.unwrap();
    scene.is_whole().await;
    assert_eq!(ids(&scene.stage).await, before, "nothing was started for it");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_with_one_old_instance_left_restores_capacity_before_it_routes() {
    let mut scene = Scene::set(&[("1.0.0", &["--start-delay", "1s"]), ("2.0.0", &[])]).await;
    let holder = scene.stage.invoker("holder").await.unwrap();
    let slow = slow_call(&scene.stage.slice(&holder), 9_000);
    let update = scene.at_ratio("1:0").await;
    scene.stage.cli(&["update", "complete", &update]).await.unwrap();
    let one_left = |seen: &Value| states(&seen["oldInstancesState"]) == ["DRAINING"];
    scene.stage.until(&update, one_left).await.unwrap();
    let answer = scene.roll_back(&update, "COMPLETING, late").await;
    // One of three is ready, so it gets a third.
    assert_eq!(answer.routing, "2:1", "{answer:#?}");
    assert!(answer.note.contains("2:1"), "{answer:#?}");
    slow.await.unwrap();
    holder.close().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_with_every_old_instance_stopping_goes_back_as_new_ones_become_ready() {
    // The old version takes its 5 s of grace, so that the update waits for it.
    let mut scene =
        Scene::set(&[("1.0.0", &["--ignore-sigterm", "--start-delay", "1s"]), ("2.0.0", &[])])
            .await;
    let before = ids(&scene.stage).await;
    let update = scene.at_ratio("1:0").await;
    scene.stage.cli(&["update", "complete", &update]).await.unwrap();
    let stopping =
        |seen: &Value| states(&seen["oldInstancesState"]) == ["STOPPING"; INSTANCES as usize];
    scene.stage.until(&update, stopping).await.unwrap();
    let answer = scene.roll_back(&update, "COMPLETING, late").await;
    assert_eq!(answer.routing, "1:0", "nothing old is ready: {answer:#?}");
    let after = ids(&scene.stage).await;
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    scene.end().await;
}
