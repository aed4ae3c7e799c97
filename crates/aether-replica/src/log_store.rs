//! The write-ahead log: entries, vote and committed position, durable before
//! openraft hears of it.
//!
//! **Group commit.** An append writes its records and queues its callback. One
//! fdatasync is in flight at any time; appends that come meanwhile gather and
//! share the next one. Callbacks are taken under the log's lock together with
//! the flush that covers them, so they complete in order. A flush is never
//! started from inside a callback, because that runs on the flush worker, whose
//! own bounded queue it would wait for.
//!
//! An error here is final: nothing is retried, the log refuses all further
//! writes, and openraft stops the node.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::chunked_wal::{self, ChunkedWal};
use raft_log::{Callback, RaftLog, RaftWalTypes, Types};
use tokio::sync::oneshot;

use crate::codec::{WalLogId, WalNote, WalPayload, WalVote};
use crate::files::sync_dir;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Size of one file of the log. Purging frees whole files, so this is also the
/// granularity of disk use.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// Entries kept in memory for replication and apply.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// A slow disk is told of this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
const READ_BUFFER_BYTES: usize = 1024 * 1024;
/// Entries read, and sent to a follower, at a time.
const READ_BATCH_BYTES: u64 = 2 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WalTypes;

impl Types for WalTypes {
    type LogId = WalLogId;
    type LogPayload = WalPayload;
    type Vote = WalVote;
    type Callback = FlushDone;
    type UserData = WalNote;

    fn log_index(id: &WalLogId) -> u64 {
        id.index
    }

    fn payload_size(payload: &WalPayload) -> u64 {
        payload.bytes()
    }
}

/// Somebody who waits for durability.
enum Waiter {
    Openraft(IOFlushed<TypeConfig>),
    Oneshot(oneshot::Sender<io::Result<()>>),
    Nobody,
}

/// An I/O result that many waiters can have a copy of.
type Outcome = Result<(), (io::ErrorKind, String)>;

impl Waiter {
    fn complete(self, outcome: &Outcome) {
        let result = outcome.clone().map_err(|(kind, text)| io::Error::new(kind, text));
        match self {
            Waiter::Openraft(callback) => callback.io_completed(result),
            Waiter::Oneshot(tx) => drop(tx.send(result)),
            Waiter::Nobody => {}
        }
    }
}

/// Called on the flush worker once a flush is durable, or has failed.
pub(crate) struct FlushDone {
    log: Weak<Shared>,
    reported: bool,
}

impl FlushDone {
    fn report(&mut self, outcome: Outcome) {
        self.reported = true;
        let Some(log) = self.log.upgrade() else {
            return;
        };
        // Waiting for the lock here could deadlock: its holder may wait for
        // room in the flush worker's queue. Then the finisher does it instead.
        let event = match log.state.try_lock() {
            Ok(mut state) => {
                state.finish_flush(&outcome);
                if state.waiting.is_empty() {
                    state.flushing = false;
                    return;
                }
                Event::StartFlush
            }
            Err(_) => Event::FinishFlush(outcome),
        };
        // The finisher lives as long as the log does.
        let _ = log.events.send(event);
    }
}

impl Callback for FlushDone {
    fn send(mut self, result: io::Result<()>) {
        self.report(result.map_err(|e| (e.kind(), e.to_string())));
    }
}

impl Drop for FlushDone {
    /// A dead flush worker drops its callbacks: whoever waits must hear of it.
    fn drop(&mut self) {
        if !self.reported {
            let text = "the log's flush worker has stopped".to_owned();
            self.report(Err((io::ErrorKind::Other, text)));
        }
    }
}

/// Work for the finisher thread.
enum Event {
    StartFlush,
    FinishFlush(Outcome),
}

