//! A process as an agent runs it, with everything that one can do wrong.
//!
//! Pure: it is told the time, and says when it wants to be looked at again. The
//! ways to misbehave are those of the example slice's switches.

use std::net::SocketAddr;

use aether_core::coordinates::SliceName;
use aether_core::ids::RevisionNo;
use aether_core::records::{Desired, Observed, Reason};

use crate::rng::Rng;

/// How the processes of a version behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Starts, serves, and ends when asked to.
    Well,
    /// Serves, but takes long to start.
    SlowStart,
    /// Its readiness probe never passes.
    NeverReady,
    /// Ready and not ready in turn.
    Flaps,
    /// Serves for a while, then ends by itself.
    CrashesLater,
    /// Ends as soon as it is started.
    CrashesAtOnce,
    /// Ends as soon as it is started, and says that all is well.
    ExitsZero,
    /// Those that serve go on; whatever is started now ends at once.
    StartsNoMore,
    /// Serves, and does not end when asked to: it has to be killed.
    IgnoresTerm,
    /// Is ready once, then its health check hangs.
    HangsInCheck,
    /// Serves, but many of its answers are errors.
    Errs,
    /// Serves, but slowly.
    Slow,
}

impl Behaviour {
    /// All that are wrong in some way.
    pub const FAULTS: [Self; 11] = [
        Self::SlowStart,
        Self::NeverReady,
        Self::Flaps,
        Self::CrashesLater,
        Self::CrashesAtOnce,
        Self::ExitsZero,
        Self::StartsNoMore,
        Self::IgnoresTerm,
        Self::HangsInCheck,
        Self::Errs,
        Self::Slow,
    ];

    /// The name by which scenarios ask for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::SlowStart => "slow-start",
            Self::NeverReady => "never-ready",
            Self::Flaps => "flaps",
            Self::CrashesLater => "crashes-later",
            Self::CrashesAtOnce => "crashes-at-once",
            Self::ExitsZero => "exits-zero",
            Self::StartsNoMore => "starts-no-more",
            Self::IgnoresTerm => "ignores-term",
            Self::HangsInCheck => "hangs-in-check",
            Self::Errs => "errs",
            Self::Slow => "slow",
        }
    }

    /// Whether a version of this kind never becomes ready: it can be tried and
    /// taken back, and nothing serves by it.
    pub fn is_bad_start(self) -> bool {
        matches!(self, Self::NeverReady | Self::CrashesAtOnce | Self::ExitsZero)
    }

    /// Errors among a thousand answers.
    pub fn errors_per_mille(self) -> u64 {
        if self == Self::Errs { 300 } else { 0 }
    }

    /// How long an answer takes, milliseconds.
    pub fn latency_ms(self) -> u64 {
        if self == Self::Slow { 1_500 } else { 5 }
    }
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its archive is being fetched.
    Fetching,
    /// It was started and is not ready yet.
    Starting,
    /// It serves.
    Ready,
    /// It runs and fails its probe. Calls that reach it are answered.
    Unready,
    /// It ended by itself and will be started again.
    Crashed,
    /// It was asked to end.
    Stopping,
    /// It and its group are gone.
    Stopped,
}

/// How long a process has to end before it is killed, as in the manifests of the
/// simulated slices.
pub const GRACE_MS: u64 = 2_000;
/// Longest wait before a process that ended is started again; the agent's is as
/// long.
const BACKOFF_MS_MAX: u64 = 30_000;
/// Ends in a row that make a crash loop, as in the agent's reports.
const CRASH_LOOP_ENDS: u32 = 3;
/// How long it takes until a crashing process crashes, at most.
const CRASHES_WITHIN_MS: u64 = 40_000;

/// One process, or what is left of it.
#[derive(Debug, Clone)]
pub struct Process {
    /// Slice it belongs to.
    pub slice: SliceName,
    /// Revision it runs.
    pub revision: RevisionNo,
    /// Its version, which decides how it behaves.
    pub version: String,
    /// Where it listens; no other process ever did.
    pub endpoint: SocketAddr,
    /// What its agent was told last.
    pub told: Desired,
    /// What it is doing.
    pub phase: Phase,
    /// How often it ended by itself and was started again.
    pub restarts: u32,
    /// Ends in a row.
    in_a_row: u32,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// The reload whose configuration it has read; 0 for none.
    pub reload: u64,
    /// That configuration ends it.
    pub is_bad: bool,
    /// Number of the wake-up that counts; earlier ones are void.
    pub epoch: u32,
}

impl Process {
    /// One that is assigned and not started yet.
    pub fn assigned(
        slice: SliceName,
        revision: RevisionNo,
        version: String,
        endpoint: SocketAddr,
    ) -> Self {
        Self {
            slice,
            revision,
            version,
            endpoint,
            told: Desired::Run,
            phase: Phase::Fetching,
            restarts: 0,
            in_a_row: 0,
            reason: None,
            reload: 0,
            is_bad: false,
            epoch: 0,
        }
    }

