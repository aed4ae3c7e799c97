//! Bugs on purpose. A simulator that finds nothing is only worth something if
//! it finds what is there, so each of these is put in at a seam between the
//! real code and the world around it, and has to be found.
//!
//! No product code knows of them: the view that the planner gets is changed, or
//! the commands that it gives, or what `apply` left behind; the rest are in the
//! models.

mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use aether_core::command::Command;
use aether_core::ids::{NodeName, SessionId};
use aether_core::planner::{Holding, NodeView, SessionView};
use aether_core::records::{Desired, Hold, Reason, UpdateRecord, UpdateState};
use aether_core::state::State;
use aether_core::weights::Weights;

use crate::leader::Waits;

pub use state::{after_apply, diverge};

macro_rules! planted {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal),+ $(,)?) => {
        /// A bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Planted {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Planted {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

planted! {
    /// The planner is told that every session has applied everything.
    AllSessionsAcked = "all-sessions-acked",
    /// The planner is told that no call is in flight.
    NobodyIsBusy = "nobody-is-busy",
    /// A new leader takes sessions that it has not heard for long gone.
    LeaderExpiresSessions = "leader-expires-sessions",
    /// A new leader takes nodes that it has not heard for long lost.
    LeaderLosesNodes = "leader-loses-nodes",
    /// What drains is stopped at once.
    StopsAtOnce = "stops-at-once",
    /// The side that lost is stopped without being drained.
    StopsOnRemove = "stops-on-remove",
    /// An update completes whatever its route.
    CompletesWithoutAllNew = "completes-without-all-new",
    /// A rollback asks for one instance too few of the old version.
    RestoresTooFew = "restores-too-few",
    /// ROUTING has no deadline.
    DropsDeadline = "drops-deadline",
    /// A failover rewinds the ratio.
    FailoverResetsWeights = "failover-resets-weights",
    /// A failover forgets that an update is paused.
    FailoverForgetsPause = "failover-forgets-pause",
    /// A rollback can be rolled back.
    RollsBackRollback = "rolls-back-rollback",
    /// The new side keeps weight after a rollback.
    KeepsWeightAfterRollback = "keeps-weight-after-rollback",
    /// A route changes and its table revision does not.
    RouteWithoutTableRevision = "route-without-table-revision",
    /// A refused command leaves something behind.
    RefusalLeavesTrace = "refusal-leaves-trace",
    /// DEPLOYED is entered whatever is ready.
    DeployedBeforeReady = "deployed-before-ready",
    /// The capacity guard is not looked at.
    NoCapacityGuard = "no-capacity-guard",
    /// A pause keeps nobody from giving the new version more.
    PauseHoldsNothing = "pause-holds-nothing",
    /// Behind a barrier, the switch does not wait for sessions to hold their calls.
    SwitchesUnheld = "switches-unheld",
    /// Calls that are held stay so when not every session holds its own.
    ForgetsRelease = "forgets-release",
    /// An invoker does not hold its calls.
    InvokerHoldsNothing = "invoker-holds-nothing",
    /// In place, one old instance more is taken out than the floor allows.
    IgnoresFloor = "ignores-floor",
    /// In place, one new instance more is made than the ceiling allows.
    SurgesTwice = "surges-twice",
    /// In place, a rollback asks for all of the old version at once.
    RestoresAllAtOnce = "restores-all-at-once",
    /// Batches do not wait for each other.
    SkipsStagger = "skips-stagger",
    /// Who was silent or behind is not written down with what was decided.
    ForgetsWhoWasSilent = "forgets-who-was-silent",
    /// A batch takes calls before it is ready.
    AdmitsUnreadyBatch = "admits-unready-batch",
    /// In place, the new version goes before the old one is whole again.
    RemovesBeforeWhole = "removes-before-whole",
    /// An instance counts as reloaded as soon as it is told to.
    CountsReloadEarly = "counts-reload-early",
    /// What sessions counted is counted twice.
    CountsSumsTwice = "counts-sums-twice",
    /// Calls are put down to another instance than the one that got them.
    MixesUpInstances = "mixes-up-instances",
    /// Which instances served the calls is not told.
    ForgetsInstances = "forgets-instances",
    /// A gate that said nothing counts as passed.
    ForgottenGate = "forgotten-gate",
    /// What the old version needs to run is let go during the update.
    ForgetsWayBack = "forgets-way-back",
    /// One replica's state drifts from the others'.
    ReplicaDiverges = "replica-diverges",
    /// Followers apply some entries twice.
    AppliesTwice = "applies-twice",
    /// An assignment makes one instance more than was decided.
    AssignsTooMany = "assigns-too-many",
    /// A node that runs nothing of a slice is lost, and the slice is touched.
    LossTouchesBystanders = "loss-touches-bystanders",
    /// An update leaves no audit record.
    NoAudit = "no-audit",
    /// An agent forgets the highest fence when it is restarted.
    AgentForgetsFence = "agent-forgets-fence",
    /// An agent does not find its instances again.
    AgentStartsTwice = "agent-starts-twice",
    /// An agent stops what it was told to drain.
    AgentStopsDraining = "agent-stops-draining",
    /// An agent stops its instances when the control plane is away.
    AgentStopsWhenAlone = "agent-stops-when-alone",
    /// An invoker applies tables that are older than its own.
    InvokerTakesOlderTable = "invoker-takes-older-table",
    /// An invoker acknowledges tables before it applies them.
    InvokerAcksEarly = "invoker-acks-early",
    /// An invoker goes on picking by the table that it has replaced.
    InvokerPicksByOldTable = "invoker-picks-by-old-table",
    /// An invoker does not tell of calls in flight.
    InvokerHidesBusy = "invoker-hides-busy",
    /// An invoker begins its split anew with every table.
    InvokerRestartsSplit = "invoker-restarts-split",
    /// An invoker forgets calls on instances that left its tables.
    InvokerLosesCalls = "invoker-loses-calls",
    /// An invoker gives up a call when its version has nobody left.
    RetryStaysInVersion = "retry-stays-in-version",
    /// An invoker tries the other version first.
    RetryCrossesAtOnce = "retry-crosses-at-once",
    /// An invoker tries a version again that is to get no calls.
    RetryIgnoresWeights = "retry-ignores-weights",
    /// An invoker counts retries as evidence.
    RetryIsEvidence = "retry-is-evidence",
    /// The planner says nothing of an update that is paused.
    SaysNothingOfPauses = "says-nothing-of-pauses",
    /// The log takes in what a deposed leader proposes.
    DeposedLeaderWrites = "deposed-leader-writes",
    /// A new leader acts before it has applied an entry of its own.
    ActsBeforeOwnEntry = "acts-before-own-entry",
    /// A new leader believes its clock, however far that is off.
    BelievesEveryClock = "believes-every-clock",
    /// Nobody takes updates on that have waited for the planner once.
    PlannerGivesUp = "planner-gives-up",
}

impl std::str::FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|bug| bug.as_str() == text);
        named.copied().ok_or_else(|| format!("there is no planted bug '{text}'"))
    }
}

