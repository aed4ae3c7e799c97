//! The disk under the log of each node: when a sync ends, whether it fails, and
//! what is left of the log's files when the power goes.
//!
//! The files are real, and written as the product writes them. A sync is begun
//! when they are written and ends when the seed says; from then on their present
//! lengths are durable. A power cut takes a suffix of what came after that.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;

use super::{Bug, in_world};

/// Bytes of each file of the log, by name; names are in the order of the log.
type Lengths = BTreeMap<String, u64>;

/// What a sync that only seems to have ended takes to its true end.
const EARLY: Duration = Duration::from_millis(60);

pub(super) struct Disk {
    wal: PathBuf,
    durable: Lengths,
    /// Syncs take from so long to so long.
    pub sync_ms: (u64, u64),
    /// A power cut takes all that was not synced.
    pub keeps_nothing: bool,
    /// The next sync to end fails.
    pub fails: bool,
    pub free_bytes: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            wal: PathBuf::new(),
            durable: Lengths::new(),
            sync_ms: (0, 3),
            keeps_nothing: false,
            fails: false,
            free_bytes: 1 << 40,
        }
    }
}

fn lengths(wal: &Path) -> Lengths {
    let Ok(files) = fs::read_dir(wal) else { return Lengths::new() };
    let files = files.filter_map(|file| {
        let file = file.ok()?;
        let name = file.file_name().into_string().ok()?;
        name.ends_with(".wal").then(|| Some((name, file.metadata().ok()?.len())))?
    });
    files.collect()
}

impl Disk {
    /// A node is about to open this log. What a killed one wrote and did not sync
    /// is still not durable.
    pub fn open(&mut self, wal: PathBuf) {
        self.wal = wal;
        self.fails = false;
    }

    /// Makes it a good disk.
    pub fn recover(&mut self) {
        let good = Disk::default();
        (self.sync_ms, self.fails, self.free_bytes) = (good.sync_ms, false, good.free_bytes);
    }

    /// The power went while nobody had the files open. Says what is lost.
    pub fn lose_power(&self, random: &mut impl rand::Rng) -> io::Result<String> {
        let now = lengths(&self.wal);
        // A file is removed only after the sync that made it superfluous.
        if self.durable.keys().any(|name| !now.contains_key(name)) {
            return Ok("nothing".to_owned());
        }
        let durable_of = |name: &str| self.durable.get(name).copied().unwrap_or(0);
        let unsynced: u64 =
            now.iter().map(|(name, len)| len.saturating_sub(durable_of(name))).sum();
        let mut kept = match random.random_range(0..4u32) {
            _ if self.keeps_nothing => 0,
            0 => unsynced,
            1 => random.random_range(0..=unsynced),
            _ => 0,
        };
        let text = format!("{} of {unsynced} unsynced bytes", unsynced - kept);
        for (name, len) in &now {
            let durable = durable_of(name);
            let here = kept.min(len.saturating_sub(durable));
            kept -= here;
            let path = self.wal.join(name);
            match durable + here {
                left if left == *len => {}
                0 => fs::remove_file(path)?,
                left => OpenOptions::new().write(true).open(path)?.set_len(left)?,
            }
        }
        Ok(text)
    }
}

/// The node that is being stepped has synced all of its log.
pub(crate) fn log_synced() {
    super::world(|world| {
        let disk = &mut world.disks[world.node];
        disk.durable = lengths(&disk.wal);
    });
}

/// A sync that has begun.
pub(crate) struct Sync {
    node: usize,
    lengths: Lengths,
    takes: Duration,
    early: bool,
}

/// Begins a sync of the log of the node that is being stepped.
pub(crate) fn begin_sync() -> Sync {
    in_world(|world| {
        let node = world.node;
        let disk = &mut world.disks[node];
        let (least, most) = disk.sync_ms;
        Sync {
            node,
            lengths: lengths(&disk.wal),
            takes: Duration::from_millis(world.random.random_range(least..=most)),
            early: world.bug == Some(Bug::EarlyAcknowledgement),
        }
    })
}

impl Sync {
    /// Waits for its end.
    pub async fn ended(self) -> Result<(), (io::ErrorKind, String)> {
        if self.early {
            tokio::spawn(async move {
                tokio::time::sleep(EARLY).await;
                self.note_durable();
            });
            return Ok(());
        }
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        // Not when it began: a disk that is well again by now fails nobody.
        if in_world(|world| std::mem::take(&mut world.disks[self.node].fails)) {
            return Err((io::ErrorKind::Other, "a simulated sync failed".to_owned()));
        }
        self.note_durable();
        Ok(())
    }

    fn note_durable(self) {
        in_world(|world| world.disks[self.node].durable = self.lengths);
    }
}
