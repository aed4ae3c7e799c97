//! Watches an instance whose shim lives: its state, its probes, and the order
//! to stop.

use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aether_core::manifest::{Probe, Readiness};
use aether_core::records::{Desired, Reason};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::link::{self, Link};
use super::live::{self, Due, Live};
use super::reload::{Laying, Reloading};
use super::{Instance, reachable};
use crate::fsio::{Survives, write_atomic};
use crate::observe::{Shimmed, Stage};
use crate::probe::{Probed, Tally, Target, ask};
use crate::procfs::Process;
use crate::shim::Restart;
use crate::shim::spec::{Adopted, Phase, ShimState};

/// How long a shim may take to open its socket before the instance is looked
/// at anew.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Time between two attempts to connect.
const CONNECT_INTERVAL: Duration = Duration::from_millis(5);

/// How much longer than the grace time a stop may take before the shim counts
/// as hung and is killed with its slice.
const STOP_SLACK: Duration = Duration::from_secs(15);

/// How often a shim that lives and cannot be understood is looked at anew: what
/// cannot be read may be written again, and a disk may recover.
const UNREAD_INTERVAL: Duration = Duration::from_secs(5);

/// Whether a process was ready when it was last looked at, for the next agent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    process: Process,
    ready: bool,
    was_ready: bool,
}

/// A probe under way, or none.
pub(super) type Probing = Option<Pin<Box<dyn Future<Output = Probed> + Send>>>;

/// What came of the first words with a shim.
enum Met {
    /// All that is needed to watch it is known.
    Known(Link, Box<Attended>),
    /// It lives, but what it or its specification says cannot be read.
    Unread(Link, std::io::Error),
    /// It is gone, or says nothing.
    Mute,
}

/// What is known while attending.
pub(super) struct Attended {
    pub spec: Adopted,
    pub state: ShimState,
    probe: Probe,
    target: Target,
    tally: Tally,
    pub process_since: Instant,
    pub probe_at: Instant,
    pub probing: Probing,
    /// Absent if nobody asked for liveness probes.
    live: Option<Live>,
    pub reloading: Reloading,
    /// When a shim that was told to stop counts as hung.
    pub hung_at: Option<Instant>,
}

impl Instance {
    /// Watches until the shim ends or its socket breaks.
    pub(super) async fn attend(&mut self) {
        let (mut link, mut now) = match self.meet().await {
            Met::Known(link, now) => (link, now),
            Met::Unread(link, error) => return self.attend_unread(link, &error).await,
            Met::Mute => return self.kill_mute_shim(),
        };
        self.mute_since = None;
        self.is_unread_logged = false;
        self.watch(&mut link, &mut now).await;
        // It goes on, and nobody else may lay any meanwhile.
        self.laying = now.reloading.laying.take();
    }

    async fn watch(&mut self, link: &mut Link, now: &mut Attended) {
        self.told.mark_changed(); // So that an order to stop is seen at once.
        loop {
            self.reload(now);
            self.note_attended(now);
            tokio::select! {
                state = link.next() => match state {
                    Ok(Some(state)) => self.take_state(now, state),
                    _ => return,
                },
                () = self.told_anew() => {
                    let stop = self.told.borrow_and_update().desired == Desired::Stop;
                    if stop && now.hung_at.is_none() {
                        now.hung_at = Some(Instant::now() + now.spec.grace() + STOP_SLACK);
                        if link.stop().await.is_err() {
                            return;
                        }
                    }
                }
                probed = finished(&mut now.probing) => self.take_probe(now, probed),
                () = tokio::time::sleep_until(now.probe_at), if now.is_to_probe() => {
                    let most = now.readiness().timeout.duration();
                    now.probing =
                        Some(Box::pin(ask(now.target.clone(), now.probe.clone(), most)));
                }
                due = live::due(&mut now.live), if now.is_to_be_alive() => {
                    let problem = now.take_liveness(due);
                    if let Some(problem) = problem
                        && self.restart(now.state.child, link, problem).await.is_err()
                    {
                        return;
                    }
                }
                laid = Laying::ended(&mut now.reloading.laying) => now.reloading.take_laid(laid),
                () = at(now.reloading.retry_at) => {} // It is tried before the next wait.
                () = at(now.hung_at) => {
                    tracing::warn!(instance = %self.id, "its shim does not stop it and is killed");
                    now.state.shim.signal(Signal::SIGKILL);
                    now.hung_at = Some(Instant::now() + STOP_SLACK);
                }
            }
        }
    }

