//! Updates that go on by themselves, under load, while their leader dies.

use std::time::{Duration, Instant};

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::{Load, Phase};
use aether_invoker::Invoker;
use aether_proto::v1;
use aether_proto::v1::routing_client::RoutingClient;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_tests::evidence::{equal_hashes, eventually};
use aether_tests::judge::Judge;
use aether_tests::{PATIENCE, Stage, assert_none_failed, ids, phase, stage, until_alone};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Requests per second over all ways.
const RATE: u32 = 300;
/// Requests that are looked at before and after.
const ENOUGH: u64 = 150;
/// Instances of the slice.
const INSTANCES: usize = 3;
/// Longest a busy machine may take to answer: no version's fault.
const LATENCY: &str = "60000";

/// 1.0.0 serves under load, and a start is about to be made.
struct Scene {
    stage: Stage,
    invoker: Invoker,
    load: Load,
}

impl Scene {
    async fn set(flags_of_new: &[&str]) -> Self {
        let stage = stage(&[("1.0.0", &[]), ("2.0.0", flags_of_new)]).await;
        let invoker = stage.invoker("caller").await.unwrap();
        let load = Load::start(stage.ways(&invoker), "/", RATE, "before");
        load.until_requests(ENOUGH).await;
        Self { stage, invoker, load }
    }

    async fn start(&self, options: &[&str]) -> String {
        let common = ["--max-latency-ms", LATENCY, "--min-requests", "20", "--warm-up", "200ms"];
        self.stage.start("2.0.0", &[options, &common].concat()).await.unwrap()
    }

    /// Waits until a step holds.
    async fn until_step(&self, update: &str, step: u64) -> Value {
        self.stage.until(update, |update| update["progress"]["step"] == step).await.unwrap()
    }

    /// Kills the leading voter and starts it again.
    async fn kill_leader(&mut self) {
        let leader = self.stage.cluster.leader(PATIENCE).await.unwrap();
        self.stage.cluster.nodes[leader].kill();
        self.stage.cluster.leader(PATIENCE).await.unwrap();
        self.stage.cluster.nodes[leader].start().unwrap();
    }

    /// The committed evidence.
    async fn evidence(&self, update: &str) -> Value {
        let record = self.stage.cli(&["kv", "get", &format!("evidence/{update}")]).await;
        record.unwrap()["value"].take()
    }

    /// What the calls by one version's own fault count for is up to the test.
    async fn end(self, current: &str) -> Vec<Phase> {
        self.end_with(current, INSTANCES).await
    }

    /// Of every update is written down what was seen, by whichever leader, and any
    /// node decides the same from it.
    async fn decides_the_same_again(&self) {
        let listed = self.stage.cli(&["update", "list", "--all"]).await.unwrap();
        for update in listed["updates"].as_array().unwrap() {
            let id = update["updateId"].as_str().unwrap();
            let replay = self.stage.cli(&["update", "replay", id]).await.unwrap();
            let decisions = replay["decisions"].as_array().unwrap();
            // To deploy, that it is deployed, and the end, unless another start ended it.
            let least = if update["state"] == "COMPLETED" { 3 } else { 1 };
            assert!(decisions.len() >= least, "{replay:#}");
            assert_eq!(replay["differ"], 0, "{replay:#}");
        }
    }

    async fn end_with(self, current: &str, instances: usize) -> Vec<Phase> {
        until_alone(&self.stage, current, instances).await;
        self.load.phase("after");
        self.load.until_requests(ENOUGH).await;
        self.decides_the_same_again().await;
        let phases = self.load.stop().await;
        let after = phase(&phases, "after");
        assert_eq!(after.answers(current), after.requests, "{:?}", after.versions);
        equal_hashes(&self.stage).await;
        self.invoker.close().await;
        self.stage.end().await;
        phases
    }
}

