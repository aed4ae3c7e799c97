//! Two releases beside each other: voters that support feature level 1 are
//! replaced, one by one, by such that support more. Until the last one is, all
//! apply alike; then the level rises by itself, and there is no way back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aether_cluster::Node;
use aether_core::command::{Command, Request};
use aether_proto::raft::raft_client::RaftClient;
use aether_proto::raft::{
    ForwardRequest, ForwardResponse, IdentifyRequest, Proposal, Route, outcome,
};
use aether_tests::evidence::{equal_hashes, eventually};
use aether_tests::grpc::Call;
use aether_tests::{PATIENCE, Stage, Topology, stage_with};
use prost::Message;
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::voters::writes;

/// Has a node behave like one of the release that had level 1 only.
const HELD: &str = "\n[compatibility]\nfeature_level_max = 1\n";
/// Levels that the present release supports.
const LEVEL_MAX: u64 = aether_core::level::FEATURE_LEVEL_MAX as u64;

fn old_release(voters: usize, workers: usize) -> Topology {
    Topology { extra: HELD.to_owned(), ..Topology::split(voters, workers) }
}

/// The next process of a node is one of the present release.
fn upgrade(node: &Node) {
    let text = fs::read_to_string(node.config()).unwrap();
    assert!(text.contains(HELD), "{} is upgraded already", node.name);
    fs::write(node.config(), text.replace(HELD, "")).unwrap();
}

/// The next process of a node is one of the release before.
fn downgrade(node: &Node) {
    let text = fs::read_to_string(node.config()).unwrap();
    fs::write(node.config(), text + HELD).unwrap();
}

