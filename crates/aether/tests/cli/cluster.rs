//! `aether status`, `nodes`, `node`, `kv` and `events`.

use aether_proto::errors::Problem;
use aether_proto::v1;
use tonic::Code;

use super::answers::{fresh, node, nodes, old, reason};
use super::scene::Scene;

fn status() -> v1::ClusterStatus {
    let voter = |name: &str, raft_id, leader| v1::Voter {
        name: name.into(),
        raft_id,
        peer_address: format!("10.0.0.{raft_id}:8091"),
        leader,
        alive: Some(leader),
        detail: None,
    };
    let session = |id: &str, state: &str| v1::Session {
        id: id.into(),
        kind: "INGRESS".into(),
        name: "n1".into(),
        state: state.into(),
        applied: 41,
    };
    v1::ClusterStatus {
        cluster: "aether".into(),
        node: "n1".into(),
        leader: Some("n1".into()),
        term: 3,
        committed: 42,
        applied: 42,
        voters: vec![voter("n1", 1, true), voter("n2", 2, false)],
        quorum: true,
        state_hash: "ab12".into(),
        live_updates: 1,
        slices: 2,
        sessions: 2,
        session_states: vec![session("s1", "CONNECTED"), session("s2", "UNREACHABLE")],
        version: "0.1.0".into(),
        alerts: Vec::new(),
        voter_changes: Vec::new(),
        feature_level: 2,
        feature_level_held_back_by: Vec::new(),
    }
}

#[tokio::test]
async fn looked_at() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Cluster/Status", &status());
    scene.run_all(&["status", "status -o json", "status -o yaml"]).await;
    let alone =
        v1::ClusterStatus { leader: None, quorum: false, session_states: Vec::new(), ..status() };
    scene.node.will_answer("Cluster/Status", &alone);
    scene.run("status").await;
    let alarmed = v1::ClusterStatus {
        alerts: vec![reason("node_lost", "node n3 is lost since 5m; its 2 instances are replaced")],
        ..status()
    };
    scene.node.will_answer("Cluster/Status", &alarmed);
    scene.run("status").await;
    let mut told = status();
    told.voters[0].detail = Some(v1::VoterDetail {
        term: 3,
        applied: Some(42),
        committed: Some(42),
        last_log: Some(42),
        lag: Some(0),
        wal_bytes: 8 << 20,
        snapshot: Some(40),
        snapshot_bytes: 70_000,
        image: Some(41),
        image_bytes: 524_288,
        image_state: "REBUILT".into(),
        image_problem: "there is none".into(),
        syncs: 120,
        sync_p50_us: 850,
        sync_p99_us: 12_400,
        sync_max_us: 2_000_000,
        elections: 2,
        proposals_in_flight: 3,
        disk_path: "/var/lib/aether/replica/wal".into(),
        disk_free_bytes: 50 << 20,
        disk_floor_bytes: 64 << 20,
        disk_low: true,
        feature_level_max: 3,
        ..Default::default()
    });
    told.voters[1].detail =
        Some(v1::VoterDetail { problem: "no answer within 1000 ms".into(), ..Default::default() });
    told.feature_level_held_back_by = vec!["n2 does not answer".into()];
    scene.node.will_answer("Cluster/Status", &told);
    scene.run_all(&["status --verbose", "status --verbose -o json"]).await;
    let seen = vec![
        node("n1", "READY", "OPEN"),
        node("n2", "UNREACHABLE", "DRAINING"),
        node("n3", "LOST", "CORDONED"),
    ];
    let seen = v1::NodesResponse { as_of: old(), ..nodes(seen) };
    scene.node.will_answer("Cluster/Nodes", &seen);
    scene.run_all(&["nodes", "nodes -o yaml", "nodes --color always"]).await;
    scene.ends("cluster");
}