struct State {
    /// Gone once the last [`LogStore`] is: closing it joins the flush worker,
    /// so the worker itself must never be the one to do that.
    wal: Option<RaftLog<WalTypes>>,
    /// Covered by the flush in flight.
    in_flight: Vec<Waiter>,
    /// To be covered by the next one.
    waiting: Vec<Waiter>,
    /// A flush is in flight, or about to be started by the finisher.
    flushing: bool,
    failed: Option<String>,
    sync_began: Instant,
    slow_syncs: SlowSyncs,
    syncs: Syncs,
}

/// Decides which syncs are slow enough to be told of.
struct SlowSyncs {
    longest: Duration,
    told: Option<Instant>,
}

impl SlowSyncs {
    fn worth_telling(&mut self, began: Instant, ended: Instant) -> bool {
        let lately = self.told.is_some_and(|told| ended - told < TELL_EVERY);
        let tell = ended - began > self.longest && !lately;
        if tell {
            self.told = Some(ended);
        }
        tell
    }
}

impl State {
    fn finish_flush(&mut self, outcome: &Outcome) {
        let now = Instant::now();
        self.syncs.note(now, now - self.sync_began);
        if self.slow_syncs.worth_telling(self.sync_began, now) {
            tracing::warn!(
                took = ?now - self.sync_began,
                election_timeout = ?self.slow_syncs.longest,
                "a sync of the log took longer than the shortest election timeout: while a \
                 majority is that slow no leader can be elected; use a faster disk, or raise both \
                 election timeouts of all voters"
            );
        }
        for waiter in self.in_flight.drain(..) {
            waiter.complete(outcome);
        }
        if let Err((_, text)) = outcome {
            self.failed.get_or_insert_with(|| text.clone());
            for waiter in self.waiting.drain(..) {
                waiter.complete(outcome);
            }
        }
    }

    fn wal(&self) -> &RaftLog<WalTypes> {
        self.wal.as_ref().expect("open while a LogStore exists")
    }

    /// The log, to write to, unless it has failed.
    fn writable(&mut self) -> io::Result<&mut RaftLog<WalTypes>> {
        match (&self.failed, &mut self.wal) {
            (None, Some(wal)) => Ok(wal),
            (Some(text), _) => Err(io::Error::other(format!("the log failed earlier: {text}"))),
            (None, None) => Err(io::Error::other("the log is closed")),
        }
    }
}

struct Shared {
    state: Mutex<State>,
    events: Sender<Event>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the log is locked leaves it half written: go down too.
        self.state.lock().expect("no panic under the log's lock")
    }

    /// Queues `waiter` behind everything written so far.
    fn sync(self: &Arc<Self>, state: &mut State, waiter: Waiter) -> io::Result<()> {
        state.waiting.push(waiter);
        if state.flushing {
            return Ok(());
        }
        state.flushing = true;
        self.start_flush(state)
    }

    fn start_flush(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        state.in_flight = std::mem::take(&mut state.waiting);
        state.sync_began = Instant::now();
        #[cfg(test)]
        if crate::sim::is_on() {
            return self.start_simulated_flush(state);
        }
        let done = FlushDone { log: Arc::downgrade(self), reported: false };
        // On an error the callback is dropped, and the finisher tells everybody.
        let flushed = state.writable()?.flush(true, Some(done));
        flushed.inspect_err(|error| {
            state.failed.get_or_insert_with(|| error.to_string());
        })
    }

    /// Writes now, and is durable when the simulated disk says so: the flush
    /// worker would say it at a moment that no seed decides.
    #[cfg(test)]
    fn start_simulated_flush(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let wal = state.writable()?;
        wal.flush(true, Some(FlushDone { log: Weak::new(), reported: false }))?;
        wal.wait_worker_idle()?;
        let sync = crate::sim::begin_sync();
        let log = Arc::downgrade(self);
        tokio::spawn(async move {
            let outcome = sync.ended().await;
            if let Some(log) = log.upgrade() {
                log.handle(Event::FinishFlush(outcome));
            }
        });
        Ok(())
    }

    /// What a callback on the flush worker must not do itself.
    fn handle(self: &Arc<Self>, event: Event) {
        let mut state = self.lock();
        if let Event::FinishFlush(outcome) = event {
            state.finish_flush(&outcome);
        }
        if state.waiting.is_empty() {
            state.flushing = false;
        } else if let Err(error) = self.start_flush(&mut state) {
            tracing::error!(%error, "the log can't be flushed");
        }
    }
}

