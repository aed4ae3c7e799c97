//! Snapshot files: all rows at one position, durable and checksummed.
//!
//! ```text
//! "AETHSNAP"  format u32  header length u32  header (JSON)
//! rows:       key length u32  value length u32  key  value
//! end:        u32::MAX  number of rows u64
//! SHA-256 of everything before it
//! ```
//!
//! Numbers are big-endian. A file gets its name only after it is complete and
//! synced, and it is read only after its checksum has been verified. The last
//! two are kept: should the newest turn out damaged, the one before it and the
//! log still reach the present.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ahead::ahead;
use crate::files::{TMP_SUFFIX, rename_durably, sync_dir};
use crate::machine::Row;
use crate::position::Position;
use crate::types::INDEX_MAX;

const MAGIC: &[u8; 8] = b"AETHSNAP";
const FORMAT: u32 = 1;
pub(crate) const SUFFIX: &str = ".snap";
const END: u32 = u32::MAX;
const CHECKSUM_BYTES: u64 = 32;
pub(crate) type Checksum = [u8; CHECKSUM_BYTES as usize];
/// Magic, format and the header's length are before it.
const HEADER_AT: u64 = 16;
/// The header holds a membership of a few voters.
const HEADER_BYTES_MAX: u32 = 1024 * 1024;
const FILES_KEPT: usize = 2;
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    cluster: String,
    position: Position,
}

/// A complete snapshot file. It stays readable while this exists, even if it
/// is pruned meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub path: PathBuf,
    pub position: Position,
    pub bytes: u64,
    /// Of everything before it, at its end.
    pub checksum: Checksum,
    file: Arc<File>,
    rows_at: u64,
    /// Where the rows and their number end, and the checksum begins.
    rows_end: u64,
}

/// Why a file is not taken for a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It could not be read.
    #[error("can't be read: {0}")]
    Io(io::Error),
    /// It is something else.
    #[error("it is no snapshot: it does not begin with {:?}", MAGIC.escape_ascii().to_string())]
    Foreign,
    /// A newer release wrote it.
    #[error("its format {found} is newer than this release, which knows up to {known}")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// It is not what was written.
    #[error("it is damaged at byte {at} of {bytes}: {detail}")]
    Damaged {
        /// Where it stops to make sense. What is wrong may be before that.
        at: u64,
        /// Size of the file.
        bytes: u64,
        /// What is wrong there.
        detail: String,
    },
}

impl SnapshotError {
    /// Says, beside what does not make sense, that the checksum does not match.
    fn with_checksum(self) -> Self {
        match self {
            Self::Damaged { at, bytes, detail } => {
                let detail = format!("{detail}; its checksum does not match");
                Self::Damaged { at, bytes, detail }
            }
            other => other,
        }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}

impl SnapshotFile {
    /// Opens a file of this cluster and verifies all of it.
    fn open(path: &Path, cluster: &str) -> io::Result<Self> {
        let (snapshot, found) = Self::read(path)?;
        if found != cluster {
            return Err(damaged(format!("it is of cluster {found:?}")));
        }
        Ok(snapshot)
    }

