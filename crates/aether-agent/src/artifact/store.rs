//! The archives that this node holds, as `artifacts/<sha256>.tar.gz`.
//!
//! Needs no running agent: a voter without one stores archives too. What an
//! archive is called and who else holds it is the replicated state's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt};

use super::archive::{ArchiveError, Contents, Limits, inspect};
use super::digest::Digest;
use crate::fsio;

/// Largest archive taken unless set otherwise: 1 GiB, above what services
/// ship, and a push that never ends stops there.
pub const ARCHIVE_BYTES_MAX: u64 = 1 << 30;

/// How long an archive that has just come, or was just asked for, is not
/// dropped for want of a name or of a use: a push names it when enough nodes
/// hold it, and an instance that is being started claims it. Both take seconds;
/// a push of the largest archive to slow disks takes minutes.
pub const SETTLED_AFTER: Duration = Duration::from_secs(600);

/// Most digests of dropped archives that are told. They only spare others a
/// question in vain.
const DROPPED_MAX: usize = 256;

const SUFFIX: &str = ".tar.gz";
const TEMPORARY: &str = ".incoming-";
/// Beside the directory of archives.
const LOCK: &str = "artifacts.lock";
/// How long a store that is in use is waited for: a process that ends needs
/// milliseconds, on a busy machine some hundred of them.
pub const IN_TURN_MAX: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const IN_TURN_RETRY: Duration = Duration::from_millis(20);

/// Why an archive could not be stored or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{path}: {source}; check the disk and the rights of the data directory")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another part of this one, has it open.
    #[error(
        "{0} is in use by another process: stop that node, or give this one its own data directory"
    )]
    InUse(PathBuf),
    /// Larger than the store takes.
    #[error("the archive is larger than {most} bytes, the most that is accepted")]
    TooLarge {
        /// The bound.
        most: u64,
    },
    /// The bytes have another digest than was said.
    #[error(
        "the archive has digest {actual}, not {expected}; it was damaged on the way or is another one"
    )]
    DigestMismatch {
        /// What was said.
        expected: Digest,
        /// What arrived, or lies on the disk.
        actual: Digest,
    },
    /// The sender failed.
    #[error("the archive did not arrive whole: {0}")]
    Source(String),
    /// Not here.
    #[error("archive {0} is not held by this node")]
    Unknown(Digest),
    /// It is held, but would be refused when unpacked.
    #[error(transparent)]
    Refused(#[from] ArchiveError),
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// sha256 of the archive.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// For [`ArtifactStore::take_back`].
    pub arrival: Arrival,
}

/// By what use of the store an archive came, unless it was held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival(Option<u64>);

/// One held archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How long ago it came, was asked for, or stopped being used; since the
    /// start of this process at most.
    pub idle: Duration,
    /// Orders archives by their last use, those of earlier processes by the
    /// time at which they came.
    pub used: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size_bytes: u64,
    touched: Instant,
    used: u64,
}

/// What is held, and what no longer is.
#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<Digest, Entry>,
    dropped: BTreeSet<Digest>,
    /// Archives whose files are being put in place: they are not removed.
    arriving: Vec<Digest>,
    /// Counts uses.
    uses: u64,
}

impl Index {
    fn insert(&mut self, digest: Digest, size_bytes: u64) -> Arrival {
        self.uses += 1;
        let entry = Entry { size_bytes, touched: Instant::now(), used: self.uses };
        let before = self.entries.insert(digest, entry);
        self.dropped.remove(&digest);
        Arrival(before.is_none().then_some(self.uses))
    }

    fn remove(&mut self, digest: &Digest) -> bool {
        let was_held = self.entries.remove(digest).is_some();
        if was_held {
            if self.dropped.len() >= DROPPED_MAX {
                self.dropped.pop_first();
            }
            self.dropped.insert(*digest);
        }
        was_held
    }
}

/// The content-addressed archives of a node.
#[derive(Debug)]
pub struct ArtifactStore {
    dir: PathBuf,
    size_bytes_max: u64,
    held: Mutex<Index>,
    changed: watch::Sender<u64>,
    incoming: AtomicU64,
    /// Held for as long as the store is open.
    _lock: File,
}

