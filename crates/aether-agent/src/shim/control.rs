//! How a shim shows its state and takes commands: a state file, and a unix
//! socket in the instance's directory, which only the owner enters.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::{Layout, ShimState};
use super::supervise::Event;
use crate::fsio::{Survives, write_atomic};
use crate::procfs::Process;

/// The line that asks a shim to stop its slice and end.
pub(crate) const STOP: &str = "stop\n";

/// Before the JSON of a [`Restart`], in the line that asks for one.
const RESTART: &str = "restart ";

/// Asks a shim to stop its slice's process and start it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restart {
    /// Which process is meant: the next one has done nothing.
    pub process: Process,
    /// What its liveness probe found.
    pub problem: String,
}

impl Restart {
    /// The line that says it.
    pub fn line(&self) -> io::Result<String> {
        Ok(format!("{RESTART}{}\n", serde_json::to_string(self)?))
    }
}

/// Longest line on the socket, in bytes. A state holds two shortened texts.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024;

/// Most connections a shim keeps. There is one agent; the rest is room for one
/// that is being replaced.
const CLIENTS_MAX: usize = 8;

/// How long a client may fail to read before it is dropped.
const CLIENT_WRITE_MAX: Duration = Duration::from_secs(1);

/// Where the socket of an instance is reached. A socket's address holds only
/// about a hundred bytes and data directories may be deeper, so the path goes
/// through the open directory, which has to stay open meanwhile.
pub(crate) fn socket_address(dir: &Path) -> io::Result<(File, PathBuf)> {
    let open = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/shim.sock", open.as_raw_fd()));
    Ok((open, path))
}

/// Shows the state of a shim to whoever wants to know.
#[derive(Debug, Clone)]
pub(super) struct Board {
    shared: Arc<Mutex<Shared>>,
    file: PathBuf,
}

#[derive(Debug)]
struct Shared {
    line: Vec<u8>,
    clients: Vec<UnixStream>,
}

impl Board {
    /// Listens on the socket; every command becomes an event.
    pub fn open(layout: &Layout, events: SyncSender<Event>) -> io::Result<Self> {
        let (dir, path) = socket_address(layout.dir())?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {} // One that a killed shim left behind: we hold the lock.
        }
        let listener = UnixListener::bind(&path)?;
        drop(dir);
        let shared = Arc::new(Mutex::new(Shared { line: Vec::new(), clients: Vec::new() }));
        let board = Self { shared, file: layout.state() };
        let accepting = board.clone();
        thread::Builder::new().name("accept".into()).spawn(move || {
            for client in listener.incoming().flatten() {
                let events = events.clone();
                if accepting.join(&client).is_ok() {
                    thread::spawn(move || take_commands(client, &events));
                }
            }
        })?;
        Ok(board)
    }

    /// Shows a new state. A full disk or a client that doesn't read keeps
    /// nothing up: the other way still works.
    pub fn show(&self, state: &ShimState) {
        let Ok(mut line) = serde_json::to_vec(state) else {
            return;
        };
        let _ = write_atomic(&self.file, &line, Survives::Process);
        line.push(b'\n');
        let mut shared = self.lock();
        shared.clients.retain_mut(|client| client.write_all(&line).is_ok());
        shared.line = line;
    }

    /// Sends the present state to a new client, and every later one.
    fn join(&self, client: &UnixStream) -> io::Result<()> {
        let mut writer = client.try_clone()?;
        writer.set_write_timeout(Some(CLIENT_WRITE_MAX))?;
        let mut shared = self.lock();
        writer.write_all(&shared.line)?;
        if shared.clients.len() == CLIENTS_MAX {
            let oldest = shared.clients.remove(0);
            let _ = oldest.shutdown(std::net::Shutdown::Both); // Ends its thread.
        }
        shared.clients.push(writer);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_commands(client: UnixStream, events: &SyncSender<Event>) {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    // A line that is cut at the bound is no command, and ends with the next one.
    while matches!(reader.by_ref().take(MESSAGE_BYTES_MAX).read_line(&mut line), Ok(1..)) {
        let event = match line.strip_prefix(RESTART) {
            _ if line == STOP => Some(Event::Stop),
            Some(restart) => serde_json::from_str(restart).ok().map(Event::Restart),
            None => None,
        };
        if event.is_some_and(|event| events.send(event).is_err()) {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::frozen::{restart, said, states};

    #[test]
    fn a_shim_shows_and_takes_what_it_always_did() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, events) = sync_channel(4);
        let board = Board::open(&Layout::new(dir.path().to_owned()), sender).unwrap();
        let mut agent = UnixStream::connect(dir.path().join("shim.sock")).unwrap();
        let mut reader = BufReader::new(agent.try_clone().unwrap());
        let mut shown = String::new();
        for state in states() {
            let from = shown.len();
            board.show(&state);
            reader.read_line(&mut shown).unwrap();
            let file = fs::read_to_string(dir.path().join("state.json")).unwrap();
            assert_eq!(file + "\n", shown[from..], "the file says the same");
        }
        said("states.txt").holds(shown.as_bytes());

        // Of a newer agent, or damaged: passed over.
        agent.write_all(b"pause\nrestart\nrestart {}\nstop now\n").unwrap();
        agent.write_all(&said("commands.txt").bytes()).unwrap();
        let next = || events.recv_timeout(Duration::from_secs(10)).expect("a command");
        match next() {
            Event::Restart(asked) if asked == restart() => {}
            other => said("commands.txt").broken(&format!("begins with {other:?}")),
        }
        assert!(matches!(next(), Event::Stop));
        let newer =
            r#"restart {"process":{"pid":1,"start_ticks":2,"of":3},"problem":"x","newer":4}"#;
        agent.write_all(format!("{newer}\n").as_bytes()).unwrap();
        let expected =
            Restart { process: Process { pid: 1, start_ticks: 2 }, problem: "x".to_owned() };
        assert!(matches!(next(), Event::Restart(asked) if asked == expected));
    }
}
