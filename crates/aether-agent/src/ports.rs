//! Ports for slices: exclusive on this machine, and not reused too early.
//!
//! An old routing table must never reach the wrong service, so a port rests
//! after its use. Exclusive it is by a locked file per port in a directory of
//! this user, which all agents of the machine share; the shim inherits the
//! lock and holds it for the life of its instance.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fsio::{self, Survives};
use crate::shim::spec::port_is_free;

/// Why there is no port.
#[derive(Debug, Error)]
pub(crate) enum PortError {
    /// All are taken, or rest.
    #[error(
        "no port of {first}-{last} is free on {ip}: {resting} rest for {rest_s} s after their use, the others are taken; give the agent a wider range"
    )]
    Exhausted { first: u16, last: u16, ip: IpAddr, resting: usize, rest_s: u64 },
    /// The lock files or the book cannot be used.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// When each port was last used. Pure.
#[derive(Debug, Serialize, Deserialize, Default)]
struct Book {
    /// Wall clock of the last known use, in milliseconds.
    last_used_ms: BTreeMap<u16, u64>,
}

impl Book {
    /// Whether a port has to rest. A time in the future is a clock that was
    /// set back: the port rests from now on.
    fn rests(&mut self, port: u16, now_ms: u64, rest: Duration) -> bool {
        let Some(used_ms) = self.last_used_ms.get_mut(&port) else {
            return false;
        };
        *used_ms = now_ms.min(*used_ms);
        if Duration::from_millis(now_ms - *used_ms) < rest {
            return true;
        }
        self.last_used_ms.remove(&port);
        false
    }
}

/// The ports of the range from `start` on, once around.
fn around(range: &RangeInclusive<u16>, start: u16) -> impl Iterator<Item = u16> + use<> {
    let (first, last) = (*range.start(), *range.end());
    let start = start.clamp(first, last);
    (start..=last).chain(first..start)
}

/// A port, with the lock that keeps it ours as long as the file is open.
#[derive(Debug)]
pub(crate) struct Port {
    pub number: u16,
    pub lock: File,
}

/// Gives out ports.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    rest: Duration,
    ip: IpAddr,
    locks: PathBuf,
    book_file: PathBuf,
    book: Mutex<(Book, u16)>,
}

