//! The KV image: the machine's rows in sled, written behind apply.
//!
//! It makes a restart quick and it is never the source of truth, because
//! sled 0.34's flush is not durable on Linux. Rows, position and a hash over
//! all rows are committed in one batch; an image that is missing, outside of
//! what the log allows, whose hash does not match, or that panics on opening
//! is deleted, and the state comes from snapshot and log instead. A failure
//! while running switches the image off and stops nothing.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::{ErasedMachine, Row, RowChange};
use crate::position::Position;

const FORMAT: u32 = 1;
const META_KEY: &[u8] = b"m";
const ROW_PREFIX: &[u8] = b"r";
/// Changes gather this long before they are written, so that a row that
/// changes often is written once.
const GATHER: Duration = Duration::from_millis(500);
/// Rows per batch when the whole image is rewritten.
const REWRITE_ROWS: usize = 1_024;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a stopping node waits for the last write. What is not written is
/// in the log.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Held while sled works. Its concurrency control is one lock for the whole
/// process, and two databases can deadlock on it: one waits in a flush for its
/// background thread, which waits for the other's batch, which waits for the
/// flush. So there is no background thread, and one database works at a time.
static SLED: Mutex<()> = Mutex::new(());

#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    cluster: String,
    position: Position,
    hash: String,
}

/// What the image is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageStatus {
    /// Log index that the image stands at; `None` before its first write.
    pub index: Option<u64>,
    /// Size of its files, as of its last write.
    pub bytes: u64,
    /// Why the image found at the start was not used, if it wasn't.
    pub rebuilt_because: Option<String>,
    /// Why nothing is written any more, if that is so. The node goes on: its
    /// next start takes longer.
    pub off_because: Option<String>,
}

struct Pending {
    /// All rows at some position: replaces the image.
    base: Option<Box<dyn Iterator<Item = Row> + Send>>,
    /// What changed since, by key.
    changes: BTreeMap<Arc<str>, Option<Bytes>>,
    /// Where `base` and `changes` lead to.
    target: Option<(Position, u128)>,
    closing: bool,
    closed: bool,
    status: ImageStatus,
}

struct Shared {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no panic while held")
    }
}

/// The image of one node, with its writer thread.
pub(crate) struct Image {
    shared: Arc<Shared>,
}

impl Image {
    /// Loads the image in `dir` into `machine` if `usable` accepts its
    /// position, and returns that position. Otherwise the image starts anew
    /// and the machine's state is undefined.
    pub fn open(
        dir: &Path,
        cluster: &str,
        machine: &mut dyn ErasedMachine,
        usable: impl FnOnce(&Position) -> Result<(), String>,
    ) -> (Self, Option<Position>) {
        let existed = dir.exists();
        let loaded = if existed {
            guarded(|| load(dir, cluster, machine, usable))
        } else {
            Err("there is none".to_owned())
        };
        let mut status = ImageStatus::default();
        let (db, position) = match loaded {
            Ok((db, position)) => {
                status.index = Some(position.index());
                (Ok(db), Some(position))
            }
            Err(reason) => {
                if existed {
                    tracing::warn!(image = %dir.display(), reason, "the KV image is rebuilt");
                }
                status.rebuilt_because = Some(reason);
                (create_anew(dir), None)
            }
        };
        (Image::start(cluster, db, status), position)
    }

    fn start(cluster: &str, db: Result<sled::Db, String>, status: ImageStatus) -> Self {
        let pending = Pending {
            base: None,
            changes: BTreeMap::new(),
            target: None,
            closing: false,
            closed: false,
            status,
        };
        let shared = Arc::new(Shared { pending: Mutex::new(pending), arrived: Condvar::new() });
        let (writers, cluster) = (shared.clone(), cluster.to_owned());
        std::thread::Builder::new()
            .name("kv-image".into())
            .spawn(move || run_writer(&writers, &cluster, db))
            .expect("a thread can be started");
        Image { shared }
    }

    /// Hands over what an applied batch changed. Never waits for the disk.
    pub fn advance(&self, changes: Vec<RowChange>, position: &Position, hash: u128) {
        let mut pending = self.shared.lock();
        if pending.status.off_because.is_some() {
            return;
        }
        pending.changes.extend(changes.into_iter().map(|c| (c.key, c.value)));
        // While more gathers, the writer is left alone.
        if pending.target.replace((position.clone(), hash)).is_none() {
            self.shared.arrived.notify_all();
        }
    }

    /// Replaces the image by `rows`.
    pub fn replace(
        &self,
        rows: Box<dyn Iterator<Item = Row> + Send>,
        position: &Position,
        hash: u128,
    ) {
        let mut pending = self.shared.lock();
        if pending.status.off_because.is_some() {
            return;
        }
        pending.base = Some(rows);
        pending.changes.clear();
        pending.target = Some((position.clone(), hash));
        self.shared.arrived.notify_all();
    }

    pub fn status(&self) -> ImageStatus {
        self.shared.lock().status.clone()
    }

    /// Writes what is left and closes the image.
    pub fn close(&self) {
        let mut pending = self.shared.lock();
        pending.closing = true;
        self.shared.arrived.notify_all();
        let (pending, _) = self
            .shared
            .arrived
            .wait_timeout_while(pending, CLOSE_TIMEOUT, |p| !p.closed)
            .expect("no panic while held");
        if !pending.closed {
            tracing::warn!("the KV image does not close; the next start rebuilds it");
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs something that touches sled, which may panic on damaged files.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let _working = SLED.lock().unwrap_or_else(PoisonError::into_inner);
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled panicked: {}", text.unwrap_or("without a message"))
}

fn open_db(dir: &Path) -> Result<sled::Db, String> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    config.open().map_err(|e| format!("sled can't open it: {e}"))
}

fn create_anew(dir: &Path) -> Result<sled::Db, String> {
    guarded(|| {
        let removed = match fs::symlink_metadata(dir) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(dir),
            Ok(_) => fs::remove_file(dir),
            Err(_) => Ok(()),
        };
        removed.map_err(|e| format!("{} can't be removed: {e}", dir.display()))?;
        open_db(dir)
    })
}

