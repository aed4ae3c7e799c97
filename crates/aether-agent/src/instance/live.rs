//! The liveness of an instance's process: when it is asked, and when the shim
//! is told that it does not answer.

use std::time::Duration;

use aether_core::manifest::{Liveness, Probe};
use tokio::time::Instant;

use super::attend::{Probing, at, finished};
use crate::probe::{LiveTally, Probed, Target, ask, is_starting};

/// What is known of the liveness of the present process.
pub(super) struct Live {
    liveness: Liveness,
    probe: Probe,
    tally: LiveTally,
    /// When to ask next; never again once the process was found dead.
    ask_at: Option<Instant>,
    probing: Probing,
}

/// What to do next about liveness.
pub(super) enum Due {
    /// It is time to ask.
    Ask,
    /// An answer is there.
    Answer(Probed),
}

impl Live {
    pub fn new(liveness: Liveness, probe: Probe) -> Self {
        let mut live =
            Self { liveness, probe, tally: LiveTally::default(), ask_at: None, probing: None };
        live.start_anew();
        live
    }

    /// Another process runs.
    pub fn start_anew(&mut self) {
        self.tally = LiveTally::default();
        self.probing = None;
        self.ask_at = Some(Instant::now() + self.liveness.interval.duration());
    }

    /// Waits for what is due. May be dropped and called again.
    pub async fn due(&mut self) -> Due {
        match self.probing {
            Some(_) => Due::Answer(finished(&mut self.probing).await),
            None => {
                at(self.ask_at).await;
                Due::Ask
            }
        }
    }

    pub fn ask(&mut self, target: Target) {
        let most = self.liveness.timeout.duration();
        self.probing = Some(Box::pin(ask(target, self.probe.clone(), most)));
    }

    /// Counts an answer. `Some`: the process is dead by what the text says.
    pub fn count(
        &mut self,
        probed: &Probed,
        target: &Target,
        was_ready: bool,
        up: Duration,
    ) -> Option<String> {
        self.probing = None;
        let starting = is_starting(was_ready, up, &self.liveness);
        let dead = self.tally.add(probed, starting, &self.liveness);
        self.ask_at = (!dead).then(|| Instant::now() + self.liveness.interval.duration());
        let problem = probed.problem(target.address, &self.probe).filter(|_| dead)?;
        Some(format!("{} liveness probes in a row failed; {problem}", self.liveness.failures))
    }
}

/// Waits for what is due of a process whose liveness may not be asked at all.
pub(super) async fn due(live: &mut Option<Live>) -> Due {
    match live {
        Some(live) => live.due().await,
        None => std::future::pending().await,
    }
}
