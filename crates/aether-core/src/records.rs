//! The records of the replicated state, one type per key of the KV store.
//!
//! What the user asked (`SliceRecord`, `UpdateRecord`), what the coordinator
//! decided (`TargetRecord`, `Desired`) and what agents report (`Observed`) are
//! distinct types with one writer each. Nothing here changes a record.

mod barrier;
mod config;
mod configuration;
mod environment;
mod evidence;
mod gates;
mod in_place;
mod inputs;
mod instance;
mod members;
mod options;
mod strategy;
mod voters;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::apply::instances_needed;
use crate::audit::{AuditPosition, Subject};
use crate::coordinates::{Artifact, SliceName, Version};
use crate::ids::{ConfigNo, NodeName, RevisionNo, UpdateId};
use crate::manifest::Manifest;
use crate::table::IngressClaim;
use crate::weights::Weights;

pub use barrier::{BARRIER_MS, CALL_HOLD_MS, CallHold};
pub use config::{CONFIG_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, ConfigRecord};
pub use configuration::{
    CONFIG_ENV_MAX, CONFIG_FILE_BYTES_MAX, CONFIG_FILES_MAX, CONFIG_PATH_BYTES_MAX,
    CONFIGURATION_BYTES_MAX, CONFIGURATIONS_BYTES_MAX, CONFIGURATIONS_KEPT, ConfigPick,
    ConfigRevisionRecord, Configuration, Remake,
};
pub use environment::{Colour, SetVersion};
pub use evidence::{
    Counts, EvidenceRecord, INSTANCES_TOLD_MAX, InstanceEvidence, Mark, Measure, Sums,
};
pub use gates::{
    Condition, GATE_ARGUMENT_BYTES_MAX, GATE_ARGUMENTS_MAX, GATE_INTERVAL_MS_MAX,
    GATE_INTERVAL_MS_MIN, GATE_MESSAGE_BYTES_MAX, GATE_NAME_BYTES_MAX, GATE_QUERY_BYTES_MAX,
    GATE_TIMEOUT_MS_MAX, GATE_TOLERATED_MAX, GATE_URL_BYTES_MAX, GATES_MAX, Gate, GateSource,
    GateState, GateVerdict, GateWhen, HttpUrl,
};
pub use in_place::{BATCHES_MAX, Bounds, GOALS_MAX, Recreate, Rolling, Share};
pub use inputs::{
    HoldingSeen, INPUTS_BYTES_MAX, INPUTS_UPDATES_MAX, InputRecord, LateSeen, NodeSeen, Seen,
    SessionSeen, VerdictSeen,
};
pub use instance::{CRASH_LOOP_RESTARTS, Desired, InstanceRecord, Observed, Reload};
pub use members::{NodeLifecycle, NodeRecord, NodeSchedule, SessionKind, SessionRecord};
pub use options::{CleanupPolicy, OptionChanges, Preset, Thresholds, UpdateOptions};
pub use strategy::{
    Analysis, BlueGreen, Canary, EVIDENCE_MS, HOLD_MS, Hold, Progress, STEPS_MAX, Step, Strategy,
    Way,
};
pub use voters::{Admitted, RAFT_ID_BASE, VOTER_CHANGES_MAX, VoterChange, VoterWanted};

/// `artifacts/{group}/{artifact}/{version}`: one pushed, immutable artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRecord {
    /// Coordinates.
    pub artifact: Artifact,
    /// Lower-case hexadecimal sha256 of the archive.
    pub digest: String,
    /// Size of the archive in bytes.
    pub size_bytes: u64,
    /// Its `slice.toml`.
    pub manifest: Arc<Manifest>,
    /// Nodes that hold the archive.
    pub held_by: BTreeSet<NodeName>,
    /// Log index of the push.
    pub pushed_at_index: u64,
    /// Wall clock of the push, for display.
    pub pushed_wall_ms: u64,
}

