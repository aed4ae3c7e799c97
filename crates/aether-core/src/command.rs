//! Commands of the replicated log, their answers and their refusals.
//!
//! A command says what should become true and under which precondition; only
//! [`crate::state::State::apply`] decides whether it does. One that is refused
//! changes nothing.

mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coordinates::{Artifact, SliceName, Version};
use crate::ids::{ConfigName, ConfigNo, InstanceId, NodeName, RevisionNo, SessionId, UpdateId};
use crate::manifest::Manifest;
use crate::records::{
    CleanupPolicy, Counts, Desired, GateVerdict, GateWhen, InstanceRecord, Measure, NodeLifecycle,
    NodeSchedule, Observed, OptionChanges, Reason, Remake, Seen, SessionKind, Strategy, Sums,
    UpdateOptions,
};
use crate::weights::Weights;

pub use refusal::{Refusal, RefusalKind};

/// A command with who asked for it, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Makes a retry idempotent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Who asks: a principal, or `coordinator`.
    pub actor: String,
    /// What should become true.
    pub command: Command,
}

/// What an agent saw of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The instance.
    pub instance: InstanceId,
    /// What it is doing.
    pub observed: Observed,
    /// Where it listens.
    pub endpoint: Option<SocketAddr>,
    /// How often it ended by itself and was started again.
    pub restarts: u32,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// [`at`](crate::records::Reload::at) of the reload whose files its process has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reloaded: Option<u64>,
}

impl Observation {
    /// Whether it says anything that is not known of the instance.
    pub fn is_news(&self, known: &InstanceRecord) -> bool {
        // An instance that had ended before it was told to is forgotten only now.
        let ended = self.observed == Observed::Stopped && known.desired == Desired::Stop;
        ended
            || self.observed != known.observed
            || self.endpoint != known.endpoint
            || self.restarts != known.restarts
            || self.reason != known.reason
            || self.ends_reload(known)
    }

    /// What of it is news of the instance, if anything is. Agents go on to name a reload
    /// that is long done, or one that nobody knows: that is left out, for a command that
    /// names one needs the level that has them.
    #[must_use]
    pub fn news_of(self, known: &InstanceRecord) -> Option<Self> {
        let reloaded = self.reloaded.filter(|_| self.ends_reload(known));
        self.is_news(known).then_some(Self { reloaded, ..self })
    }

    /// Whether it says that the reload that the instance is in is done.
    pub(crate) fn ends_reload(&self, known: &InstanceRecord) -> bool {
        let open = known.reload.as_ref().filter(|reload| !reload.done);
        open.is_some_and(|reload| self.reloaded == Some(reload.at))
    }
}