    /// Opens a file and verifies its checksum; gives the cluster that it is of.
    pub fn read(path: &Path) -> Result<(Self, String), SnapshotError> {
        let file = File::open(path).map_err(SnapshotError::Io)?;
        let bytes = file.metadata().map_err(SnapshotError::Io)?.len();
        let damaged = |at, detail: String| SnapshotError::Damaged { at, bytes, detail };
        let mut magic = [0u8; MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if &magic == MAGIC => {}
            Ok(()) => return Err(SnapshotError::Foreign),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SnapshotError::Foreign);
            }
            Err(error) => return Err(SnapshotError::Io(error)),
        }
        // Before the checksum, which a newer format may have elsewhere.
        let mut format = [0u8; 4];
        let cut = |_| damaged(bytes, "it is cut off".to_owned());
        file.read_exact_at(&mut format, MAGIC.len() as u64).map_err(cut)?;
        let found = u32::from_be_bytes(format);
        if found > FORMAT {
            return Err(SnapshotError::NewerFormat { found, known: FORMAT });
        }
        let whole = checksum_of(&file, bytes).map_err(SnapshotError::Io)?;
        let file = Arc::new(file);
        let header = read_header(&file, bytes);
        if whole.is_none() {
            // What does not even parse says where it is damaged.
            let (_, rows_at) = header.map_err(SnapshotError::with_checksum)?;
            let mut rows = Rows::of(file, rows_at, bytes.saturating_sub(CHECKSUM_BYTES));
            rows.by_ref().for_each(drop);
            let at = rows.row_at();
            rows.finish().map_err(|error| damaged(at, error.to_string()).with_checksum())?;
            let content = bytes - CHECKSUM_BYTES;
            let detail = "its checksum does not match what is before it".to_owned();
            return Err(damaged(content, detail));
        }
        let (header, rows_at) = header?;
        if header.position.index() > INDEX_MAX {
            let index = header.position.index();
            return Err(damaged(HEADER_AT, format!("its index {index} is out of range")));
        }
        let snapshot = SnapshotFile {
            path: path.to_owned(),
            position: header.position,
            bytes,
            checksum: whole.expect("looked at above"),
            file,
            rows_at,
            rows_end: bytes - CHECKSUM_BYTES,
        };
        Ok((snapshot, header.cluster))
    }

    /// SHA-256 of the whole content before it, hexadecimal: two files with the
    /// same are the same.
    pub fn checksum_hex(&self) -> String {
        self.checksum.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The rows in the order they were written.
    pub fn rows(&self) -> Rows {
        Rows::of(self.file.clone(), self.rows_at, self.rows_end)
    }

    /// A part of the file, for sending it.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// The checksum at the end of the file, if it is that of what is before it.
fn checksum_of(file: &File, bytes: u64) -> io::Result<Option<Checksum>> {
    let Some(content) = bytes.checked_sub(CHECKSUM_BYTES) else { return Ok(None) };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; BUFFER_BYTES];
    let mut offset = 0;
    while offset < content {
        let part = (content - offset).min(BUFFER_BYTES as u64) as usize;
        file.read_exact_at(&mut buffer[..part], offset)?;
        hasher.update(&buffer[..part]);
        offset += part as u64;
    }
    let mut stored = [0u8; CHECKSUM_BYTES as usize];
    file.read_exact_at(&mut stored, content)?;
    Ok((hasher.finalize()[..] == stored[..]).then_some(stored))
}

/// The header, and where the rows begin.
fn read_header(file: &Arc<File>, bytes: u64) -> Result<(Header, u64), SnapshotError> {
    let damaged = |at, detail: String| SnapshotError::Damaged { at, bytes, detail };
    let room = bytes.saturating_sub(HEADER_AT + CHECKSUM_BYTES);
    let mut length = [0u8; 4];
    let cut = |_| damaged(bytes, "it is cut off in its header".to_owned());
    file.read_exact_at(&mut length, HEADER_AT - 4).map_err(cut)?;
    let length = u32::from_be_bytes(length);
    if length > HEADER_BYTES_MAX || u64::from(length) > room {
        return Err(damaged(HEADER_AT - 4, format!("its header claims {length} bytes")));
    }
    let mut json = vec![0u8; length as usize];
    file.read_exact_at(&mut json, HEADER_AT).map_err(SnapshotError::Io)?;
    let header = serde_json::from_slice(&json)
        .map_err(|e| damaged(HEADER_AT + e.column() as u64, format!("its header: {e}")))?;
    Ok((header, HEADER_AT + u64::from(length)))
}

/// Reads a shared file from an offset of its own.
struct At {
    file: Arc<File>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// The rows of a snapshot. Ask [`Rows::finish`] whether it was all of them.
pub(crate) struct Rows {
    reader: BufReader<At>,
    /// Where the rows and their number end.
    rows_end: u64,
    row_at: u64,
    /// Bytes up to there.
    left: u64,
    read: u64,
    end: Option<io::Result<()>>,
}

impl Rows {
    fn of(file: Arc<File>, rows_at: u64, rows_end: u64) -> Self {
        let file = At { file, offset: rows_at };
        let reader = BufReader::with_capacity(BUFFER_BYTES, file);
        let left = rows_end.saturating_sub(rows_at);
        Rows { reader, rows_end, row_at: rows_at, left, read: 0, end: None }
    }

    /// Where in the file the row that was read last, or tried, begins.
    pub fn row_at(&self) -> u64 {
        self.row_at
    }