#[tokio::test]
async fn nodes_are_emptied_and_filled() {
    let mut scene = Scene::new().await;
    let is = |schedule: &str, instances, note: &str| v1::Node {
        instances,
        note: note.into(),
        ..node("w1", "READY", schedule)
    };
    let set = "Cluster/SetNodeSchedule";
    scene.node.will_answer(set, &is("DRAINING", 3, "no other node has room for 1 of them"));
    scene.run("node drain w1").await;
    scene.node.will_answer("Cluster/Nodes", &nodes(vec![is("DRAINING", 3, "")]));
    scene.run("node drain w1 --wait --wait-timeout 200ms").await;
    let why = "org.example:my-slice: 1 instance of r1 has no other place: no room left";
    let held = v1::Node { waits_for: vec![why.into()], ..is("DRAINING", 1, "") };
    scene.node.will_answer("Cluster/Nodes", &nodes(vec![held]));
    scene.run("node drain w1 --wait --wait-timeout 200ms").await;
    scene.node.will_answer("Cluster/Nodes", &nodes(vec![is("OPEN", 3, "")]));
    scene.run("node drain w1 --wait").await;
    scene.node.will_answer("Cluster/Nodes", &nodes(Vec::new()));
    scene.run("node drain w1 --wait").await;
    scene.node.will_answer("Cluster/Nodes", &nodes(vec![is("DRAINING", 0, "")]));
    scene.run("node drain w1 --wait").await;
    scene.node.will_answer(set, &is("DRAINING", 0, ""));
    scene.run("node drain w1 --wait -o json").await;
    scene.node.will_answer(set, &is("CORDONED", 3, ""));
    scene.run("node cordon w1").await;
    scene.node.will_answer(set, &is("OPEN", 3, "it was open already"));
    scene.run_all(&["node uncordon w1", "node uncordon w1 -o yaml"]).await;
    let note = "node w1 is forgotten, with 3 instances";
    scene.node.will_answer("Cluster/ForgetNode", &v1::ForgetNodeResponse { note: note.into() });
    scene.run_all(&["node forget w1", "node forget w1 --force --yes -o json"]).await;
    scene.ends("node");
}

#[tokio::test]
async fn voters_come_and_go() {
    let mut scene = Scene::new().await;
    let change = |kind: &str, stage: &str, note: &str| v1::VoterChange {
        node: "n4".into(),
        kind: kind.into(),
        stage: stage.into(),
        peer_address: "10.0.0.4:8091".into(),
        note: note.into(),
        ..Default::default()
    };
    let invited = change("JOIN", "INVITED", "for node n4 to start and ask");
    scene.node.will_answer("Voters/Add", &invited);
    let add = "node add n4 --peer 10.0.0.4:8091";
    scene.run_all(&[add, &format!("{add} -o json")]).await;
    let member = |name: &str| v1::Member { name: name.into(), voter: true, ..Default::default() };
    let list = |members: Vec<v1::Member>, changes: Vec<v1::VoterChange>| v1::ListVotersResponse {
        members,
        changes,
        as_of: fresh(),
    };
    scene.node.will_answer("Voters/List", &list(vec![member("n4")], vec![]));
    scene.run(&format!("{add} --wait")).await;
    scene.node.will_answer("Voters/List", &list(vec![member("n1")], vec![]));
    scene.run(&format!("{add} --wait")).await;
    scene.node.will_answer("Voters/List", &list(vec![], vec![invited]));
    scene.run(&format!("{add} --wait --wait-timeout 200ms")).await;
    let copying = change("JOIN", "CATCHING_UP", "for it to copy the log");
    scene.node.will_answer("Voters/Add", &copying);
    scene.run_all(&["node replace n2 --peer h:1", "node replace n2 n4 --peer h:1"]).await;
    scene.node.will_answer("Voters/Remove", &change("LEAVE", "CHANGING", ""));
    scene.run_all(&["node remove n4", "node remove n4 -o yaml"]).await;
    scene.node.will_answer("Voters/List", &list(vec![member("n1")], vec![]));
    scene.run("node remove n4 --wait").await;
    let leader = v1::TransferLeaderResponse { leader: "n2".into() };
    scene.node.will_answer("Voters/TransferLeader", &leader);
    scene.run_all(&["node transfer-leader", "node transfer-leader n2 -o json"]).await;
    scene.ends("voters");
}

