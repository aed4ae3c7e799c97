//! Everything dies at once, or only an agent, or some of the voters; or the
//! leader sleeps for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::{Load, Way};
use aether_invoker::Invoker;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_proto::v1::{GetUpdateRequest, RoutingDown, SetRoutingRequest};
use aether_tests::evidence::{equal_hashes, eventually, processes, starts};
use aether_tests::{PATIENCE, Stage, Topology, Versions, assert_none_failed, stage_with, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::Value;

/// Requests per second over all ways.
const RATE_PER_S: u32 = 300;
/// Requests of a phase before it is over.
const REQUESTS: u64 = 300;
/// How long the leader sleeps: longer than any lease of its own.
const SLEEP: Duration = Duration::from_secs(5);
/// How long a verb may take where nobody can carry it out.
const VERB_MAX: Duration = Duration::from_secs(3);
/// Two versions that behave.
const VERSIONS: Versions = &[("1.0.0", &[]), ("2.0.0", &[])];

/// A busy machine is no reason to pause an update.
const PATIENT: &[&str] = &["--latency-ms", "60000"];

/// An update from 1.0.0 to 2.0.0 that routes by a ratio.
struct Routing {
    stage: Stage,
    invoker: Invoker,
    update: String,
}

impl Routing {
    async fn begin(topology: &Topology, ratio: &str) -> Self {
        let stage = stage_with(topology, VERSIONS).await;
        let invoker = stage.invoker("test").await.unwrap();
        let update = stage.start("2.0.0", PATIENT).await.unwrap();
        stage.until_state(&update, "DEPLOYED").await.unwrap();
        stage.route(ratio).await.unwrap();
        Self { stage, invoker, update }
    }

    fn load(&self, ways: Vec<Way>) -> Load {
        Load::start(ways, "/", RATE_PER_S, "before")
    }

    /// The update as the quorum knows it.
    async fn fresh(&self) -> Value {
        let fresh = |update: &Value| update["asOf"]["stale"] == false;
        self.stage.until(&self.update, fresh).await.unwrap()
    }

    /// What has to outlast a restart of everything.
    async fn kept(&self) -> Value {
        let update = self.fresh().await;
        let route = self.stage.cli(&["kv", "get", &format!("version-routing/{EXAMPLE}")]).await;
        let artifacts = self.stage.cli(&["artifact", "list"]).await.unwrap();
        serde_json::json!({
            "id": update["updateId"],
            "state": update["state"],
            "routing": update["routing"],
            "history": update["history"],
            "route": route.unwrap()["value"],
            "artifacts": artifacts["artifacts"],
        })
    }

    /// Takes the update to its end, and everything with it.
    async fn complete(self, load: Load) {
        load.phase("completing");
        self.stage.route("1:0").await.unwrap();
        self.stage.cli(&["update", "complete", &self.update]).await.unwrap();
        self.stage.until_state(&self.update, "COMPLETED").await.unwrap();
        load.phase("2.0.0 alone");
        load.until_requests(REQUESTS).await;
        let phases = load.stop().await;
        assert_none_failed(&phases);
        let last = phases.last().unwrap();
        assert_eq!(last.answers("2.0.0"), last.requests, "{:?}", last.versions);
        self.end().await;
    }

    async fn end(self) {
        equal_hashes(&self.stage).await;
        let starts = starts(&self.stage.cluster);
        assert!(starts.values().all(|count| *count == 1), "started again: {starts:?}");
        self.invoker.close().await;
        self.stage.end().await;
    }
}

/// Waits until every instance is ready again and none was restarted.
async fn all_ready(stage: &Stage, instances: usize) {
    let slice = stage
        .until_verb(&["slices", EXAMPLE], "the instances to be ready", |slice| {
            let states = slice["instancesState"].as_array().unwrap();
            states.len() == instances && states.iter().all(|i| i["state"] == "READY")
        })
        .await
        .unwrap();
    for instance in slice["instancesState"].as_array().unwrap() {
        assert_eq!(instance["restarts"], 0, "{slice:#}");
    }
}

/// Waits until a node is in a lifecycle.
async fn until_node(stage: &Stage, node: &str, lifecycle: &str) {
    let is = |nodes: &Value| {
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().any(|n| n["name"] == node && n["lifecycle"] == lifecycle)
    };
    stage.until_verb(&["nodes"], lifecycle, is).await.unwrap();
}

/// Waits until every ingress serves the slice.
async fn ingresses_serve(stage: &Stage) {
    for address in stage.cluster.ingresses() {
        eventually("an ingress to serve", async || {
            let load = Load::start(vec![Way::Ingress(address)], "/", 100, "probe");
            load.until_requests(1).await;
            load.stop().await.iter().all(|phase| phase.failed == 0)
        })
        .await;
    }
}

/// The weights in the tables that an ingress keeps for its next start.
fn kept_weights(file: &Path) -> Vec<(u32, u32)> {
    // Before them are the file's name, a sum and a time.
    let bytes = std::fs::read(file).unwrap_or_default();
    let tables = bytes.get(20..).and_then(|bytes| RoutingDown::decode(bytes).ok());
    let tables = tables.unwrap_or_default().tables;
    tables.iter().map(|table| (table.weight_new, table.weight_old)).collect()
}

#[tokio::test]
async fn everything_killed_at_once_comes_back_as_it_was() {
    let mut routing = Routing::begin(&Topology::split(3, 2), "1:1").await;
    all_ready(&routing.stage, 6).await;
    let (kept, running) = (routing.kept().await, processes(&routing.stage.cluster));
    assert_eq!((&kept["state"], &kept["routing"]), (&"ROUTING".into(), &"1:1".into()));
    assert_eq!(running.len(), 6, "{running:?}");

    let embedded = routing.load(vec![Way::Invoker(routing.stage.slice(&routing.invoker))]);
    embedded.until_requests(REQUESTS).await;
    for worker in ["w0", "w1"] {
        let worker = routing.stage.cluster.position(worker).unwrap();
        let file = routing.stage.cluster.nodes[worker].data_dir().join("ingress-tables");
        eventually("an ingress to keep its tables", async || kept_weights(&file) == [(1, 1)]).await;
    }
    let nodes = &mut routing.stage.cluster.nodes;
    nodes.iter().for_each(|node| node.signal(Signal::SIGKILL));
    nodes.iter_mut().for_each(|node| node.kill());
    embedded.phase("all nodes dead");
    embedded.until_requests(REQUESTS).await;
    assert_eq!(processes(&routing.stage.cluster), running);

    // The workers' ingresses find no voter, and serve by the tables they had.
    embedded.phase("workers started again, and no voter");
    for worker in ["w0", "w1"] {
        let worker = routing.stage.cluster.position(worker).unwrap();
        routing.stage.cluster.nodes[worker].start().unwrap();
    }
    ingresses_serve(&routing.stage).await;
    let ways = routing.stage.cluster.ingresses().into_iter().map(Way::Ingress).collect();
    let by_file = routing.load(ways);
    by_file.until_requests(REQUESTS).await;
    let phases = by_file.stop().await;
    assert_none_failed(&phases);
    let split = ["1.0.0", "2.0.0"].map(|version| phases[0].answers(version));
    assert!(split[0].abs_diff(split[1]) <= 2, "by each ingress 1:1, to within one: {split:?}");
    assert_eq!(processes(&routing.stage.cluster), running);

    embedded.phase("all nodes started again");
    let started = Instant::now();
    routing.stage.cluster.start_all().unwrap();
    routing.stage.cluster.leader(PATIENCE).await.unwrap();
    println!("a leader {:?} after the start of all nodes", started.elapsed());
    assert_eq!(routing.kept().await, kept);
    all_ready(&routing.stage, 6).await;
    for worker in ["w0", "w1"] {
        until_node(&routing.stage, worker, "READY").await;
    }
    assert_eq!(processes(&routing.stage.cluster), running);
    ingresses_serve(&routing.stage).await;
    assert_none_failed(&embedded.stop().await);

    let load = routing.load(routing.stage.ways(&routing.invoker));
    load.until_requests(REQUESTS).await;
    assert_eq!(routing.kept().await, kept);
    assert_eq!(processes(&routing.stage.cluster), running);
    routing.complete(load).await;
}

#[tokio::test]
async fn instances_outlive_their_agent_and_their_logs_are_whole() {
    let versions: Versions = &[("1.0.0", &["--ignore-sigterm"])];
    let mut stage = stage_with(&Topology::split(3, 2), versions).await;
    let invoker = stage.invoker("test").await.unwrap();
    all_ready(&stage, 3).await;
    let running = processes(&stage.cluster);
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    let instances = slice["instancesState"].as_array().unwrap();
    let node = instances[0]["node"].as_str().unwrap();
    let here: Vec<&str> = instances
        .iter()
        .filter(|instance| instance["node"] == node)
        .map(|instance| instance["instanceId"].as_str().unwrap())
        .collect();
    let worker = stage.cluster.position(node).unwrap();
    // Each signal makes a slice say one line.
    let provoke = || {
        for instance in &here {
            kill(Pid::from_raw(running[*instance]), Signal::SIGTERM).unwrap();
        }
    };

    let gone = stage.cluster.nodes[worker].addresses.ingress;
    let mut ways = stage.ways(&invoker);
    ways.retain(|way| !matches!(way, Way::Ingress(address) if *address == gone));
    assert_eq!(ways.len(), 2);
    let load = Load::start(ways, "/", RATE_PER_S, "before");
    load.until_requests(REQUESTS).await;
    provoke();
    until_said(&stage, &here, 1).await;

    load.phase("agent dead");
    stage.cluster.nodes[worker].kill();
    provoke();
    until_node(&stage, node, "UNREACHABLE").await;
    load.until_requests(REQUESTS).await;
    assert_eq!(processes(&stage.cluster), running);

    load.phase("agent started again");
    stage.cluster.nodes[worker].start().unwrap();
    until_node(&stage, node, "READY").await;
    all_ready(&stage, 3).await;
    load.until_requests(REQUESTS).await;
    until_said(&stage, &here, 2).await;
    provoke();
    until_said(&stage, &here, 3).await;
    ingresses_serve(&stage).await;
    assert_none_failed(&load.stop().await);
    assert_eq!(processes(&stage.cluster), running);
    assert!(starts(&stage.cluster).values().all(|count| *count == 1));
    equal_hashes(&stage).await;
    invoker.close().await;
    stage.end().await;
}

/// A worker that takes its instances with it tells everybody first; the others
/// carry the load, and nothing is started in its place.
#[tokio::test]
async fn no_call_fails_while_a_worker_ends_with_its_instances() {
    let mut topology = Topology::split(3, 3);
    topology.extra = "\n[agent]\nstop_instances_on_exit = true\n".to_owned();
    let mut stage = stage_with(&topology, VERSIONS).await;
    let invoker = stage.invoker("test").await.unwrap();
    all_ready(&stage, 3).await;
    let running = processes(&stage.cluster);
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    let instances = slice["instancesState"].as_array().unwrap();
    let (leaving, node) = (&instances[0]["instanceId"], instances[0]["node"].as_str().unwrap());
    let leaving = leaving.as_str().unwrap();
    let worker = stage.cluster.position(node).unwrap();

    let gone = stage.cluster.nodes[worker].addresses.ingress;
    let mut ways = stage.ways(&invoker);
    ways.retain(|way| !matches!(way, Way::Ingress(address) if *address == gone));
    let load = Load::start(ways, "/", RATE_PER_S, "before");
    for round in 1..=3 {
        load.until_requests(REQUESTS).await;
        load.phase("worker ends");
        assert!(stage.cluster.nodes[worker].stop(PATIENCE).await, "round {round}");
        assert!(!processes(&stage.cluster).contains_key(leaving));
        // What it reported last stands, until its silence is noticed.
        let key = format!("instances/{node}/{leaving}");
        let record = stage.cli(&["kv", "get", &key]).await.unwrap()["value"].clone();
        assert_eq!((&record["desired"], &record["observed"]), (&"RUN".into(), &"STOPPED".into()));
        assert_eq!(record["reason"]["code"], "node_stopped");
        until_node(&stage, node, "UNREACHABLE").await;
        load.until_requests(REQUESTS).await;

        load.phase("worker started again");
        stage.cluster.nodes[worker].start().unwrap();
        stage.cluster.ready(PATIENCE).await.unwrap();
        all_ready(&stage, 3).await;
        load.until_requests(REQUESTS).await;
    }
    assert_none_failed(&load.stop().await);
    let now = processes(&stage.cluster);
    assert!(now.keys().eq(running.keys()), "none was replaced: {running:?} {now:?}");
    let others = |all: &BTreeMap<String, i32>| {
        all.iter().filter(|(id, _)| *id != leaving).map(|(_, pid)| *pid).collect::<Vec<_>>()
    };
    assert_eq!(others(&now), others(&running));
    invoker.close().await;
    stage.end().await;
}

/// Waits until each instance has said that it started, and as often as told
/// that it ignores a signal; nothing else.
async fn until_said(stage: &Stage, instances: &[&str], ignored: usize) {
    for instance in instances {
        eventually("the lines of an instance", async || {
            let said = stage.cluster.cli(&["logs", instance]).await.unwrap();
            let count = |text: &str| said.stdout.lines().filter(|l| l.contains(text)).count();
            assert!(count("listening on") <= 1 && count("ignoring it") <= ignored, "{said:?}");
            said.code == Some(0)
                && count("listening on") == 1
                && count("ignoring it") == ignored
                && said.stdout.lines().count() == 1 + ignored
        })
        .await;
    }
}

#[tokio::test]
async fn a_leader_that_slept_is_fenced_when_it_wakes() {
    let routing = Routing::begin(&Topology::split(3, 2), "1:3").await;
    let (stage, update) = (&routing.stage, &routing.update);
    let load = routing.load(stage.ways(&routing.invoker));
    load.until_requests(REQUESTS).await;
    let sleeper = stage.cluster.leader(PATIENCE).await.unwrap();
    let node = &stage.cluster.nodes[sleeper];
    let awake = stage.cluster.nodes.iter().filter(|n| n.roles.voter && n.name != node.name);
    let awake: Vec<String> = awake.map(|n| n.addresses.grpc.to_string()).collect();
    // Streams to the leader are open when it falls asleep.
    for (other, ratio) in awake.iter().zip(["3:1", "1:3"]) {
        stage.cli(&["update", "routing", update, "-r", ratio, "-a", other]).await.unwrap();
    }
    let before = routing.fresh().await;
    let term = status(stage, sleeper).await["term"].as_u64().unwrap();
    let mut client = UpdatesClient::new(stage.cluster.channel(sleeper));
    let read = GetUpdateRequest { update_id: update.clone(), stale: false };
    client.get(read.clone()).await.unwrap();

    load.phase("leader asleep");
    node.signal(Signal::SIGSTOP);
    let asleep = Instant::now();
    stage.cli(&["update", "routing", update, "-r", "1:1", "-a", &awake.join(",")]).await.unwrap();
    println!("written {:?} after the leader fell asleep", asleep.elapsed());
    // Both wait in the sleeper's socket, and it still believes that it leads.
    let mut writer = client.clone();
    let late_write = tokio::spawn(async move {
        let message = SetRoutingRequest {
            update_id: before["updateId"].as_str().unwrap().to_owned(),
            routing: "3:1".to_owned(),
            if_modified: Some(before["modified"].as_u64().unwrap()),
            request_id: "late".to_owned(),
            ..Default::default()
        };
        writer.set_routing(message).await
    });
    let late_read = tokio::spawn(async move { client.get(read).await });
    tokio::time::sleep_until((asleep + SLEEP).into()).await;
    load.until_requests(REQUESTS).await;

    load.phase("leader awake");
    node.signal(Signal::SIGCONT);
    let read = late_read.await.unwrap().unwrap().into_inner();
    println!("it answered a read with {} as of {:?}", read.routing, read.as_of);
    assert!(read.routing == "1:1" || read.as_of.unwrap().stale, "an old state, given as new");
    let refused = late_write.await.unwrap().unwrap_err();
    println!("it answered a write with {refused:?}");
    eventually("the sleeper to follow", async || {
        let status = status(stage, sleeper).await;
        status["term"].as_u64() > Some(term) && status["leader"] != node.name.as_str()
    })
    .await;
    let after = routing.fresh().await;
    assert_eq!((&after["state"], &after["routing"]), (&"ROUTING".into(), &"1:1".into()));
    load.until_requests(REQUESTS).await;
    equal_hashes(stage).await;
    routing.complete(load).await;
}

/// What one voter says about the cluster.
async fn status(stage: &Stage, node: usize) -> Value {
    let address = stage.cluster.nodes[node].addresses.grpc.to_string();
    stage.cli(&["status", "-a", &address]).await.unwrap()
}

#[tokio::test]
async fn writes_go_on_without_a_minority_of_the_voters() {
    let mut routing = Routing::begin(&Topology::split(5, 1), "1:3").await;
    let load = routing.load(routing.stage.ways(&routing.invoker));
    load.until_requests(REQUESTS).await;
    let leader = routing.stage.cluster.leader(PATIENCE).await.unwrap();
    load.phase("two of five voters dead");
    let dead = [leader, (leader + 1) % 5];
    for voter in dead {
        routing.stage.cluster.nodes[voter].kill();
    }
    for ratio in ["1:1", "3:1", "1:1"] {
        routing.stage.route(ratio).await.unwrap();
    }
    let update = routing.fresh().await;
    assert_eq!((&update["state"], &update["routing"]), (&"ROUTING".into(), &"1:1".into()));
    load.until_requests(REQUESTS).await;
    lost_voters_are_logged_once(&routing.stage, dead).await;
    routing.stage.cluster.start_all().unwrap();
    equal_hashes(&routing.stage).await;
    routing.complete(load).await;
}

/// The leader names each dead voter in a line of its own, and that is all: not
/// one for every heartbeat that fails, 25 times a second.
async fn lost_voters_are_logged_once(stage: &Stage, dead: [usize; 2]) {
    let nodes = &stage.cluster.nodes;
    let living = || nodes[..5].iter().filter(|node| node.is_alive());
    let logged = |of: &str, what: &str| -> usize {
        let logs = living().map(|node| std::fs::read_to_string(node.log()).unwrap());
        logs.map(|log| log.lines().filter(|l| l.contains(of) && l.contains(what)).count()).sum()
    };
    let lost = |voter: usize| logged(&format!("voter=\"{}\"", nodes[voter].name), "is lost");
    until("the lost voters to be named", || dead.iter().all(|voter| lost(*voter) > 0)).await;
    // More than one only where the leadership moved once more.
    assert!(dead.iter().all(|voter| lost(*voter) <= 3), "{:?}", dead.map(lost));
    assert_eq!(logged("WARN openraft", ""), 0, "openraft's own warnings are off");
    assert_eq!(living().count(), 3);
}

#[tokio::test]
async fn a_follower_without_a_majority_refuses_writes_and_answers_reads() {
    without_a_majority(false).await;
}

#[tokio::test]
async fn a_leader_without_a_majority_refuses_writes_and_answers_reads() {
    without_a_majority(true).await;
}

/// Two of three voters die. What is left refuses writes, answers reads and
/// says how old they are, and the slice is served; then all goes on.
async fn without_a_majority(leader_survives: bool) {
    let mut routing = Routing::begin(&Topology::split(3, 2), "1:3").await;
    let load = routing.load(routing.stage.ways(&routing.invoker));
    load.until_requests(REQUESTS).await;
    equal_hashes(&routing.stage).await;
    let leader = routing.stage.cluster.leader(PATIENCE).await.unwrap();
    let survivor = if leader_survives { leader } else { (leader + 1) % 3 };
    load.phase("two of three voters dead");
    for voter in (0..3).filter(|voter| *voter != survivor) {
        routing.stage.cluster.nodes[voter].kill();
    }

    let cluster = &routing.stage.cluster;
    let limit = format!("{}s", VERB_MAX.as_secs());
    let asked = Instant::now();
    let write = ["update", "routing", &routing.update, "-r", "1:1", "--timeout", &limit];
    let said = cluster.cli(&write).await.unwrap();
    println!("after {:?}: {:?}: {}", asked.elapsed(), said.code, said.stderr);
    // It asks who leads before it writes, so it is known to be not done.
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(asked.elapsed() < VERB_MAX * 5, "{:?}", asked.elapsed());

    for flag in [&[][..], &["--stale"]] {
        let read = [&["update", "status", &routing.update], flag].concat();
        let seen = routing.stage.cli(&read).await.unwrap();
        assert_eq!((&seen["state"], &seen["routing"]), (&"ROUTING".into(), &"1:3".into()));
        assert_eq!(seen["asOf"]["stale"], true, "{seen:#}");
        assert_eq!(seen["asOf"]["node"], cluster.nodes[survivor].name.as_str());
        let said = cluster.cli(&read).await.unwrap();
        assert!(said.stdout.contains("without asking the leader"), "{said:?}");
    }
    assert_eq!(status(&routing.stage, survivor).await["quorum"], false);
    assert_eq!(routing.stage.cli(&["slices", EXAMPLE, "--stale"]).await.unwrap()["ready"], 3);
    // Beyond the leases of agents and sessions.
    load.until_requests(u64::from(RATE_PER_S) * 5).await;

    load.phase("all voters again");
    routing.stage.cluster.start_all().unwrap();
    let back = Instant::now();
    routing.stage.route("1:1").await.unwrap();
    println!("written {:?} after the start of the others", back.elapsed());
    assert_eq!(routing.fresh().await["routing"], "1:1");
    load.until_requests(REQUESTS).await;
    equal_hashes(&routing.stage).await;
    routing.complete(load).await;
}