    /// The next bytes, but none of the checksum: what a length claims is there
    /// before room is made for it.
    fn take(&mut self, bytes: u64) -> io::Result<Vec<u8>> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| damaged(format!("{bytes} bytes are claimed where fewer are left")))?;
        let mut taken = vec![0u8; bytes as usize];
        self.reader.read_exact(&mut taken)?;
        Ok(taken)
    }

    fn take_u32(&mut self) -> io::Result<u32> {
        Ok(self.take(4)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn read_row(&mut self) -> io::Result<Option<Row>> {
        self.row_at = self.rows_end - self.left;
        let key_bytes = self.take_u32()?;
        if key_bytes == END {
            let count = self.take(8)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            if count != self.read || self.left > 0 {
                let (read, left) = (self.read, self.left);
                return Err(damaged(format!("it holds {read} rows of {count}, then {left} bytes")));
            }
            return Ok(None);
        }
        let value_bytes = self.take_u32()?;
        let key = self.take(key_bytes.into())?;
        let value = self.take(value_bytes.into())?;
        let key = String::from_utf8(key).map_err(|e| damaged(format!("a key: {e}")))?;
        self.read += 1;
        Ok(Some((key, value)))
    }

    pub fn finish(self) -> io::Result<()> {
        self.end.unwrap_or_else(|| Err(damaged("it was not read to its end")))
    }
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.end.is_some() {
            return None;
        }
        match self.read_row() {
            Ok(Some(row)) => Some(row),
            Ok(None) => {
                self.end = Some(Ok(()));
                None
            }
            Err(error) => {
                self.end = Some(Err(error));
                None
            }
        }
    }
}

/// Hashes and counts what it writes.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What a snapshot that was written holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// Writes a whole snapshot, with nothing kept back.
pub(crate) fn write_snapshot<W: Write>(
    out: W,
    cluster: &str,
    position: &Position,
    rows: impl Iterator<Item = Row>,
) -> io::Result<Written> {
    let header = Header { cluster: cluster.to_owned(), position: position.clone() };
    let header = serde_json::to_vec(&header)?;
    let hashing = Hashing { inner: out, hasher: Sha256::new(), bytes: 0 };
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, hashing);
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_be_bytes())?;
    out.write_all(&(header.len() as u32).to_be_bytes())?;
    out.write_all(&header)?;
    let mut count = 0u64;
    for (key, value) in rows {
        out.write_all(&(key.len() as u32).to_be_bytes())?;
        out.write_all(&(value.len() as u32).to_be_bytes())?;
        out.write_all(key.as_bytes())?;
        out.write_all(&value)?;
        count += 1;
    }
    out.write_all(&END.to_be_bytes())?;
    out.write_all(&count.to_be_bytes())?;
    let hashing = out.into_inner().map_err(|e| e.into_error())?;
    let (mut out, bytes) = (hashing.inner, hashing.bytes + CHECKSUM_BYTES);
    out.write_all(&hashing.hasher.finalize())?;
    out.flush()?;
    Ok(Written { rows: count, bytes })
}

/// A snapshot that can't be used, and why.
#[derive(Debug, Clone)]
pub(crate) struct DamagedSnapshot {
    pub path: PathBuf,
    pub detail: String,
}

/// The folder of snapshots.
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    cluster: String,
    current: Mutex<Option<SnapshotFile>>,
    /// Number of the next unfinished file.
    next_tmp: AtomicU64,
}

