//! A probe that runs a command beside the instance.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Probed, Target};

/// How much of the end of a command's output is kept to find its last line in,
/// in bytes.
const TAIL_BYTES_MAX: usize = 1024;

/// Longest last line that is shown, in characters: it is replicated.
const LINE_CHARS_MAX: usize = 200;

/// How long output is still read when the command has ended. Its group was
/// killed by then; only a process that left the group can hold the pipe.
const REST_MAX: Duration = Duration::from_millis(200);

/// Kills a command with everything in its process group, also when the probe
/// is given up half-way.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL); // All of it may have ended.
        }
    }
}

/// Runs the command; what it left of its process group is killed.
pub(super) async fn run(command: &[String], target: &Target) -> Probed {
    let Some((program, arguments)) = command.split_first() else {
        return Probed::Broken("no program is named".to_owned());
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&*target.env)
        .current_dir(&target.work_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Probed::Broken(format!("it cannot be started: {error}")),
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let group = Group(pid.map(Pid::from_raw));
    // One each, because nothing tells in which order the two were written to.
    let (out, err) = (Mutex::default(), Mutex::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading =
        std::pin::pin!(async { tokio::join!(keep(stdout, &out), keep(stderr, &err)) });
    let mut read = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = &mut reading, if !read => read = true,
        }
    };
    drop(group);
    if !read {
        let _ = timeout(REST_MAX, &mut reading).await; // What it held back is not shown.
    }
    match status {
        Ok(status) if status.success() => Probed::Passed,
        Ok(status) => {
            let line = match last_line(&err) {
                nothing if nothing.is_empty() => last_line(&out),
                line => line,
            };
            Probed::Exited { how: how(status), line }
        }
        Err(error) => Probed::Broken(error.to_string()),
    }
}

/// Reads to the end and keeps the last bytes.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, tail: &Mutex<Vec<u8>>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..read]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..surplus);
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, number) => {
            let number = number.unwrap_or(0);
            let name = Signal::try_from(number).map(|signal| signal.to_string());
            format!("ended by signal {}", name.unwrap_or_else(|_| number.to_string()))
        }
    }
}

/// The last line that is not blank, without control characters.
fn last_line(tail: &Mutex<Vec<u8>>) -> String {
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect()
}
