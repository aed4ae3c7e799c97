//! The leading voter is killed in every state of an update.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::Load;
use aether_invoker::Invoker;
use aether_proto::v1::SetRoutingRequest;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_tests::evidence::{LongCall, equal_hashes, eventually, starts};
use aether_tests::links::{Held, Links};
use aether_tests::{PATIENCE, Stage, Topology, assert_none_failed, binary, stage, stage_with};
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::transport::Channel;

/// Requests per second over all ways.
const RATE_PER_S: u32 = 300;
/// Requests of a phase before it is over.
const REQUESTS: u64 = 200;
/// The old and the new set.
const INSTANCES: usize = 3 + 3;

/// An update under load.
struct Story {
    stage: Stage,
    invoker: Invoker,
    load: Load,
    update: String,
}

impl Story {
    /// 1.0.0 serves, and an update to 2.0.0 has just been started.
    async fn begin(new_flags: &[&str], options: &[&str]) -> Self {
        let stage = stage(&[("1.0.0", &[]), ("2.0.0", new_flags)]).await;
        let invoker = stage.invoker("test").await.unwrap();
        let load = Load::start(stage.ways(&invoker), "/", RATE_PER_S, "before");
        load.until_requests(REQUESTS).await;
        // A busy machine is no reason to pause an update.
        let options = [options, &["--latency-ms", "60000"]].concat();
        let update = stage.start("2.0.0", &options).await.unwrap();
        Self { stage, invoker, load, update }
    }

    async fn until(&self, state: &str) {
        self.stage.until_state(&self.update, state).await.unwrap();
    }

    async fn verb(&self, verb: &str) {
        self.stage.cli(&["update", verb, &self.update]).await.unwrap();
    }

    /// The committed route: its revision and weights.
    async fn route(&self) -> (Value, Value) {
        let record = self.stage.cli(&["kv", "get", &format!("version-routing/{EXAMPLE}")]).await;
        let route = record.unwrap()["value"].take();
        assert!(route["routeRevision"].is_u64(), "{route}");
        (route["routeRevision"].clone(), route["weights"].clone())
    }

    /// Kills the leading voter. The others must find the update as it was.
    async fn kill_leader_in(&mut self, state: &str, ratio: &str) {
        let before = fresh(&self.stage, &self.update).await;
        assert_eq!((&before["state"], &before["routing"]), (&state.into(), &ratio.into()));
        let route = self.route().await;
        let leader = self.stage.cluster.leader(PATIENCE).await.unwrap();
        self.load.phase(&format!("leader killed in {state}"));
        self.stage.cluster.nodes[leader].kill();
        let killed = Instant::now();
        let after = fresh(&self.stage, &self.update).await;
        println!("read from the quorum {:?} after the kill in {state}", killed.elapsed());
        assert_ne!(after["asOf"]["node"], self.stage.cluster.nodes[leader].name.as_str());
        assert_eq!((&after["state"], &after["routing"]), (&state.into(), &ratio.into()));
        assert_eq!(after["effectiveRouting"], before["effectiveRouting"]);
        assert_eq!(after["pause"], Value::Null);
        assert_eq!(self.route().await, route);
        self.load.until_requests(REQUESTS).await;
        self.stage.cluster.nodes[leader].start().unwrap();
    }

    /// From DEPLOYED or ROUTING to the end.
    async fn complete(&self) {
        for ratio in ["1:1", "1:0"] {
            self.stage.route(ratio).await.unwrap();
        }
        self.verb("complete").await;
        self.until("COMPLETED").await;
    }

    /// Checks that everything happened once and in order, that no request
    /// failed, and that all voters agree.
    async fn end(self, states: &[&str], current: &str) {
        self.load.phase("after");
        self.load.until_requests(REQUESTS).await;
        let Self { stage, invoker, load, update } = self;
        let phases = load.stop().await;
        assert_none_failed(&phases);
        let after = phases.last().unwrap();
        assert_eq!(after.answers(current), after.requests, "{:?}", after.versions);

        let update = fresh(&stage, &update).await;
        let history = update["history"].as_array().unwrap();
        let mut seen: Vec<_> = history.iter().map(|e| e["state"].as_str().unwrap()).collect();
        seen.dedup();
        assert_eq!(seen, states, "{update:#}");

        let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
        assert_eq!(slice["version"], current);
        let instances = slice["instancesState"].as_array().unwrap();
        assert_eq!(instances.len(), 3, "{slice:#}");
        for instance in instances {
            assert_eq!(instance["version"], current, "{slice:#}");
            assert_eq!(instance["state"], "READY", "{slice:#}");
            assert_eq!(instance["restarts"].as_u64().unwrap_or(0), 0, "{slice:#}");
        }
        let starts = starts(&stage.cluster);
        assert!(starts.values().all(|count| *count == 1), "started again: {starts:?}");
        let ids: BTreeSet<_> = starts.keys().map(|(instance, _)| instance).collect();
        assert_eq!((ids.len(), starts.len()), (INSTANCES, INSTANCES), "{starts:?}");

        equal_hashes(&stage).await;
        invoker.close().await;
        stage.end().await;
    }
}