/// What should become true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Command {
    /// Makes a pushed archive known. Repeating it with the same digest is fine.
    RegisterArtifact {
        /// Coordinates, equal to the manifest's.
        artifact: Artifact,
        /// sha256 of the archive.
        digest: String,
        /// Its size.
        size_bytes: u64,
        /// Its `slice.toml`.
        manifest: Arc<Manifest>,
        /// The node that holds it.
        holder: NodeName,
        /// Others that hold it by now. With them a majority of the voters does.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        others: BTreeSet<NodeName>,
    },
    /// Forgets an artifact that nobody needs; its archives go by themselves.
    RemoveArtifact {
        /// Coordinates.
        artifact: Artifact,
    },
    /// A node dropped the archive.
    ArtifactDropped {
        /// Coordinates.
        artifact: Artifact,
        /// Digest of what it dropped.
        digest: String,
        /// The node.
        holder: NodeName,
    },
    /// Another node holds the archive now.
    ArtifactHeld {
        /// Coordinates.
        artifact: Artifact,
        /// Digest of what it holds.
        digest: String,
        /// The node.
        holder: NodeName,
    },
    /// First version of a slice name, without an update.
    Deploy {
        /// The slice.
        slice: SliceName,
        /// The version.
        version: Version,
        /// How many instances.
        instances: u32,
    },
    /// Another number of instances of the current revision.
    Scale {
        /// The slice.
        slice: SliceName,
        /// How many instances.
        instances: u32,
    },
    /// Removes a slice, or the new side of an update at weight 0.
    Undeploy {
        /// The slice.
        slice: SliceName,
        /// Only this version.
        version: Option<Version>,
    },
    /// Starts an update.
    StartUpdate {
        /// The slice.
        slice: SliceName,
        /// The version to move to.
        version: Version,
        /// Instances of the new version, as many as now if absent.
        instances: Option<u32>,
        /// Options.
        options: UpdateOptions,
    },
    /// Changes the ratio.
    SetWeights {
        /// The update.
        update: UpdateId,
        /// New weights.
        weights: Weights,
        /// Past the capacity guard and a pause.
        force: bool,
        /// Refuse unless the record was last modified at this index.
        if_modified: Option<u64>,
    },
    /// Commits a routing change that waits for approval.
    Approve {
        /// The update.
        update: UpdateId,
        /// Refuse unless this is what waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weights: Option<Weights>,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Ends an update whose route is 1:0.
    Complete {
        /// The update.
        update: UpdateId,
        /// Wait neither for sessions and nodes that cannot be reached, nor for
        /// the new side to be whole.
        force: bool,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Takes every call back to the old version.
    Rollback {
        /// The update.
        update: UpdateId,
        /// Route to the old side at once, whatever its capacity.
        now: bool,
        /// Why, when a verdict and not a person asks.
        reason: Option<Reason>,
        /// Do not wait for sessions and nodes that cannot be reached.
        force: bool,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Clears the pause flag.
    Resume {
        /// The update.
        update: UpdateId,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },

    /// Goes back to the set that a completed update left warm: a new update that
    /// starts in DEPLOYED, and routes at once.
    Undo {
        /// The update that left the set.
        update: UpdateId,
        /// Weights to begin with; all to the set that was kept, usually.
        weights: Weights,
        /// Past the capacity guard.
        force: bool,
        /// What happens to the version that is left, in the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cleanup: Option<CleanupPolicy>,
        /// How long GRACE_PERIOD keeps it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Removes the set that a completed update left warm.
    Cleanup {
        /// The update that left it.
        update: UpdateId,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Changes options of a live update.
    SetOptions {
        /// The update.
        update: UpdateId,
        /// What changes.
        changes: OptionChanges,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },

    /// Coordinator: sets the pause flag.
    Pause {
        /// The update.
        update: UpdateId,
        /// Why.
        reason: Reason,
        /// Modification index of the update the decision was made on: what a
        /// person decided since stands until there is new evidence.
        #[serde(default)]
        if_modified: Option<u64>,
    },
    /// Coordinator: PENDING → DEPLOYING, with the new side's first instances.
    BeginDeploy {
        /// The update.
        update: UpdateId,
        /// A node for each instance.
        placements: Vec<NodeName>,
    },
    /// Coordinator: DEPLOYING → DEPLOYED.
    MarkDeployed {
        /// The update.
        update: UpdateId,
    },
    /// Coordinator: a first deployment's or rollback's next weights, or
    /// what the effective capacity allows now.
    ShiftBack {
        /// The update, in ROLLING_BACK.
        update: UpdateId,
        /// Weights with a smaller share of the new side.
        weights: Weights,
    },
    /// Coordinator: every session acked the last route; the side that lost goes.
    RemoveLosingSide {
        /// The update, in COMPLETING or ROLLING_BACK.
        update: UpdateId,
        /// Modification index of the update the decision was made on: the acks were of
        /// the route of then, and somebody may have turned the update round since.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Coordinator: COMPLETING → COMPLETED or ROLLING_BACK → ROLLED_BACK.
    Finish {
        /// The update.
        update: UpdateId,
    },
    /// Coordinator: any state whose other targets are 0 → FAILED.
    Fail {
        /// The update.
        update: UpdateId,
        /// Why.
        reason: Reason,
    },
    /// Coordinator: an `Alert` deadline passed; says so and sets it anew.
    Rearm {
        /// The update.
        update: UpdateId,
    },
    /// Coordinator: the grace time of a retained set is over.
    Retire {
        /// The slice.
        slice: SliceName,
    },
    /// Coordinator: new instances of a target.
    Assign {
        /// The slice.
        slice: SliceName,
        /// The revision.
        revision: RevisionNo,
        /// A node for each instance.
        placements: Vec<NodeName>,
        /// Modification index of the target the decision was made on.
        target_modified: u64,
    },
    /// Coordinator: instances of a target have no place, or all have one again.
    MarkUnplaced {
        /// The slice.
        slice: SliceName,
        /// The revision.
        revision: RevisionNo,
        /// How many have none and why; absent once all have one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Coordinator: takes instances out of the table.
    Drain {
        /// The instances.
        instances: Vec<InstanceId>,
        /// Modification index of their target the decision was made on.
        target_modified: u64,
    },
    /// Coordinator: the removal fence holds for these drained instances.
    Stop {
        /// The instances.
        instances: Vec<InstanceId>,
        /// What was not waited for, if anything.
        waived: Option<String>,
    },

    /// Agents' reports, merged by the leader.
    Observe {
        /// The reporting node.
        node: NodeName,
        /// What changed.
        observations: Vec<Observation>,
    },
    /// A node's agent introduced itself.
    RegisterNode {
        /// Its name.
        node: NodeName,
        /// Address of its client gRPC.
        address: SocketAddr,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Most instances it takes.
        instances_max: u32,
    },
    /// A node reports again, or does not any more.
    SetNodeLifecycle {
        /// The node.
        node: NodeName,
        /// What holds now.
        lifecycle: NodeLifecycle,
    },
    /// Whether a node takes new instances and keeps those it has.
    SetNodeSchedule {
        /// The node.
        node: NodeName,
        /// What holds from now on.
        schedule: NodeSchedule,
    },
    /// A node that is lost will not come back.
    ForgetNode {
        /// The node.
        node: NodeName,
        /// Though it is only unreachable, and not yet lost.
        force: bool,
    },
    /// Coordinator: too many nodes are silent at once for any of them to count
    /// as lost, or no longer.
    FreezeReplacement {
        /// Whether they are.
        frozen: bool,
        /// How many are silent.
        silent: u32,
    },
    /// A holder of routing tables appeared, or started anew.
    OpenSession {
        /// Its id.
        session: SessionId,
        /// Its kind.
        kind: SessionKind,
        /// Who it is.
        name: String,
        /// It holds no tables yet.
        #[serde(default)]
        fresh: bool,
        /// [`opened`](crate::records::SessionRecord::opened) of the life that
        /// this one follows, 0 if it is the first. If another one is open,
        /// nothing changes.
        #[serde(default)]
        follows: u64,
    },
    /// A holder of routing tables is gone.
    CloseSession {
        /// Its id.
        session: SessionId,
        /// [`opened`](crate::records::SessionRecord::opened) of the life that
        /// ended; 0, as in entries of before there were lives, is any.
        #[serde(default)]
        opened: u64,
        /// Why it counts as gone.
        reason: String,
    },
    /// A node may come and vote.
    InviteVoter {
        /// The node.
        node: NodeName,
        /// Its peer listener, as `host:port`.
        peer_addr: String,
        /// Raft id of the voter that goes when this one votes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<u64>,
    },
    /// A node that was invited has come: it gets its Raft id.
    AdmitVoter {
        /// The node.
        node: NodeName,
        /// Identity of its data directory.
        dir_id: String,
        /// The highest feature level that it supports.
        #[serde(default = "crate::level::first", skip_serializing_if = "crate::level::is_first")]
        feature_level: u32,
    },
    /// A voter is to go, or one that was invited is not to come.
    RemoveVoter {
        /// The node.
        node: NodeName,
        /// Its Raft id; of no meaning for one that never came.
        raft_id: u64,
    },
    /// Coordinator: the membership is what was wanted of this node.
    EndVoterChange {
        /// The node.
        node: NodeName,
        /// Modification index of the change the decision was made on.
        modified: u64,
    },
    /// Puts a value under `config/`.
    PutConfig {
        /// Its key without `config/`.
        name: ConfigName,
        /// The text.
        value: Arc<str>,
        /// Refuse unless the record was last modified at this index; 0 is for
        /// none there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Removes a value under `config/`.
    RemoveConfig {
        /// Its key without `config/`.
        name: ConfigName,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Coordinator: all members support this level, so it holds from now on. A
    /// node that does not support it ends, and applies nothing more.
    RaiseFeatureLevel {
        /// The level, above the committed one.
        to: u32,
    },
    /// Starts an update that goes by a strategy.
    StartWith {
        /// The slice.
        slice: SliceName,
        /// The version to move to.
        version: Version,
        /// Instances of the new version, as many as now if absent.
        instances: Option<u32>,
        /// Options.
        options: UpdateOptions,
        /// How it goes.
        strategy: Strategy,
        /// A live update of the slice ends with it, as ROLLED_BACK.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        supersede: bool,
        /// In what the new revision is to differ beside its version.
        #[serde(default, skip_serializing_if = "Remake::is_nothing")]
        remake: Remake,
    },
    /// Enters the next step of an update, or goes beyond the last one.
    Promote {
        /// The update.
        update: UpdateId,
        /// To the last step at once.
        full: bool,
        /// Past the capacity guard and a pause.
        force: bool,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Sets the pause flag, because a person wants to look.
    Suspend {
        /// The update.
        update: UpdateId,
        /// Why, if that was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// Refuse unless the record was last modified at this index.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_modified: Option<u64>,
    },
    /// Coordinator: what it took to go on from a step is there.
    EnterStep {
        /// The update.
        update: UpdateId,
        /// Number of the step, from 1.
        step: u32,
        /// Modification index of the update the decision was made on.
        if_modified: u64,
        /// Where calls are held for the switch,
        /// [`opened`](crate::records::SessionRecord::opened) of the latest session that
        /// the decision knew of: one that came since may not hold its calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        opened_max: Option<u64>,
    },
    /// Coordinator: every session is to hold new calls, for the switch of an update
    /// with a barrier. Whatever else happens to the update ends it.
    HoldCalls {
        /// The update.
        update: UpdateId,
        /// Modification index of the update the decision was made on.
        if_modified: u64,
    },
    /// Coordinator: instances that the new side needs for the next step.
    ScaleNew {
        /// The update.
        update: UpdateId,
        /// How many.
        instances: u32,
        /// Modification index of the update the decision was made on.
        if_modified: u64,
    },
    /// Coordinator: how many instances each side is to have, where instances are
    /// replaced where they are.
    MoveInPlace {
        /// The update.
        update: UpdateId,
        /// Of the new version.
        new: u32,
        /// Of the old version.
        old: u32,
        /// Modification index of the update the decision was made on.
        if_modified: u64,
    },
    /// Coordinator: every session has applied the switch of a blue-green update.
    MarkSwitched {
        /// The update.
        update: UpdateId,
        /// How long after its entry, milliseconds.
        mixed_ms: u64,
        /// Modification index of the update the decision was made on.
        if_modified: u64,
        /// Calls that sessions let begin by the table before, though they were to hold
        /// them.
        #[serde(default, skip_serializing_if = "crate::level::is_none_of_them")]
        late_calls: u64,
    },
    /// What sessions have counted of the calls of an update.
    RecordEvidence {
        /// The update.
        update: UpdateId,
        /// How they are counted.
        measure: Measure,
        /// Sums of those sessions that have new ones.
        sums: BTreeMap<SessionId, Sums>,
        /// By instance of the new side, what is new in these sums, as far as it is
        /// known.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        instances: BTreeMap<InstanceId, Counts>,
    },
    /// What the planner saw of an update, before what it decided: for a replay.
    RecordInput {
        /// The update.
        update: UpdateId,
        /// Hash over the rows of the state that it read.
        rows: String,
        /// What else it saw.
        seen: Seen,
        /// What it decided.
        decided: Vec<Command>,
    },
    /// Which version a slice is to have the next time that somebody refreshes it.
    SetCurrent {
        /// The slice.
        slice: SliceName,
        /// The version.
        version: Version,
    },
    /// Coordinator: what a gate answered.
    RecordGate {
        /// The update.
        update: UpdateId,
        /// The gate's name.
        gate: String,
        /// When it was asked.
        when: GateWhen,
        /// Number of the step that it was asked for, from 1.
        step: u32,
        /// [`since_ms`](crate::records::Progress::since_ms) of the update as it was
        /// asked: what was asked before a resume is of no matter after it.
        since_ms: u64,
        /// Which measurement of this gate for this step it is, from 1; each is
        /// taken in once.
        number: u32,
        /// What it showed.
        verdict: GateVerdict,
        /// What it said.
        message: String,
    },
    /// Keeps what is to be laid over the artifact of a slice, under the next number.
    PushConfig {
        /// The slice.
        slice: SliceName,
        /// All files, by path.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        files: BTreeMap<String, Arc<str>>,
        /// All environment entries.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
        /// Refuse unless this is the latest; 0 is for none there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_latest: Option<ConfigNo>,
    },
    /// Log time moves on past a deadline though nothing else happens. With braces:
    /// serde reads past unknown fields of a variant that has none.
    Tick {},
}

/// What a command that was carried out answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Log index of the entry that carried it out.
    pub index: u64,
    /// The update it made or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateId>,
    /// The update that was named, where another one was made of it: what a
    /// repetition of the request must name again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<UpdateId>,
    /// Instances it made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceId>,
    /// Something the user should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The configuration that it made, or found to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigNo>,
}

/// What `apply` answers to whoever proposed the entry.
pub type Outcome = Result<Answer, Refusal>;
