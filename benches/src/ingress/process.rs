//! A program as a process of its own, and what the kernel says of processes: their time and
//! their memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Last lines of what a program printed that an error repeats.
const LINES_MAX: usize = 10;

/// A running program. Dropping it ends it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a directory, where its output goes to `output.log`. The kernel asks
    /// it to end when the benchmark is gone.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &str, arguments: &[&str], dir: &Path) -> Result<Self> {
        let log = dir.join("output.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", program])
            .args(arguments)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {program} by setpriv, of util-linux"))?;
        Ok(Self { child, log })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal; does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Its last words, if it has ended by itself.
    ///
    /// # Errors
    /// It has.
    pub fn lives(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "it ended ({ended:?}) with: {}", tail(&self.log));
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let children = children(self.pid());
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // While their parent is there nobody else has their numbers.
            children.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn send(pid: u32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

/// Children of a process with one thread.
pub fn children(pid: u32) -> Vec<u32> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let listed = listed.unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Processor time that processes have used.
///
/// # Errors
/// One has ended.
pub fn processor_time(pids: &[u32]) -> Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("ticks of a second")? as u64;
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        let stat = stat.with_context(|| format!("process {pid} has ended"))?;
        ticks += ticks_of(&stat).with_context(|| format!("not as proc(5) says: {stat}"))?;
    }
    Ok(Duration::from_millis(ticks * 1_000 / per_second))
}

/// Ticks in user space and in the kernel, of `/proc/…/stat`.
fn ticks_of(stat: &str) -> Option<u64> {
    // "pid (name) state …"; the name may hold anything but ends at the last ')'.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(fields.next()? + fields.next()?)
}

/// Memory of processes in bytes; of pages that several have each counts its share.
///
/// # Errors
/// One has ended, or belongs to somebody else.
pub fn memory(pids: &[u32]) -> Result<u64> {
    let mut bytes = 0;
    for pid in pids {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let rollup = rollup.with_context(|| format!("memory of process {pid}"))?;
        bytes += pss_of(&rollup).with_context(|| format!("not as proc(5) says: {rollup}"))?;
    }
    Ok(bytes)
}

/// Bytes of the line `Pss:` of `/proc/…/smaps_rollup`.
fn pss_of(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 110 23 0 0 20 0 1";
        assert_eq!(ticks_of(stat), Some(133));
        assert_eq!(ticks_of("7 (a) S 1 2"), None);
        let rollup = "5-7 ---p 0 0 [rollup]\nRss:   9 kB\nPss:       12 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(pss_of(rollup), Some(12 * 1_024));
        assert_eq!(pss_of("Rss: 9 kB"), None);
    }

    #[test]
    fn it_says_what_a_program_ended_with_and_takes_its_children_along() {
        let dir = tempfile::tempdir().unwrap();
        let mut failing = Process::start("sh", &["-c", "echo why; exit 3"], dir.path()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = loop {
            match failing.lives() {
                Err(said) => break said.to_string(),
                Ok(()) => assert!(Instant::now() < deadline, "it ends"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(said.contains("why"), "{said}");

        let stubborn = ["-c", "trap '' TERM; sh -c 'trap \"\" TERM; while :; do sleep 1; done'; :"];
        let process = Process::start("sh", &stubborn, dir.path()).unwrap();
        let pids = loop {
            let found = children(process.pid());
            if !found.is_empty() {
                break found;
            }
            assert!(Instant::now() < deadline, "it has a child");
        };
        assert!(memory(&pids).unwrap() > 0);
        assert!(processor_time(&pids).is_ok());
        drop(process);
        let is_alive = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        while pids.iter().any(is_alive) {
            assert!(Instant::now() < deadline, "none is left of {pids:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
