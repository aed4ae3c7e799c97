//! The KV image: the machine's rows in sled, written behind apply.
//!
//! It makes a restart quick and it is never the source of truth, because
//! sled 0.34's flush is not durable on Linux. Rows, position and a hash over
//! all rows are committed in one batch; an image that is missing, outside of
//! what the log allows, whose hash does not match, or that panics on opening
//! is deleted, and the state comes from snapshot and log instead. A failure
//! while running switches the image off and stops nothing.
//!
//! Sled's files grow with what is written to them, and shrink seldom. One that
//! is far larger than its rows is given up for a new one with all of them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
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
/// An image is written anew when its files take so many times its rows, ...
const SIZE_TIMES_MAX: u64 = 4;
/// ... or so many times what they took when it was new, ...
const NEW_TIMES_MAX: u64 = 2;
/// ... but not while they are smaller than this: writing it anew would cost more
/// than it frees.
const SIZE_MIN: u64 = 64 * 1024 * 1024;
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
    /// Whether the image has become too large, and is to be written anew.
    wants_all: AtomicBool,
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
    ///
    /// # Errors
    /// The image is whole, and for a newer release: it is left as it is.
    pub fn open(
        dir: &Path,
        cluster: &str,
        machine: &mut dyn ErasedMachine,
        usable: impl FnOnce(&Position) -> Result<(), String>,
    ) -> Result<(Self, Option<Position>), String> {
        #[cfg(test)]
        if crate::sim::is_on() {
            return Ok((Image::absent(), None));
        }
        let existed = dir.exists();
        let loaded = if existed {
            guarded(|| load(dir, cluster, machine, usable))
        } else {
            Err("there is none".to_owned())
        };
        let mut status = ImageStatus::default();
        let (db, position) = match loaded {
            Ok((db, position, row_bytes)) => {
                status.index = Some(position.index());
                (Ok((db, row_bytes)), Some(position))
            }
            Err(reason) => {
                if let Some(unsupported) = machine.unsupported() {
                    return Err(unsupported);
                }
                if existed {
                    tracing::warn!(image = %dir.display(), reason, "the KV image is rebuilt");
                }
                status.rebuilt_because = Some(reason);
                (create_anew(dir).map(|db| (db, 0)), None)
            }
        };
        Ok((Image::start(dir, cluster, db, status), position))
    }

    /// With a database and the bytes of its rows.
    fn start(
        dir: &Path,
        cluster: &str,
        db: Result<(sled::Db, u64), String>,
        status: ImageStatus,
    ) -> Self {
        let pending = Pending {
            base: None,
            changes: BTreeMap::new(),
            target: None,
            closing: false,
            closed: false,
            status,
        };
        let shared = Arc::new(Shared {
            pending: Mutex::new(pending),
            arrived: Condvar::new(),
            wants_all: AtomicBool::new(false),
        });
        let (writers, cluster, dir) = (shared.clone(), cluster.to_owned(), dir.to_owned());
        std::thread::Builder::new()
            .name("kv-image".into())
            .spawn(move || run_writer(&writers, &dir, cluster, db))
            .expect("a thread can be started");
        Image { shared }
    }

    /// One that keeps nothing, without a thread.
    #[cfg(test)]
    fn absent() -> Self {
        let off = ImageStatus { off_because: Some("there is none".into()), ..Default::default() };
        let pending = Pending {
            base: None,
            changes: BTreeMap::new(),
            target: None,
            closing: false,
            closed: true,
            status: off,
        };
        let wants_all = AtomicBool::new(false);
        let shared = Shared { pending: Mutex::new(pending), arrived: Condvar::new(), wants_all };
        Image { shared: Arc::new(shared) }
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

    /// Whether [`replace`](Self::replace) is to be called next, in the place of
    /// [`advance`](Self::advance): its files are far larger than its rows.
    pub fn wants_all(&self) -> bool {
        self.shared.wants_all.load(Ordering::Relaxed)
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
        self.shared.wants_all.store(false, Ordering::Relaxed);
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
) -> Result<(sled::Db, Position, u64), String> {
    let db = open_db(dir)?;
    let meta = db.get(META_KEY).map_err(|e| e.to_string())?;
    let meta = meta.ok_or("it is incomplete")?;
    let meta: Meta = serde_json::from_slice(&meta).map_err(|e| format!("its position: {e}"))?;
    if meta.format != FORMAT || meta.cluster != cluster {
        return Err(format!("it has format {} and is of cluster {:?}", meta.format, meta.cluster));
    }
    usable(&meta.position)?;
    let (mut failed, mut row_bytes) = (None, 0);
    let mut rows = db.scan_prefix(ROW_PREFIX).map_while(|row| match row_of(row) {
        Ok((key, value)) => {
            row_bytes += (key.len() + value.len()) as u64;
            Some((key, value))
        }
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
    Ok((db, meta.position, row_bytes))
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

fn run_writer(shared: &Shared, dir: &Path, cluster: String, db: Result<(sled::Db, u64), String>) {
    let written = db.and_then(|(db, row_bytes)| {
        let mut writer = Writer { dir, cluster, db: Some(db), size_max: 0 };
        writer.size_max = size_max(row_bytes, 0);
        writer.write_until_closed(shared).inspect_err(|_| {
            // Closing a database in an unknown state may wait forever.
            std::mem::forget(writer.db.take());
        })?;
        writer.close()
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
        shared.wants_all.store(false, Ordering::Relaxed);
    }
    pending.closed = true;
    shared.arrived.notify_all();
}

/// How large the files of an image may become with so many bytes of rows, which
/// took `new_bytes` when it was new.
fn size_max(row_bytes: u64, new_bytes: u64) -> u64 {
    let of_rows = row_bytes.saturating_mul(SIZE_TIMES_MAX);
    of_rows.max(new_bytes.saturating_mul(NEW_TIMES_MAX)).max(SIZE_MIN)
}

/// The writer thread's own.
struct Writer<'a> {
    dir: &'a Path,
    cluster: String,
    /// `None` only while it is given up for another.
    db: Option<sled::Db>,
    size_max: u64,
}

impl Writer<'_> {
    fn write_until_closed(&mut self, shared: &Shared) -> Result<(), String> {
        while let Some(mut work) = next_work(shared) {
            let index = work.target.0.index();
            let mut row_bytes = None;
            if let Some(rows) = work.base.take() {
                self.close()?;
                let db = self.db.insert(create_anew(self.dir)?);
                row_bytes = Some(guarded(|| write_all(db, rows))?);
            }
            let db = self.db.as_ref().expect("there is one between two writes");
            guarded(|| write(db, &self.cluster, work))?;
            let bytes = guarded(|| db.size_on_disk().map_err(|e| e.to_string()))?;
            if let Some(row_bytes) = row_bytes {
                self.size_max = size_max(row_bytes, bytes);
            } else if bytes > self.size_max {
                tracing::info!(image = %self.dir.display(), bytes, "the KV image is written anew");
                shared.wants_all.store(true, Ordering::Relaxed);
            }
            let mut pending = shared.lock();
            (pending.status.index, pending.status.bytes) = (Some(index), bytes);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let db = self.db.take();
        guarded(move || {
            drop(db);
            Ok(())
        })
    }
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

/// Puts all rows into a new database; gives their bytes. Without its position
/// the image counts as missing until [`write`] has made it whole.
fn write_all(db: &sled::Db, mut rows: Box<dyn Iterator<Item = Row> + Send>) -> Result<u64, String> {
    let mut bytes = 0;
    loop {
        let mut batch = sled::Batch::default();
        let mut n = 0;
        for (key, value) in rows.by_ref().take(REWRITE_ROWS) {
            bytes += (key.len() + value.len()) as u64;
            batch.insert(row_key(&key), value);
            n += 1;
        }
        db.apply_batch(batch).map_err(|e| e.to_string())?;
        collect(db, n)?;
        if n < REWRITE_ROWS {
            return Ok(bytes);
        }
    }
}

fn write(db: &sled::Db, cluster: &str, work: Work) -> Result<(), String> {
    let text = |e: sled::Error| e.to_string();
    let (position, hash) = work.target;
    let meta = Meta {
        format: FORMAT,
        cluster: cluster.to_owned(),
        position,
        hash: format!("{hash:032x}"),
    };
    let mut batch = sled::Batch::default();
    let rows = work.changes.len();
    for (key, value) in work.changes {
        match value {
            Some(value) => batch.insert(row_key(&key), &*value),
            None => batch.remove(row_key(&key)),
        }
    }
    batch.insert(META_KEY, serde_json::to_vec(&meta).map_err(|e| e.to_string())?);
    db.apply_batch(batch).map_err(text)?;
    collect(db, rows)?;
    db.flush().map(drop).map_err(text)
}

/// Has sled free what so many written rows made obsolete, in memory and in its
/// files. It frees a bounded part of that at every 128th call (of crossbeam-epoch:
/// `PINNINGS_BETWEEN_COLLECT`, and 8 bags of 64 objects then), and a batch is one
/// call, however many rows it has: with nothing but batches both grow without end.
/// So there is a read for each row.
fn collect(db: &sled::Db, rows: usize) -> Result<(), String> {
    (0..rows).try_for_each(|_| db.get(META_KEY).map(drop)).map_err(|e| e.to_string())
}

/// Where the image is inside a data directory.
pub(crate) fn image_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("image")
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