#[tokio::test]
async fn records() {
    let mut scene = Scene::new().await;
    let entry = |as_of| v1::KvEntry {
        key: "version-routing/org.example:my-slice".into(),
        value_json: r#"{"slice":"org.example:my-slice","weights":"1:3","n":7}"#.into(),
        as_of,
    };
    scene.node.will_answer("Cluster/KvGet", &entry(fresh()));
    let line = "kv get version-routing/org.example:my-slice";
    for format in ["", "-o json", "-o yaml"] {
        scene.run(&format!("{line} {format}")).await;
    }
    scene.node.will_answer("Cluster/KvGet", &entry(old()));
    scene.run(line).await;
    let broken = v1::KvEntry { value_json: "{".into(), ..entry(fresh()) };
    scene.node.will_answer("Cluster/KvGet", &broken);
    scene.run(line).await;
    scene.node.will_answer("Cluster/KvPut", &v1::KvPutResponse { index: 8 });
    scene.file("value.json", "{\"rps\": 200}\n");
    let file = format!("@{}/value.json", scene.dir().display());
    scene.run_all(&["kv put config/a 1", "kv put config/a 2 --if-index 7 -o json"]).await;
    scene.run_all(&[&format!("kv put config/a {file} --if-absent"), "kv put config/a @none"]).await;
    scene.node.will_answer("Cluster/KvDelete", &v1::KvDeleteResponse { index: 9 });
    scene.run_all(&["kv delete config/a", "kv delete config/a --if-index 8 -o json"]).await;
    scene.ends("kv");
}

#[tokio::test]
async fn records_by_their_beginning() {
    let mut scene = Scene::new().await;
    let entry = |key: &str, value: &str| v1::KvEntry {
        key: key.into(),
        value_json: value.into(),
        as_of: None,
    };
    let page = v1::KvListResponse {
        entries: vec![entry("instances/a", r#"{"state":"READY"}"#), entry("instances/b", "7")],
        next_page_token: String::new(),
        as_of: old(),
    };
    scene.node.will_answer("Cluster/KvList", &page);
    scene.run_all(&["kv list instances/", "kv list -o json", "kv list instances/ -o yaml"]).await;
    let change = |kind: &str, index, key: &str, value: Option<&str>| v1::KvChange {
        kind: kind.into(),
        key: key.into(),
        value_json: value.map(str::to_owned),
        index,
    };
    // What ends a watch that cannot go on elsewhere.
    let compacted = Problem::new(Code::OutOfRange, "compacted", "no changes any more").status();
    let story = [
        Ok(change("PUT", 40, "instances/a", Some(r#"{"state":"READY"}"#))),
        Ok(change("SYNCED", 41, "", None)),
        Ok(change("DELETE", 43, "instances/a", None)),
        Err(compacted),
    ];
    scene.node.will_stream("Cluster/KvWatch", story.to_vec());
    for line in ["kv watch instances/", "kv watch --from 41 -o json", "kv watch -o yaml"] {
        scene.run(line).await;
    }
    scene.ends("kv_many");
}

#[tokio::test]
async fn events() {
    let mut scene = Scene::new().await;
    let told = |index, n, id: &str, event: &str| v1::EventsResponse {
        event: Some(v1::Event {
            index,
            n,
            wall_ms: 1_704_067_200_000,
            actor: "alice".into(),
            kind: "update".into(),
            id: id.into(),
            event: event.into(),
        }),
        position: Some(v1::EventPosition { index, n }),
        as_of: None,
    };
    let end = v1::EventsResponse {
        event: None,
        position: Some(v1::EventPosition { index: 41, n: 0 }),
        as_of: old(),
    };
    let story = [told(30, 0, "u1f", "started"), told(41, 1, "u1f", "routing 1:3"), end];
    scene.node.will_stream_all("Cluster/Events", &story);
    for line in ["events", "events -n 20 --subject update/u1f -o json", "events --after 29 -o yaml"]
    {
        scene.run(line).await;
    }
    for line in ["events --subject colour", "events --after x", "events --after 1 -n 2"] {
        scene.run(line).await;
    }
    scene.ends("events");
}