impl ArtifactStore {
    /// [`open_dir`](Self::open_dir), after whoever had it open before: what that
    /// one was doing may hold it a moment longer, and what it was starting
    /// inherits its lock until it runs its own program.
    ///
    /// # Errors
    /// As `open_dir`; in use for longer than [`IN_TURN_MAX`].
    pub async fn open_dir_in_turn(data_dir: &Path) -> Result<Arc<Self>, StoreError> {
        let until = tokio::time::Instant::now() + IN_TURN_MAX;
        loop {
            match Self::open_dir(data_dir) {
                Err(StoreError::InUse(_)) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(IN_TURN_RETRY).await;
                }
                opened => return opened,
            }
        }
    }

    /// Opens the store in `data_dir/artifacts` with the default size limit.
    /// At most one store may be open per directory.
    ///
    /// # Errors
    /// When the directory cannot be made or read, or is in use.
    pub fn open_dir(data_dir: &Path) -> Result<Arc<Self>, StoreError> {
        Self::open_dir_with(data_dir, ARCHIVE_BYTES_MAX)
    }

    /// Likewise with another limit, in bytes, on the size of one archive.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open_dir_with(data_dir: &Path, size_bytes_max: u64) -> Result<Arc<Self>, StoreError> {
        let dir = data_dir.join("artifacts");
        let cannot = |source| StoreError::Io { path: dir.clone(), source };
        fsio::create_private_dir(&dir).map_err(cannot)?;
        // First: what looks left over may be what another process is receiving.
        let lock = fsio::try_lock(&data_dir.join(LOCK)).map_err(cannot)?;
        let lock = lock.ok_or_else(|| StoreError::InUse(data_dir.to_owned()))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(TEMPORARY) {
                // Left by a crash in the middle of a push.
                fs::remove_file(entry.path()).map_err(cannot)?;
            }
            if let Some(digest) = name.strip_suffix(SUFFIX).and_then(|text| text.parse().ok()) {
                let about = entry.metadata().map_err(cannot)?;
                found.push((about.modified().map_err(cannot)?, digest, about.len()));
            }
        }
        found.sort_unstable(); // The oldest first.
        let mut held = Index::default();
        for (_, digest, size_bytes) in found {
            held.insert(digest, size_bytes);
        }
        Ok(Arc::new(Self {
            dir,
            size_bytes_max,
            held: Mutex::new(held),
            changed: watch::Sender::new(0),
            incoming: AtomicU64::new(0),
            _lock: lock,
        }))
    }

    /// The digests of the archives that are held, in order.
    pub fn holds(&self) -> Vec<Digest> {
        self.lock().entries.keys().copied().collect()
    }

    /// Every archive that is held, in the order of their digests.
    pub fn archives(&self) -> Vec<Held> {
        let held = self.lock();
        let entries = held.entries.iter().map(|(digest, entry)| Held {
            digest: *digest,
            size_bytes: entry.size_bytes,
            idle: entry.touched.elapsed(),
            used: entry.used,
        });
        entries.collect()
    }

    /// The digests of the last archives that were held and are not any more.
    pub fn dropped(&self) -> Vec<Digest> {
        self.lock().dropped.iter().copied().collect()
    }

    /// Notes that an archive is asked for, or was used until now: it is not
    /// dropped for a while. Whether it is held.
    pub fn touch(&self, digest: &Digest) -> bool {
        let mut held = self.lock();
        held.uses += 1;
        let uses = held.uses;
        match held.entries.get_mut(digest) {
            Some(entry) => {
                (entry.touched, entry.used) = (Instant::now(), uses);
                true
            }
            None => false,
        }
    }

    /// The size in bytes of a held archive.
    pub fn size_bytes(&self, digest: &Digest) -> Option<u64> {
        self.lock().entries.get(digest).map(|entry| entry.size_bytes)
    }

    /// Changes whenever [`holds`](Self::holds) does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where a held archive lies, verified or not.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}{SUFFIX}"))
    }

    /// Starts to take an archive in pieces.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub async fn begin(self: &Arc<Self>) -> Result<Incoming, StoreError> {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let file = tokio::fs::File::create(&path)
            .await
            .map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let guard = Unfinished { path, done: false };
        Ok(Incoming { store: self.clone(), file, guard, hasher: Sha256::new(), size_bytes: 0 })
    }

    /// Takes a whole archive from a stream. With `expected`, bytes of another
    /// digest are refused and nothing is kept.
    ///
    /// # Errors
    /// When the stream fails, is too long, differs, or cannot be written.
    pub async fn put<E: std::fmt::Display>(
        self: &Arc<Self>,
        chunks: impl Stream<Item = Result<Bytes, E>>,
        expected: Option<Digest>,
    ) -> Result<Stored, StoreError> {
        let mut incoming = self.begin().await?;
        let mut chunks = std::pin::pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| StoreError::Source(error.to_string()))?;
            incoming.write(&chunk).await?;
        }
        incoming.finish(expected).await
    }

    /// Opens a held archive after verifying its digest, positioned at its
    /// start. One that turns out damaged or gone is no longer held afterwards.
    ///
    /// # Errors
    /// When it isn't held, is damaged, or cannot be read.
    pub async fn open(self: &Arc<Self>, digest: Digest) -> Result<File, StoreError> {
        let store = self.clone();
        blocking(move || store.open_blocking(&digest)).await
    }

    /// Opens a held archive without verifying it, to send it to someone who
    /// verifies it on arrival.
    ///
    /// # Errors
    /// When it isn't held or cannot be opened.
    pub async fn open_unverified(&self, digest: &Digest) -> Result<tokio::fs::File, StoreError> {
        self.size_bytes(digest).ok_or(StoreError::Unknown(*digest))?;
        let path = self.path(digest);
        let opened = tokio::fs::File::open(&path).await;
        opened.map_err(|source| self.not_opened(digest, path, source))
    }

    /// Reads a held archive whole and checks that it can be unpacked; gives
    /// its manifest. A push does this before the artifact becomes known.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the archive would be refused.
    pub async fn inspect(
        self: &Arc<Self>,
        digest: Digest,
        limits: Limits,
    ) -> Result<Contents, StoreError> {
        let store = self.clone();
        blocking(move || Ok(inspect(store.open_blocking(&digest)?, &limits)?)).await
    }

    /// Verifies and opens on the calling thread; see [`open`](Self::open).
    pub(crate) fn open_blocking(&self, digest: &Digest) -> Result<File, StoreError> {
        self.size_bytes(digest).ok_or(StoreError::Unknown(*digest))?;
        let path = self.path(digest);
        let verified = File::open(&path).and_then(|mut file| {
            let actual = digest_of(&mut file)?;
            file.rewind()?;
            Ok((file, actual))
        });
        match verified {
            Ok((file, actual)) if actual == *digest => Ok(file),
            Ok((_, actual)) => {
                self.discard(digest);
                Err(StoreError::DigestMismatch { expected: *digest, actual })
            }
            Err(source) => Err(self.not_opened(digest, path, source)),
        }
    }

    /// An archive whose file is gone is held no longer.
    fn not_opened(&self, digest: &Digest, path: PathBuf, source: io::Error) -> StoreError {
        if source.kind() != io::ErrorKind::NotFound {
            return StoreError::Io { path, source };
        }
        tracing::warn!(path = %path.display(), "the file of an archive is gone");
        self.discard(digest);
        StoreError::Unknown(*digest)
    }

    /// Removes an archive, if it is held.
    pub fn discard(&self, digest: &Digest) {
        let mut held = self.lock();
        if held.remove(digest) {
            self.remove_file(held, digest);
        }
    }

    /// Removes an archive unless it came or was [touched](Self::touch) less
    /// than `settled_after` ago. Whether it was removed.
    pub fn discard_settled(&self, digest: &Digest, settled_after: Duration) -> bool {
        let mut held = self.lock();
        let settled =
            held.entries.get(digest).is_some_and(|e| e.touched.elapsed() >= settled_after);
        let removed = settled && held.remove(digest);
        if removed {
            self.remove_file(held, digest);
        }
        removed
    }

    /// Removes an archive that nobody has use for after all: unless it was held
    /// before it came, came again, or was [touched](Self::touch) since. Whether
    /// it was removed.
    pub fn take_back(&self, stored: &Stored) -> bool {
        let mut held = self.lock();
        let Arrival(Some(arrival)) = stored.arrival else { return false };
        let unused = held.entries.get(&stored.digest).is_some_and(|e| e.used == arrival);
        let removed = unused && held.remove(&stored.digest);
        if removed {
            self.remove_file(held, &stored.digest);
        }
        removed
    }

    /// Under the lock, so that no file goes that has just arrived anew.
    fn remove_file(&self, held: MutexGuard<'_, Index>, digest: &Digest) {
        if !held.arriving.contains(digest) {
            // What stays on the disk is overwritten by the next arrival.
            let _ = fs::remove_file(self.path(digest));
        }
        drop(held);
        self.changed.send_modify(|generation| *generation += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An archive on its way in. Dropped unfinished, nothing stays of it.
#[derive(Debug)]
pub struct Incoming {
    store: Arc<ArtifactStore>,
    file: tokio::fs::File,
    guard: Unfinished,
    hasher: Sha256,
    size_bytes: u64,
}

impl Incoming {
    /// Takes the next piece.
    ///
    /// # Errors
    /// When the archive becomes too large or cannot be written.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.size_bytes += chunk.len() as u64;
        if self.size_bytes > self.store.size_bytes_max {
            return Err(StoreError::TooLarge { most: self.store.size_bytes_max });
        }
        self.hasher.update(chunk);
        let written = self.file.write_all(chunk).await;
        written.map_err(|source| StoreError::Io { path: self.guard.path.clone(), source })
    }

    /// Makes what was taken durable and holds it under its digest. With
    /// `expected`, another digest is an error and nothing is kept.
    ///
    /// # Errors
    /// When the digest differs or the file system refuses.
    pub async fn finish(mut self, expected: Option<Digest>) -> Result<Stored, StoreError> {
        let digest = Digest::finish(self.hasher);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(StoreError::DigestMismatch { expected, actual: digest });
        }
        let path = self.store.path(&digest);
        let cannot = |source| StoreError::Io { path: path.clone(), source };
        self.file.flush().await.map_err(cannot)?;
        self.file.sync_all().await.map_err(cannot)?;
        let (from, to, dir) = (self.guard.path.clone(), path.clone(), self.store.dir.clone());
        let _arriving = Arriving::new(self.store.clone(), digest);
        let renamed =
            blocking(move || Ok(fs::rename(from, to).and_then(|()| fsio::sync_dir(&dir))));
        renamed.await?.map_err(cannot)?;
        self.guard.done = true;
        let arrival = self.store.lock().insert(digest, self.size_bytes);
        self.store.changed.send_modify(|generation| *generation += 1);
        Ok(Stored { digest, size_bytes: self.size_bytes, arrival })
    }
}