/// Closes the log when the last [`LogStore`] is gone.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let wal = self.0.state.lock().ok().and_then(|mut state| state.wal.take());
        drop(wal);
    }
}

/// The log of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    owner: Arc<Owner>,
}

impl LogStore {
    /// Opens the log in `dir`, which exists.
    pub fn open(dir: &Path) -> Result<Self, DamagedLog> {
        #[cfg(test)]
        if crate::sim::is_on() {
            return Self::open_in_files_of(dir, crate::sim::LOG_FILE_BYTES);
        }
        Self::open_in_files_of(dir, CHUNK_BYTES)
    }

    fn open_in_files_of(dir: &Path, chunk_bytes: usize) -> Result<Self, DamagedLog> {
        let wal = open_wal(&wal_config(dir, chunk_bytes))?;
        sync_found(dir)?;
        let state = State {
            wal: Some(wal),
            in_flight: Vec::new(),
            waiting: Vec::new(),
            flushing: false,
            failed: None,
            sync_began: Instant::now(),
            slow_syncs: SlowSyncs { longest: Duration::MAX, told: None },
            syncs: Syncs::new(Instant::now()),
        };
        let (events, arriving) = channel();
        let shared = Arc::new(Shared { state: Mutex::new(state), events });
        let weak = Arc::downgrade(&shared);
        let finisher = move || {
            while let Ok(event) = arriving.recv() {
                let Some(shared) = weak.upgrade() else { return };
                shared.handle(event);
            }
        };
        std::thread::Builder::new()
            .name("wal-finisher".into())
            .spawn(finisher)
            .expect("a thread can be started");
        Ok(LogStore { owner: Arc::new(Owner(shared)) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.owner.0.lock()
    }

    /// Tells of syncs that take longer than this: than a voter waits for a vote,
    /// which is synced too.
    pub fn tell_of_syncs_over(&self, longest: Duration) {
        self.lock().slow_syncs.longest = longest;
    }

    /// First and last position that the log knows: (purged up to, last).
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.lock();
        let log = state.wal().log_state();
        (log.purged().map(LogId::from), log.last().map(LogId::from))
    }

    /// Whether nothing was ever written: no vote, no entry.
    pub fn is_pristine(&self) -> bool {
        let state = self.lock();
        let log = state.wal().log_state();
        log.vote().is_none() && log.last().is_none() && log.purged().is_none()
    }

    /// The term of the entry at `index`, if the log still holds it.
    pub fn term_at(&self, index: u64) -> io::Result<Option<u64>> {
        let state = self.lock();
        let found = state.wal().read(index, index + 1).next().transpose()?;
        Ok(found.map(|(id, _)| id.term))
    }

    /// Bytes of all files of the log.
    pub fn bytes(&self) -> u64 {
        let stat = self.lock().wal().stat();
        stat.closed_chunks.iter().map(|c| c.size).sum::<u64>() + stat.open_chunk.size
    }

    /// How long its latest syncs took.
    pub fn sync_figures(&self) -> SyncFigures {
        self.lock().syncs.figures(Instant::now())
    }

    /// How many others still hold the log open.
    pub fn other_users(&self) -> usize {
        Arc::strong_count(&self.owner) - 1
    }

    /// Waits until everything written so far is durable.
    async fn synced(
        &self,
        write: impl FnOnce(&mut RaftLog<WalTypes>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        {
            let mut state = self.lock();
            write(state.writable()?)?;
            self.owner.0.sync(&mut state, Waiter::Oneshot(tx))?;
        }
        rx.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    /// Entries from `start` up to `end` (not included), and at least one but
    /// no more than [`READ_BATCH_BYTES`] of them.
    fn read_batch(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for found in state.wal().read(start, end) {
            let (id, payload) = found?;
            bytes += payload.bytes();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: LogId::from(&id), payload: payload.0 });
        }
        Ok(entries)
    }
}

fn wal_config(dir: &Path, chunk_bytes: usize) -> raft_log::Config {
    let mut wal = chunked_wal::Config::new(dir.display());
    wal.chunk_max_size = Some(chunk_bytes);
    wal.read_buffer_size = Some(READ_BUFFER_BYTES);
    // Group commit happens above: waiting here would only add latency.
    wal.flush_batch_wait = Some(Duration::ZERO);
    raft_log::Config { wal, log_cache_max_items: None, log_cache_capacity: Some(CACHE_BYTES) }
}

/// Opens the log without what a power cut left of its last record.
fn open_wal(config: &raft_log::Config) -> Result<RaftLog<WalTypes>, DamagedLog> {
    if let Some(file) = empty_file_before_the_last(Path::new(&config.wal.dir)) {
        let text = "it is empty although the log goes on after it";
        return Err(DamagedLog { file, error: io::Error::new(io::ErrorKind::InvalidData, text) });
    }
    // The log takes some damage for a mistake of its own, and panics.
    let open = || {
        let open = AssertUnwindSafe(|| RaftLog::open(Arc::new(config.clone())));
        let gave_up = |_| io::Error::new(io::ErrorKind::InvalidData, "a file of it makes no sense");
        catch_unwind(open).map_err(gave_up)?
    };
    let opened = open().or_else(|error| {
        let cut = torn::drop_torn_record(&config.wal)?;
        if cut { open() } else { Err(error) }
    });
    let wal = opened.map_err(|error| DamagedLog::locate(config, error))?;
    match missing_at_the_start(&wal) {
        None => Ok(wal),
        Some(text) => {
            let error = io::Error::new(io::ErrorKind::InvalidData, text);
            Err(DamagedLog { file: config.wal.dir.clone(), error })
        }
    }
}

/// Makes durable what is found: a process that was killed may have written it and
/// not synced it. From now on votes and entries are answered for with it, and
/// nothing of it is written, and synced, again.
fn sync_found(dir: &Path) -> Result<(), DamagedLog> {
    #[cfg(test)]
    if crate::sim::planted(crate::sim::Bug::FoundIsNotSynced) {
        return Ok(());
    }
    let cannot = |path: &Path, error| DamagedLog { file: path.display().to_string(), error };
    for path in files_of(dir).map_err(|error| cannot(dir, error))? {
        let synced = fs::File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|error| cannot(&path, error))?;
    }
    // A new file may not have its name yet.
    sync_dir(dir).map_err(|error| cannot(dir, error))?;
    #[cfg(test)]
    crate::sim::log_synced();
    Ok(())
}

