//! Nodes that fall silent for good, come back late, are drained, or are silent
//! all at once.

use std::collections::BTreeSet;

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::{Load, Way};
use aether_invoker::Invoker;
use aether_tests::evidence::{equal_hashes, eventually, processes, processes_below, starts};
use aether_tests::{
    PATIENCE, Stage, Topology, assert_none_failed, ids, stage_with, states, until_alone,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Requests per second.
const RATE: u32 = 200;
/// Requests that are looked at after a step.
const ENOUGH: u64 = 100;

/// Waits so short that a node is lost within seconds.
const TIMING: &str = "\n[timing]\nagent_lease = \"1s\"\nsession_lease = \"2s\"\n\
                      node_lost = \"2s\"\nmax_table_age = \"6s\"\n";

/// A busy machine is no reason to pause an update.
const PATIENT: &[&str] = &["--latency-ms", "60000", "--deploy-timeout", "2m"];

struct Fleet {
    stage: Stage,
    invoker: Invoker,
    load: Load,
}

impl Fleet {
    /// Three voters and so many workers; load through the first worker's ingress
    /// and an embedded invoker, for the others may die.
    async fn start(workers: usize) -> Self {
        let topology = Topology { extra: TIMING.to_owned(), ..Topology::split(3, workers) };
        let versions: &[(&str, &[&str])] =
            &[("1.0.0", &[]), ("2.0.0", &[]), ("3.0.0", &["--start-delay", "4s"]), ("4.0.0", &[])];
        let stage = stage_with(&topology, versions).await;
        let invoker = stage.invoker("caller").await.unwrap();
        let first = stage.cluster.ingresses()[0];
        let ways = vec![Way::Ingress(first), Way::Invoker(stage.slice(&invoker))];
        let load = Load::start(ways, "/", RATE, "before");
        load.until_requests(ENOUGH).await;
        Self { stage, invoker, load }
    }

    fn worker(&self, name: &str) -> usize {
        self.stage.cluster.position(name).unwrap()
    }

    /// Instances that run on a node of this machine.
    fn running_on(&self, name: &str) -> BTreeSet<String> {
        let node = &self.stage.cluster.nodes[self.worker(name)];
        processes_below(&node.data_dir()).into_keys().collect()
    }

    async fn until_lifecycle(&self, name: &str, lifecycle: &str) {
        let shown = |nodes: &Value| {
            let nodes = nodes["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["name"] == name && node["lifecycle"] == lifecycle)
        };
        self.stage.until_verb(&["nodes"], lifecycle, shown).await.unwrap();
    }

    /// Kills a node's process, whose instances go on, and waits until it is lost.
    async fn lose(&mut self, name: &str) -> BTreeSet<String> {
        let orphans = self.running_on(name);
        assert!(!orphans.is_empty(), "{name} runs something");
        let position = self.worker(name);
        self.stage.cluster.nodes[position].kill();
        self.until_lifecycle(name, "LOST").await;
        orphans
    }

    /// Starts a lost node again and waits until it has stopped its orphans.
    async fn bring_back(&mut self, name: &str, orphans: &BTreeSet<String>) {
        let position = self.worker(name);
        self.stage.cluster.nodes[position].start().unwrap();
        self.until_lifecycle(name, "READY").await;
        eventually("the orphans to be stopped", async || {
            self.running_on(name).is_disjoint(orphans)
        })
        .await;
    }

    /// Waits until as many instances of the live update take calls as it wants.
    async fn until_whole(&self, update: &str, new: usize, old: usize) {
        let taking = |list: &Value| {
            let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter(|i| i["takesCalls"] == true && i["state"] == "READY").count()
        };
        let whole = |seen: &Value| {
            taking(&seen["newInstancesState"]) == new && taking(&seen["oldInstancesState"]) == old
        };
        self.stage.until(update, whole).await.unwrap();
    }

    /// Ends the load; nothing failed, nothing was started twice, all agree.
    async fn end(self) {
        self.load.until_requests(ENOUGH).await;
        assert_none_failed(&self.load.stop().await);
        let starts = starts(&self.stage.cluster);
        assert!(starts.values().all(|count| *count <= 1), "started twice: {starts:?}");
        let mut nodes_of: std::collections::BTreeMap<&str, Vec<&str>> = Default::default();
        for (instance, node) in starts.keys() {
            nodes_of.entry(instance).or_default().push(node);
        }
        assert!(nodes_of.values().all(|nodes| nodes.len() == 1), "on two nodes: {nodes_of:?}");
        equal_hashes(&self.stage).await;
        self.invoker.close().await;
        self.stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_replaced_in_every_state_and_its_orphans_end_on_return() {
    let mut fleet = Fleet::start(3).await;

    // DEPLOYING: its new instance is still starting.
    let update = fleet.stage.start("3.0.0", PATIENT).await.unwrap();
    fleet.stage.until_state(&update, "DEPLOYING").await.unwrap();
    eventually("a new process", async || fleet.running_on("w2").len() == 2).await;
    fleet.load.phase("lost in DEPLOYING");
    let orphans = fleet.lose("w2").await;
    fleet.stage.until_state(&update, "DEPLOYED").await.unwrap();
    fleet.until_whole(&update, 3, 3).await;
    fleet.bring_back("w2", &orphans).await;

    // ROUTING, with calls on both sides of the lost node. What was started since
    // is spread over all three again only by what starts next.
    fleet.stage.route("1:1").await.unwrap();
    fleet.load.phase("lost in ROUTING");
    let orphans = fleet.lose("w1").await;
    fleet.until_whole(&update, 3, 3).await;
    let seen = fleet.stage.cli(&["update", "status", &update]).await.unwrap();
    assert_eq!((&seen["state"], &seen["routing"]), (&"ROUTING".into(), &"1:1".into()));

    // ROLLING_BACK, with the node still away: it ends without it. The lost
    // node's ingress may hold an old table until its age is over.
    fleet.load.phase("ROLLING_BACK without it");
    fleet.stage.cli(&["update", "rollback", &update]).await.unwrap();
    fleet.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    fleet.bring_back("w1", &orphans).await;
    until_alone_once_stopped(&fleet, "1.0.0").await;

    // COMPLETING: it is lost between `complete` and the end.
    let update = fleet.stage.start("2.0.0", PATIENT).await.unwrap();
    fleet.stage.until_state(&update, "DEPLOYED").await.unwrap();
    fleet.stage.route("1:0").await.unwrap();
    eventually("something on w2", async || !fleet.running_on("w2").is_empty()).await;
    let orphans = fleet.running_on("w2");
    let position = fleet.worker("w2");
    fleet.load.phase("lost in COMPLETING");
    fleet.stage.cluster.nodes[position].kill();
    fleet.stage.cli(&["update", "complete", &update]).await.unwrap();
    fleet.stage.until_state(&update, "COMPLETED").await.unwrap();
    fleet.until_lifecycle("w2", "LOST").await;
    fleet.bring_back("w2", &orphans).await;
    until_alone_once_stopped(&fleet, "2.0.0").await;
    eventually("three processes", async || processes(&fleet.stage.cluster).len() == 3).await;
    fleet.end().await;
}

/// All instances of the slice are ready ones of a version; what was lost has
/// been stopped and forgotten.
async fn until_alone_once_stopped(fleet: &Fleet, version: &str) {
    until_alone(&fleet.stage, version, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_fleet_that_is_silent_at_once_is_not_replaced() {
    let fleet = Fleet::start(4).await;
    let before = ids(&fleet.stage).await;
    let silent = ["w2", "w3"];
    fleet.load.phase("half is silent");
    for name in silent {
        fleet.stage.cluster.nodes[fleet.worker(name)].signal(Signal::SIGSTOP);
    }
    for name in silent {
        fleet.until_lifecycle(name, "UNREACHABLE").await;
    }
    let frozen = |status: &Value| status["alerts"][0]["code"] == "replacement_frozen";
    fleet.stage.until_verb(&["status"], "the alert", frozen).await.unwrap();
    // Longer than a single node would need to be lost, by its own clock.
    let long = |nodes: &Value| {
        let nodes = nodes["nodes"].as_array().unwrap();
        let silent = nodes.iter().filter(|node| node["lifecycle"] == "UNREACHABLE");
        let since: Vec<u64> = silent.filter_map(|node| node["sinceMs"].as_u64()).collect();
        since.len() == 2 && since.iter().all(|ms| *ms > 5_000)
    };
    fleet.stage.until_verb(&["nodes"], "two lost times", long).await.unwrap();
    assert_eq!(ids(&fleet.stage).await, before, "nothing was replaced");
    for name in silent {
        fleet.stage.cluster.nodes[fleet.worker(name)].signal(Signal::SIGCONT);
    }
    let over = |status: &Value| status["alerts"].as_array().is_none_or(Vec::is_empty);
    fleet.stage.until_verb(&["status"], "the end of the alert", over).await.unwrap();
    for name in silent {
        fleet.until_lifecycle(name, "READY").await;
    }
    assert_eq!(ids(&fleet.stage).await, before, "nothing was replaced");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_under_load_and_a_lost_one_forgotten() {
    let mut fleet = Fleet::start(3).await;
    fleet.load.phase("draining w1");
    let refused = fleet.stage.refused(&["node", "forget", "w1"]).await.unwrap();
    assert!(refused.contains("drain"), "{refused}");
    let drained = fleet.stage.cli(&["node", "drain", "w1", "--wait"]).await.unwrap();
    assert_eq!((&drained["schedule"], &drained["instances"]), (&"DRAINING".into(), &0.into()));
    assert!(fleet.running_on("w1").is_empty());
    until_alone(&fleet.stage, "1.0.0", 3).await;
    // Neither a cordoned nor a drained node gets anything of an update.
    fleet.stage.cli(&["node", "cordon", "w2"]).await.unwrap();
    let on_w2 = fleet.running_on("w2");
    let update = fleet.stage.start("2.0.0", PATIENT).await.unwrap();
    let deployed = fleet.stage.until_state(&update, "DEPLOYED").await.unwrap();
    let nodes: BTreeSet<&str> = deployed["newInstancesState"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|instance| instance["node"].as_str())
        .collect();
    assert_eq!(nodes, BTreeSet::from(["w0"]));
    assert_eq!(fleet.running_on("w2"), on_w2, "it keeps what it has");
    fleet.stage.cli(&["update", "rollback", &update]).await.unwrap();
    fleet.stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    for name in ["w1", "w2"] {
        fleet.stage.cli(&["node", "uncordon", name]).await.unwrap();
    }

    // One that is gone for good is forgotten, and nothing of it is left.
    fleet.load.phase("w2 is gone for good");
    fleet.lose("w2").await;
    fleet.stage.cli(&["node", "forget", "w2"]).await.unwrap();
    until_alone(&fleet.stage, "1.0.0", 3).await;
    let nodes = fleet.stage.cli(&["nodes"]).await.unwrap();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2, "{nodes:#}");
    let slice = fleet.stage.cli(&["slices", EXAMPLE]).await.unwrap();
    assert_eq!(states(&slice["instancesState"]), ["READY"; 3], "{slice:#}");
    // Should it come back all the same, it ends what nobody names.
    let position = fleet.worker("w2");
    fleet.stage.cluster.nodes[position].start().unwrap();
    fleet.until_lifecycle("w2", "READY").await;
    eventually("its old instances to end", async || fleet.running_on("w2").is_empty()).await;
    fleet.stage.cluster.ready(PATIENCE).await.unwrap();
    fleet.end().await;
}