impl SnapshotDir {
    /// Opens the folder, which exists. The newest snapshot that is whole
    /// becomes the current one; what is damaged is reported and left alone.
    pub fn open(dir: &Path, cluster: &str) -> io::Result<(Self, Vec<DamagedSnapshot>)> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.to_str() {
                Some(name) if name.ends_with(TMP_SUFFIX) => fs::remove_file(&path)?,
                Some(name) if name.ends_with(SUFFIX) => names.push(path),
                _ => {}
            }
        }
        names.sort();
        let mut damaged = Vec::new();
        let mut current = None;
        while let Some(path) = names.pop() {
            match SnapshotFile::open(&path, cluster) {
                Ok(snapshot) => {
                    current = Some(snapshot);
                    break;
                }
                Err(error) => damaged.push(DamagedSnapshot { path, detail: error.to_string() }),
            }
        }
        let this = SnapshotDir {
            dir: dir.to_owned(),
            cluster: cluster.to_owned(),
            current: Mutex::new(current),
            next_tmp: AtomicU64::new(0),
        };
        Ok((this, damaged))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().expect("no panic while held").clone()
    }

    /// A file for a snapshot that is being written or received.
    pub fn create_tmp(&self) -> io::Result<(PathBuf, File)> {
        let n = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{n}{TMP_SUFFIX}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok((path, file))
    }

    /// Verifies a received file, which is complete but not yet in place.
    pub fn open_received(&self, path: &Path) -> io::Result<SnapshotFile> {
        SnapshotFile::open(path, &self.cluster)
    }

    /// Writes a snapshot and makes it the current one.
    pub fn write(
        &self,
        position: &Position,
        rows: impl Iterator<Item = Row> + Send,
    ) -> io::Result<SnapshotFile> {
        let (tmp, file) = self.create_tmp()?;
        let write = |rows: &mut dyn Iterator<Item = Row>| {
            write_snapshot(&file, &self.cluster, position, rows)
        };
        let written = ahead(rows, write)
            .1
            .and_then(|_| file.sync_all())
            .and_then(|()| self.open_received(&tmp))
            .and_then(|snapshot| self.put_in_place(snapshot));
        if written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    /// Gives a verified file its name, durably. It becomes the current one
    /// unless a newer one already is.
    pub fn put_in_place(&self, mut snapshot: SnapshotFile) -> io::Result<SnapshotFile> {
        let position = &snapshot.position;
        let name = format!("{:020}-{}{SUFFIX}", position.index(), position.term());
        let path = self.dir.join(name);
        snapshot.file.sync_all()?;
        rename_durably(&snapshot.path, &path)?;
        snapshot.path = path;
        {
            let mut current = self.current.lock().expect("no panic while held");
            if current.as_ref().is_none_or(|c| c.position.applied <= snapshot.position.applied) {
                *current = Some(snapshot.clone());
            }
        }
        self.prune()?;
        Ok(snapshot)
    }

    fn prune(&self) -> io::Result<()> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == &SUFFIX[1..]) {
                paths.push(path);
            }
        }
        paths.sort();
        paths.truncate(paths.len().saturating_sub(FILES_KEPT));
        if paths.is_empty() {
            return Ok(());
        }
        for path in paths {
            fs::remove_file(path)?;
        }
        sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn position(index: u64) -> Position {
        Position { applied: Some(log_id(1, index)), log_time_ms: 77, ..Position::default() }
    }

    fn rows(n: usize) -> Vec<Row> {
        (0..n).map(|i| (format!("key/{i:04}"), vec![i as u8; i % 50])).collect()
    }

    fn open(dir: &Path) -> (SnapshotDir, Vec<DamagedSnapshot>) {
        SnapshotDir::open(dir, "test").expect("the folder opens")
    }

    #[test]
    fn rows_and_position_come_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).0.write(&position(9), rows(300).into_iter()).unwrap();
        let (reopened, damaged) = open(dir.path());
        assert!(damaged.is_empty());
        let snapshot = reopened.current().unwrap();
        assert_eq!(snapshot.position, position(9));
        let mut read = snapshot.rows();
        assert_eq!(read.by_ref().collect::<Vec<_>>(), rows(300));
        read.finish().unwrap();
    }

    #[test]
    fn a_damaged_snapshot_yields_to_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, _) = open(dir.path());
        snapshots.write(&position(5), rows(3).into_iter()).unwrap();
        let newest = snapshots.write(&position(9), rows(4).into_iter()).unwrap();
        let mut bytes = fs::read(&newest.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&newest.path, bytes).unwrap();
        let (reopened, damaged) = open(dir.path());
        assert_eq!(reopened.current().unwrap().position, position(5));
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].detail.contains("checksum"), "{}", damaged[0].detail);
    }

    #[test]
    fn a_cut_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let written = open(dir.path()).0.write(&position(9), rows(40).into_iter()).unwrap();
        for bytes in [0, 10, 31, 32, 100, written.bytes - 1] {
            OpenOptions::new().write(true).open(&written.path).unwrap().set_len(bytes).unwrap();
            assert!(SnapshotFile::open(&written.path, "test").is_err(), "{bytes} bytes");
        }
    }

    #[test]
    fn unfinished_files_are_removed_and_two_finished_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("0.tmp"), b"half").unwrap();
        let (snapshots, _) = open(dir.path());
        for index in 1..=4 {
            snapshots.write(&position(index), rows(1).into_iter()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["00000000000000000003-1.snap", "00000000000000000004-1.snap"]);
    }

    #[test]
    fn a_snapshot_of_another_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let written = open(dir.path()).0.write(&position(1), rows(1).into_iter()).unwrap();
        let error = SnapshotFile::open(&written.path, "other").unwrap_err();
        assert!(error.to_string().contains("cluster \"test\""), "{error}");
    }
}