/// Changes what the planner sees.
pub fn on_view(
    bug: Planted,
    sessions: &mut BTreeMap<SessionId, SessionView>,
    nodes: &mut BTreeMap<NodeName, NodeView>,
    waits: &Waits,
) {
    match bug {
        Planted::AllSessionsAcked => {
            for view in sessions.values_mut() {
                let (busy, holding) = match view {
                    SessionView::Connected { busy, holding, .. } => {
                        (std::mem::take(busy), std::mem::take(holding))
                    }
                    _ => (Default::default(), Holding::able()),
                };
                *view = SessionView::Connected { applied: u64::MAX, busy, holding };
            }
        }
        Planted::NobodyIsBusy => {
            for view in sessions.values_mut() {
                if let SessionView::Connected { busy, .. } = view {
                    busy.clear();
                }
            }
        }
        Planted::LeaderExpiresSessions => {
            for view in sessions.values_mut().filter(|view| **view == SessionView::Awaited) {
                *view = SessionView::Unreachable { since_ms: 0 };
            }
        }
        Planted::LeaderLosesNodes if waits.node_lost_ms > 0 => {
            for view in nodes.values_mut().filter(|view| **view == NodeView::Awaited) {
                *view = NodeView::Silent { since_ms: 0 };
            }
        }
        _ => {}
    }
}