    /// Whether something answers at its port.
    pub fn listens(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Unready)
    }

    /// What its agent says of it.
    pub fn observed(&self) -> Observed {
        match self.phase {
            Phase::Fetching => Observed::Fetching,
            Phase::Starting => Observed::Starting,
            Phase::Ready => Observed::Ready,
            Phase::Unready => Observed::Unready,
            Phase::Crashed => Observed::Crashed,
            Phase::Stopping => Observed::Stopping,
            Phase::Stopped => Observed::Stopped,
        }
    }

    /// Tells it what is wanted of it now. Gives the time after which to look at
    /// it again, if that has changed.
    pub fn tell(&mut self, desired: Desired, behaves: Behaviour, rng: &mut Rng) -> Option<u64> {
        self.told = desired;
        if desired != Desired::Stop || matches!(self.phase, Phase::Stopping | Phase::Stopped) {
            return None;
        }
        if matches!(self.phase, Phase::Fetching | Phase::Crashed) {
            // There is nothing to signal.
            self.reason = None;
            self.phase = Phase::Stopped;
            self.epoch += 1;
            return None;
        }
        self.phase = Phase::Stopping;
        self.reason = None;
        self.epoch += 1;
        Some(if behaves == Behaviour::IgnoresTerm { GRACE_MS } else { rng.between(5, 300) })
    }

    /// Its time has come. Gives the time after which to look again.
    pub fn wake(&mut self, behaves: Behaviour, rng: &mut Rng) -> Option<u64> {
        self.epoch += 1;
        match self.phase {
            Phase::Fetching => self.start(behaves, rng),
            Phase::Crashed => {
                self.restarts += 1;
                self.start(behaves, rng)
            }
            Phase::Starting => self.started(behaves, rng),
            Phase::Ready => match behaves {
                Behaviour::Flaps => self.unready("probe_failed", "http status 503", rng),
                Behaviour::HangsInCheck => self.unready("probe_timeout", "no answer in 1 s", rng),
                Behaviour::NeverReady => self.unready("probe_failed", "http status 500", rng),
                Behaviour::CrashesLater | Behaviour::CrashesAtOnce => self.end("crashed", 3),
                Behaviour::ExitsZero => self.end("exited", 0),
                _ => Some(rng.between(2_000, 6_000)),
            },
            Phase::Unready => match behaves {
                Behaviour::HangsInCheck | Behaviour::NeverReady => Some(2_000),
                Behaviour::CrashesAtOnce => self.end("crashed", 3),
                _ => self.serve(behaves, rng),
            },
            Phase::Stopping => {
                if behaves == Behaviour::IgnoresTerm {
                    let why = format!("it did not end within {GRACE_MS} ms of SIGTERM");
                    self.reason = Some(Reason::new(Reason::KILLED, why));
                }
                self.phase = Phase::Stopped;
                None
            }
            Phase::Stopped => None,
        }
    }

    /// Its machine lost power. What was to end has ended; the rest is started
    /// again with the agent.
    pub fn lose_power(&mut self) {
        self.epoch += 1;
        match self.phase {
            Phase::Stopped => {}
            Phase::Stopping => self.phase = Phase::Stopped,
            Phase::Fetching => {}
            _ if self.told == Desired::Run => {
                self.in_a_row += 1;
                self.phase = Phase::Crashed;
                self.reason = Some(Reason::new("crashed", "its machine was restarted"));
            }
            _ => {
                self.phase = Phase::Stopped;
                self.reason = Some(Reason::new("crashed", "its machine was restarted"));
            }
        }
    }

    fn start(&mut self, behaves: Behaviour, rng: &mut Rng) -> Option<u64> {
        self.phase = Phase::Starting;
        self.reason = None;
        Some(match behaves {
            Behaviour::SlowStart => rng.between(5_000, 15_000),
            _ => rng.between(20, 800),
        })
    }

    fn started(&mut self, behaves: Behaviour, rng: &mut Rng) -> Option<u64> {
        match behaves {
            Behaviour::NeverReady => {
                self.reason = Some(Reason::new("probe_failed", "http status 500"));
                Some(2_000)
            }
            Behaviour::CrashesAtOnce | Behaviour::StartsNoMore => self.end("crashed", 3),
            Behaviour::ExitsZero => self.end("exited", 0),
            _ => self.serve(behaves, rng),
        }
    }

    fn serve(&mut self, behaves: Behaviour, rng: &mut Rng) -> Option<u64> {
        self.phase = Phase::Ready;
        self.reason = None;
        Some(match behaves {
            Behaviour::Flaps => rng.between(500, 5_000),
            Behaviour::HangsInCheck => rng.between(1_000, 8_000),
            Behaviour::CrashesLater => rng.between(1_000, CRASHES_WITHIN_MS),
            _ => {
                // It was up for long enough to count as well.
                self.in_a_row = 0;
                // Looked at now and then, for a version may begin to misbehave.
                rng.between(2_000, 6_000)
            }
        })
    }

    fn unready(&mut self, code: &str, why: &str, rng: &mut Rng) -> Option<u64> {
        self.phase = Phase::Unready;
        self.reason = Some(Reason::new(code, why));
        Some(rng.between(500, 5_000))
    }

    fn end(&mut self, code: &str, status: u32) -> Option<u64> {
        self.in_a_row += 1;
        self.phase = Phase::Crashed;
        let loops = self.in_a_row >= CRASH_LOOP_ENDS;
        let code = if loops { Reason::CRASH_LOOP } else { code };
        self.reason = Some(Reason::new(code, format!("exited with status {status}")));
        Some((200 << self.in_a_row.min(8)).min(BACKOFF_MS_MAX))
    }
}