/// `slice/{group}:{artifact}[@env]`: what is deployed of a slice name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceRecord {
    /// The slice.
    pub slice: SliceName,
    /// The revision that serves outside of updates.
    pub current: Option<RevisionNo>,
    /// How many instances of the current revision the user wants.
    pub instances: u32,
    /// Number of the last revision made.
    pub last_revision: RevisionNo,
    /// The one non-terminal update, if there is one.
    pub live_update: Option<UpdateId>,
    /// Log index of the last change, for compare-and-set.
    pub modified: u64,
    /// The version that it is to have, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetVersion>,
    /// Number of the configuration that was pushed last; 0 before the first, and
    /// once they were withdrawn.
    #[serde(default, skip_serializing_if = "ConfigNo::is_none")]
    pub last_config: ConfigNo,
}

impl SliceRecord {
    /// Of a slice of which nothing is deployed.
    pub fn empty(slice: SliceName) -> Self {
        Self {
            slice,
            current: None,
            instances: 0,
            last_revision: RevisionNo(0),
            live_update: None,
            modified: 0,
            set: None,
            last_config: ConfigNo(0),
        }
    }
}

/// `revision/{slice}/{no}`: what an update moves between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    /// The slice.
    pub slice: SliceName,
    /// Number within the slice.
    pub no: RevisionNo,
    /// Version of the artifact.
    pub version: Version,
    /// sha256 of the archive; a moved tag would be another revision.
    pub digest: String,
    /// How to run it.
    pub manifest: Arc<Manifest>,
    /// Log index that made it.
    pub created: u64,
    /// By which the set of its instances goes.
    #[serde(default, skip_serializing_if = "Colour::is_blue")]
    pub colour: Colour,
    /// What is laid over the artifact, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigNo>,
    /// How often this version was started anew for nothing but that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
}

/// One side of a route or of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The revision.
    pub revision: RevisionNo,
    /// Its version, for people.
    pub version: Version,
}

/// `version-routing/{group}:{artifact}[@env]`: where calls go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRecord {
    /// The slice.
    pub slice: SliceName,
    /// The side an update moves to; absent outside of updates.
    pub new: Option<Side>,
    /// The side that serves outside of updates; absent during a first
    /// deployment.
    pub old: Option<Side>,
    /// Weights new:old.
    pub weights: Weights,
    /// Log index of the last change of sides or weights.
    pub route_revision: u64,
    /// Highest log index that touched the route or its endpoints.
    pub table_revision: u64,
    /// How the ingress finds the slice: the rules of the side that serves.
    #[serde(default)]
    pub ingress: Vec<IngressClaim>,
    /// Set while sessions hold new calls, from the entry of this route revision on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<CallHold>,
}

impl RouteRecord {
    /// The side whose manifest says how the ingress finds the slice.
    pub fn serving(&self) -> Option<&Side> {
        self.old.as_ref().or(self.new.as_ref())
    }
}

/// `slice-target/{slice}/{revision}`: how many instances should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRecord {
    /// The slice.
    pub slice: SliceName,
    /// The revision.
    pub revision: RevisionNo,
    /// Instances wanted.
    pub instances: u32,
    /// Log index of the last change.
    pub modified: u64,
    /// Log time since which some of them have no place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced_since_ms: Option<u64>,
}

/// `retained/{slice}`: an old set kept warm after completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetainedRecord {
    /// The slice.
    pub slice: SliceName,
    /// What is kept.
    pub side: Side,
    /// How many instances are kept.
    pub instances: u32,
    /// Log time at which the set is retired; never by itself if absent.
    pub expires_at_ms: Option<u64>,
    /// The update that left it.
    pub update: UpdateId,
}

/// Machine-readable code and text of why something is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// Such as `crash_loop`, `port_closed`, `probe_failed`.
    pub code: String,
    /// The sentence for people.
    pub message: String,
}

