//! What an agent says of an instance, from what it knows. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use aether_core::command::Observation;
use aether_core::ids::InstanceId;
use aether_core::manifest::Probe;
use aether_core::planner::CRASH_LOOP_RESTARTS;
use aether_core::records::{Desired, Observed, Reason};

use crate::probe::Tally;
use crate::shim::spec::{End, Phase, ShimState};

/// How long a starting process may fail its probes before that is given as a
/// reason: until then it is only on its way.
const PROBE_REASON_AFTER: Duration = Duration::from_secs(1);

/// How far an instance is.
#[derive(Debug)]
pub(crate) enum Stage<'a> {
    /// It exists and does nothing: it is not to run, or cannot be understood.
    Idle(Option<&'a Reason>),
    /// Its artifact is being fetched and unpacked, or that failed.
    Preparing(Option<&'a Reason>),
    /// It is being started, or that failed.
    Launching(Option<&'a Reason>),
    /// Its process was lost and waits for its next start.
    Lost(&'a Reason),
    /// A shim runs it.
    Shimmed(&'a Shimmed),
    /// It and everything it started is gone; by force, if there is a reason.
    Stopped(Option<&'a Reason>),
}

/// An instance that a shim runs.
#[derive(Debug, Clone)]
pub(crate) struct Shimmed {
    pub state: ShimState,
    pub tally: Tally,
    /// Since when the present process was seen.
    pub up: Duration,
    pub probe: Probe,
    /// The reload that it was told of, and has passed a probe since.
    pub reloaded: Option<u64>,
    /// Why it cannot be told of one.
    pub reload_problem: Option<Reason>,
}

/// Everything an observation follows from.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub instance: &'a InstanceId,
    pub told: Desired,
    pub stage: Stage<'a>,
    /// Where it listens, and where others reach that.
    pub listen: Option<SocketAddr>,
    pub endpoint: Option<SocketAddr>,
    pub restarts: u32,
}

/// The observation that follows from a view.
pub(crate) fn observe(view: &View<'_>) -> Observation {
    let (observed, reason) = match &view.stage {
        Stage::Stopped(killed) => (Observed::Stopped, killed.cloned()),
        _ if view.told == Desired::Stop => (Observed::Stopping, None),
        Stage::Idle(reason) => (Observed::Assigned, reason.cloned()),
        Stage::Preparing(reason) => (Observed::Fetching, reason.cloned()),
        Stage::Launching(reason) => (Observed::Starting, reason.cloned()),
        Stage::Lost(reason) => (Observed::Crashed, Some((*reason).clone())),
        Stage::Shimmed(shimmed) => observe_shimmed(view, shimmed),
    };
    let reloaded = match &view.stage {
        Stage::Shimmed(shimmed) => shimmed.reloaded,
        _ => None,
    };
    Observation {
        instance: view.instance.clone(),
        observed,
        endpoint: view.endpoint,
        restarts: view.restarts,
        reason,
        reloaded,
    }
}

fn observe_shimmed(view: &View<'_>, shimmed: &Shimmed) -> (Observed, Option<Reason>) {
    let Shimmed { state, tally, up, probe, reload_problem, reloaded: _ } = shimmed;
    let probed = || {
        let last = tally.last.as_ref().zip(view.listen);
        last.and_then(|(probed, listen)| {
            Some(Reason::new(probed.code(), probed.problem(listen, probe)?))
        })
    };
    match state.phase {
        Phase::Stopped => (Observed::Stopped, None),
        Phase::Stopping => (Observed::Stopping, None),
        Phase::Restarting if tally.was_ready => (Observed::Unready, end_reason(state)),
        Phase::Restarting => (Observed::Starting, end_reason(state)),
        Phase::Waiting => match end_reason(state) {
            None => (Observed::Starting, None),
            reason => (Observed::Crashed, reason),
        },
        Phase::Unknown if tally.was_ready => (Observed::Unready, Some(newer_shim())),
        Phase::Unknown => (Observed::Starting, Some(newer_shim())),
        Phase::Running if tally.ready => {
            (Observed::Ready, reload_problem.clone().or_else(|| limits_not_enforced(state)))
        }
        Phase::Running if tally.was_ready => (Observed::Unready, probed()),
        Phase::Running => {
            let ended = end_reason(state);
            let slow = || {
                if *up >= PROBE_REASON_AFTER { probed() } else { None }
            };
            (Observed::Starting, ended.or_else(slow))
        }
    }
}

/// What a ready instance has to say: that it runs without limits it asked for.
fn limits_not_enforced(state: &ShimState) -> Option<Reason> {
    let which = state.unenforced.as_ref()?;
    Some(Reason::new("limits_not_enforced", format!("it runs without these limits: {which}")))
}

/// Why the process ended last, if it ever did.
fn end_reason(state: &ShimState) -> Option<Reason> {
    let times = match state.ends_in_a_row {
        0 | 1 => String::new(),
        times => format!(", {times} times in a row"),
    };
    let ended = |how: String| {
        let line = match state.last_error_line.as_str() {
            "" => "it wrote nothing to standard error".to_owned(),
            line => format!("last line of standard error: {line}"),
        };
        // Ended once more than it was started again: the planner counts those.
        let loops = state.ends_in_a_row > CRASH_LOOP_RESTARTS;
        let code = if loops { Reason::CRASH_LOOP } else { "crashed" };
        Reason::new(code, format!("{how}{times}; {line}"))
    };
    Some(match state.last_end.as_ref()? {
        End::Status(status) => ended(format!("exited with status {status}")),
        End::Signal(signal) => ended(format!("ended by signal {signal}")),
        End::OutOfMemory(limit) => Reason::new(
            "oom_killed",
            format!(
                "killed because it needed more memory than the {limit} of resources.memory{times}"
            ),
        ),
        End::NotLive(problem) => Reason::new("liveness_failed", format!("{problem}{times}")),
        End::NotStarted(error) => Reason::new(
            "exec_failed",
            format!("{error}; run.command must name a program of the artifact or of the node"),
        ),
        End::PortTaken(address) => Reason::new(
            "no_port",
            format!("another process listens on {address}, the instance's port; stop it"),
        ),
        End::ShimLost => lost_reason(),
        End::Unknown(said) => ended(format!("ended in a way that its newer shim calls {said}")),
    })
}

/// The shim does something that this release has no word for.
fn newer_shim() -> Reason {
    Reason::new(
        "shim_failed",
        "its shim is of a newer release, and does what this node's does not know; upgrade the node",
    )
}

/// The shim of an instance was killed, or the machine restarted.
pub(crate) fn lost_reason() -> Reason {
    Reason::new(
        "shim_lost",
        "its supervisor was killed or the machine restarted; it is started again",
    )
}

#[cfg(test)]
mod tests {
    use aether_core::manifest::Readiness;

    use super::*;
    use crate::probe::Probed;
    use crate::procfs::Process;

    fn state(phase: Phase, ends_in_a_row: u32, last_end: Option<End>) -> ShimState {
        ShimState {
            boot_id: String::new(),
            shim: Process { pid: 1, start_ticks: 1 },
            child: None,
            phase,
            restarts: ends_in_a_row,
            ends_in_a_row,
            last_end,
            last_error_line: "boom".to_owned(),
            killed: None,
            cgroups: Vec::new(),
            unenforced: None,
        }
    }

    fn tally(results: &[Probed]) -> Tally {
        let mut tally = Tally::default();
        for result in results {
            let readiness = Readiness { failures: 1, ..Readiness::default() };
            tally.add(result.clone(), &readiness);
        }
        tally
    }

    fn say(told: Desired, stage: Stage<'_>) -> String {
        let instance = "a-1-0".parse().unwrap();
        let listen = Some("127.0.0.1:1".parse().unwrap());
        let view = View { instance: &instance, told, stage, listen, endpoint: listen, restarts: 0 };
        let said = observe(&view);
        let reason = said.reason.map(|r| format!(" {}: {}", r.code, r.message)).unwrap_or_default();
        format!("{:?}{reason}", said.observed)
    }

    #[test]
    fn every_stage_has_its_state_and_reason() {
        use Desired::{Drain, Run, Stop};
        use Phase::{Restarting, Running, Stopped, Stopping, Unknown, Waiting};
        let shimmed = |phase, ends, end: Option<End>, results: &[Probed], up_ms| Shimmed {
            state: state(phase, ends, end),
            tally: tally(results),
            up: Duration::from_millis(up_ms),
            probe: Probe::Tcp,
            reloaded: None,
            reload_problem: None,
        };
        let failed = Reason::new("fetch_failed", "nobody has it");
        let killed = Reason::new("killed", "it did not end");
        let status = || Some(End::Status(3));
        let (ok, closed) = (Probed::Passed, Probed::Closed);
        let closed_text =
            "the process runs, but nothing listens on 127.0.0.1:1; it must listen on its PORT";
        let cases = [
            (Run, Stage::Idle(None), "Assigned".to_owned()),
            (Run, Stage::Preparing(None), "Fetching".to_owned()),
            (
                Run,
                Stage::Preparing(Some(&failed)),
                "Fetching fetch_failed: nobody has it".to_owned(),
            ),
            (Stop, Stage::Preparing(Some(&failed)), "Stopping".to_owned()),
            (Run, Stage::Launching(None), "Starting".to_owned()),
            (Stop, Stage::Stopped(None), "Stopped".to_owned()),
            (Run, Stage::Stopped(None), "Stopped".to_owned()),
            (Stop, Stage::Stopped(Some(&killed)), "Stopped killed: it did not end".to_owned()),
        ];
        for (told, stage, expected) in cases {
            assert_eq!(say(told, stage), expected);
        }
        let cases = [
            (Run, shimmed(Waiting, 0, None, &[], 0), "Starting".to_owned()),
            (Run, shimmed(Running, 0, None, std::slice::from_ref(&closed), 900), "Starting".to_owned()),
            (Run, shimmed(Running, 0, None, std::slice::from_ref(&closed), 1_000), format!("Starting port_closed: {closed_text}")),
            (Run, shimmed(Running, 0, None, std::slice::from_ref(&ok), 5), "Ready".to_owned()),
            (Drain, shimmed(Running, 0, None, std::slice::from_ref(&ok), 5), "Ready".to_owned()),
            (Stop, shimmed(Running, 0, None, std::slice::from_ref(&ok), 5), "Stopping".to_owned()),
            (Run, shimmed(Running, 0, None, &[ok.clone(), closed], 5), format!("Unready port_closed: {closed_text}")),
            (Run, shimmed(Waiting, 1, status(), &[], 0),
                "Crashed crashed: exited with status 3; last line of standard error: boom".to_owned()),
            (Run, shimmed(Waiting, 3, status(), &[], 0),
                "Crashed crashed: exited with status 3, 3 times in a row; last line of standard error: boom".to_owned()),
            (Run, shimmed(Running, 4, status(), &[], 0),
                "Starting crash_loop: exited with status 3, 4 times in a row; last line of standard error: boom".to_owned()),
            (Run, shimmed(Running, 4, status(), std::slice::from_ref(&ok), 0), "Ready".to_owned()),
            (Run, shimmed(Waiting, 1, Some(End::NotStarted("'x': No such file".into())), &[], 0),
                "Crashed exec_failed: 'x': No such file; run.command must name a program of the artifact or of the node".to_owned()),
            (Run, shimmed(Waiting, 2, Some(End::OutOfMemory("64MiB".into())), &[], 0),
                "Crashed oom_killed: killed because it needed more memory than the 64MiB of resources.memory, 2 times in a row".to_owned()),
            (Run, shimmed(Waiting, 1, Some(End::NotLive("it hangs".into())), &[], 0),
                "Crashed liveness_failed: it hangs".to_owned()),
            (Run, shimmed(Restarting, 0, Some(End::NotLive("it hangs".into())), std::slice::from_ref(&ok), 0),
                "Unready liveness_failed: it hangs".to_owned()),
            (Run, shimmed(Restarting, 0, Some(End::NotLive("it hangs".into())), &[], 0),
                "Starting liveness_failed: it hangs".to_owned()),
            (Stop, shimmed(Stopping, 0, None, &[], 0), "Stopping".to_owned()),
            (Stop, shimmed(Stopped, 0, None, &[], 0), "Stopping".to_owned()),
        ];
        for (told, shimmed, expected) in cases {
            assert_eq!(say(told, Stage::Shimmed(&shimmed)), expected);
        }
        let newer = "shim_failed: its shim is of a newer release, and does what this node's does not know; upgrade the node";
        let said =
            |results: &[Probed]| say(Run, Stage::Shimmed(&shimmed(Unknown, 0, None, results, 5)));
        assert_eq!(said(&[]), format!("Starting {newer}"));
        assert_eq!(said(std::slice::from_ref(&ok)), format!("Unready {newer}"));
        let evicted = Some(End::Unknown("\"evicted\"".into()));
        let crashed = say(Run, Stage::Shimmed(&shimmed(Waiting, 1, evicted, &[], 0)));
        assert!(crashed.starts_with(
            "Crashed crashed: ended in a way that its newer shim calls \"evicted\"; "
        ));
        let mut free = shimmed(Running, 0, None, std::slice::from_ref(&ok), 5);
        free.state.unenforced = Some("cpu (no control groups)".to_owned());
        let expected =
            "Ready limits_not_enforced: it runs without these limits: cpu (no control groups)";
        assert_eq!(say(Run, Stage::Shimmed(&free)), expected);
        let deaf = Reason::new(Reason::RELOAD_FAILED, "it does not catch it");
        free.reload_problem = Some(deaf);
        let expected = "Ready reload_failed: it does not catch it";
        assert_eq!(say(Run, Stage::Shimmed(&free)), expected);
    }
}