/// The files of the log in their order: names are numbers of equal length.
fn files_of(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let files: io::Result<Vec<_>> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect();
    let mut files = files?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    Ok(files)
}

/// What is wrong if the log does not begin right after what was purged: its
/// first file is gone, and each file alone is whole.
fn missing_at_the_start(wal: &RaftLog<WalTypes>) -> Option<String> {
    let log = wal.log_state();
    let first = log.purged().map_or(0, |id| id.index + 1);
    let last = log.last().map(|id| id.index).filter(|last| *last >= first)?;
    let found = match wal.read(first, first + 1).next() {
        Some(Ok((id, _))) if id.index == first => return None,
        Some(Ok((id, _))) => format!("index {} is found there", id.index),
        Some(Err(error)) => error.to_string(),
        None => "nothing is found there".to_owned(),
    };
    Some(format!("entries from index {first} on, of up to {last}, are missing: {found}"))
}

/// The first file of the log without a single record, if others follow: each
/// begins with one.
fn empty_file_before_the_last(dir: &Path) -> Option<String> {
    let mut files = files_of(dir).ok()?;
    files.pop();
    let is_empty = |file: &&PathBuf| fs::metadata(file).is_ok_and(|meta| meta.len() == 0);
    files.iter().find(is_empty).map(|file| file.display().to_string())
}