/// The update as the quorum knows it, once there is one to ask.
async fn fresh(stage: &Stage, update: &str) -> Value {
    stage.until(update, |update| update["asOf"]["stale"] == false).await.unwrap()
}

const COMPLETED: [&str; 6] =
    ["PENDING", "DEPLOYING", "DEPLOYED", "ROUTING", "COMPLETING", "COMPLETED"];

#[tokio::test]
async fn a_deployment_goes_on_when_the_leader_dies_and_starts_nothing_twice() {
    let mut story = Story::begin(&["--start-delay", "3s"], &["--healthy-time", "2s"]).await;
    story.until("DEPLOYING").await;
    story.kill_leader_in("DEPLOYING", "0:1").await;
    story.until("DEPLOYED").await;
    story.complete().await;
    story.end(&COMPLETED, "2.0.0").await;
}

#[tokio::test]
async fn a_deployed_version_stays_deployed_when_the_leader_dies() {
    let mut story = Story::begin(&[], &[]).await;
    story.until("DEPLOYED").await;
    story.kill_leader_in("DEPLOYED", "0:1").await;
    story.complete().await;
    story.end(&COMPLETED, "2.0.0").await;
}

#[tokio::test]
async fn weights_stay_as_they_are_when_the_leader_dies() {
    let mut story = Story::begin(&[], &[]).await;
    story.until("DEPLOYED").await;
    story.stage.route("1:3").await.unwrap();
    story.kill_leader_in("ROUTING", "1:3").await;
    let tally = story.invoker.route_tallies(&EXAMPLE.parse().unwrap()).pop().unwrap();
    let (new, old) = (tally.new, tally.old);
    assert!((new * 4).abs_diff(new + old) < 4 && new > 0, "{new}:{old} is not 1:3");
    story.complete().await;
    story.end(&COMPLETED, "2.0.0").await;
}

#[tokio::test]
async fn a_completion_goes_on_to_drain_when_the_leader_dies() {
    let mut story = Story::begin(&[], &[]).await;
    story.until("DEPLOYED").await;
    let call = LongCall::start(&story.stage.slice(&story.invoker)).await;
    assert_eq!(call.version(), "1.0.0");
    story.stage.route("1:0").await.unwrap();
    story.verb("complete").await;
    story.until("COMPLETING").await;
    story.kill_leader_in("COMPLETING", "1:0").await;
    call.end().await;
    story.until("COMPLETED").await;
    story.end(&COMPLETED, "2.0.0").await;
}

#[tokio::test]
async fn a_rollback_goes_on_to_drain_when_the_leader_dies() {
    let mut story = Story::begin(&[], &[]).await;
    story.until("DEPLOYED").await;
    story.stage.route("1:0").await.unwrap();
    let call = until_long_call_on("2.0.0", &story).await;
    story.verb("rollback").await;
    story.until("ROLLING_BACK").await;
    story.kill_leader_in("ROLLING_BACK", "0:1").await;
    call.end().await;
    story.until("ROLLED_BACK").await;
    let states = ["PENDING", "DEPLOYING", "DEPLOYED", "ROUTING", "ROLLING_BACK", "ROLLED_BACK"];
    story.end(&states, "1.0.0").await;
}

/// A long call on a version, once the invoker sends calls there.
async fn until_long_call_on(version: &str, story: &Story) -> LongCall {
    let slice = story.stage.slice(&story.invoker);
    let mut on_it = None;
    eventually("a call on the version", async || {
        let call = LongCall::start(&slice).await;
        if call.version() == version {
            on_it = Some(call);
        } else {
            call.end().await;
        }
        on_it.is_some()
    })
    .await;
    on_it.expect("found above")
}

#[tokio::test]
async fn a_verb_under_way_when_the_leader_dies_takes_effect_once() {
    let mut story = Story::begin(&[], &[]).await;
    story.until("DEPLOYED").await;
    // The leader dies before, while and after it carries the verb out.
    let ratios = ["1:3", "1:1", "1:3", "1:1", "3:1", "1:1", "3:1", "1:0"];
    for (ratio, ms) in ratios.iter().zip((0..).step_by(2)) {
        let verb = ["update", "routing", &story.update, "-r", ratio];
        story.stage = during(story.stage, &verb, Duration::from_millis(ms)).await;
        assert_eq!(fresh(&story.stage, &story.update).await["routing"], *ratio);
    }
    let verb = ["update", "complete", &story.update];
    story.stage = during(story.stage, &verb, Duration::from_millis(10)).await;
    story.until("COMPLETED").await;
    let update = fresh(&story.stage, &story.update).await;
    let by_person = update["history"].as_array().unwrap().iter().filter(|e| e["actor"] == "test");
    let routing: Vec<_> = by_person.map(|e| e["routing"].as_str().unwrap()).collect();
    assert_eq!(routing, [&ratios[..], &["1:0"]].concat(), "{update:#}");
    story.end(&COMPLETED, "2.0.0").await;
}