impl Ports {
    /// Opens the book in `data_dir`. `start` is where the search begins, so
    /// that agents of one machine seldom try the same port.
    pub fn open(
        data_dir: &Path,
        range: RangeInclusive<u16>,
        rest: Duration,
        ip: IpAddr,
        start: u16,
    ) -> Result<Self, PortError> {
        let locks = std::env::temp_dir().join(format!("aether-ports-{}", nix::unistd::getuid()));
        let cannot = |source| PortError::Io { path: locks.clone(), source };
        fsio::create_private_dir(&locks).map_err(cannot)?;
        let meta = fs::symlink_metadata(&locks).map_err(cannot)?;
        if !meta.is_dir() || meta.uid() != nix::unistd::getuid().as_raw() {
            return Err(cannot(io::Error::other("is not a directory of this user; remove it")));
        }
        let book_file = data_dir.join("ports.json");
        let book = match fs::read(&book_file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| PortError::Io { path: book_file.clone(), source: e.into() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(source) => {
                return Err(PortError::Io { path: book_file, source });
            }
        };
        Ok(Self { range, rest, ip, locks, book_file, book: Mutex::new((book, start)) })
    }

    /// Takes a port for `owner`, which names the instance on this machine.
    /// `wish` is the port it had; it gets that one again unless someone else
    /// has it by now.
    pub fn take(&self, owner: &str, wish: Option<u16>) -> Result<Port, PortError> {
        let mut guard = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let (book, cursor) = &mut *guard;
        if let Some(port) = wish
            && let Some(port) = self.try_take(book, port, owner, true)?
        {
            return Ok(port);
        }
        let mut resting = 0;
        for number in around(&self.range, *cursor) {
            if book.rests(number, fsio::wall_ms(), self.rest) {
                resting += 1;
            } else if let Some(port) = self.try_take(book, number, owner, false)? {
                *cursor = number.checked_add(1).unwrap_or(*self.range.start());
                return Ok(port);
            }
        }
        Err(PortError::Exhausted {
            first: *self.range.start(),
            last: *self.range.end(),
            ip: self.ip,
            resting,
            rest_s: self.rest.as_secs(),
        })
    }

    /// Notes that a port was used until now.
    pub fn release(&self, port: u16) -> Result<(), PortError> {
        let mut guard = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = fsio::wall_ms();
        guard.0.last_used_ms.insert(port, now_ms);
        let rest_ms = u64::try_from(self.rest.as_millis()).unwrap_or(u64::MAX);
        guard.0.last_used_ms.retain(|_, used_ms| now_ms.saturating_sub(*used_ms) < rest_ms);
        let cannot = |source| PortError::Io { path: self.book_file.clone(), source };
        let bytes = serde_json::to_vec(&guard.0).map_err(|e| cannot(e.into()))?;
        fsio::write_atomic(&self.book_file, &bytes, Survives::PowerCut).map_err(cannot)
    }

    fn try_take(
        &self,
        book: &mut Book,
        number: u16,
        owner: &str,
        again: bool,
    ) -> Result<Option<Port>, PortError> {
        let path = self.locks.join(number.to_string());
        let cannot = |source| PortError::Io { path: path.clone(), source };
        let Some(mut lock) = fsio::try_lock(&path).map_err(cannot)? else {
            return Ok(None);
        };
        let mut text = String::new();
        // A note is a path and a time; whatever is longer is not ours.
        (&mut lock).take(8 * 1024).read_to_string(&mut text).map_err(cannot)?;
        let ours = text.trim() == format!("held {owner}");
        if !(again && ours) {
            // Held without a lock: its holder was killed, who knows when.
            let freed_ms = match text.trim().split_once(' ') {
                Some(("free", time)) => time.parse().unwrap_or(0),
                Some(("held", _)) => fsio::wall_ms(),
                _ => 0,
            };
            let used_ms = book.last_used_ms.entry(number).or_insert(0);
            *used_ms = freed_ms.max(*used_ms);
            if book.rests(number, fsio::wall_ms(), self.rest) {
                let freed_ms = book.last_used_ms.get(&number).copied().unwrap_or(freed_ms);
                note(&mut lock, &format!("free {freed_ms}")).map_err(cannot)?;
                return Ok(None);
            }
        }
        if !port_is_free(self.ip, number) {
            return Ok(None);
        }
        note(&mut lock, &format!("held {owner}")).map_err(cannot)?;
        Ok(Some(Port { number, lock }))
    }
}

fn note(lock: &mut File, text: &str) -> io::Result<()> {
    lock.rewind()?;
    lock.write_all(text.as_bytes())?;
    lock.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use aether_frozen::Frozen;

    use super::*;
    use crate::frozen::kept;
    use crate::fsio::soon;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn ports(dir: &Path, range: RangeInclusive<u16>, rest: Duration) -> Ports {
        let start = *range.start();
        let mut ports = Ports::open(dir, range, rest, LOCALHOST, start).unwrap();
        // Tests of this file share no locks with whatever else runs here.
        ports.locks = dir.join("locks");
        fs::create_dir_all(&ports.locks).unwrap();
        ports
    }

    #[test]
    fn a_used_port_rests_whatever_the_clock_does() {
        let rest = Duration::from_millis(100);
        let mut book = Book { last_used_ms: BTreeMap::from([(1, 1_000), (2, 9_000)]) };
        assert!(book.rests(1, 1_099, rest));
        assert!(!book.rests(1, 1_100, rest));
        assert!(book.rests(2, 2_000, rest), "the clock was set back");
        assert!(!book.rests(2, 2_100, rest));
        assert!(!book.rests(3, 0, rest));
    }

    #[test]
    fn the_range_is_walked_once_around() {
        assert_eq!(around(&(5..=8), 7).collect::<Vec<_>>(), [7, 8, 5, 6]);
        assert_eq!(around(&(5..=6), 900).collect::<Vec<_>>(), [6, 5]);
    }

    #[test]
    fn ports_are_exclusive_rest_and_are_given_back_to_their_instance() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        let hour = Duration::from_secs(3_600);
        let one = ports(dir.path(), number..=number, hour);
        assert!(matches!(one.take("a", None), Err(PortError::Exhausted { .. })), "a listener");
        drop(taken);
        let port = soon(|| one.take("a", None).ok()).expect("nobody uses it");
        let two = ports(dir.path(), number..=number, hour);
        assert!(two.take("b", None).is_err(), "locked by another agent");
        drop(port);
        let again = soon(|| two.take("a", Some(number)).ok()).expect("its own again");
        assert_eq!(again.number, number);
        drop(again);
        let error = two.take("b", None).unwrap_err();
        assert!(error.to_string().contains("1 rest") || error.to_string().contains("no port"));
        one.release(number).unwrap();
        assert!(ports(dir.path(), number..=number, hour).take("c", None).is_err(), "book is kept");
        fs::remove_dir_all(dir.path().join("locks")).unwrap();
        assert!(ports(dir.path(), number..=number, hour).take("c", None).is_err(), "book alone");
        let rested = ports(dir.path(), number..=number, Duration::ZERO);
        assert!(soon(|| rested.take("c", None).ok()).is_some());
    }

