//! Voters come, go, are replaced and restarted one after the other, while slices
//! are called and an update is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aether_cluster::load::Load;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::voters_client::VotersClient;
use aether_proto::v1::{ListVotersRequest, SetNodeScheduleRequest};
use aether_tests::evidence::{equal_hashes, eventually};
use aether_tests::{PATIENCE, Stage, Topology, assert_none_failed, stage_with};
use serde_json::Value;

/// Requests per second over all ways.
const RATE_PER_S: u32 = 200;
const REQUESTS: u64 = 150;

/// What one node answers to a verb, and its exit code.
async fn ask(stage: &Stage, node: usize, verb: &[&str]) -> aether_cluster::Said {
    let address = stage.cluster.nodes[node].addresses.grpc.to_string();
    stage.cluster.cli(&[verb, &["--addr", &address]].concat()).await.unwrap()
}

/// Names of the voters, in order.
async fn voters(stage: &Stage) -> Vec<String> {
    let quorum = |status: &Value| status["quorum"] == true;
    let status = stage.until_verb(&["status"], "a quorum", quorum).await.unwrap();
    let voters = status["voters"].as_array().unwrap();
    let mut names: Vec<_> = voters.iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A verb of `node` about voters, waited for.
async fn node(stage: &Stage, verb: &str, about: &[&str]) {
    let words = [&["node", verb], about, &["--wait", "--wait-timeout", "60s"]].concat();
    stage.cli(&words).await.unwrap();
}

/// Waits until the process of a removed voter has ended, and said why.
async fn ended(stage: &mut Stage, position: usize) {
    let deadline = Instant::now() + PATIENCE;
    let node = &mut stage.cluster.nodes[position];
    loop {
        match node.exited() {
            Some(success) => break assert!(!success, "it ends with a reason"),
            None => assert!(Instant::now() < deadline, "{} does not end", node.name),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = std::fs::read_to_string(node.log()).unwrap();
    assert!(log.contains("is no member of cluster"), "{log}");
}

#[tokio::test]
async fn three_voters_become_five_and_three_others_in_the_middle_of_an_update() {
    let topology = Topology::split(3, 2);
    let mut stage = stage_with(&topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let invoker = stage.invoker("test").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE_PER_S, "three");
    load.until_requests(REQUESTS).await;
    let update = stage.start("2.0.0", &["--latency-ms", "60000"]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:3").await.unwrap();

    // The first is started before it is invited, the second after it.
    load.phase("five");
    let third = stage.cluster.prepare_voter("v3", &topology).unwrap();
    stage.cluster.nodes[third].start().unwrap();
    let said = |stage: &Stage| std::fs::read_to_string(stage.cluster.nodes[third].log()).unwrap();
    eventually("the newcomer to say what it waits for", async || {
        said(&stage).contains("aether node add v3 --peer")
    })
    .await;
    let peer = stage.cluster.nodes[third].addresses.peer.to_string();
    node(&stage, "add", &["v3", "--peer", &peer]).await;
    let fourth = stage.cluster.prepare_voter("v4", &topology).unwrap();
    let peer = stage.cluster.nodes[fourth].addresses.peer.to_string();
    let invited = stage.cli(&["node", "add", "v4", "--peer", &peer]).await.unwrap();
    assert_eq!(invited["stage"], "INVITED", "{invited:#}");
    let again = ask(&stage, 0, &["node", "add", "v4", "--peer", "127.0.0.1:1"]).await;
    assert_eq!(again.code, Some(5), "{}", again.stderr);
    stage.cluster.nodes[fourth].start().unwrap();
    // Whoever leads now goes in the middle of it.
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].kill();
    eventually("both to vote", async || voters(&stage).await == ["v0", "v1", "v2", "v3", "v4"])
        .await;
    stage.cluster.nodes[leader].start().unwrap();
    load.until_requests(REQUESTS).await;

    load.phase("three others");
    stage.route("1:1").await.unwrap();
    for gone in ["v0", "v1"] {
        node(&stage, "remove", &[gone, "--yes"]).await;
        let position = stage.cluster.position(gone).unwrap();
        ended(&mut stage, position).await;
    }
    assert_eq!(voters(&stage).await, ["v2", "v3", "v4"]);
    let unknown = ask(&stage, 2, &["node", "remove", "v0", "--yes"]).await;
    assert_eq!(unknown.code, Some(4), "{}", unknown.stderr);
    for ratio in ["3:1", "1:0"] {
        stage.route(ratio).await.unwrap();
    }
    stage.cli(&["update", "complete", &update]).await.unwrap();
    stage.until_state(&update, "COMPLETED").await.unwrap();
    load.until_requests(REQUESTS).await;
    assert_none_failed(&load.stop().await);
    equal_hashes(&stage).await;

    // They are voters like any other: one may die, two may not, nor go.
    stage.cluster.nodes[third].kill();
    eventually("the others to miss it", async || {
        let mut asked = VotersClient::new(stage.cluster.channel(2));
        let list = asked.list(ListVotersRequest {}).await.unwrap().into_inner();
        list.members.iter().any(|m| m.name == "v3" && m.alive == Some(false))
    })
    .await;
    // Also for people.
    let missed = |status: &Value| status["alerts"][0]["code"] == "voter_silent";
    let status = stage.until_verb(&["status"], "an alert", missed).await.unwrap();
    let message = status["alerts"][0]["message"].as_str().unwrap();
    assert!(message.contains("2 of 3 voters answer, v3 not: if one more"), "{message}");
    let refused = ask(&stage, 2, &["node", "remove", "v4", "--yes"]).await;
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("1 of 2 voters answer"), "{}", refused.stderr);
    stage.cluster.nodes[third].start().unwrap();
    stage.cluster.ready_of(third, PATIENCE).await.unwrap();
    stage.cli(&["node", "cordon", "w0"]).await.unwrap();
    invoker.close().await;
    stage.end().await;
}

#[tokio::test]
async fn a_voter_without_its_data_is_replaced_under_its_own_name() {
    let topology = Topology::split(3, 0);
    let mut stage = stage_with(&topology, &[]).await;
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = stage.cluster.nodes[lost].name.clone();
    stage.cluster.nodes[lost].kill();
    stage.cluster.empty_voter(lost, &topology).unwrap();
    stage.cluster.nodes[lost].start().unwrap();
    let peer = stage.cluster.nodes[lost].addresses.peer.to_string();
    // Nobody takes it for who it was.
    let refused = ask(&stage, other, &["node", "add", &name, "--peer", &peer]).await;
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("aether node replace"), "{}", refused.stderr);
    node(&stage, "replace", &[&name, "--peer", &peer]).await;
    assert_eq!(voters(&stage).await, ["v0", "v1", "v2"]);
    equal_hashes(&stage).await;
    let status = stage.cli(&["status"]).await.unwrap();
    let ids: Vec<u64> = status["voters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["raftId"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.iter().filter(|id| **id > 1_000).count(), 1, "{ids:?}");
    // It remembers who it is now.
    stage.cluster.nodes[lost].kill();
    stage.cluster.nodes[lost].start().unwrap();
    stage.cluster.ready_of(lost, PATIENCE).await.unwrap();
    stage.cluster.nodes[other].kill();
    // Writes need it now.
    let unknown = ask(&stage, leader, &["artifact", "remove", "org.example:hello:9.9.9"]).await;
    assert_eq!(unknown.code, Some(4), "{}", unknown.stderr);
    assert_eq!(voters(&stage).await.len(), 3);
    stage.end().await;
}

/// Writes without a pause, at whoever answers, until it is told to stop. Gives
/// how many there were, and the longest time without one.
pub async fn writes(addresses: Vec<String>, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut count, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        let schedule = if count % 2 == 0 { "CORDONED" } else { "OPEN" };
        let request = SetNodeScheduleRequest {
            node: "w0".to_owned(),
            schedule: schedule.to_owned(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(Duration::from_secs(2));
        let done = match ClusterClient::connect(addresses[at].clone()).await {
            Ok(mut client) => client.set_node_schedule(request).await.is_ok(),
            Err(_) => false,
        };
        if done {
            count += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        } else {
            at = (at + 1) % addresses.len();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    (count, longest)
}

#[tokio::test]
async fn every_voter_is_restarted_and_the_leader_moved_and_nobody_notices() {
    let mut stage = stage_with(&Topology::split(3, 2), &[("1.0.0", &[])]).await;
    let invoker = stage.invoker("test").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE_PER_S, "rolling restart");
    load.until_requests(REQUESTS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let control = stage.cluster.control_plane().into_iter().map(|a| format!("http://{a}"));
    let writer = tokio::spawn(writes(control.collect(), Arc::clone(&stop)));
    for position in 0..3 {
        assert!(stage.cluster.nodes[position].stop(PATIENCE).await, "it ends in order");
        stage.cluster.nodes[position].start().unwrap();
        stage.cluster.ready_of(position, PATIENCE).await.unwrap();
    }
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    let to = stage.cluster.nodes[(leader + 1) % 3].name.clone();
    for _ in 0..2 {
        // The second time there is nothing to do.
        let moved = stage.cli(&["node", "transfer-leader", &to]).await.unwrap();
        assert_eq!(moved["leader"], to.as_str());
    }
    load.until_requests(REQUESTS).await;
    stop.store(true, Ordering::Relaxed);
    let (count, longest) = writer.await.unwrap();
    println!("{count} writes over three restarts, at most {longest:?} without one");
    assert!(count > 10, "{count}");
    let phases = load.stop().await;
    assert_none_failed(&phases);
    equal_hashes(&stage).await;
    let w0 = stage.cli(&["kv", "get", "nodes/w0"]).await.unwrap();
    let expected = if count % 2 == 0 { Value::Null } else { "CORDONED".into() };
    assert_eq!(w0["value"]["schedule"], expected, "after {count} writes");
    invoker.close().await;
    stage.end().await;
}