fn load(
    dir: &Path,
    cluster: &str,
    machine: &mut dyn ErasedMachine,
    usable: impl FnOnce(&Position) -> Result<(), String>,
) -> Result<(sled::Db, Position), String> {
    let db = open_db(dir)?;
    let meta = db.get(META_KEY).map_err(|e| e.to_string())?;
    let meta = meta.ok_or("it is incomplete")?;
    let meta: Meta = serde_json::from_slice(&meta).map_err(|e| format!("its position: {e}"))?;
    if meta.format != FORMAT || meta.cluster != cluster {
        return Err(format!("it has format {} and is of cluster {:?}", meta.format, meta.cluster));
    }
    usable(&meta.position)?;
    let mut failed = None;
    let mut rows = db.scan_prefix(ROW_PREFIX).map_while(|row| match row_of(row) {
        Ok(row) => Some(row),
        Err(text) => {
            failed = Some(text);
            None
        }
    });
    let restored = machine.restore(meta.position.stamp(), &mut rows);
    drop(rows);
    if let Some(text) = failed {
        return Err(text);
    }
    restored?;
    if format!("{:032x}", machine.hash()) != meta.hash {
        return Err("the hash over its rows does not match".to_owned());
    }
    Ok((db, meta.position))
}

fn row_of(row: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Row, String> {
    let (key, value) = row.map_err(|e| e.to_string())?;
    let key = String::from_utf8(key[ROW_PREFIX.len()..].to_vec()).map_err(|e| e.to_string())?;
    Ok((key, value.to_vec()))
}

fn row_key(key: &str) -> Vec<u8> {
    [ROW_PREFIX, key.as_bytes()].concat()
}

/// What the writer takes at once.
struct Work {
    base: Option<Box<dyn Iterator<Item = Row> + Send>>,
    changes: BTreeMap<Arc<str>, Option<Bytes>>,
    target: (Position, u128),
}

fn run_writer(shared: &Shared, cluster: &str, db: Result<sled::Db, String>) {
    let written = db.and_then(|db| {
        write_until_closed(shared, cluster, &db).inspect_err(|_| {
            // Closing a database in an unknown state may wait forever.
            std::mem::forget(db.clone());
        })?;
        guarded(move || {
            drop(db);
            Ok(())
        })
    });
    let mut pending = shared.lock();
    if let Err(reason) = written {
        tracing::warn!(
            reason,
            "the KV image is off; the next start rebuilds the state from the log"
        );
        pending.status.off_because = Some(reason);
        pending.base = None;
        pending.changes.clear();
    }
    pending.closed = true;
    shared.arrived.notify_all();
}

fn write_until_closed(shared: &Shared, cluster: &str, db: &sled::Db) -> Result<(), String> {
    while let Some(work) = next_work(shared) {
        let index = work.target.0.index();
        guarded(|| write(db, cluster, work))?;
        let bytes = guarded(|| db.size_on_disk().map_err(|e| e.to_string()))?;
        let mut pending = shared.lock();
        (pending.status.index, pending.status.bytes) = (Some(index), bytes);
    }
    Ok(())
}

/// Waits for work and lets it gather; `None` when closing with nothing left.
fn next_work(shared: &Shared) -> Option<Work> {
    let mut pending = shared.lock();
    while pending.target.is_none() && !pending.closing {
        pending = shared.arrived.wait(pending).expect("no panic while held");
    }
    if !pending.closing {
        let (gathered, _) = shared
            .arrived
            .wait_timeout_while(pending, GATHER, |p| !p.closing)
            .expect("no panic while held");
        pending = gathered;
    }
    let target = pending.target.take()?;
    Some(Work { base: pending.base.take(), changes: std::mem::take(&mut pending.changes), target })
}

fn write(db: &sled::Db, cluster: &str, work: Work) -> Result<(), String> {
    let text = |e: sled::Error| e.to_string();
    if let Some(mut rows) = work.base {
        // Without its position the image counts as missing until it is whole.
        db.remove(META_KEY).map_err(text)?;
        db.clear().map_err(text)?;
        loop {
            let mut batch = sled::Batch::default();
            let mut n = 0;
            for (key, value) in rows.by_ref().take(REWRITE_ROWS) {
                batch.insert(row_key(&key), value);
                n += 1;
            }
            db.apply_batch(batch).map_err(text)?;
            if n < REWRITE_ROWS {
                break;
            }
        }
    }
    let (position, hash) = work.target;
    let meta = Meta {
        format: FORMAT,
        cluster: cluster.to_owned(),
        position,
        hash: format!("{hash:032x}"),
    };
    let mut batch = sled::Batch::default();
    for (key, value) in work.changes {
        match value {
            Some(value) => batch.insert(row_key(&key), &*value),
            None => batch.remove(row_key(&key)),
        }
    }
    batch.insert(META_KEY, serde_json::to_vec(&meta).map_err(|e| e.to_string())?);
    db.apply_batch(batch).map_err(text)?;
    db.flush().map(drop).map_err(text)
}

/// Where the image is inside a data directory.
pub(crate) fn image_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("image")
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