/// Waits until the process of a node has ended with a reason; gives what it
/// printed.
async fn ended(stage: &mut Stage, position: usize) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let node = &mut stage.cluster.nodes[position];
        match node.exited() {
            Some(success) => {
                assert!(!success, "it ends with a reason");
                return node.printed();
            }
            None => assert!(Instant::now() < deadline, "{} does not end", node.name),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn peer(node: &Node) -> Channel {
    Endpoint::from_shared(format!("http://{}", node.addresses.peer)).unwrap().connect_lazy()
}

/// Puts a value past the services, as a node would that does not look at levels;
/// gives what applying it answered.
async fn put_past_the_services(stage: &Stage) -> String {
    let name = "past/the/services".parse().unwrap();
    let command = Command::PutConfig { name, value: "1".into(), if_modified: None };
    let request = Request { request_id: Some("past".into()), actor: "test".into(), command };
    let proposal = Proposal { id: 1, body: serde_json::to_vec(&request).unwrap().into() };
    let message = ForwardRequest { proposals: vec![proposal] };
    let leader = &stage.cluster.nodes[stage.cluster.leader(PATIENCE).await.unwrap()];
    let identify = IdentifyRequest { cluster: "test".to_owned(), ..Default::default() };
    let me = RaftClient::new(peer(leader)).identify(identify).await.unwrap().into_inner();
    let route = Route {
        cluster: "test".to_owned(),
        target_id: me.raft_id,
        target_dir_id: me.dir_id,
        source_id: me.members.iter().find(|member| member.raft_id != me.raft_id).unwrap().raft_id,
    };
    let call = Call::of("/aether.raft.v1.Raft/Forward").route(&route);
    let answer = call.send(peer(leader), vec![message.encode_to_vec().into()]).await.unwrap();
    let answer = ForwardResponse::decode(answer).unwrap();
    match answer.outcomes.into_iter().next().and_then(|outcome| outcome.result) {
        Some(outcome::Result::Applied(applied)) => {
            String::from_utf8(applied.response.to_vec()).unwrap()
        }
        other => panic!("it was to be in the log: {other:?}"),
    }
}

/// While some voters support level 1 only: what needs more is refused, whatever
/// way it comes, and names them; all have equal states.
async fn all_apply_alike(stage: &Stage, old: &[&str]) {
    let refused = stage.refused(&["kv", "put", "config/a", "1"]).await.unwrap();
    assert!(refused.contains("need feature level 2, and the cluster is at 1"), "{refused}");
    for node in old {
        assert!(refused.contains(&format!("{node} supports 1")), "{refused}");
    }
    let applied = put_past_the_services(stage).await;
    assert!(applied.contains("level_too_low"), "{applied}");
    equal_hashes(stage).await;
    let status = stage.cli(&["status", "--verbose"]).await.unwrap();
    assert_eq!(status["featureLevel"], 1, "{status:#}");
    let held: Vec<String> = match old.len() {
        3 => Vec::new(),
        _ => old.iter().map(|node| format!("{node} supports 1")).collect(),
    };
    assert_eq!(status["featureLevelHeldBackBy"], serde_json::json!(held), "{status:#}");
    for voter in status["voters"].as_array().unwrap() {
        let is_old = old.contains(&voter["name"].as_str().unwrap());
        let expected = if is_old { 1 } else { LEVEL_MAX };
        assert_eq!(voter["detail"]["featureLevelMax"], expected, "{voter:#}");
    }
}

/// Restarts a voter under load of writes of level 1; in between, `down` looks.
async fn restart(stage: &mut Stage, position: usize, down: impl AsyncFnOnce(&Stage)) {
    let stop = Arc::new(AtomicBool::new(false));
    let control = stage.cluster.control_plane().into_iter().take(3);
    let control = control.map(|address| format!("http://{address}")).collect();
    let writer = tokio::spawn(writes(control, Arc::clone(&stop)));
    assert!(stage.cluster.nodes[position].stop(PATIENCE).await, "it ends in order");
    upgrade(&stage.cluster.nodes[position]);
    down(stage).await;
    stage.cluster.nodes[position].start().unwrap();
    stage.cluster.ready_of(position, PATIENCE).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let (count, _) = writer.await.unwrap();
    assert!(count > 0, "nothing was written meanwhile");
}

async fn until_level(stage: &Stage, level: u64) {
    let is_there = |status: &Value| status["featureLevel"] == level && status["quorum"] == true;
    stage.until_verb(&["status"], "the feature level to rise", is_there).await.unwrap();
}

/// How often the level rose, as the audit has it.
async fn raises(stage: &Stage) -> usize {
    let said = stage.cluster.cli(&["events", "--subject", "cluster"]).await.unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
        .lines()
        .filter(|line| line.contains(&format!("feature level {LEVEL_MAX} holds from now on")))
        .count()
}

#[tokio::test]
async fn voters_of_two_releases_apply_alike_and_the_level_rises_with_the_last() {
    let mut stage = stage_with(&old_release(3, 1), &[]).await;
    all_apply_alike(&stage, &["v0", "v1", "v2"]).await;
    restart(&mut stage, 0, async |_| {}).await;
    all_apply_alike(&stage, &["v1", "v2"]).await;
    restart(&mut stage, 1, async |_| {}).await;
    all_apply_alike(&stage, &["v2"]).await;
    // Whoever leads in between goes without a word.
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].kill();
    stage.cluster.nodes[leader].start().unwrap();
    stage.cluster.ready_of(leader, PATIENCE).await.unwrap();
    all_apply_alike(&stage, &["v2"]).await;
    restart(&mut stage, 2, async |stage| {
        // Of a voter that is away nobody knows what it supports.
        let is_missed = |status: &Value| {
            status["featureLevelHeldBackBy"] == serde_json::json!(["v2 does not answer"])
        };
        let status = stage.until_verb(&["status", "--verbose"], "v2 to be missed", is_missed);
        assert_eq!(status.await.unwrap()["featureLevel"], 1);
    })
    .await;

    until_level(&stage, LEVEL_MAX).await;
    stage.cli(&["kv", "put", "config/a", "1"]).await.unwrap();
    assert!(put_past_the_services(&stage).await.contains("Ok"), "also under the same request id");
    equal_hashes(&stage).await;
    assert_eq!(raises(&stage).await, 1);
    let metrics = stage.metrics(0).await.unwrap();
    for metric in ["aether_feature_level", "aether_feature_level_max"] {
        assert!(metrics.contains(&format!("\n{metric} {LEVEL_MAX}\n")), "{metrics}");
    }
    no_way_back(stage).await;
}