/// Texts of the history, oldest first.
fn events(update: &Value) -> Vec<&str> {
    let history = update["history"].as_array().unwrap();
    history.iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_canary_goes_through_its_steps_by_evidence_while_its_leader_dies() {
    let mut scene = Scene::set(&[]).await;
    let update = scene.start(&["--steps", "1:9 3s, 1:1 1s, 1:0 1s"]).await;
    scene.until_step(&update, 1).await;
    scene.load.phase("leader killed in step 1");
    scene.kill_leader().await;
    let ended = scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    let said = events(&ended).join("\n");
    for step in ["step 1 of 3: routing 0:1 -> 1:9", "step 2 of 3: routing 1:9 -> 1:1"] {
        assert!(said.contains(step), "{step} in\n{said}");
    }
    assert!(said.contains("step 3 of 3: routing 1:1 -> 1:0"), "{said}");
    // Nobody asked for any of it after the start.
    let history = ended["history"].as_array().unwrap();
    assert!(history[1..].iter().all(|entry| entry["actor"] == "coordinator"), "{ended:#}");
    let evidence = scene.evidence(&update).await;
    let epochs = evidence["evidence"]["epochs"].as_object().unwrap();
    assert_eq!(epochs.len(), 3, "{evidence:#}");
    for epoch in epochs.values() {
        let new = &epoch["tallies"]["new"];
        assert!(new["requests"].as_u64() >= Some(20), "{evidence:#}");
        assert_eq!(new["errors"], 0, "{evidence:#}");
    }
    assert_none_failed(&scene.end("2.0.0").await);
}

#[tokio::test]
async fn a_canary_that_fails_goes_back_by_itself_and_its_step_is_named() {
    let mut scene = Scene::set(&["--fail-rate", "0.3"]).await;
    let options = ["--steps", "1:9 10m, 1:0", "--on-step-failure", "rollback"];
    let update = scene.start(&options).await;
    scene.until_step(&update, 1).await;
    scene.kill_leader().await;
    let ended = scene.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    assert_eq!(ended["outcome"]["code"], "threshold_exceeded", "{ended:#}");
    let message = ended["outcome"]["message"].as_str().unwrap();
    assert!(message.contains("error rate"), "{message}");
    assert_eq!(ended["progress"]["step"], 1, "{ended:#}");
    let phases = scene.end("1.0.0").await;
    let failed: u64 = phases.iter().map(Phase::nobodys_failures).sum();
    assert_eq!(failed, 0, "the new version's own errors aside");
}

#[tokio::test]
async fn a_canary_without_calls_to_judge_pauses_and_a_person_takes_it_on() {
    let scene = Scene::set(&[]).await;
    let options =
        ["--steps", "1:9 100ms, 1:0 pause", "--patience", "1s", "--min-requests", "1000000"];
    let all = [&options[..], &["--max-latency-ms", LATENCY]].concat();
    let update = scene.stage.start("2.0.0", &all).await.unwrap();
    let paused = scene.stage.until(&update, |update| update["pause"].is_object()).await.unwrap();
    assert_eq!(paused["pause"]["code"], "inconclusive", "{paused:#}");
    let refused = scene.stage.refused(&["update", "promote", &update]).await.unwrap();
    assert!(refused.contains("resume"), "{refused}");
    let refused = scene.stage.refused(&["update", "routing", &update, "-r", "1:1"]).await.unwrap();
    assert!(refused.contains("promote"), "{refused}");
    scene.stage.cli(&["update", "promote", &update, "--force", "--yes"]).await.unwrap();
    // The last step is a person's to leave.
    scene.stage.cli(&["update", "pause", &update, "--why", "a look"]).await.unwrap();
    let refused = scene.stage.refused(&["update", "promote", &update]).await.unwrap();
    assert!(refused.contains("a look"), "{refused}");
    scene.stage.cli(&["update", "resume", &update]).await.unwrap();
    let explained = scene.stage.cli(&["update", "explain", &update]).await.unwrap();
    assert_eq!(explained["waits"][0]["code"], "promotion", "{explained:#}");
    scene.stage.cli(&["update", "promote", &update]).await.unwrap();
    scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    assert_none_failed(&scene.end("2.0.0").await);
}

#[tokio::test]
async fn a_blue_green_switch_is_one_entry_for_all_and_so_is_the_way_back() {
    let mut scene = Scene::set(&[]).await;
    let options = ["--strategy", "blue-green", "--verify", "2s", "--auto-promote", "--hold", "1h"];
    let update = scene.start(&options).await;
    scene.stage.until_state(&update, "DEPLOYED").await.unwrap();
    scene.load.phase("leader killed while it is verified");
    scene.kill_leader().await;
    let switched = |update: &Value| update["progress"]["mixedMs"].is_u64();
    let seen = scene.stage.until(&update, switched).await.unwrap();
    assert_eq!((&seen["routing"], &seen["state"]), (&"1:0".into(), &"ROUTING".into()));
    println!("both versions served for {} ms", seen["progress"]["mixedMs"]);
    scene.load.phase("switched");
    scene.load.until_requests(ENOUGH).await;
    scene.load.phase("back");
    scene.stage.cli(&["update", "rollback", &update]).await.unwrap();
    scene.load.phase("gone back");
    let ended = scene.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    assert_eq!(ended["cleanupPolicy"], "GRACE_PERIOD", "{ended:#}");
    let phases = scene.end("1.0.0").await;
    let there = phase(&phases, "switched");
    assert_eq!(there.answers("2.0.0"), there.requests, "{:?}", there.versions);
    let back = phase(&phases, "gone back");
    assert_eq!(back.answers("1.0.0"), back.requests, "{:?}", back.versions);
    assert_none_failed(&phases);
}

/// Blue-green, behind a barrier; the set that is left does not stay.
const BEHIND_BARRIER: [&str; 8] = [
    "--cleanup",
    "IMMEDIATE",
    "--strategy",
    "blue-green",
    "--switch",
    "barrier",
    "--auto-promote",
    "--hold",
];

/// Waits until every session has switched. A machine that is too busy for 200 ms makes
/// the barrier fail, which is then tried again.
async fn until_switched(stage: &Stage, update: &str) -> Value {
    loop {
        let failed = |seen: &Value| seen["pause"]["code"] == "barrier_failed";
        let is_over = |seen: &Value| failed(seen) || seen["progress"]["mixedMs"].is_u64();
        let seen = stage.until(update, is_over).await.unwrap();
        if !failed(&seen) {
            return seen;
        }
        println!("tried again: {}", seen["pause"]["message"]);
        assert_eq!(seen["routing"], "0:1", "{seen:#}");
        // What was seen may be of a node that is behind, and the resume made already.
        let resumed = stage.cluster.cli(&["update", "resume", update]).await.unwrap();
        let is_old_news = resumed.stderr.contains("is not paused; nothing to resume");
        assert!(resumed.code == Some(0) || is_old_news, "{resumed:?}");
    }
}

/// Requests of the old version that were sent when an answer of the new one was there
/// already.
fn overlaps(phases: &[Phase]) -> bool {
    let counts = |version: &str| phases.iter().filter_map(|p| p.versions.get(version)).collect();
    let (old, new): (Vec<_>, Vec<_>) = (counts("1.0.0"), counts("2.0.0"));
    let last_start = old.iter().filter_map(|count| count.last_start).max();
    let first_answer = new.iter().filter_map(|count| count.first_answer).min();
    last_start.expect("1.0.0 served") > first_answer.expect("2.0.0 serves")
}

#[tokio::test]
async fn behind_a_barrier_no_call_begins_at_the_old_version_after_one_at_the_new() {
    let scene = Scene::set(&[]).await;
    let update = scene.start(&[&BEHIND_BARRIER[..], &["1h"]].concat()).await;
    let seen = until_switched(&scene.stage, &update).await;
    let progress = &seen["progress"];
    println!("{} late calls, {} ms mixed", progress["lateCalls"], progress["mixedMs"]);
    let said = events(&seen).join("\n");
    assert!(said.contains("every session is to hold new calls for the switch"), "{said}");
    scene.load.phase("switched");
    scene.load.until_requests(ENOUGH).await;
    let so_far = scene.load.so_far();
    scene.stage.cli(&["update", "promote", &update]).await.unwrap();
    scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    let phases = scene.end("2.0.0").await;
    let switched = phase(&so_far, "switched");
    assert_eq!(switched.answers("2.0.0"), switched.requests, "{:?}", switched.versions);
    // What a session could not hold long enough it has told of.
    let is_told = progress["lateCalls"].as_u64() > Some(0);
    assert!(is_told || !overlaps(&phases), "{progress:#}");
    assert_eq!(progress["mixedMs"] == 0, !is_told, "{progress:#}");
    assert_none_failed(&phases);
}

/// Lists the committed sessions.
const SESSIONS: [&str; 3] = ["kv", "list", "session/"];

/// A session that reports all the time and never follows beyond its first tables.
async fn stalled_session(channel: Channel, mut stop: oneshot::Receiver<()>) {
    let (up, outbound) = tokio::sync::mpsc::channel(8);
    let wire = |message| v1::RoutingUp { message: Some(message) };
    let hello = v1::SessionHello {
        session_id: "stalled-1".to_owned(),
        kind: "INVOKER".to_owned(),
        name: "stalled".to_owned(),
        protocol: 1,
        attach: 1,
        features: vec!["hold".to_owned()],
        ..Default::default()
    };
    up.send(wire(v1::routing_up::Message::Hello(hello))).await.unwrap();
    let outbound = tokio_stream::wrappers::ReceiverStream::new(outbound);
    let mut down = RoutingClient::new(channel).watch(outbound).await.unwrap().into_inner();
    let first = down.message().await.unwrap().unwrap();
    let report = v1::SessionReport {
        incarnation: first.incarnation,
        applied: first.revision,
        ..Default::default()
    };
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while stop.try_recv().is_err() {
        ticks.tick().await;
        up.send(wire(v1::routing_up::Message::Report(report.clone()))).await.unwrap();
    }
    let goodbye = v1::routing_up::Message::Goodbye(v1::SessionGoodbye {});
    up.send(wire(goodbye)).await.unwrap();
    drop(up);
    while let Ok(Some(_)) = down.message().await {}
}

/// A session that stalls, until it is told to leave.
struct Stalled {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Stalled {
    /// Attached to this node, and known to the cluster.
    async fn at(scene: &Scene, node: usize) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(stalled_session(scene.stage.cluster.channel(node), stopped));
        let is_there = |listed: &Value| listed.to_string().contains("stalled-1");
        scene.stage.until_verb(&SESSIONS, "the session", is_there).await.unwrap();
        Self { stop, task }
    }

    /// It leaves, and the update that it held up is resumed and completes.
    async fn leave_and_switch(self, scene: Scene, update: &str) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        let is_gone = |listed: &Value| !listed.to_string().contains("stalled-1");
        scene.stage.until_verb(&SESSIONS, "its end", is_gone).await.unwrap();
        scene.stage.cli(&["update", "resume", update]).await.unwrap();
        until_switched(&scene.stage, update).await;
        scene.stage.until_state(update, "COMPLETED").await.unwrap();
        assert_none_failed(&scene.end("2.0.0").await);
    }
}

