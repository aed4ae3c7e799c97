//! The shim: one small process per instance, between agent and slice.
//!
//! It is a hidden subcommand of the binary that the agent lives in. It leads a
//! session of its own, so that neither the agent's end nor a terminal's
//! reaches the slice, and owns what must outlive an agent:
//!
//! - the slice's process group, its exit status, and its restarts (backoff
//!   included, so that a slice is restarted while no agent runs);
//! - the pipes and log files of the slice;
//! - the control groups that hold the slice to its limits;
//! - two locks, inherited as open files: standard input is the lock of the
//!   port, standard output the lock of the instance. They fall when the shim
//!   ends, however it ends.
//!
//! It tells what it sees in a state file and on a unix socket, and takes two
//! commands: `stop`, and `restart` of a process that does not answer its
//! liveness probe. It knows nothing of probes, desired states or the network.
//! There is no async runtime here: it spends its life blocked in a few threads.

pub(crate) mod cgroup;
mod control;
mod enter;
mod log_file;
pub(crate) mod spec;
mod supervise;

use std::ffi::OsString;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

pub(crate) use control::{Restart, STOP, socket_address};
#[cfg(test)]
pub(crate) use log_file::LogFile;
pub(crate) use log_file::rotated_path;
pub use log_file::{LINE_BYTES_MAX, LogLimits};

use crate::fsio;
use spec::{Layout, ShimSpec};

/// Body of the hidden subcommand. `args` are the arguments after it: the
/// directory of the instance. Returns when the instance was stopped.
///
/// Call it before any thread or async runtime is started.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let first = args.next();
    if first.as_deref().is_some_and(|first| first == enter::ENTER) {
        return enter::main(args);
    }
    let (Some(dir), None) = (first, args.next()) else {
        eprintln!("the shim is started by the agent, with the directory of an instance");
        return ExitCode::from(2);
    };
    match run(PathBuf::from(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is a file beside the state file; the agent shows it.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: PathBuf) -> io::Result<()> {
    // Fails only for a session's leader, which needs no other session.
    let _ = nix::unistd::setsid();
    // Whatever the slice leaves behind becomes a child of this process, to be
    // found and ended with the slice.
    nix::sys::prctl::set_child_subreaper(true)?;
    let layout = Layout::new(dir);
    let spec: ShimSpec = serde_json::from_slice(&fs::read(layout.spec())?)?;
    supervise::Supervisor::new(layout, spec)?.run();
    release_port()
}

/// Notes in the port's lock file, our standard input, when the port was last
/// used, so that no agent of this machine gives it out again too early.
fn release_port() -> io::Result<()> {
    let lock = fs::File::from(io::stdin().as_fd().try_clone_to_owned()?);
    note_free(lock, fsio::wall_ms())
}

fn note_free(mut lock: fs::File, at_wall_ms: u64) -> io::Result<()> {
    lock.rewind()?;
    let text = format!("free {at_wall_ms}\n");
    lock.write_all(text.as_bytes())?;
    lock.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_that_a_port_is_free_is_written_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10000");
        fs::write(&path, "held by an instance with a long path").unwrap();
        note_free(fs::File::options().write(true).open(&path).unwrap(), 1_700_000_000_000).unwrap();
        crate::frozen::kept("port-free.txt").holds(&fs::read(path).unwrap());
    }
}