/// What supports level 1 only takes no part any more: not a voter from before,
/// nor a new one, nor a cluster restored from a backup.
async fn no_way_back(mut stage: Stage) {
    assert!(stage.cluster.nodes[1].stop(PATIENCE).await);
    downgrade(&stage.cluster.nodes[1]);
    stage.cluster.nodes[1].start().unwrap();
    let said = ended(&mut stage, 1).await;
    let reason =
        format!("feature level {LEVEL_MAX} is committed, and this node supports no more than 1");
    assert!(said.contains(&reason), "{said}");
    assert!(said.contains("take compatibility.feature_level_max = 1 out"), "{said}");
    upgrade(&stage.cluster.nodes[1]);
    stage.cluster.nodes[1].start().unwrap();
    stage.cluster.ready_of(1, PATIENCE).await.unwrap();

    let third = stage.cluster.prepare_voter("v3", &old_release(0, 0)).unwrap();
    let peer = stage.cluster.nodes[third].addresses.peer.to_string();
    stage.cli(&["node", "add", "v3", "--peer", &peer]).await.unwrap();
    stage.cluster.nodes[third].start().unwrap();
    let said = ended(&mut stage, third).await;
    let reason =
        format!("node v3 supports feature level 1, and the cluster is at {LEVEL_MAX}, for good");
    assert!(said.contains("does not admit this node") && said.contains(&reason), "{said}");
    upgrade(&stage.cluster.nodes[third]);
    stage.cluster.nodes[third].start().unwrap();
    let votes = |status: &Value| status["voters"].as_array().unwrap().len() == 4;
    stage.until_verb(&["status"], "v3 to vote", votes).await.unwrap();
    equal_hashes(&stage).await;

    let backup = stage.scratch().join("backup.snap");
    let backup = backup.to_str().unwrap();
    stage.cli(&["snapshot", "save", backup]).await.unwrap();
    let (config, data) = (stage.scratch().join("restored.toml"), stage.scratch().join("restored"));
    let own = &stage.cluster.nodes[0];
    let text = fs::read_to_string(own.config()).unwrap();
    let own_data = own.data_dir().display().to_string();
    fs::write(&config, text.replace(&own_data, data.to_str().unwrap()) + HELD).unwrap();
    let restore = ["snapshot", "restore", backup, "--config", config.to_str().unwrap()];
    let refused = stage.refused(&restore).await.unwrap();
    assert!(refused.contains(&format!("feature level {LEVEL_MAX} is committed")), "{refused}");
    assert!(!data.exists(), "nothing is written");
    stage.end().await;
}

#[tokio::test]
async fn a_leader_that_dies_while_the_level_rises_leaves_it_to_the_next() {
    let mut stage = stage_with(&old_release(3, 0), &[]).await;
    for position in 0..3 {
        assert!(stage.cluster.nodes[position].stop(PATIENCE).await);
        upgrade(&stage.cluster.nodes[position]);
    }
    stage.cluster.start_all().unwrap();
    for _ in 0..3 {
        let leader = stage.cluster.leader(PATIENCE).await.unwrap();
        stage.cluster.nodes[leader].kill();
        stage.cluster.nodes[leader].start().unwrap();
    }
    until_level(&stage, LEVEL_MAX).await;
    equal_hashes(&stage).await;
    assert_eq!(raises(&stage).await, 1);
    stage.cli(&["kv", "put", "config/a", "1"]).await.unwrap();
    stage.end().await;
}

/// Nobody waits for the level in a new cluster, whichever voter is asked.
#[tokio::test]
async fn the_first_write_to_a_new_cluster_finds_its_level() {
    let cluster = Topology::split(3, 0);
    let cluster = aether_cluster::Cluster::start(&aether_tests::binary(), &cluster).unwrap();
    let written = async |position: usize| {
        let address = cluster.nodes[position].addresses.grpc.to_string();
        eventually("the node to listen", async || {
            let key = format!("config/{position}");
            let put = ["kv", "put", &key, "1", "--addr", &address];
            let said = cluster.cli(&put).await.unwrap();
            assert!(!said.stderr.contains("level"), "{said:?}");
            said.code == Some(0)
        })
        .await;
    };
    tokio::join!(written(0), written(1), written(2));
}
