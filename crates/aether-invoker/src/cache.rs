//! The last tables on disk, for a start while the whole control plane is away.
//!
//! The file holds what one session has applied and when a node last confirmed it.
//! It is replaced as a whole, by a rename, so that whoever reads it finds one state
//! or the other, and checked by a sum, so that what a full disk or a crash left of it
//! is taken for nothing. The sum is no signature: whoever can write the file decides
//! where calls go, so its directory has to be private. Who starts by it has promised
//! nothing to the control plane: the first tables of a node replace it, whatever they
//! say.
//!
//! Its age is told by the machine's clock. One that is set back by less than that age
//! makes tables look younger than they are, which is why they are used up to half of
//! the age only after which the control plane lets their addresses be used anew.

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

/// How far into the future a time may be: clocks are adjusted by less all the time.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);

/// After this long a draft belongs to no process any more that still writes it.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(600);

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

    let no_file = || io::Error::other("the path names no file");
    let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(no_file)?;
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    // Of its own for each writing, and nobody's before: several may be told one path.
    let prefix = format!(".{}-", name.to_string_lossy());
    let mut draft = tempfile::Builder::new().prefix(&prefix).tempfile_in(dir)?;
    draft.write_all(&bytes)?;
    draft.as_file().sync_data()?;
    draft.persist(path)?;
    remove_drafts(dir, &prefix);
    Ok(())
}

/// Removes what processes left that were killed while they wrote.
fn remove_drafts(dir: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > DRAFT_AGE_MAX));
        if is_old && entry.file_name().to_string_lossy().starts_with(prefix) {
            // Another process may do the same.
            let _ = std::fs::remove_file(entry.path());
        }
    }
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
        let adjusted = read(&path, MINUTE, at - CLOCK_SKEW_MAX).unwrap().unwrap();
        assert_eq!(adjusted.age, Duration::ZERO);
        let future = read(&path, MINUTE, at - MINUTE).unwrap_err();
        assert!(matches!(future, CacheError::FromTheFuture(_)), "{future}");
        // Nothing else is left there.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn drafts_of_killed_processes_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let draft = |name: &str, age: Duration| {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        draft(".tables-old", 2 * DRAFT_AGE_MAX);
        draft(".tables-new", Duration::ZERO);
        draft("other", 2 * DRAFT_AGE_MAX);
        write(&dir.path().join("tables"), &snapshot(), SystemTime::now()).unwrap();
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(names, [".tables-new", "other", "tables"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables");
        write(&path, &snapshot(), SystemTime::now()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
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
