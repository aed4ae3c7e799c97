//! A new voter gets the state as a snapshot over a link on which no connection
//! lives long enough for all of it.

use aether_proto::v1::KvPutRequest;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_tests::evidence::{equal_hashes, eventually};
use aether_tests::proxy::Worn;
use aether_tests::{PATIENCE, Topology, stage_with};
use tempfile::TempDir;

const VALUES: usize = 256;
/// As large as one may be.
const VALUE_BYTES: usize = 64 * 1024;
/// An eighth of the snapshot.
const CONNECTION_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// What may be under way when a connection breaks: what the receiver's flow
/// control lets the sender send ahead, which is 1 MiB, and the beginning of a chunk.
const LOST_MAX: u64 = 1536 * 1024;

#[tokio::test]
async fn a_new_voter_gets_its_snapshot_over_connections_that_break() {
    let topology = Topology::split(1, 0);
    let mut stage = stage_with(&topology, &[]).await;
    let mut client = ClusterClient::new(stage.cluster.channel(0));
    for n in 0..VALUES {
        let value = format!("{n:08}").repeat(VALUE_BYTES / 8);
        let key = format!("config/k{n}");
        client.kv_put(KvPutRequest { key, value, ..Default::default() }).await.unwrap();
    }

    // The log of a cluster that begins with a backup does not reach back before it.
    let scratch = TempDir::with_prefix("aether-").unwrap();
    let backup = scratch.path().join("backup.snap");
    let backup = backup.to_str().unwrap();
    stage.cli(&["snapshot", "save", backup]).await.unwrap();
    let snapshot = std::fs::metadata(backup).unwrap().len();
    assert!(snapshot > (VALUES * VALUE_BYTES) as u64);
    let node = &mut stage.cluster.nodes[0];
    node.kill();
    std::fs::remove_dir_all(node.data_dir().join("replica")).unwrap();
    let config = node.config();
    let restore = ["snapshot", "restore", backup, "--config", config.to_str().unwrap()];
    stage.cluster.json(&restore).await.unwrap();
    stage.cluster.nodes[0].start().unwrap();
    stage.cluster.leader(PATIENCE).await.unwrap();

    let joining = stage.cluster.prepare_voter("v1", &topology).unwrap();
    let own = stage.cluster.nodes[joining].addresses.peer;
    let link = Worn::start(own, CONNECTION_BYTES_MAX).await.unwrap();
    let peer = link.address().to_string();
    stage.cli(&["node", "add", "v1", "--peer", &peer]).await.unwrap();
    stage.cluster.nodes[joining].start().unwrap();
    let voters = |status: &serde_json::Value| status["voters"].as_array().map(Vec::len) == Some(2);
    stage.until_verb(&["status"], "both to vote", voters).await.unwrap();
    equal_hashes(&stage).await;

    let (bytes, breaks) = (link.bytes(), link.breaks());
    assert!(breaks >= 3, "{breaks} breaks");
    // Beside it went heartbeats and entries.
    let bound = snapshot + breaks * LOST_MAX + 1024 * 1024;
    println!("{bytes} bytes for a snapshot of {snapshot}, {breaks} breaks");
    assert!(bytes >= snapshot && bytes <= bound, "{bytes} bytes, at most {bound}");
    let folder = stage.cluster.nodes[joining].data_dir().join("replica/snapshots");
    eventually("nothing but whole snapshots to be left", async || {
        let mut names = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name());
        names.all(|name| name.to_str().unwrap().ends_with(".snap"))
    })
    .await;
    stage.end().await;
}
