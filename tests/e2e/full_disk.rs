//! Disks that are full. One voter's: it says so, ends with the reason when nothing
//! more fits, the others go on, and with space it comes back as if it had been
//! away. All voters': writes stop before, and go on by themselves.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use aether_cluster::artifacts::write;
use aether_cluster::{Addresses, Lease, free_address};
use aether_tests::evidence::eventually;
use aether_tests::{Cluster, PATIENCE, Topology, binary, rest};
use serde_json::Value;
use tempfile::TempDir;

/// Enough for an empty log, but not for the pushes of this test.
const SMALL: &str = "size=1m";
const LARGE: &str = "remount,size=256m";
/// Some pushes fit above the floor, and many more below it.
const ABOVE_FLOOR: &str = "size=4m";
const FLOOR: &str = "\n[storage]\ndisk_free_min = \"3MiB\"\n";
const SKIPPED: &str = "SKIPPED: this test mounts a small file system, which takes root's rights";
/// So that few pushes fill a disk.
const MANIFEST_BYTES: usize = 48 * 1024;

/// A file system in memory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the right to mount.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs"], at).then(|| Self(at.to_owned()))
    }

    fn grow(&self) {
        assert!(run("mount", &["-o", LARGE], &self.0), "{} can't be made larger", self.0.display());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: when a test fails, files may be open in it.
        run("umount", &["--lazy"], &self.0);
    }
}