    /// Has a process that does not answer stopped and started again.
    async fn restart(
        &self,
        process: Option<Process>,
        link: &mut Link,
        problem: String,
    ) -> std::io::Result<()> {
        let Some(process) = process else { return Ok(()) };
        tracing::warn!(instance = %self.id, problem, "not alive: stopped and started again");
        link.restart(&Restart { process, problem }).await
    }

    /// A shim that hangs cannot stop its slice: when it has to, and does not
    /// answer for as long as a stop may take, it is killed. What it leaves is
    /// cleaned up as after any other end of a shim.
    fn kill_mute_shim(&mut self) {
        let since = *self.mute_since.get_or_insert_with(Instant::now);
        let has_to_stop = self.told.borrow().desired == Desired::Stop;
        if !has_to_stop || since.elapsed() < STOP_SLACK {
            return;
        }
        let state = fs::read(self.layout.state()).ok();
        let state = state.and_then(|bytes| serde_json::from_slice::<ShimState>(&bytes).ok());
        if let Some(state) = state {
            tracing::warn!(instance = %self.id, "its shim does not answer and is killed");
            state.shim.signal(Signal::SIGKILL);
        }
    }

    /// Watches a shim that lives and cannot be understood, for a while: that it
    /// is there is reported, and it can be told to stop, which it does by itself.
    /// It is never killed: nobody knows how long its slice may take to end.
    async fn attend_unread(&mut self, mut link: Link, error: &std::io::Error) {
        let problem = format!(
            "it runs, but what its shim keeps cannot be read by this release ({error}); it was \
             started by another one, or its files are damaged"
        );
        if !std::mem::replace(&mut self.is_unread_logged, true) {
            tracing::warn!(instance = %self.id, %error, "its shim cannot be understood");
        }
        let reason = Reason::new("shim_failed", problem);
        self.mute_since = None;
        self.told.mark_changed(); // So that an order to stop is seen at once.
        let until = Instant::now() + UNREAD_INTERVAL;
        loop {
            self.note(Stage::Launching(Some(&reason)));
            tokio::select! {
                () = link.ended() => return,
                () = tokio::time::sleep_until(until) => return,
                () = self.told_anew() => {
                    let stop = self.told.borrow_and_update().desired == Desired::Stop;
                    if stop && link.stop().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Connects to the shim and learns what it sees.
    async fn meet(&mut self) -> Met {
        let until = Instant::now() + CONNECT_MAX;
        let dir = self.layout.dir().to_owned();
        let mut link = loop {
            match Link::connect(&dir).await {
                Ok(link) => break link,
                // It just started, or it just ended: look again now and then.
                Err(error) if Instant::now() >= until => {
                    let reason =
                        Reason::new("shim_failed", format!("its shim does not answer: {error}"));
                    self.note(Stage::Launching(Some(&reason)));
                    return Met::Mute;
                }
                Err(_) => {
                    tokio::time::sleep(CONNECT_INTERVAL).await;
                    if matches!(super::found::look(&self.layout).await, super::Found::Alive) {
                        continue;
                    }
                    return Met::Mute;
                }
            }
        };
        let state = match tokio::time::timeout(CONNECT_MAX, link.next()).await {
            Ok(Ok(Some(state))) => state,
            Ok(Err(error)) if link::is_unread(&error) => return Met::Unread(link, error),
            Ok(Ok(None) | Err(_)) | Err(_) => return Met::Mute,
        };
        let spec = match Adopted::read(&self.layout) {
            Ok(spec) => spec,
            Err(error) => return Met::Unread(link, error),
        };
        self.listen = Some(spec.listen);
        self.restarts = state.restarts;
        let tally = self.recall(state.child);
        let now = Instant::now();
        let target = Target {
            address: reachable(spec.listen),
            work_dir: spec.work_dir.clone(),
            env: Arc::new(spec.env.clone()),
        };
        let attended = Attended {
            probe: spec.ready_probe(),
            target,
            reloading: Reloading::of(&spec, &self.layout, self.laying.take()),
            live: spec.live_probe().map(|(liveness, probe)| Live::new(liveness, probe)),
            spec,
            state,
            tally,
            process_since: now,
            probe_at: now,
            probing: None,
            hung_at: None,
        };
        Met::Known(link, Box::new(attended))
    }

    fn take_state(&mut self, now: &mut Attended, state: ShimState) {
        if state.child != now.state.child {
            now.tally = Tally::default();
            now.probing = None;
            now.process_since = Instant::now();
            now.reloading.start_anew();
            now.probe_at = now.process_since + now.tally.wait(now.readiness());
            if let Some(live) = &mut now.live {
                live.start_anew();
            }
        }
        self.restarts = state.restarts;
        now.state = state;
    }

    fn take_probe(&mut self, now: &mut Attended, probed: Probed) {
        now.probing = None;
        now.reloading.probed(probed == Probed::Passed);
        let before = (now.tally.ready, now.tally.was_ready);
        let readiness = now.readiness().clone();
        now.tally.add(probed, &readiness);
        now.probe_at = Instant::now() + now.tally.wait(&readiness);
        if now.tally.was_ready && !before.1 {
            now.reloading.start_ready();
        }
        if before != (now.tally.ready, now.tally.was_ready) {
            // First kept, then told: what was reported is known to the next
            // agent, whenever this one is killed.
            self.keep(now);
            self.note_attended(now);
        }
    }

    fn note_attended(&self, now: &Attended) {
        let (reloaded, reload_problem) = now.reloading.said();
        self.note(Stage::Shimmed(&Shimmed {
            state: now.state.clone(),
            tally: now.tally.clone(),
            up: now.process_since.elapsed(),
            probe: now.probe.clone(),
            reloaded,
            reload_problem,
        }));
    }

    /// Writes down whether the process is ready, so that the next agent does
    /// not report a serving instance as starting.
    fn keep(&self, now: &Attended) {
        let Some(process) = now.state.child else {
            return;
        };
        let (ready, was_ready) = (now.tally.ready, now.tally.was_ready);
        let written = serde_json::to_vec(&Remembered { process, ready, was_ready })
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_atomic(&self.layout.readiness(), &bytes, Survives::Process));
        if let Err(error) = written {
            tracing::warn!(instance = %self.id, %error, "its readiness cannot be kept");
        }
    }

    fn recall(&self, process: Option<Process>) -> Tally {
        let kept = fs::read(self.layout.readiness()).ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok());
        match kept {
            Some(kept) if Some(kept.process) == process => {
                Tally::resume(kept.ready, kept.was_ready)
            }
            _ => Tally::default(),
        }
    }
}

impl Attended {
    fn readiness(&self) -> &Readiness {
        self.spec.readiness()
    }

    /// Whether the process was ever ready.
    pub fn was_ready(&self) -> bool {
        self.tally.was_ready
    }

    fn is_to_probe(&self) -> bool {
        self.probing.is_none() && self.is_to_be_alive()
    }

    /// Whether its process is to answer: it runs, and nobody stops it.
    fn is_to_be_alive(&self) -> bool {
        self.state.phase == Phase::Running && self.hung_at.is_none()
    }

    /// Asks, or counts the answer. `Some`: the process is dead.
    fn take_liveness(&mut self, due: Due) -> Option<String> {
        let live = self.live.as_mut()?;
        match due {
            Due::Ask => {
                live.ask(self.target.clone());
                None
            }
            Due::Answer(probed) => {
                let up = self.process_since.elapsed();
                live.count(&probed, &self.target, self.tally.was_ready, up)
            }
        }
    }
}

/// The result of a probe under way; waits for ever when there is none.
pub(super) async fn finished(probing: &mut Probing) -> Probed {
    match probing {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

pub(super) async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::{kept, reads};

    #[test]
    fn what_is_remembered_of_readiness_is_written_and_read_as_it_was() {
        let process = Process { pid: i32::MAX, start_ticks: u64::MAX };
        for (name, ready, was_ready) in
            [("readiness.json", true, true), ("readiness-lost.json", false, true)]
        {
            let remembered = Remembered { process, ready, was_ready };
            kept(name).holds(&serde_json::to_vec(&remembered).unwrap());
            reads(&kept(name), &remembered);
        }
        let newer = r#"{"process":{"pid":2147483647,"start_ticks":18446744073709551615,"of":1},
            "ready":true,"was_ready":true,"newer":{}}"#;
        let remembered = Remembered { process, ready: true, was_ready: true };
        assert_eq!(serde_json::from_str::<Remembered>(newer).unwrap(), remembered);
    }
}
