//! Processes as `/proc` shows them, identified by pid and start time, so that
//! a pid that was given to another process is never taken for the old one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its start, in clock ticks since boot.
    pub start_ticks: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub process: Process,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Ended, but not waited for yet.
    pub zombie: bool,
}

/// Looks at one process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// This process.
pub(crate) fn this() -> Process {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    stat(pid).map_or(Process { pid, start_ticks: 0 }, |stat| stat.process)
}

/// Every process, zombies included.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// What becomes of a signal to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// It has a handler.
    Caught,
    /// It is blocked: by one that waits for it or reads it from a descriptor, or for the
    /// moment in which a thread or a process is started.
    Blocked,
    /// It is ignored: nothing happens.
    Ignored,
    /// It is as the system has it, which ends the process, or does nothing.
    Default,
    /// There is no such process.
    Gone,
}

impl Process {
    /// What would become of a signal.
    pub fn takes(&self, signal: Signal) -> Takes {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        status.ok().filter(|_| self.is_alive()).map_or(Takes::Gone, |status| takes(&status, signal))
    }

    /// Whether exactly this process still runs.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|now| now.process == *self && !now.zombie)
    }

    /// Signals it if it still is the same process.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal); // It may end meanwhile.
        }
    }
}

/// Whether the process was started with `name=value` in its environment.
/// False if that cannot be read.
pub(crate) fn has_env(pid: i32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|text| text.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
}

/// A signal that programs cannot block, as their library keeps it to itself: where it is
/// blocked, that is by the library, for the moment in which it starts a thread or a
/// process (glibc's `nptl/pthread_create.c` and `internal-signals.h`).
const OF_LIBRARY: i32 = 32;

/// What `/proc/<pid>/status` says of a signal.
fn takes(status: &str, signal: Signal) -> Takes {
    let is_in = |name: &str, number: i32| {
        let masks = status.lines().filter_map(|line| line.strip_prefix(name));
        let mut masks = masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        // The lowest bit is signal 1.
        masks.any(|mask| mask >> (number - 1) & 1 == 1)
    };
    let number = signal as i32;
    if is_in("SigCgt:", number) {
        Takes::Caught
    } else if is_in("SigBlk:", number) && !is_in("SigBlk:", OF_LIBRARY) {
        Takes::Blocked
    } else if is_in("SigIgn:", number) {
        Takes::Ignored
    } else {
        Takes::Default
    }
}

/// The name in parentheses may hold anything, parentheses too: fields count
/// from the last one.
fn parse(pid: i32, text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // proc(5): state is field 3, starttime field 22.
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let id = |field| i32::try_from(number(field)?).ok();
    Some(Stat {
        process: Process { pid, start_ticks: u64::try_from(number(22)?).ok()? },
        parent: id(4)?,
        group: id(5)?,
        session: id(6)?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let line = "42 (a) Z (b)) S 7 42 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let stat = parse(42, line).unwrap();
        assert_eq!(stat.process, Process { pid: 42, start_ticks: 12_345 });
        assert_eq!((stat.parent, stat.group, stat.session, stat.zombie), (7, 42, 41, false));
        assert!(parse(1, "1 (x) Z 0").is_none());
    }

    #[test]
    fn a_signal_is_taken_by_who_has_a_handler_or_blocks_it() {
        let status = "Name:\ta\nSigBlk:\t0000000000000200\nSigIgn:\t0000000008000000\n\
                      SigCgt:\t0000000000000001\n";
        assert_eq!(takes(status, Signal::SIGHUP), Takes::Caught);
        assert_eq!(takes(status, Signal::SIGUSR1), Takes::Blocked);
        assert_eq!(takes(status, Signal::SIGUSR2), Takes::Default);
        assert_eq!(takes(status, Signal::SIGWINCH), Takes::Ignored);
        assert_eq!(takes("", Signal::SIGHUP), Takes::Default);
        // By all that programs can block, and while a thread is started.
        assert_eq!(takes("SigBlk:\tfffffffe7ffbfeff\n", Signal::SIGHUP), Takes::Blocked);
        assert_eq!(takes("SigBlk:\tfffffffffffbfeff\n", Signal::SIGHUP), Takes::Default);
        let me = this();
        let other = Process { start_ticks: me.start_ticks + 1, ..me };
        assert_eq!(other.takes(Signal::SIGHUP), Takes::Gone);
        // Even while a thread is started.
        assert_eq!(me.takes(Signal::SIGUSR2), Takes::Default);
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = this();
        assert!(me.is_alive());
        assert!(!Process { start_ticks: me.start_ticks + 1, ..me }.is_alive());
        assert!(all().iter().any(|stat| stat.process == me));
    }
}
