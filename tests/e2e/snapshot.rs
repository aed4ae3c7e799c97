//! A backup is taken under load, and a new cluster begins with it: the whole
//! way by the command line, and everything that must be refused on it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_cluster::artifacts::example_slice;
use aether_cluster::{Addresses, Said, free_address};
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::{KvWatchRequest, SetNodeScheduleRequest, SnapshotSaveRequest};
use aether_tests::evidence::{eventually, processes};
use aether_tests::{Cluster, PATIENCE, Stage, Topology, binary, stage_with};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Code;

/// Rows by key, at each log index that one node showed.
#[derive(Default)]
struct Seen {
    rows: BTreeMap<String, Value>,
    at: BTreeMap<u64, BTreeMap<String, Value>>,
}

/// Writes one after the other, and notes what a node has at each index.
struct Writes {
    seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<()>; 2],
}

impl Writes {
    async fn start(stage: &Stage) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut client = ClusterClient::new(stage.cluster.channel(0));
        let request = KvWatchRequest::default();
        let mut changes = client.kv_watch(request).await.unwrap().into_inner();
        let to = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            while let Ok(Some(change)) = changes.message().await {
                let mut seen = to.lock().unwrap();
                match &*change.kind {
                    "PUT" => {
                        let value = serde_json::from_str(&change.value_json.unwrap()).unwrap();
                        seen.rows.insert(change.key, value);
                    }
                    "DELETE" => drop(seen.rows.remove(&change.key)),
                    _ => {}
                }
                // The changes of one index follow each other, and each of them
                // moves the record of the cluster.
                let rows = seen.rows.clone();
                seen.at.insert(change.index, rows);
                while seen.at.len() > 1_000 {
                    seen.at.pop_first();
                }
            }
        });
        let writing = tokio::spawn(async move {
            for n in 0.. {
                let schedule = if n % 2 == 0 { "CORDONED" } else { "OPEN" };
                let request = SetNodeScheduleRequest {
                    node: "w0".into(),
                    schedule: schedule.into(),
                    request_id: format!("write-{n}"),
                    actor: "load".into(),
                };
                client.set_node_schedule(request).await.unwrap();
            }
        });
        Self { seen, tasks: [watching, writing] }
    }

    /// What the node had at this index, if it showed that one.
    fn rows_at(&self, index: u64) -> Option<BTreeMap<String, Value>> {
        self.seen.lock().unwrap().at.get(&index).cloned()
    }

    fn last_index(&self) -> u64 {
        self.seen.lock().unwrap().at.last_key_value().map_or(0, |(index, _)| *index)
    }

    fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a verb that must end with this code; gives what it said.
async fn ends(cluster: &Cluster, code: i32, arguments: &[&str]) -> String {
    let Said { code: ended, stderr, stdout } = cluster.cli(arguments).await.unwrap();
    assert_eq!(ended, Some(code), "{arguments:?}: {stderr}");
    assert!(code == 0 || stdout.is_empty(), "{stdout}");
    stderr
}

/// Saves on the node that is watched, until it shows the saved index.
async fn save(stage: &Stage, writes: &Writes, to: &Path) -> (Value, BTreeMap<String, Value>) {
    let address = stage.cluster.nodes[0].addresses.grpc.to_string();
    for _ in 0..50 {
        let acknowledged = writes.last_index();
        let verb = ["snapshot", "save", text(to), "--force", "--addr", &address];
        let saved = stage.cli(&verb).await.unwrap();
        let index = saved["index"].as_u64().unwrap();
        assert!(index >= acknowledged, "{index} < {acknowledged}: it holds all that was written");
        eventually("the watch to go on", async || writes.last_index() > index).await;
        if let Some(rows) = writes.rows_at(index) {
            return (saved, rows);
        }
    }
    panic!("no index of 50 saves was one at which the node showed its state");
}