#[tokio::test]
async fn a_session_that_does_not_hold_its_calls_ends_the_barrier_and_nothing_is_lost() {
    let scene = Scene::set(&[]).await;
    let stalled = Stalled::at(&scene, 0).await;
    let update = scene.start(&[&BEHIND_BARRIER[..], &["1s"]].concat()).await;
    let paused = scene.stage.until(&update, |update| update["pause"].is_object()).await.unwrap();
    assert_eq!(paused["pause"]["code"], "barrier_failed", "{paused:#}");
    let message = paused["pause"]["message"].as_str().unwrap();
    assert!(message.contains("stalled-1 (stalled)"), "{message}");
    assert_eq!((&paused["routing"], &paused["state"]), (&"0:1".into(), &"DEPLOYED".into()));
    scene.load.phase("released");
    scene.load.until_requests(ENOUGH).await;
    let released = scene.load.so_far();
    let released = phase(&released, "released");
    assert_eq!(released.answers("1.0.0"), released.requests, "{:?}", released.versions);
    stalled.leave_and_switch(scene, &update).await;
}

/// Waits until some node other than this one has in its copy that calls are held.
async fn until_held(stage: &Stage, update: &str, except: usize) {
    let mut channels = channels(stage);
    channels.remove(except);
    let began = Instant::now();
    for turn in 0.. {
        let channel = channels[turn % channels.len()].clone();
        let request = v1::GetUpdateRequest { update_id: update.to_owned(), stale: true };
        let seen = UpdatesClient::new(channel).get(request).await.unwrap().into_inner();
        if seen.history.iter().any(|entry| entry.event.contains("is to hold new calls")) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{seen:#?}");
    }
}

#[tokio::test]
async fn a_leader_that_dies_while_calls_are_held_leaves_them_where_they_were() {
    let mut scene = Scene::set(&[]).await;
    let leader = scene.stage.cluster.leader(PATIENCE).await.unwrap();
    let other = (leader + 1) % scene.stage.cluster.nodes.len();
    let stalled = Stalled::at(&scene, other).await;
    scene.load.phase("held");
    let update = scene.start(&[&BEHIND_BARRIER[..], &["1s"]].concat()).await;
    until_held(&scene.stage, &update, leader).await;
    scene.kill_leader().await;
    let paused = scene.stage.until(&update, |update| update["pause"].is_object()).await.unwrap();
    assert_eq!(paused["pause"]["code"], "barrier_failed", "{paused:#}");
    assert_eq!((&paused["routing"], &paused["state"]), (&"0:1".into(), &"DEPLOYED".into()));
    scene.load.until_requests(ENOUGH).await;
    let so_far = scene.load.so_far();
    let held = phase(&so_far, "held");
    assert_eq!(held.answers("1.0.0"), held.requests, "{:?}", held.versions);
    stalled.leave_and_switch(scene, &update).await;
}

#[tokio::test]
async fn an_environment_is_set_refreshed_and_taken_back_while_its_leader_dies() {
    let mut scene = Scene::set(&[]).await;
    let refused = scene.stage.refused(&["env", "refresh", EXAMPLE]).await.unwrap();
    assert!(refused.contains("env set-current"), "{refused}");
    scene.stage.cli(&["env", "set-current", EXAMPLE, "2.0.0"]).await.unwrap();
    let status = async |stage: &Stage| stage.cli(&["env", "status", EXAMPLE]).await.unwrap();
    let before = status(&scene.stage).await["slices"][0].clone();
    assert_eq!((&before["version"], &before["setVersion"]), (&"1.0.0".into(), &"2.0.0".into()));
    assert_eq!(before["colour"], "BLUE");

    scene.load.phase("leader killed while it is verified");
    let refresh = ["env", "refresh", EXAMPLE, "--verify", "2s"];
    let update = scene.stage.cli(&refresh).await.unwrap()["updateId"].as_str().unwrap().to_owned();
    let slow = ["update", "set", &update, "--max-latency-ms", "60000"];
    scene.stage.cli(&slow).await.unwrap();
    scene.kill_leader().await;
    scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    scene.load.phase("refreshed");
    scene.load.until_requests(ENOUGH).await;
    let after = status(&scene.stage).await["slices"][0].clone();
    assert_eq!((&after["version"], &after["colour"]), (&"2.0.0".into(), &"GREEN".into()));
    assert_eq!(after["retainedColour"], "BLUE", "{after:#}");
    let nothing = scene.stage.cluster.cli(&["env", "refresh", EXAMPLE]).await.unwrap();
    assert!(nothing.stderr.contains("nothing to refresh"), "{nothing:?}");

    scene.load.phase("back");
    scene.stage.cli(&["env", "rollback", EXAMPLE, "--wait"]).await.unwrap();
    scene.load.phase("gone back");
    let phases = scene.end("1.0.0").await;
    let there = phase(&phases, "refreshed");
    assert_eq!(there.answers("2.0.0"), there.requests, "{:?}", there.versions);
    assert_none_failed(&phases);
}

/// What a follower's own copy says of an update in place, every 10 ms until told to
/// stop: ready instances, those that exist, and how far it has come.
async fn sample(
    channels: Vec<Channel>,
    update: String,
    mut stop: oneshot::Receiver<()>,
) -> Vec<v1::InPlace> {
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut turn = 0;
    while stop.try_recv().is_err() {
        ticks.tick().await;
        turn += 1;
        let channel = channels[turn % channels.len()].clone();
        let request = v1::GetUpdateRequest { update_id: update.clone(), stale: true };
        // One of them is dead for a while.
        let Ok(seen) = UpdatesClient::new(channel).get(request).await else { continue };
        let seen = seen.into_inner();
        let ended = matches!(seen.state.as_str(), "COMPLETED" | "ROLLED_BACK");
        samples.extend(seen.progress.and_then(|p| p.in_place).filter(|_| !ended));
    }
    samples
}

fn channels(stage: &Stage) -> Vec<Channel> {
    let nodes = stage.cluster.nodes.iter();
    let endpoint = |grpc| Channel::from_shared(format!("http://{grpc}")).unwrap();
    nodes.map(|node| endpoint(node.addresses.grpc).connect_lazy()).collect()
}

/// Twelve instances of 1.0.0 under load, and a rolling update of two at a time.
async fn rolling(flags_of_new: &[&str], options: &[&str]) -> (Scene, String) {
    let scene = Scene::set(flags_of_new).await;
    scene.stage.cli(&["scale", EXAMPLE, "-n", "12"]).await.unwrap();
    until_alone(&scene.stage, "1.0.0", 12).await;
    let how = ["--strategy", "rolling", "--max-unavailable", "2", "--healthy-time", "200ms"];
    let update = scene.start(&[&how[..], options].concat()).await;
    (scene, update)
}

fn check_bounds(samples: &[v1::InPlace]) {
    assert!(samples.len() > 20, "{} samples", samples.len());
    let ready = samples.iter().map(|sample| sample.ready).min().unwrap();
    let existing = samples.iter().map(|sample| sample.existing).max().unwrap();
    println!("{} samples: at least {ready} ready, at most {existing} exist", samples.len());
    assert!(ready >= 10, "{ready} were ready");
    assert!(existing <= 12, "{existing} existed");
}

#[tokio::test]
async fn of_twelve_instances_ten_are_ready_all_the_time_while_they_are_replaced() {
    let (mut scene, update) = rolling(&[], &[]).await;
    let (stop, stopped) = oneshot::channel();
    let sampler = tokio::spawn(sample(channels(&scene.stage), update.clone(), stopped));
    scene.until_step(&update, 1).await;
    scene.load.phase("leader killed after the first batch");
    scene.kill_leader().await;
    let ended = scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    stop.send(()).unwrap();
    check_bounds(&sampler.await.unwrap());
    let said = events(&ended).join("\n");
    // The last old ones left before: all calls went to the new ones by then.
    assert!(said.contains("0 of 1.0.0; routing 5:1 -> 1:0"), "{said}");
    assert!(said.contains("step 6 of 6: "), "{said}");
    assert_none_failed(&scene.end_with("2.0.0", 12).await);
}

#[tokio::test]
async fn a_rollback_from_the_middle_keeps_ten_ready_all_the_way_back() {
    let (mut scene, update) = rolling(&[], &["--stagger", "2s"]).await;
    let (stop, stopped) = oneshot::channel();
    let sampler = tokio::spawn(sample(channels(&scene.stage), update.clone(), stopped));
    scene.until_step(&update, 2).await;
    scene.load.phase("back");
    scene.stage.cli(&["update", "rollback", &update]).await.unwrap();
    scene.kill_leader().await;
    scene.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    stop.send(()).unwrap();
    check_bounds(&sampler.await.unwrap());
    assert_none_failed(&scene.end_with("1.0.0", 12).await);
}

#[tokio::test]
async fn a_batch_that_never_comes_up_is_the_last_and_is_taken_back_within_the_floor() {
    let (mut scene, update) = rolling(&["--exit-on-start", "3"], &[]).await;
    let (stop, stopped) = oneshot::channel();
    let sampler = tokio::spawn(sample(channels(&scene.stage), update.clone(), stopped));
    let of_batch = |update: &Value| update["progress"]["inPlace"]["notReached"] == 10;
    scene.stage.until(&update, of_batch).await.unwrap();
    scene.load.phase("leader killed while the batch crashes");
    scene.kill_leader().await;
    let ended = scene.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    stop.send(()).unwrap();
    let samples = sampler.await.unwrap();
    check_bounds(&samples);
    assert!(samples.iter().all(|sample| sample.not_reached >= 10 && sample.updated == 0));
    let named = |sample: &v1::InPlace| sample.failed.iter().any(|text| text.contains("status 3"));
    assert!(samples.iter().any(named), "who failed, and why: {:?}", samples.last());
    assert!(ended["outcome"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{ended:#}");
    let phases = scene.end_with("1.0.0", 12).await;
    assert!(phases.iter().all(|phase| phase.answers("2.0.0") == 0));
    assert_none_failed(&phases);
}

#[tokio::test]
async fn recreate_stops_all_before_it_starts_any_also_when_its_leader_dies() {
    let mut scene = Scene::set(&[]).await;
    scene.load.phase("nothing serves for a while, which was asked for by name");
    let how = ["--strategy", "recreate", "--healthy-time", "100ms"];
    let update = scene.start(&how).await;
    let (stop, stopped) = oneshot::channel();
    let sampler = tokio::spawn(sample(channels(&scene.stage), update.clone(), stopped));
    let is_stopping = |update: &Value| update["state"] == "DEPLOYING";
    scene.stage.until(&update, is_stopping).await.unwrap();
    scene.kill_leader().await;
    scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    stop.send(()).unwrap();
    let samples = sampler.await.unwrap();
    let mixed = |sample: &&v1::InPlace| sample.updated > 0 && sample.not_reached > 0;
    assert_eq!(samples.iter().filter(mixed).count(), 0, "{samples:?}");
    assert!(samples.iter().all(|sample| sample.existing <= 3), "{samples:?}");
    drop(scene.end("2.0.0").await);
}

#[tokio::test]
async fn a_start_that_supersedes_ends_the_live_update_in_its_own_entry() {
    let mut scene = Scene::set(&[]).await;
    scene.stage.push("3.0.0", &[]).await.unwrap();
    let first = scene.stage.start("2.0.0", &["--max-latency-ms", LATENCY]).await.unwrap();
    scene.stage.until_state(&first, "DEPLOYED").await.unwrap();
    scene.stage.cli(&["update", "routing", &first, "-r", "1:1"]).await.unwrap();
    let slice = EXAMPLE;
    let refused = scene.stage.refused(&["update", "start", slice, "3.0.0"]).await.unwrap();
    assert!(refused.contains("is live"), "{refused}");
    let second = scene.stage.start("3.0.0", &["--supersede"]).await.unwrap();
    // Whoever leads next has both: the one that goes back, and the one that waits for it.
    scene.load.phase("leader killed at the start");
    scene.kill_leader().await;
    let ended = scene.stage.until_state(&first, "ROLLED_BACK").await.unwrap();
    assert_eq!(ended["outcome"]["code"], "superseded", "{ended:#}");
    let seen = scene.stage.until_state(&second, "DEPLOYED").await.unwrap();
    assert_eq!(seen["oldVersion"], "1.0.0", "{seen:#}");
    scene.stage.cli(&["update", "rollback", &second]).await.unwrap();
    scene.stage.until_state(&second, "ROLLED_BACK").await.unwrap();
    assert_none_failed(&scene.end("1.0.0").await);
}

#[tokio::test]
async fn a_canary_asks_its_gate_through_a_failover_and_goes_back_when_that_says_no() {
    let mut scene = Scene::set(&[]).await;
    let mut judge = Judge::start().await;
    let gate =
        format!("before named judge webhook http://{}/ask every 100ms timeout 1m", judge.address);
    let steps = ["--steps", "1:9 500ms, 1:0 500ms", "--on-step-failure", "rollback"];
    let update = scene.start(&[&steps[..], &["--gate", &gate]].concat()).await;

    let first = judge.next().await;
    assert_eq!(first.told["toVersion"], "2.0.0", "{:#}", first.told);
    assert_eq!((&first.told["step"], &first.told["weights"]), (&1.into(), &"0:1".into()));
    let later = json!({"verdict": "inconclusive", "message": "not yet"});
    first.answer(200, &later).await;
    // Its leader dies while it is asked again, and the next one asks the same.
    let second = judge.next().await;
    assert_eq!(second.told["attempt"], 2, "{:#}", second.told);
    let explained = scene.stage.cli(&["update", "explain", &update]).await.unwrap();
    let waits = explained["waits"].as_array().unwrap();
    assert!(waits.iter().any(|wait| wait["code"] == "gate"), "{explained:#}");
    scene.load.phase("leader killed while the gate is asked");
    scene.kill_leader().await;
    let again = judge.next().await;
    assert_eq!(again.key, second.key, "who is asked can tell that it is the same question");
    drop(second);
    again.answer(200, &json!({"verdict": "pass", "message": "fine"})).await;
    scene.until_step(&update, 1).await;

    let third = judge.next().await;
    assert_eq!((&third.told["step"], &third.told["attempt"]), (&2.into(), &1.into()));
    third.answer(403, &json!({"message": "too many errors"})).await;
    let ended = scene.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    assert_eq!(ended["outcome"]["code"], "gate_failed", "{ended:#}");
    let said = events(&ended);
    let count = |text: &str| said.iter().filter(|event| event.contains(text)).count();
    for text in [
        "gate 'judge' before step 1: inconclusive: not yet",
        "gate 'judge' before step 1: pass: fine",
        "gate 'judge' before step 2: fail: too many errors",
    ] {
        assert_eq!(count(text), 1, "{text} in {said:#?}");
    }
    assert_none_failed(&scene.end("1.0.0").await);
}

/// One instance of the new version errs from its first call on, and nothing else does.
#[tokio::test]
async fn a_bad_host_is_named_and_its_version_goes_on_without_it() {
    let ill = tempfile::tempdir().unwrap();
    let file = ill.path().join("${INSTANCE}").display().to_string();
    let scene = Scene::set(&["--once", &file, "--fail-rate", "0.5"]).await;
    let known = ids(&scene.stage).await;
    let steps = ["--steps", "1:1 500ms, 1:0 500ms", "--on-step-failure", "rollback"];
    let update = scene.start(&[&steps[..], &["--manual-approval"]].concat()).await;
    let is_asked = |update: &Value| update["pendingRouting"] == "1:1";
    scene.stage.until(&update, is_asked).await.unwrap();
    let now = ids(&scene.stage).await;
    let bad = now.iter().find(|id| !known.contains(*id)).expect("one of the new version");
    std::fs::write(ill.path().join(bad), "").unwrap();
    scene.stage.cli(&["update", "approve", &update]).await.unwrap();

    let paused = scene.stage.until(&update, |update| update["pause"].is_object()).await.unwrap();
    let reason = &paused["pause"]["message"].as_str().unwrap();
    assert_eq!(paused["pause"]["code"], "instance_outlier", "{paused:#}");
    let (_, node) = reason.split_once("'aether node drain ").expect("what to do is said");
    let (node, _) = node.split_once('\'').unwrap();
    assert!(reason.contains(bad) && reason.contains(&format!("it runs on {node}")), "{reason}");

    scene.stage.cli(&["node", "drain", node]).await.unwrap();
    let is_gone = async || !ids(&scene.stage).await.contains(bad);
    eventually("another one to take its place", is_gone).await;
    // What was counted of it last is told within a second or two.
    scene.load.phase("without it");
    scene.load.until_requests(3 * u64::from(RATE)).await;
    scene.stage.cli(&["update", "resume", &update]).await.unwrap();
    scene.stage.until(&update, |update| update["pendingRouting"] == "1:0").await.unwrap();
    scene.stage.cli(&["update", "approve", &update]).await.unwrap();
    scene.stage.until_state(&update, "COMPLETED").await.unwrap();
    let phases = scene.end("2.0.0").await;
    let failed: u64 = phases.iter().map(Phase::nobodys_failures).sum();
    assert_eq!(failed, 0, "the bad host's own errors aside");
}