/// Whether a command on a directory succeeds.
fn run(program: &str, arguments: &[&str], on: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(on).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Three voters with something in their configuration, none of them started.
fn prepared(dir: &Path, extra: &str) -> (Cluster, Vec<Lease>) {
    let mut leases = Vec::new();
    let mut next = || {
        let (address, lease) = free_address().unwrap();
        leases.push(lease);
        address
    };
    let addresses: Vec<_> = (0..3)
        .map(|_| Addresses { grpc: next(), http: next(), peer: next(), ingress: next() })
        .collect();
    let topology = Topology { extra: extra.to_owned(), ..Topology::split(3, 0) };
    (Cluster::prepare(&binary(), &topology, dir, &addresses).unwrap(), leases)
}

/// A directory with an artifact of its own version.
fn filler(scratch: &Path, version: u32) -> PathBuf {
    let artifact = format!("org.example:filler:1.0.{version}");
    let filler = "x".repeat(MANIFEST_BYTES);
    let manifest = format!("artifact = '{artifact}'\n[run]\ncommand = ['/bin/true', '{filler}']\n");
    write(scratch, &artifact, &[("slice.toml", &manifest)]).unwrap()
}

/// Pushes one artifact of its own version, which must succeed.
async fn push(cluster: &Cluster, scratch: &Path, version: u32) {
    let dir = filler(scratch, version);
    cluster.json(&["artifact", "push", dir.to_str().unwrap(), "--timeout", "30s"]).await.unwrap();
}

/// What a status warns of, for want of space.
fn alerts(status: &Value) -> Vec<String> {
    let alerts = status["alerts"].as_array().unwrap().iter();
    let of_disks = alerts.filter(|alert| alert["code"] == "disk_low");
    of_disks.map(|alert| alert["message"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_voter_whose_disk_is_full_ends_and_comes_back_when_there_is_space() {
    let temp = TempDir::with_prefix("aether-").unwrap();
    let (mut cluster, _leases) = prepared(temp.path(), "");
    // The last one: the first in the list takes the pushes, and keeps them.
    let disk = cluster.nodes[2].dir.join("data/replica/wal");
    let Some(disk) = SmallDisk::mount(&disk, SMALL) else {
        println!("{SKIPPED}");
        return;
    };
    cluster.start_all().unwrap();
    cluster.leader(PATIENCE).await.unwrap();
    // It follows all the same, but does not lead for long.
    eventually("the status to say that its disk is nearly full", async || {
        let status = cluster.json(&["status"]).await.unwrap();
        alerts(&status).iter().any(|alert| alert.contains("the disk of voter v2 is nearly full"))
            && status["leader"].as_str().is_some_and(|leader| leader != "v2")
    })
    .await;

    let deadline = Instant::now() + PATIENCE;
    let mut pushed = 0;
    let success = loop {
        if let Some(success) = cluster.nodes[2].exited() {
            break success;
        }
        assert!(Instant::now() < deadline, "{pushed} pushes, and the voter lives");
        pushed += 1;
        push(&cluster, temp.path(), pushed).await;
    };
    assert!(!success, "it ends with a failure");
    let said = std::fs::read_to_string(cluster.nodes[2].log()).unwrap();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("No space left on device"), "{last}");
    assert!(last.contains("data/replica") && last.contains("start this node again"), "{last}");
    println!("after {pushed} pushes: {last}");

    // Still full: it may get a little further, or not, but it says so again.
    cluster.nodes[2].start().unwrap();
    eventually("the voter to end once more, or the others to be ahead", async || {
        pushed += 1;
        push(&cluster, temp.path(), pushed).await;
        cluster.nodes[2].exited() == Some(false)
    })
    .await;

    disk.grow();
    cluster.nodes[2].start().unwrap();
    pushed += 1;
    push(&cluster, temp.path(), pushed).await;
    let address = cluster.nodes[2].addresses.grpc.to_string();
    eventually("the voter to have everything", async || {
        let listed = cluster.json(&["artifact", "list", "-a", &address]).await;
        let count = |list: Value| list["artifacts"].as_array().map(Vec::len);
        listed.ok().and_then(count) == Some(pushed as usize)
    })
    .await;
    assert!(cluster.stop_all(PATIENCE).await, "all end with success");
    drop(cluster);
    drop(disk);
}

#[tokio::test]
async fn writes_stop_before_the_disks_of_a_majority_are_full_and_go_on_by_themselves() {
    let temp = TempDir::with_prefix("aether-").unwrap();
    let (mut cluster, _leases) = prepared(temp.path(), FLOOR);
    let mut disks = Vec::new();
    for node in &cluster.nodes[..2] {
        let Some(disk) = SmallDisk::mount(&node.dir.join("data/replica/wal"), ABOVE_FLOOR) else {
            println!("{SKIPPED}");
            return;
        };
        disks.push(disk);
    }
    cluster.start_all().unwrap();
    cluster.leader(PATIENCE).await.unwrap();

    let deadline = Instant::now() + PATIENCE;
    let mut pushed = 0;
    let said = loop {
        assert!(Instant::now() < deadline, "{pushed} pushes, and all are taken");
        let dir = filler(temp.path(), pushed + 1);
        let verb = ["artifact", "push", dir.to_str().unwrap(), "--timeout", "2s"];
        let said = cluster.cli(&verb).await.unwrap();
        match said.code {
            Some(0) => pushed += 1,
            // Provably not done.
            Some(3) if said.stderr.contains("too few voters have space") => break said.stderr,
            // The leader may be handing over.
            _ => {}
        }
    };
    println!("after {pushed} pushes: {said}");
    for part in ["v0: ", "v1: ", "bytes are free in", "data/replica/wal", "the floor is 3145728"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(pushed >= 5, "{pushed}");

    // All live and answer, and what is read is up to date.
    for k in 0..3 {
        assert!(cluster.nodes[k].exited().is_none());
        let address = cluster.nodes[k].addresses.grpc.to_string();
        let listed = cluster.json(&["artifact", "list", "-a", &address]).await.unwrap();
        assert_eq!(listed["artifacts"].as_array().unwrap().len(), pushed as usize);
        let status = cluster.json(&["status", "--verbose", "-a", &address]).await.unwrap();
        assert_eq!(status["quorum"], true);
        let told = alerts(&status);
        assert!(told.iter().any(|alert| alert.starts_with("no writes are taken: ")), "{told:?}");
        let low = |voter: &Value| voter["detail"]["diskLow"] == true;
        let voters = status["voters"].as_array().unwrap();
        assert_eq!(voters.iter().map(low).collect::<Vec<_>>(), [true, true, false]);
    }
    let text = rest::get(cluster.nodes[0].addresses.http, "/metrics").await.unwrap().text();
    assert!(text.contains("aether_disk_low 1\n"), "{text}");
    let before = std::fs::read_to_string(cluster.nodes[0].log()).unwrap();
    assert_eq!(before.matches("the disk is nearly full").count(), 1, "it says so once: {before}");

    disks[0].grow();
    pushed += 1;
    push(&cluster, temp.path(), pushed).await;
    eventually("only the other disk to be warned of", async || {
        let told = alerts(&cluster.json(&["status"]).await.unwrap());
        told.len() == 1 && told[0].contains("the disk of voter v1")
    })
    .await;
    assert!(cluster.stop_all(PATIENCE).await, "all end with success");
    drop(cluster);
    drop(disks);
}