/// Keeps the file of an archive from being removed while it is put in place.
struct Arriving {
    store: Arc<ArtifactStore>,
    digest: Digest,
}

impl Arriving {
    fn new(store: Arc<ArtifactStore>, digest: Digest) -> Self {
        store.lock().arriving.push(digest);
        Self { store, digest }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut held = self.store.lock();
        if let Some(at) = held.arriving.iter().position(|digest| *digest == self.digest) {
            held.arriving.swap_remove(at);
        }
    }
}

/// Removes the temporary file of a push that did not end well.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path); // Else removed when the store is opened.
        }
    }
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::finish(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Runs file system work apart from the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Source(format!("the work was given up: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, String>> + use<> {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        tokio_stream::iter(parts)
    }

    #[tokio::test]
    async fn what_is_put_is_held_read_back_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let changes = store.changes();
        let stored = store.put(chunks(&["ab", "c"]), None).await.unwrap();
        assert_eq!((stored.digest, stored.size_bytes), (Digest::of(b"abc"), 3));
        assert!(changes.has_changed().unwrap());
        let mut text = String::new();
        store.open(stored.digest).await.unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        drop(store);
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        assert_eq!(store.holds(), [stored.digest]);
    }

    #[tokio::test]
    async fn a_store_in_use_is_not_opened_and_what_it_receives_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let mut incoming = store.begin().await.unwrap();
        incoming.write(b"ab").await.unwrap();
        let error = ArtifactStore::open_dir(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
        incoming.write(b"c").await.unwrap();
        assert_eq!(incoming.finish(None).await.unwrap().digest, Digest::of(b"abc"));
    }

    #[tokio::test]
    async fn what_is_refused_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir_with(dir.path(), 4).unwrap();
        let other = Some(Digest::of(b"other"));
        let error = store.put(chunks(&["abc"]), other).await.unwrap_err();
        assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
        let error = store.put(chunks(&["abc", "de"]), None).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { most: 4 }), "{error}");
        let broken = tokio_stream::iter([Ok(Bytes::from("a")), Err("connection reset")]);
        let error = store.put(broken, None).await.unwrap_err();
        assert!(matches!(error, StoreError::Source(_)), "{error}");
        assert!(store.holds().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("artifacts")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn only_what_has_settled_is_discarded_and_then_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let digest = store.put(chunks(&["abc"]), None).await.unwrap().digest;
        assert!(!store.discard_settled(&digest, SETTLED_AFTER));
        assert_eq!(store.holds(), [digest]);
        let other = store.put(chunks(&["abcd"]), None).await.unwrap().digest;
        let used =
            |digest| store.archives().iter().find(|held| held.digest == digest).unwrap().used;
        assert!(used(digest) < used(other));
        assert!(store.touch(&digest));
        assert!(used(digest) > used(other));
        assert!(store.dropped().is_empty());
        assert!(store.discard_settled(&digest, Duration::ZERO));
        assert!(!store.path(&digest).exists());
        assert!(!store.touch(&digest));
        assert_eq!((store.holds(), store.dropped()), (vec![other], vec![digest]));
        store.put(chunks(&["abc"]), None).await.unwrap();
        assert!(store.dropped().is_empty(), "it is held again");
        // Damaged, while it arrives anew: the file that arrives stays.
        let _arriving = Arriving::new(store.clone(), digest);
        store.discard(&digest);
        assert!(store.path(&digest).exists());
    }

    #[tokio::test]
    async fn only_what_nobody_else_brought_or_used_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let first = store.put(chunks(&["abc"]), None).await.unwrap();
        let second = store.put(chunks(&["abc"]), None).await.unwrap();
        assert!(!store.take_back(&first), "it came again");
        assert!(!store.take_back(&second), "it was held before");
        assert_eq!(store.holds(), [first.digest]);
        let used = store.put(chunks(&["used"]), None).await.unwrap();
        store.touch(&used.digest);
        assert!(!store.take_back(&used));
        let unused = store.put(chunks(&["unused"]), None).await.unwrap();
        assert!(store.take_back(&unused));
        assert!(!store.path(&unused.digest).exists() && store.path(&used.digest).exists());
        assert!(!store.take_back(&unused), "it is gone");
    }

    #[tokio::test]
    async fn a_file_changed_on_the_disk_is_noticed_and_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let digest = store.put(chunks(&["abc"]), None).await.unwrap().digest;
        fs::write(store.path(&digest), "abd").unwrap();
        let error = store.open(digest).await.unwrap_err();
        assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
        assert!(store.holds().is_empty());
        assert!(matches!(store.open(digest).await, Err(StoreError::Unknown(_))));
    }

    #[tokio::test]
    async fn a_file_gone_from_the_disk_is_noticed_by_whoever_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        for verified in [true, false] {
            let digest = store.put(chunks(&["abc"]), None).await.unwrap().digest;
            fs::remove_file(store.path(&digest)).unwrap();
            let error = match verified {
                true => store.open(digest).await.map(drop),
                false => store.open_unverified(&digest).await.map(drop),
            };
            assert!(matches!(error, Err(StoreError::Unknown(_))), "{error:?}");
            assert!(store.holds().is_empty());
        }
    }
}
