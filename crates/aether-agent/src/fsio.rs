//! Small file helpers: atomic replacement, inherited locks, the boot id.
//!
//! Nothing here knows what the files mean.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// How much of a crash a written file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// The end of this process.
    Process,
    /// A power cut as well: the file and its directory are synced.
    PowerCut,
}

/// Replaces `path` by `bytes` in one step: readers see the old or the new
/// content, never a mixture.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], survives: Survives) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    if survives == Survives::PowerCut {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    match (survives, path.parent()) {
        (Survives::PowerCut, Some(parent)) => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Likewise for a file that others than its owner may read, by way of `temporary` on
/// the same file system: what is left there of an earlier attempt is in nobody's way.
pub(crate) fn write_public(
    path: &Path,
    bytes: &[u8],
    temporary: &Path,
    survives: Survives,
) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    // Not with `mode`, of which the process's mask takes something away.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    if survives == Survives::PowerCut {
        file.sync_all()?;
    }
    fs::rename(temporary, path)?;
    match (survives, path.parent()) {
        (Survives::PowerCut, Some(parent)) => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory that only its owner enters, with its parents; fine if
/// it exists.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes a directory tree, fine if it isn't there.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens (and creates) a lock file and takes its lock without waiting.
/// `None`: another process, or another open file of this one, holds it.
///
/// The lock belongs to the open file, is passed on with it to a child, and is
/// given up when the last descriptor closes. Hence no guard that unlocks when
/// dropped: it would take the lock away from the child as well.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    #[allow(deprecated)] // See above: `Flock` unlocks on drop.
    let taken = nix::fcntl::flock(
        std::os::fd::AsRawFd::as_raw_fd(&file),
        nix::fcntl::FlockArg::LockExclusiveNonblock,
    );
    match taken {
        Ok(()) => Ok(Some(file)),
        Err(nix::errno::Errno::EWOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// For tests: what is to be had at once, but for processes that other tests
/// start meanwhile. Until such a one is its program, it has copies of our locks
/// and listeners.
#[cfg(test)]
pub(crate) fn soon<T>(get: impl Fn() -> Option<T>) -> Option<T> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let got = get();
        if got.is_some() || std::time::Instant::now() >= until {
            return got;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Identifies this run of the kernel: process ids of another one mean nothing.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Wall clock in milliseconds since 1970, for what is kept across restarts.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", Survives::PowerCut).unwrap();
        write_atomic(&path, b"two", Survives::Process).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_exclusive_until_its_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path).unwrap().expect("nobody holds it");
        assert!(try_lock(&path).unwrap().is_none());
        let passed_on = held.try_clone().unwrap();
        drop(held);
        assert!(try_lock(&path).unwrap().is_none(), "the copy still holds it");
        drop(passed_on);
        assert!(try_lock(&path).unwrap().is_some());
    }
}
