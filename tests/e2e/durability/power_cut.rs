//! The power of all voters goes at once, under writes: each has a disk of its own,
//! of which nothing is left but what was synced.

use std::fs::File;
use std::io::Write as _;

use super::disk::{Disk, cut};
use super::scene::{Scene, Writers};
use super::syncs::traced;
use super::{chance, setting};
use aether_tests::{PATIENCE, until};
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
use rand::RngExt;

/// Writes before the cut.
const WRITES: std::ops::Range<u64> = 20..400;
const SKIPPED: &str =
    "skipped: a power cut takes root's rights, loop devices, mkfs.ext4 and python3";

/// Voters on disks, in the order in which they have to be dropped.
struct Powered {
    scene: Scene,
    disks: Vec<Disk>,
}

impl Powered {
    fn prepare() -> Option<Self> {
        let scene = Scene::prepare();
        let disk = |node: &aether_cluster::Node| {
            Disk::make(&scene.temp.path().join(format!("{}.img", node.name)), &node.data_dir())
        };
        let disks = scene.cluster.nodes.iter().map(disk).collect::<Option<Vec<_>>>()?;
        Some(Self { scene, disks })
    }

    /// Cuts the power: of voters that stand still, or in the midst of whatever
    /// they do. Gives it back, with nothing started.
    async fn cut(&mut self, frozen: bool, writers: Writers) {
        if frozen {
            let nodes = &self.scene.cluster.nodes;
            nodes.iter().for_each(|node| node.signal(SIGSTOP));
            until("the voters to stand still", || nodes.iter().all(is_stopped)).await;
        }
        self.disks.iter().for_each(put_marks);
        // Whoever has no power answers nobody. Here the voters go on for a moment,
        // and in one of some fifty shutdowns ext4 answers a sync that was under
        // way with success, though nothing of it is kept.
        writers.hear_no_more();
        cut(&self.disks);
        let nodes = &mut self.scene.cluster.nodes;
        nodes.iter().for_each(|node| node.signal(SIGKILL));
        nodes.iter_mut().for_each(|node| node.kill());
        writers.stop().await;
        for disk in &self.disks {
            disk.unmount();
            disk.mount();
            check_marks(disk);
        }
    }
}

/// Whether all threads of a node stand still, also those that were in a sync.
fn is_stopped(node: &aether_cluster::Node) -> bool {
    let threads = format!("/proc/{}/task", node.pid().unwrap_or_default());
    std::fs::read_dir(threads).into_iter().flatten().flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    })
}

/// One file that is synced, and one that is not.
fn put_marks(disk: &Disk) {
    for (name, is_synced) in [("synced.mark", true), ("unsynced.mark", false)] {
        let mut file = File::create(disk.at().join(name)).unwrap();
        file.write_all(b"mark").unwrap();
        if is_synced {
            file.sync_all().unwrap();
        }
    }
}

/// That the power was cut indeed, and later than the last sync.
fn check_marks(disk: &Disk) {
    let read = |name| std::fs::read(disk.at().join(name)).unwrap_or_default();
    assert_eq!(read("synced.mark"), b"mark", "{} keeps what is synced", disk.at().display());
    assert_ne!(read("unsynced.mark"), b"mark", "{} had its power cut", disk.at().display());
    for name in ["synced.mark", "unsynced.mark"] {
        let _ = std::fs::remove_file(disk.at().join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_no_acknowledged_write() {
    let mut random = chance();
    let rounds = setting("AETHER_POWER_ROUNDS", 2);
    let Some(mut powered) = Powered::prepare() else {
        println!("{SKIPPED}");
        return;
    };
    powered.scene.cluster.start_all().unwrap();
    for round in 0..rounds {
        powered.scene.cluster.leader(PATIENCE).await.unwrap();
        let writers = powered.scene.write();
        writers.more(random.random_range(WRITES)).await;
        let frozen = round % 2 == 0;
        powered.cut(frozen, writers).await;
        powered.scene.cluster.start_all().unwrap();
        powered.scene.check(&format!("round {round}, frozen: {frozen}")).await;
    }
    let Powered { scene, disks } = powered;
    scene.end(&format!("{rounds} power cuts")).await;
    drop(disks);
}

/// The check of the check: it finds what voters lose that only pretend to sync.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_is_noticed_where_syncs_do_nothing() {
    let Some(mut powered) = Powered::prepare() else {
        println!("{SKIPPED}");
        return;
    };
    // What they have at the first start is synced, so that they start once more.
    powered.scene.cluster.start_all().unwrap();
    let writers = powered.scene.write();
    writers.more(100).await;
    writers.stop().await;
    powered.scene.check("before").await;
    assert!(powered.scene.cluster.stop_all(PATIENCE).await);
    let trace = powered.scene.temp.path().join("trace");
    let Some(program) = traced("fsync,fdatasync:retval=0", &trace) else {
        println!("skipped: strace is not there; 'cargo xtask test' installs it");
        return;
    };
    for node in &mut powered.scene.cluster.nodes {
        node.start_under(&program).unwrap();
    }
    powered.scene.cluster.leader(PATIENCE).await.unwrap();
    let writers = powered.scene.write();
    writers.more(500).await;
    // Not to be synced by the mark that is.
    cut(&powered.disks);
    let nodes = &mut powered.scene.cluster.nodes;
    nodes.iter_mut().for_each(|node| node.kill());
    writers.stop().await;
    for disk in &powered.disks {
        disk.unmount();
        disk.mount();
    }
    powered.scene.cluster.start_all().unwrap();
    let found = powered.scene.findings().await;
    println!("{} findings, such as {:?}; {}", found.len(), found.first(), powered.scene.ledger());
    assert!(found.iter().any(|finding| finding.starts_with("lost: ")), "{found:?}");
}