async fn a_second_save_at_the_same_node_is_refused(stage: &Stage) {
    let mut client = ClusterClient::new(stage.cluster.channel(0));
    let first = client.snapshot_save(SnapshotSaveRequest::default()).await.unwrap();
    // Not read: it waits with whatever does not fit in between.
    let mut first = first.into_inner();
    assert!(first.message().await.unwrap().unwrap().position.is_some());
    let refused = async || {
        let mut client = client.clone();
        match client.snapshot_save(SnapshotSaveRequest { stale: true }).await {
            Ok(_) => None,
            Err(status) => Some((status.code(), status.message().to_owned())),
        }
    };
    if let Some((code, message)) = refused().await {
        assert_eq!(code, Code::ResourceExhausted);
        assert!(message.contains("sends a snapshot already"), "{message}");
    }
    drop(first);
    eventually("the place of one that left", async || refused().await.is_none()).await;
}

/// Copies of a backup that are wrong, and what is said of each.
async fn damaged_files_are_refused(stage: &Stage, backup: &Path, scratch: &Path) {
    let whole = std::fs::read(backup).unwrap();
    let bytes = whole.len();
    let mut flipped = whole.clone();
    flipped[bytes - 100] ^= 0x20;
    let mut newer = whole.clone();
    newer[11] = 7;
    let mut length = whole.clone();
    // The length of the first row's key.
    let header = u32::from_be_bytes(whole[12..16].try_into().unwrap()) as usize;
    length[16 + header] = 0x7f;
    for (content, says) in [
        (flipped, format!("damaged at byte {} of {bytes}: its checksum", bytes - 32)),
        (whole[..bytes / 2].to_vec(), format!("of {}: ", bytes / 2)),
        (length, format!("damaged at byte {} of {bytes}: ", 16 + header)),
        (b"PK\x03\x04 something else".to_vec(), "it is no snapshot".to_owned()),
        (Vec::new(), "it is no snapshot".to_owned()),
        (newer, "its format 7 is newer than this release, which knows up to 1".to_owned()),
    ] {
        let path = scratch.join("damaged.snap");
        std::fs::write(&path, content).unwrap();
        let said = ends(&stage.cluster, 1, &["snapshot", "inspect", text(&path)]).await;
        assert!(said.contains(&says) && said.contains(text(&path)), "{said}: not {says}");
        let config = stage.cluster.nodes[0].config();
        let restore = ["snapshot", "restore", text(&path), "--config", text(&config)];
        assert!(ends(&stage.cluster, 1, &restore).await.contains(&says));
    }
    let missing = scratch.join("missing.snap");
    let said = ends(&stage.cluster, 1, &["snapshot", "inspect", text(&missing)]).await;
    assert!(said.contains("No such file"), "{said}");
}

/// Three voters elsewhere, none of them started.
fn new_cluster(dir: &Path, leases: &mut Vec<aether_cluster::Lease>) -> Cluster {
    let mut next = || {
        let (address, lease) = free_address().unwrap();
        leases.push(lease);
        address
    };
    let addresses: Vec<_> = (0..3)
        .map(|_| Addresses { grpc: next(), http: next(), peer: next(), ingress: next() })
        .collect();
    Cluster::prepare(&binary(), &Topology::split(3, 0), dir, &addresses).unwrap()
}

async fn restore(cluster: &Cluster, node: usize, backup: &Path) -> Value {
    let config = cluster.nodes[node].config();
    let verb = ["snapshot", "restore", text(backup), "--config", text(&config)];
    cluster.json(&verb).await.unwrap()
}

/// Hash of the state on each voter, once all have the same index.
async fn equal_hash(cluster: &Cluster) {
    eventually("all voters to have the same state", async || {
        let mut seen = Vec::new();
        for node in &cluster.nodes {
            let address = node.addresses.grpc.to_string();
            let status = cluster.json(&["status", "--addr", &address]).await.unwrap();
            seen.push((status["applied"].clone(), status["stateHash"].clone()));
        }
        if seen.iter().all(|(applied, _)| *applied == seen[0].0) {
            assert!(seen.iter().all(|(_, hash)| *hash == seen[0].1), "{seen:?}");
            return true;
        }
        false
    })
    .await;
}