/// Changes what the planner decided.
pub fn on_commands(bug: Planted, commands: &mut Vec<Command>, state: &State) {
    match bug {
        Planted::StopsAtOnce => {
            let drained = state.instances.values().filter(|i| i.desired == Desired::Drain);
            let instances: Vec<_> = drained.map(|i| i.id.clone()).collect();
            if !instances.is_empty() {
                commands.push(Command::Stop { instances, waived: None });
            }
        }
        Planted::DeployedBeforeReady => {
            let deploying = state.updates.values().filter(|u| u.state == UpdateState::Deploying);
            commands.extend(deploying.map(|u| Command::MarkDeployed { update: u.id.clone() }));
        }
        Planted::SkipsStagger | Planted::AdmitsUnreadyBatch => {
            let is_over = |update: &UpdateRecord| {
                let hold = update.way().map(|way| way.hold(update.step()));
                let since_ms = update.progress.as_ref().map_or(0, |progress| progress.since_ms);
                match hold {
                    Some(Hold::Wait { ms }) => state.meta.log_time_ms >= since_ms + ms,
                    _ => false,
                }
            };
            let moves = |update: &&Arc<UpdateRecord>| {
                update.strategy.is_in_place()
                    && matches!(update.state, UpdateState::Deployed | UpdateState::Routing)
                    && update.pause.is_none()
                    && update.step() < update.way().map_or(0, |way| way.last())
                    && is_over(update) == (bug == Planted::AdmitsUnreadyBatch)
            };
            commands.extend(state.updates.values().filter(moves).map(|update| {
                let (step, if_modified) = (update.step() + 1, update.modified);
                let (update, opened_max) = (update.id.clone(), None);
                Command::EnterStep { update, step, if_modified, opened_max }
            }));
        }
        Planted::RemovesBeforeWhole => {
            let goes_back = |update: &&Arc<UpdateRecord>| {
                update.strategy.is_in_place()
                    && update.state == UpdateState::RollingBack
                    && update.weights == Weights::ALL_OLD
            };
            let back = state.updates.values().filter(goes_back);
            commands.extend(
                back.map(|u| Command::RemoveLosingSide { update: u.id.clone(), if_modified: None }),
            );
        }
        Planted::SwitchesUnheld => {
            let opened_max = state.sessions.values().map(|session| session.opened).max();
            let held = state.routes.values().filter_map(|route| route.hold.as_ref());
            let updates = held.filter_map(|hold| state.updates.get(&hold.update));
            commands.extend(updates.map(|update| Command::EnterStep {
                update: update.id.clone(),
                step: update.step() + 1,
                if_modified: update.modified,
                opened_max: opened_max.or(Some(0)),
            }));
        }
        Planted::ForgetsRelease => commands.retain(|command| {
            let Command::Pause { reason, .. } = command else { return true };
            reason.code != Reason::BARRIER_FAILED
        }),
        Planted::PlannerGivesUp => {
            commands.retain(|command| !matches!(command, Command::Finish { .. }));
        }
        _ => {}
    }
}

/// What a bug of the driver makes of what was seen.
pub fn on_inputs(bug: Planted, inputs: &mut [Command]) {
    for input in inputs {
        if let (Planted::ForgetsWhoWasSilent, Command::RecordInput { seen, .. }) = (bug, input) {
            seen.sessions.clear();
            seen.nodes.clear();
        }
    }
}