impl Reason {
    /// Code of an instance that its node has stopped, because the node itself
    /// ends: it is started again when the node is.
    pub const NODE_STOPPED: &str = "node_stopped";

    /// Code of an instance that was stopped, but did not end when asked to.
    pub const KILLED: &str = "killed";

    /// Code of a pause, or of a rollback, that a person asked for.
    pub const OPERATOR: &str = "operator";

    /// Code of the pause over a switch for which not every session held its calls in
    /// time. A resume tries it again.
    pub const BARRIER_FAILED: &str = "barrier_failed";
    /// Code of a pause, or of a rollback, because a gate said no.
    pub const GATE_FAILED: &str = "gate_failed";

    /// Code of a pause because a gate did not say anything for too long.
    pub const GATE_INCONCLUSIVE: &str = "gate_inconclusive";

    /// Code of an instance that ends over and over.
    pub const CRASH_LOOP: &str = "crash_loop";

    /// Code of an instance that cannot be told to read its files again.
    pub const RELOAD_FAILED: &str = "reload_failed";

    /// Code of an instance whose process ended when it was told to.
    pub const RELOAD_ENDED: &str = "reload_ended";

    /// A reason.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

/// State of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpdateState {
    /// Accepted; revision and capacity checked.
    Pending,
    /// New instances starting, no traffic.
    Deploying,
    /// New revision healthy, no traffic.
    Deployed,
    /// Traffic follows the ratio.
    Routing,
    /// 1:0 is being acked, then the old set is removed or retained.
    Completing,
    /// The new revision is the current one.
    Completed,
    /// Traffic goes back, then the new set is removed.
    RollingBack,
    /// The old revision serves alone again.
    RolledBack,
    /// Ended without completing or moving traffic.
    Failed,
}

impl UpdateState {
    /// All of them, in the order of the guide.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Deploying,
        Self::Deployed,
        Self::Routing,
        Self::Completing,
        Self::Completed,
        Self::RollingBack,
        Self::RolledBack,
        Self::Failed,
    ];

    /// Terminal states absorb.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::RolledBack | Self::Failed)
    }

    /// The name in the guide.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Deploying => "DEPLOYING",
            Self::Deployed => "DEPLOYED",
            Self::Routing => "ROUTING",
            Self::Completing => "COMPLETING",
            Self::Completed => "COMPLETED",
            Self::RollingBack => "ROLLING_BACK",
            Self::RolledBack => "ROLLED_BACK",
            Self::Failed => "FAILED",
        }
    }
}

impl std::fmt::Display for UpdateState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a deadline does when it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeadlineAction {
    /// Set the pause flag.
    Pause,
    /// Go back to the old version.
    Rollback,
    /// End as FAILED, where nothing has to be undone.
    Fail,
    /// Say so in the history and set the deadline anew.
    Alert,
}

impl std::fmt::Display for DeadlineAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pause => "PAUSE",
            Self::Rollback => "ROLLBACK",
            Self::Fail => "FAIL",
            Self::Alert => "ALERT",
        })
    }
}

/// An absolute deadline and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    /// Log time at which it passes.
    pub at_ms: u64,
    /// Span by which an `Alert` sets it anew.
    pub span_ms: u64,
    /// What happens then.
    pub action: DeadlineAction,
}

/// Why an update does not progress by itself or to a higher weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// `threshold_exceeded`, `session_unreachable`, `deadline`, `operator`, …
    pub reason: Reason,
    /// Log time since which it holds.
    pub since_ms: u64,
}