/// Waits until a node has ended with a failure; gives what it printed.
async fn failed(cluster: &mut Cluster, node: usize) -> String {
    eventually("the node to end", async || cluster.nodes[node].exited().is_some()).await;
    cluster.nodes[node].printed()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "{} is copied", from.display());
}

fn replica(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.nodes[node].data_dir().join("replica")
}

/// What restoring changes, and what a cluster without agents changes.
fn comparable(key: &str, mut value: Value) -> Option<(String, Value)> {
    let record = value.as_object_mut()?;
    match key.split('/').next().unwrap() {
        // Which incarnation; what happened; who is silent.
        "meta" | "audit" | "nodes" => return None,
        "artifacts" => drop(record.insert("heldBy".into(), Value::Null)),
        "session" => drop(record.insert("fresh".into(), Value::Null)),
        _ => {}
    }
    Some((key.to_owned(), value))
}

async fn rows(cluster: &Cluster) -> BTreeMap<String, Value> {
    let listed = cluster.json(&["kv", "list"]).await.unwrap();
    let entries = listed["entries"].as_array().unwrap();
    let row = |entry: &Value| comparable(entry["key"].as_str().unwrap(), entry["value"].clone());
    entries.iter().filter_map(row).collect()
}

#[tokio::test]
async fn a_new_cluster_begins_with_a_backup_and_goes_on_where_it_stood() {
    let topology = Topology::split(3, 1);
    let mut stage = stage_with(&topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let update = stage.start("2.0.0", &["--latency-ms", "60000"]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:3").await.unwrap();
    let before = processes(&stage.cluster);
    let scratch = TempDir::with_prefix("aether-").unwrap();

    // Save, under load.
    let writes = Writes::start(&stage).await;
    let (other, backup) = (scratch.path().join("other.snap"), scratch.path().join("backup.snap"));
    save(&stage, &writes, &other).await;
    let (saved, at_backup) = save(&stage, &writes, &backup).await;
    a_second_save_at_the_same_node_is_refused(&stage).await;
    writes.stop();
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 2, "no unfinished file is left");
    let said = ends(&stage.cluster, 5, &["snapshot", "save", text(&backup)]).await;
    assert!(said.contains("is there already") && said.contains("--force"), "{said}");

    // Inspect.
    let found = stage.cluster.json(&["snapshot", "inspect", text(&backup)]).await.unwrap();
    for field in ["cluster", "index", "term", "logTimeMs", "wallMs", "rows", "bytes", "sha256"] {
        assert_eq!(found[field], saved[field], "{field}");
    }
    let level = aether_core::level::FEATURE_LEVEL_MAX;
    assert_eq!((&found["incarnation"], &found["featureLevel"]), (&1.into(), &level.into()));
    let members = found["members"].as_array().unwrap();
    let names: Vec<_> = members.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["v0", "v1", "v2"]);
    let count = |list: &Value| {
        list.as_array().unwrap().iter().map(|t| t["rows"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(count(&found["tables"]) as usize, at_backup.len());
    damaged_files_are_refused(&stage, &backup, scratch.path()).await;
    let config = stage.cluster.nodes[0].config();
    let again = ["snapshot", "restore", text(&backup), "--config", text(&config)];
    let said = ends(&stage.cluster, 5, &again).await;
    assert!(said.contains("is not empty"), "{said}");

    // The old voters are gone; instances and their agent are not.
    for node in &mut stage.cluster.nodes[..3] {
        node.kill();
    }

    // Restore, one of them from the wrong backup.
    let (place, mut leases) = (TempDir::with_prefix("aether-").unwrap(), Vec::new());
    let mut new = new_cluster(place.path(), &mut leases);
    let made = [restore(&new, 0, &backup).await, restore(&new, 1, &backup).await];
    assert_eq!(made[0]["stateHash"], made[1]["stateHash"]);
    assert_eq!(made[0]["incarnation"], 2);
    restore(&new, 2, &other).await;
    new.start_all().unwrap();
    eventually("the others to say why they wait", async || {
        let said = new.nodes[0].printed();
        said.contains("v2: it was restored from another backup, with SHA-256")
    })
    .await;
    let address = new.nodes[0].addresses.grpc.to_string();
    let status = new.json(&["status", "--addr", &address]).await.unwrap();
    assert_eq!((&status["leader"], &status["quorum"]), (&Value::Null, &false.into()));
    new.nodes[2].kill();
    std::fs::remove_dir_all(replica(&new, 2)).unwrap();
    assert_eq!(restore(&new, 2, &backup).await["stateHash"], made[0]["stateHash"]);
    new.nodes[2].start().unwrap();
    new.leader(PATIENCE).await.unwrap();
    equal_hash(&new).await;
    let expected: BTreeMap<_, _> =
        at_backup.into_iter().filter_map(|(key, value)| comparable(&key, value)).collect();
    assert_eq!(rows(&new).await, expected, "all rows are those of index {}", saved["index"]);

    // The old agent finds the new cluster, and what it runs is what runs.
    let worker = &mut stage.cluster.nodes[3];
    worker.kill();
    let joins: Vec<String> =
        new.nodes.iter().map(|node| format!("\"{}\"", node.addresses.grpc)).collect();
    let config = std::fs::read_to_string(worker.config()).unwrap();
    let joined = |line: &str| match line.starts_with("join = ") {
        true => format!("join = [{}]", joins.join(", ")),
        false => line.to_owned(),
    };
    let config: Vec<String> = config.lines().map(joined).collect();
    std::fs::write(worker.config(), config.join("\n")).unwrap();
    worker.start().unwrap();
    let open = ["node", "uncordon", "w0"];
    new.json(&open).await.unwrap();
    eventually("the agent to report", async || {
        let nodes = new.json(&["nodes"]).await.unwrap();
        nodes["nodes"][0]["lifecycle"] == "READY"
            && new.json(&["update", "status", &update]).await.unwrap()["state"] == "ROUTING"
    })
    .await;
    new.json(&["update", "routing", &update, "-r", "1:0"]).await.unwrap();
    assert_eq!(processes(&stage.cluster), before, "nothing was started or stopped");
    let complete = ["update", "complete", &update, "--wait", "--timeout", "60s"];
    assert_eq!(new.json(&complete).await.unwrap()["state"], "COMPLETED");

    // Archives come by pushing them again.
    let holders = async |new: &Cluster| {
        let key = "artifacts/org.example/hello/2.0.0";
        let record = new.json(&["kv", "get", key]).await.unwrap();
        let holders = record["value"]["heldBy"].as_array().unwrap();
        holders.iter().filter(|holder| holder.as_str().unwrap().starts_with('v')).count()
    };
    assert_eq!(holders(&new).await, 0);
    let slice = example_slice(scratch.path(), new.binary(), "2.0.0", &[]).unwrap();
    new.json(&["artifact", "push", text(&slice), "--timeout", "30s"]).await.unwrap();
    eventually("all voters to hold the archive", async || holders(&new).await == 3).await;
    refused_directories(&mut new, &stage.cluster, &backup).await;
    assert!(new.stop_all(PATIENCE).await, "all end with success");
    stage.cluster.stop_all(Duration::from_secs(20)).await;
}

/// A directory of the old cluster, and one that was restored a second time, end
/// with the reason; the right one is taken back.
async fn refused_directories(new: &mut Cluster, old: &Cluster, backup: &Path) {
    new.nodes[2].kill();
    let (own, kept) = (replica(new, 2), new.nodes[2].dir.join("kept"));
    std::fs::rename(&own, &kept).unwrap();
    copy(&replica(old, 2), &own);
    new.nodes[2].start().unwrap();
    let said = failed(new, 2).await;
    assert!(said.contains("is no member of cluster"), "{said}");

    std::fs::remove_dir_all(&own).unwrap();
    restore(new, 2, backup).await;
    new.nodes[2].start().unwrap();
    let said = failed(new, 2).await;
    assert!(said.contains("has met another directory of this node"), "{said}");

    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&kept, &own).unwrap();
    new.nodes[2].start().unwrap();
    equal_hash(new).await;
}