/// Runs a verb and kills the leading voter so long after its start. The verb
/// succeeds all the same; then the voter is started again and catches up.
async fn during(mut stage: Stage, verb: &[&str], after: Duration) -> Stage {
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    let verb = [verb, &["--actor", "test"]].concat();
    let started = Instant::now();
    let kill = async {
        tokio::time::sleep(after).await;
        stage.cluster.nodes[leader].signal(Signal::SIGKILL);
    };
    let (done, ()) = tokio::join!(stage.cli(&verb), kill);
    done.unwrap();
    println!("{verb:?}, leader killed after {after:?}: {:?}", started.elapsed());
    stage.cluster.nodes[leader].kill();
    stage.cluster.nodes[leader].start().unwrap();
    equal_hashes(&stage).await;
    stage
}

#[tokio::test]
async fn writes_are_acknowledged_soon_after_the_leader_dies() {
    let kills = std::env::var("AETHER_KILLS").map_or(5, |count| count.parse().unwrap());
    let mut stage = stage_with(&Topology::split(3, 1), &[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let update = stage.start("2.0.0", &[]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    let mut gaps = kill_leaders(&mut stage, &update, kills).await;
    gaps.sort();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!("kill to next acknowledged write, {kills} kills: median {median:?}, worst {worst:?}");
    println!("all: {gaps:?}");
    assert!(worst < Duration::from_secs(30), "{gaps:?}");
    stage.end().await;
}

/// Kills the leading voter as often as told. Returns the time from each kill to
/// the next acknowledged write through one of the others.
async fn kill_leaders(stage: &mut Stage, update: &str, kills: usize) -> Vec<Duration> {
    assert!(kills > 0, "no kill, no figures");
    let mut gaps = Vec::new();
    for kill in 0..kills {
        equal_hashes(stage).await;
        let leader = stage.cluster.leader(PATIENCE).await.unwrap();
        let voters = (0..stage.cluster.nodes.len()).filter(|k| stage.cluster.nodes[*k].roles.voter);
        let others: Vec<Channel> =
            voters.filter(|k| *k != leader).map(|k| stage.cluster.channel(k)).collect();
        let ratio = ["1:3", "1:1"][kill % 2];
        stage.cluster.nodes[leader].kill();
        let killed = Instant::now();
        write(&others, update, ratio, kill).await;
        gaps.push(killed.elapsed());
        stage.cluster.nodes[leader].start().unwrap();
        assert_eq!(fresh(stage, update).await["routing"], ratio);
    }
    equal_hashes(stage).await;
    gaps
}

/// Changes the ratio through whichever node takes it, as one request.
async fn write(nodes: &[Channel], update: &str, ratio: &str, kill: usize) {
    let deadline = Instant::now() + PATIENCE;
    for node in nodes.iter().cycle() {
        let message = SetRoutingRequest {
            update_id: update.to_owned(),
            routing: ratio.to_owned(),
            request_id: format!("kill-{kill}"),
            actor: "test".to_owned(),
            ..Default::default()
        };
        match UpdatesClient::new(node.clone()).set_routing(message).await {
            Ok(_) => return,
            Err(status) => assert!(Instant::now() < deadline, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Its heartbeats arrive and no answer does: as long as the others hear it they
/// elect nobody, so it has to fall silent.
#[tokio::test]
async fn a_leader_that_hears_nobody_is_replaced() {
    let links = Links::between(3).await.unwrap();
    let topology = Topology { peers: links.routes(), ..Topology::split(3, 0) };
    let stage = Stage::set(&binary(), &topology, &[]).await.unwrap();
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    links.deafen(leader);
    let deafened = Instant::now();
    // Healed only after a write was acknowledged.
    let other = stage.cluster.nodes[(leader + 1) % 3].addresses.grpc.to_string();
    eventually("a write at those that hear each other", async || {
        stage.cli(&["kv", "put", "config/a", "1", "-a", &other]).await.is_ok()
    })
    .await;
    println!("the first acknowledged write came {:?} after the fault", deafened.elapsed());
    links.heal(Held::IsLost);
    equal_hashes(&stage).await;
}