/// One transition, as the history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Log index of the entry that made it.
    pub index: u64,
    /// Log time.
    pub log_time_ms: u64,
    /// Wall clock, for display.
    pub wall_ms: u64,
    /// Who asked.
    pub actor: String,
    /// State after it.
    pub state: UpdateState,
    /// Weights after it.
    pub weights: Weights,
    /// What happened.
    pub event: String,
    /// Why, where a pause, a rollback or a failure began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// `rolling-update/{updateId}`: one update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRecord {
    /// Its id.
    pub id: UpdateId,
    /// The slice.
    pub slice: SliceName,
    /// What it moves from; absent for a first deployment.
    pub old: Option<Side>,
    /// What it moves to.
    pub new: Side,
    /// Where it is.
    pub state: UpdateState,
    /// Committed weights new:old.
    pub weights: Weights,
    /// A routing change that waits for approval.
    pub pending_weights: Option<Weights>,
    /// That change was asked for past the capacity guard and a pause.
    #[serde(default)]
    pub pending_forced: bool,
    /// Who asked for that change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_actor: Option<String>,
    /// Wanted instances of the new side.
    pub instances: u32,
    /// Instance target of the slice before the update (of the new side for a
    /// first deployment): `B` of the capacity guard.
    pub base_instances: u32,
    /// What the user set.
    pub options: UpdateOptions,
    /// When something happens by itself, and what. Absent in terminal states.
    pub deadline: Option<Deadline>,
    /// Set while it is paused.
    pub pause: Option<Pause>,
    /// The user gave up waiting for sessions that cannot be reached.
    pub forced: bool,
    /// ROLLING_BACK ends in FAILED instead of ROLLED_BACK.
    pub ends_failed: bool,
    /// Log time from which the thresholds look at the traffic: the last change
    /// of weights or the last resume, so that a person's decision stands until
    /// new evidence comes in.
    pub health_from_ms: u64,
    /// Why it failed or was rolled back.
    pub outcome: Option<Reason>,
    /// Who started it.
    pub actor: String,
    /// Log index of the last change, for compare-and-set and ETag.
    pub modified: u64,
    /// Log time of its start.
    pub created_ms: u64,
    /// Wall clock of its start, for display.
    pub created_wall_ms: u64,
    /// Log time of the last change of state.
    pub state_since_ms: u64,
    /// Log index of the entry that entered the state.
    pub state_index: u64,
    /// What happened to it, at most [`HISTORY_MAX`] entries: the first, the
    /// changes of state, and the latest of the rest.
    pub history: Vec<HistoryEntry>,
    /// How many entries were left out of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub history_left_out: u32,
    /// How it goes.
    #[serde(default, skip_serializing_if = "Strategy::is_manual")]
    pub strategy: Strategy,
    /// Where it is on the way of its strategy; absent where people set the ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl UpdateRecord {
    /// Log time of its last change.
    pub fn modified_ms(&self) -> u64 {
        self.history.last().map_or(self.created_ms, |entry| entry.log_time_ms)
    }

    /// Whether it goes back to a set that was kept: it begins with that set
    /// deployed, as no other update does.
    pub fn is_undo(&self) -> bool {
        self.history.first().map_or(self.state, |entry| entry.state) == UpdateState::Deployed
    }

    /// Its routing change that waits for approval, and who asked for it, if there
    /// is one and that is known.
    pub fn pending(&self) -> Option<String> {
        let weights = self.pending_weights?;
        let by = self.pending_actor.as_ref().map(|actor| format!(", asked for by {actor}"));
        Some(format!("{weights}{}", by.unwrap_or_default()))
    }

    /// Takes back a routing change that waits for approval.
    pub(crate) fn forget_pending(&mut self) {
        self.pending_weights = None;
        self.pending_forced = false;
        self.pending_actor = None;
        if let Some(progress) = &mut self.progress {
            progress.pending = None;
            progress.approved = false;
        }
    }

    /// Its way as steps; none where people set the ratio.
    pub fn way(&self) -> Option<Way<'_>> {
        self.strategy.way(self.base_instances, self.old.is_none())
    }

    /// Instances that the new side begins with.
    pub(crate) fn first_instances(&self) -> u32 {
        match self.way() {
            // The rest follows in the room that old ones leave.
            Some(Way { in_place: Some(bounds), .. }) => {
                (bounds.ceiling - self.base_instances).min(self.deploy_goal())
            }
            Some(way) if way.scale_with_weight => self.deploy_goal(),
            _ => self.instances,
        }
    }

    /// Instances of the new side that have to be ready for DEPLOYED.
    pub(crate) fn deploy_goal(&self) -> u32 {
        match self.way() {
            Some(way) if way.in_place.is_some() => way.goal(1, self.base_instances),
            Some(way) if way.scale_with_weight => {
                way.weights(1).map_or(self.instances, |weights| self.instances_for(weights))
            }
            _ => self.instances,
        }
    }

    /// Instances that the new side needs for its weight, never more than it is to
    /// have in the end, nor none.
    pub(crate) fn instances_for(&self, weights: Weights) -> u32 {
        let needed = instances_needed(weights.new_side(), weights, self.base_instances);
        // All of it when it takes all of the calls.
        let needed = if weights == Weights::ALL_NEW { self.instances } else { needed };
        needed.clamp(1, self.instances.max(1))
    }

    /// Number of the step that holds, from 1; 0 before the first, and where people
    /// set the ratio.
    pub fn step(&self) -> u32 {
        self.progress.as_ref().map_or(0, |progress| progress.step)
    }

    /// Whether a person promoted it past what its step takes to go on, and the next one
    /// waits for nothing but its instances.
    pub fn is_promoted(&self) -> bool {
        let next = self.progress.as_ref().and_then(|progress| progress.pending);
        next.is_some() && self.pending_weights.is_none()
    }

    /// Whether its step holds until its calls have shown enough: what is counted of them
    /// grows until then. Any other hold may end before.
    pub fn waits_for_calls(&self) -> bool {
        let hold = self.way().map(|way| way.hold(self.step()));
        matches!(hold, Some(Hold::For { .. } | Hold::Evidence { .. })) && !self.is_promoted()
    }

    /// Whether it has come so far that there is no way back.
    pub fn is_one_way(&self) -> bool {
        let from = self.way().and_then(|way| way.one_way_from);
        from.is_some_and(|from| self.step() >= from)
    }

    /// Writes an entry into the history. If it is too many, the oldest goes that
    /// is neither the first, which says who started it, nor a change of state.
    pub(crate) fn note(&mut self, entry: HistoryEntry) {
        self.history.push(entry);
        if self.history.len() <= HISTORY_MAX {
            return;
        }
        let is_step = |pair: &[HistoryEntry]| pair[0].state != pair[1].state;
        let repeats = self.history.windows(2).position(|pair| !is_step(pair));
        self.history.remove(repeats.map_or(1, |at| at + 1));
        self.history_left_out = self.history_left_out.saturating_add(1);
    }
}

/// Entries kept in an update's record. The full manual walk takes about a dozen;
/// the rest is room for alerts.
pub const HISTORY_MAX: usize = 100;

/// `audit/{index}`, and `audit/{index}/{n}` for the later ones of an entry that
/// wrote several: who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Log index.
    pub index: u64,
    /// Which of the records of that entry it is, from 0. Left out of the row
    /// where it is 0, as it is of all records of earlier versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n: u32,
    /// Log time.
    pub log_time_ms: u64,
    /// Wall clock, for display.
    pub wall_ms: u64,
    /// Who.
    pub actor: String,
    /// On what.
    pub subject: Subject,
    /// What.
    pub event: String,
}

impl AuditRecord {
    /// Where it stands among all records.
    pub fn position(&self) -> AuditPosition {
        AuditPosition::new(self.index, self.n)
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// `request/{id}`: the answer to a request, so that its repetition gets the
/// same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRecord {
    /// The request id.
    pub id: String,
    /// Log index at which it was carried out.
    pub index: u64,
    /// Hash of the command, so that the id cannot stand for two of them.
    pub command_hash: String,
    /// What was answered.
    pub answer: crate::command::Answer,
}