/// Why the log can't be opened, and in which file.
#[derive(Debug)]
pub(crate) struct DamagedLog {
    pub file: String,
    pub error: io::Error,
}

impl DamagedLog {
    /// Finds the file: the log's own error names only a position.
    fn locate(config: &raft_log::Config, error: io::Error) -> Self {
        let mut damaged = None;
        if let Ok(lock) = ChunkedWal::<RaftWalTypes<WalTypes>>::acquire_lock(&config.wal) {
            // A failure to read shows as no record found; the folder is named then.
            let _ = ChunkedWal::<RaftWalTypes<WalTypes>>::dump_records(
                &config.wal,
                &lock,
                |chunk, _, record| {
                    if record.is_err() && damaged.is_none() {
                        damaged = Some(config.wal.chunk_path(chunk));
                    }
                    Ok(())
                },
            );
        }
        DamagedLog { file: damaged.unwrap_or_else(|| config.wal.dir.clone()), error }
    }
}

/// A range as (first, one past the last).
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&i) => i.saturating_add(1),
        Bound::Excluded(&i) => i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end.max(start))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        self.read_batch(start, end, u64::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_batch(start, end, READ_BATCH_BYTES)
    }

    /// In batches, so that applying a long log after a restart takes no more
    /// memory than one batch.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let first = (self.clone(), start, Vec::new().into_iter());
        futures::stream::try_unfold(first, move |(log, next, mut batch)| async move {
            if batch.len() == 0 {
                batch = log.read_batch(next, end, READ_BATCH_BYTES)?.into_iter();
            }
            let found: Option<Entry> = batch.next();
            Ok(found.map(|entry| {
                let next = entry.log_id.index + 1;
                (entry, (log, next, batch))
            }))
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().wal().log_state().vote().map(|v| v.0))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (last_purged_log_id, last_log_id) = self.bounds();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.synced(|wal| wal.save_vote(WalVote(*vote)).map(drop)).await
    }

    /// Written with whatever is flushed next: losing it costs a restarted node
    /// a moment to learn it again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed.as_ref().map(WalLogId::from) else {
            return Ok(());
        };
        let mut state = self.lock();
        let wal = state.writable()?;
        let log = wal.log_state();
        // It comes again at every start, and a snapshot may be ahead of the log.
        if Some(&committed) <= log.committed() || Some(&committed) > log.last() {
            return Ok(());
        }
        wal.commit(committed).map(drop)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.lock().wal().log_state().committed().map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries
            .into_iter()
            .map(|entry| (WalLogId::from(&entry.log_id), WalPayload(entry.payload)));
        let mut state = self.lock();
        state.writable()?.append(records)?;
        self.owner.0.sync(&mut state, Waiter::Openraft(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let keep = last.as_ref().map(WalLogId::from);
        let index = keep.as_ref().map_or(0, |id| id.index + 1);
        self.synced(|wal| {
            let beyond_last = keep.as_ref() >= wal.log_state().last();
            if beyond_last { Ok(()) } else { wal.truncate(index).map(drop) }
        })
        .await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut state = self.lock();
        state.writable()?.purge(WalLogId::from(&upto))?;
        // The files go once the purge itself is durable.
        self.owner.0.sync(&mut state, Waiter::Nobody)
    }
}

mod syncs;
mod torn;

pub use syncs::SyncFigures;
use syncs::Syncs;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