    #[test]
    fn the_book_and_the_notes_in_locks_are_written_and_read_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let (file, at) = (kept("ports.json"), 1_700_000_000_000_u64);
        let ever = Duration::from_millis(u64::MAX);
        let from_ms = fsio::wall_ms();
        for number in [1, 65_535] {
            ports(dir.path(), 1..=1, ever).release(number).unwrap();
        }
        let mut written = fs::read_to_string(dir.path().join("ports.json")).unwrap();
        for used_ms in from_ms..=fsio::wall_ms() {
            written = written.replace(&used_ms.to_string(), &at.to_string());
        }
        file.holds(written.as_bytes());

        let book = [(1, at), (65_535, at)].into();
        for newer in [file.text(), file.text().replacen('{', r#"{"newer":[1],"#, 1)] {
            fs::write(dir.path().join("ports.json"), newer).unwrap();
            match Ports::open(dir.path(), 1..=1, ever, LOCALHOST, 1) {
                Ok(read) if read.book.lock().unwrap().0.last_used_ms == book => {}
                other => file.broken(&format!("reads as {other:?}")),
            }
        }

        // A port that nobody uses, with a lock file that says whose it was.
        let number = TcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let lock = dir.path().join("locks").join(number.to_string());
        let is_given = |owner: &str, wish, rest| {
            let _ = fs::remove_file(dir.path().join("ports.json"));
            ports(dir.path(), number..=number, rest).take(owner, wish).is_ok()
        };
        let means = |note: &Frozen, (owner, wish, rest), given: bool, what: &str| {
            let meant = || {
                fs::write(&lock, note.bytes()).unwrap();
                (is_given(owner, wish, rest) == given).then_some(())
            };
            if soon(meant).is_none() {
                note.broken(&format!("does not mean any more: {what}"));
            }
        };
        let since = |ms: u64| Duration::from_millis(fsio::wall_ms() - ms);
        let hour = Duration::from_secs(3_600);
        let (held, free) = (kept("port-held.txt"), kept("port-free.txt"));
        let owner = "/data/instances/a-1-0";
        fs::create_dir_all(dir.path().join("locks")).unwrap();
        fs::write(&lock, "").unwrap();
        soon(|| is_given(owner, None, hour).then_some(())).expect("nobody uses it");
        held.holds(&fs::read(&lock).unwrap());
        means(&held, (owner, Some(number), ever), true, "its own is given again");
        means(&held, (owner, None, hour), false, "it rests");
        means(&held, ("b", Some(number), hour), false, "it is another's");
        means(&free, ("b", None, since(at) - hour), true, "it has rested");
        means(&free, ("b", None, since(at) + hour), false, "it rests");
        // An agent notes the same as a shim that ends, but for the line's end.
        let noted = soon(|| {
            fs::write(&lock, free.bytes()).unwrap();
            assert!(!is_given("b", None, since(at) + hour));
            fs::read(&lock).ok().filter(|note| !note.ends_with(b"\n"))
        });
        free.holds(&[&noted.expect("who looked notes it")[..], b"\n"].concat());
    }
}
