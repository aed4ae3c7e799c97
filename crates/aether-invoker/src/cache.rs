//! The last tables on disk, for a start while the whole control plane is away.
//!
//! The file holds what one session has applied and when a node last confirmed it.
//! It is replaced as a whole, by a rename, so that whoever reads it finds one state
//! or the other, and checked by a sum, so that what a full disk or a crash left of it
//! is taken for nothing. Who starts by it has promised nothing to the control plane:
//! the first tables of a node replace it, whatever they say.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aether_proto::v1;
use prost::Message;
use thiserror::Error;

/// First bytes of the file: its name and version.
const MAGIC: &[u8; 8] = b"AETHTAB1";
/// Magic, sum, and the time in milliseconds.
const HEAD_BYTES: usize = 8 + 4 + 8;
/// Larger files are none of ours: a table of 10,000 instances takes about a megabyte.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How far the clock of a machine may go back between two processes.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Why a file gives no tables.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no tables that are whole", .0.display())]
    Broken(PathBuf),
    #[error("the tables in {} were confirmed {} s ago", path.display(), age.as_secs())]
    Old { path: PathBuf, age: Duration },
    #[error("the tables in {} were confirmed in the future: the clock has gone back", .0.display())]
    FromTheFuture(PathBuf),
}

/// Tables as they were.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) snapshot: v1::RoutingDown,
    /// Since a node last confirmed them.
    pub(crate) age: Duration,
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Reads the tables of a file, if they are not older than `age_max`. `None` if there
/// is none.
///
/// # Errors
/// If there is one that cannot be used.
pub(crate) fn read(
    path: &Path,
    age_max: Duration,
    now: SystemTime,
) -> Result<Option<Cached>, CacheError> {
    let failed = |source| CacheError::Read { path: path.to_owned(), source };
    let broken = || CacheError::Broken(path.to_owned());
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_BYTES_MAX => {
            std::fs::read(path).map_err(failed)?
        }
        Ok(_) => return Err(broken()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let (head, _) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(broken)?;
    let (magic, sum) =
        (&head[..8], u32::from_le_bytes(head[8..12].try_into().expect("four bytes")));
    if magic != MAGIC || crc32fast::hash(&bytes[12..]) != sum {
        return Err(broken());
    }
    let snapshot = v1::RoutingDown::decode(&bytes[HEAD_BYTES..]).map_err(|_| broken())?;
    let at_ms = u64::from_le_bytes(head[12..].try_into().expect("eight bytes"));
    let (now, at) = (since_epoch(now), Duration::from_millis(at_ms));
    if at > now + CLOCK_SKEW_MAX {
        return Err(CacheError::FromTheFuture(path.to_owned()));
    }
    let age = now.saturating_sub(at);
    if age > age_max {
        return Err(CacheError::Old { path: path.to_owned(), age });
    }
    Ok(Some(Cached { snapshot, age }))
}

/// Replaces a file by these tables, confirmed at this time. Readable by its owner
/// alone: addresses are nobody else's business.
///
/// # Errors
/// If the directory takes no file, or no further bytes; the file is as it was then.
pub(crate) fn write(path: &Path, snapshot: &v1::RoutingDown, at: SystemTime) -> io::Result<()> {
    let at_ms = u64::try_from(since_epoch(at).as_millis()).unwrap_or(u64::MAX);
    let mut bytes = [&MAGIC[..], &[0; 4], &at_ms.to_le_bytes()].concat();
    snapshot.encode(&mut bytes).expect("a vector takes all");
    let sum = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());

    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    // Of its own for each process: two may be told the same path.
    let draft = path.with_file_name(format!("{}.{}", name.to_string_lossy(), std::process::id()));
    let written = create(&draft)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_data()))
        .and_then(|()| std::fs::rename(&draft, path));
    written.inspect_err(|_| {
        // What is left of it serves nobody.
        let _ = std::fs::remove_file(&draft);
    })
}

fn create(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn snapshot() -> v1::RoutingDown {
        let table = v1::SliceTable { slice: "org.example:a".to_owned(), ..Default::default() };
        v1::RoutingDown {
            incarnation: 1,
            revision: 7,
            snapshot: true,
            tables: vec![table],
            ..Default::default()
        }
    }

    #[test]
    fn what_was_written_is_read_as_long_as_it_is_not_too_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables");
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert!(read(&path, MINUTE, at).unwrap().is_none());
        write(&path, &v1::RoutingDown::default(), at).unwrap();
        write(&path, &snapshot(), at).unwrap();
        let cached = read(&path, MINUTE, at + MINUTE).unwrap().unwrap();
        assert_eq!((cached.snapshot, cached.age), (snapshot(), MINUTE));
        let old = read(&path, MINUTE, at + MINUTE + Duration::from_millis(1)).unwrap_err();
        assert!(matches!(old, CacheError::Old { .. }), "{old}");
        // A clock that went back a little, and one that is wrong.
        assert_eq!(read(&path, MINUTE, at - MINUTE).unwrap().unwrap().age, Duration::ZERO);
        let future = read(&path, MINUTE, at - 2 * MINUTE).unwrap_err();
        assert!(matches!(future, CacheError::FromTheFuture(_)), "{future}");
        // Nothing else is left there.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_left_of_a_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables");
        let at = SystemTime::now();
        write(&path, &snapshot(), at).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = read(&path, MINUTE, at).unwrap_err();
            assert!(matches!(error, CacheError::Broken(_)), "{length}: {error}");
        }
        for at_byte in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at_byte] ^= 0x10;
            std::fs::write(&path, &bent).unwrap();
            assert!(read(&path, MINUTE, at).is_err(), "{at_byte}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(read(&path, MINUTE, at).is_err());
        // The directory is in the way of the rename; the draft does not stay.
        assert!(write(&path, &snapshot(), at).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
