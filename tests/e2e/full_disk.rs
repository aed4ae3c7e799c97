//! A voter's disk is full: it stops to acknowledge and ends with the reason, the
//! others go on, and with space it comes back as if it had been away.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use aether_cluster::artifacts::write;
use aether_cluster::{Addresses, free_address};
use aether_tests::evidence::eventually;
use aether_tests::{Cluster, PATIENCE, Topology, binary};
use serde_json::Value;
use tempfile::TempDir;

/// Enough for an empty log, but not for the pushes of this test.
const SMALL: &str = "size=1m";
const LARGE: &str = "remount,size=256m";
/// So that few pushes fill a disk.
const MANIFEST_BYTES: usize = 48 * 1024;

/// A file system in memory; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` without the right to mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", SMALL, "tmpfs"], at).then(|| Self(at.to_owned()))
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

/// Pushes one artifact of its own version, which must succeed.
async fn push(cluster: &Cluster, scratch: &Path, version: u32) {
    let artifact = format!("org.example:filler:1.0.{version}");
    let filler = "x".repeat(MANIFEST_BYTES);
    let manifest = format!("artifact = '{artifact}'\n[run]\ncommand = ['/bin/true', '{filler}']\n");
    let dir = write(scratch, &artifact, &[("slice.toml", &manifest)]).unwrap();
    cluster.json(&["artifact", "push", dir.to_str().unwrap(), "--timeout", "30s"]).await.unwrap();
}

#[tokio::test]
async fn a_voter_whose_disk_is_full_ends_and_comes_back_when_there_is_space() {
    let temp = TempDir::with_prefix("aether-").unwrap();
    let mut leases = Vec::new();
    let mut next = || {
        let (address, lease) = free_address().unwrap();
        leases.push(lease);
        address
    };
    let addresses: Vec<_> = (0..3)
        .map(|_| Addresses { grpc: next(), http: next(), peer: next(), ingress: next() })
        .collect();
    let topology = Topology::split(3, 0);
    let mut cluster = Cluster::prepare(&binary(), &topology, temp.path(), &addresses).unwrap();
    // The last one: the first in the list takes the pushes, and keeps them.
    let disk = cluster.nodes[2].dir.join("data/replica/wal");
    let Some(disk) = SmallDisk::mount(&disk) else {
        println!("SKIPPED: this test mounts a small file system, which takes root's rights");
        return;
    };
    cluster.start_all().unwrap();
    cluster.leader(PATIENCE).await.unwrap();

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
