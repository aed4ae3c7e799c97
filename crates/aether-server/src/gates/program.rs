//! A gate that is a program on this node: it ends with 0 for pass and 1 for fail.
//!
//! No shell looks at it, nothing of the node's environment reaches it, and what is
//! left of its process group is killed when it ends or its time is over.

use std::process::Stdio;

use aether_core::planner::Measurement;
use aether_core::records::GateVerdict;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::inconclusive;

/// Where programs find others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of the end of the output is kept, to find its last line in, in bytes.
const TAIL_BYTES_MAX: usize = 1_024;

/// Kills a program with everything in its process group, also when it is given up
/// half-way.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL); // All of it may have ended.
        }
    }
}

/// Runs the program to its end.
pub async fn run(
    program: &str,
    arguments: &[String],
    measurement: &Measurement,
) -> (GateVerdict, String) {
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment(measurement))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return inconclusive(format!("{program} cannot be started: {error}")),
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let group = Group(pid.map(Pid::from_raw));
    let mut tail = Vec::new();
    let ended = {
        let mut reading = std::pin::pin!(keep(child.stdout.take(), &mut tail));
        let mut is_read = false;
        loop {
            tokio::select! {
                ended = child.wait() => {
                    // Others of the group may hold the pipe open; they go, and what
                    // is in it by then is read.
                    drop(group);
                    if !is_read {
                        let _ = tokio::time::timeout(super::REFUSED_PAUSE, reading).await;
                    }
                    break ended;
                }
                () = &mut reading, if !is_read => is_read = true,
            }
        }
    };
    let line = last_line(&tail);
    let said = |how: String| if line.is_empty() { how } else { line.clone() };
    match ended.map(|status| status.code()) {
        Ok(Some(0)) => (GateVerdict::Pass, said("it ended with 0".to_owned())),
        Ok(Some(1)) => (GateVerdict::Fail, said("it ended with 1".to_owned())),
        Ok(Some(code)) => inconclusive(format!("it ended with {code}: {line}")),
        Ok(None) => inconclusive(format!("it was ended by a signal: {line}")),
        Err(error) => inconclusive(error.to_string()),
    }
}

/// What a program is told of where the update is.
fn environment(measurement: &Measurement) -> Vec<(&'static str, String)> {
    let weights_of_step = measurement.weights_of_step.map(|weights| weights.to_string());
    vec![
        ("PATH", PATH.to_owned()),
        ("AETHER_UPDATE", measurement.update.to_string()),
        ("AETHER_SLICE", measurement.slice.to_string()),
        ("AETHER_GATE", measurement.gate.name.clone()),
        ("AETHER_MEASUREMENT", measurement.key()),
        ("AETHER_ATTEMPT", measurement.number.to_string()),
        ("AETHER_WHEN", measurement.gate.when.to_string()),
        ("AETHER_STEP", measurement.step.to_string()),
        ("AETHER_STEPS", measurement.last_step.to_string()),
        ("AETHER_WEIGHTS", measurement.weights.to_string()),
        ("AETHER_STEP_WEIGHTS", weights_of_step.unwrap_or_default()),
        ("AETHER_PHASE", measurement.state.to_string()),
        ("AETHER_FROM", measurement.from.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("AETHER_TO", measurement.to.to_string()),
    ]
}

/// Reads to the end and keeps the last bytes.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..read]);
        let surplus = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..surplus);
    }
}

/// The last line that is not blank.
fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().trim().to_owned()
}
