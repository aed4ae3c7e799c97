//! Commands of the replicated log, their answers and their refusals.
//!
//! A command says what should become true and under which precondition; only
//! [`crate::state::State::apply`] decides whether it does. One that is refused
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coordinates::{Artifact, SliceName, Version};
use crate::ids::{ConfigName, InstanceId, NodeName, RevisionNo, SessionId, UpdateId};
use crate::manifest::Manifest;
use crate::records::{
    CleanupPolicy, NodeLifecycle, NodeSchedule, Observed, OptionChanges, Reason, SessionKind,
    UpdateOptions, UpdateState,
};
use crate::weights::Weights;

/// A command with who asked for it, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What should become true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
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
    /// Log time moves on past a deadline though nothing else happens.
    Tick,
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
}

/// Which family a refusal belongs to; decides exit and status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request itself makes no sense (exit 2, HTTP 400).
    Invalid,
    /// What it names does not exist (exit 4, HTTP 404).
    NotFound,
    /// The present state does not allow it (exit 5, HTTP 409).
    State,
    /// A precondition on the record's revision failed (exit 5, HTTP 412).
    Precondition,
}

/// Why a command was refused. The text says what failed, on what, and what to
/// do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "code", rename_all = "snake_case")]
#[allow(missing_docs)] // Each field is what its name says; the text is the documentation.
pub enum Refusal {
    #[error("update {update} does not exist; 'aether update list' shows the live ones")]
    UnknownUpdate { update: String },
    #[error("slice {slice} is not deployed; 'aether slices' lists what is")]
    UnknownSlice { slice: SliceName },
    #[error("artifact {artifact} is unknown; {}", after_unknown(.is_sought))]
    UnknownArtifact {
        artifact: Artifact,
        /// It was to be shown or removed, and not to be run.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_sought: bool,
    },
    #[error("node {node} is unknown")]
    UnknownNode { node: NodeName },
    #[error(
        "artifact {artifact} was already pushed with digest {known}, not {given}; a pushed version is immutable, push another version"
    )]
    ArtifactDiffers { artifact: Artifact, known: String, given: String },
    #[error("artifact {artifact} is still needed: {user}; update or undeploy first")]
    ArtifactInUse { artifact: Artifact, user: String },
    #[error("the manifest says {manifest}, but {artifact} was to be registered")]
    ArtifactMismatch { artifact: Artifact, manifest: Artifact },
    #[error("the manifest of {artifact} is not valid: {problem}")]
    BadManifest { artifact: Artifact, problem: String },
    #[error(
        "slice {slice} is already deployed at {version}; move it with 'aether update start {slice} <version>' or change its size with 'aether scale'"
    )]
    AlreadyDeployed { slice: SliceName, version: Version },
    #[error(
        "update {update} of {slice} is live in state {state}; complete it or roll it back first"
    )]
    UpdateLive { slice: SliceName, update: UpdateId, state: UpdateState },
    #[error("slice {slice} already runs version {version} (same revision); nothing to update")]
    SameRevision { slice: SliceName, version: Version },
    #[error("the number of instances must be 1 to {most}; {given} was asked for")]
    BadInstances { given: u32, most: u32 },
    #[error(
        "version {version} of {slice} is not deployed, {deployed} is; 'aether slices {slice}' shows what there is"
    )]
    NotDeployed { slice: SliceName, version: Version, deployed: Version },
    #[error("{what} must be {expected}; {given} was given")]
    BadOption { what: String, given: String, expected: String },
    #[error(
        "the nodes that report and take new instances{placement} have room for {room} more, {needed} are needed; add a node, uncordon one, or scale something down"
    )]
    NoCapacity {
        needed: u32,
        room: u32,
        #[serde(default)]
        placement: String,
    },
    #[error("update {update} is in state {state}; {action} is possible in {allowed}")]
    WrongState { update: UpdateId, state: UpdateState, action: String, allowed: String },
    #[error(
        "update {update} routes {weights}; 'complete' needs a committed 1:0: run 'aether update routing {update} -r 1:0' first"
    )]
    NotAllNew { update: UpdateId, weights: Weights },
    #[error(
        "weights {weights} need {needed} ready instances of the {side} version ({version}), {ready} are ready; {}", what_helps(.way_out)
    )]
    CapacityGuard {
        weights: Weights,
        side: String,
        version: Version,
        needed: u32,
        ready: u32,
        /// What to do, where it is not what helps most updates.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        way_out: String,
    },
    #[error(
        "update {update} is paused ({code_of_pause}: {message}); 'aether update resume {update}' first, or --force"
    )]
    Paused { update: UpdateId, code_of_pause: String, message: String },
    #[error("update {update} is not paused; nothing to resume")]
    NotPaused { update: UpdateId },
    #[error("update {update} has no routing change that waits for approval")]
    NothingToApprove { update: UpdateId },
    #[error(
        "update {update}: {pending}, is what waits for approval, not {seen}; look again with 'aether update status {update}'"
    )]
    OtherPending { update: UpdateId, seen: Weights, pending: String },
    #[error("update {update} was modified at index {actual}, not {expected}; read it again")]
    Modified { update: UpdateId, expected: u64, actual: u64 },
    #[error("{key} {}; read it again", differs(.expected, .actual))]
    KeyModified { key: String, expected: u64, actual: u64 },
    #[error("no record has key '{key}'; 'aether kv list config/' shows those there are")]
    UnknownKey { key: String },
    #[error(
        "version {version} of {slice} takes traffic or is not part of a live update at weight 0; roll the update back instead"
    )]
    StillServing { slice: SliceName, version: Version },
    #[error("slice {slice} keeps no retained set")]
    NothingRetained { slice: SliceName },
    #[error(
        "update {update} left no set that is still kept; start an update back to the version you want"
    )]
    NothingToUndo { update: UpdateId },
    #[error(
        "node {node} is {lifecycle}; a node can be forgotten once it is lost, with --force as soon as it is unreachable, and drained before with 'aether node drain {node}'"
    )]
    NodeInUse { node: NodeName, lifecycle: NodeLifecycle },
    #[error(
        "another change of voter {node} is under way; wait for it, or take it back with 'aether node remove {node}'"
    )]
    VoterChanging { node: NodeName },
    #[error("the leadership cannot be handed over: {reason}; 'aether status' shows who answers")]
    NoSuccessor { reason: String },
    #[error("node {node} is no voter, and is not invited; 'aether status' lists those there are")]
    UnknownVoter { node: NodeName },
    #[error(
        "node {node} votes already; to put another data directory in its place, 'aether node replace {node}'"
    )]
    VotesAlready { node: NodeName },
    #[error(
        "without {node}, {alive} of {voters} voters answer, which is no majority: nothing could be committed any more; start the others first, or add one"
    )]
    VoterNeeded { node: NodeName, voters: usize, alive: usize },
    #[error(
        "node {node} is not invited to vote; run 'aether node add {node} --peer HOST:PORT' first"
    )]
    NotInvited { node: NodeName },
    #[error(
        "node {node} was admitted with another data directory; if that one is lost, 'aether node remove {node}' and invite it again"
    )]
    VoterTaken { node: NodeName },
    #[error("request id '{request_id}' was already used for another command")]
    RequestReused { request_id: String },
    #[error("the decision is stale: {what} changed meanwhile")]
    Stale { what: String },
    #[error("at most {most} {what} are kept; remove one first")]
    TooMany { what: String, most: u64 },
    #[error("the entry cannot be read: {problem}")]
    Unreadable { problem: String },
}

/// What to do about too few instances.
fn what_helps(said: &str) -> &str {
    match said {
        "" => "wait for them, start the update with more --instances, or use --force",
        said => said,
    }
}

/// How a record is not the one that was expected; index 0 is that of none.
fn differs(expected: &u64, actual: &u64) -> String {
    match (expected, actual) {
        (expected, 0) => format!("is not there, though expected as modified at index {expected}"),
        (0, actual) => format!("is there already, modified at index {actual}"),
        (expected, actual) => format!("was modified at index {actual}, not {expected}"),
    }
}

/// What to do about an artifact that is not there.
fn after_unknown(is_sought: &bool) -> &'static str {
    match is_sought {
        true => "'aether artifact list' shows what there is",
        false => "push it first with 'aether artifact push'",
    }
}

impl Refusal {
    /// The family, which decides exit and status codes.
    pub fn kind(&self) -> RefusalKind {
        use RefusalKind::{Invalid, NotFound, Precondition, State};
        match self {
            Self::UnknownUpdate { .. }
            | Self::UnknownSlice { .. }
            | Self::UnknownArtifact { .. }
            | Self::UnknownNode { .. }
            | Self::UnknownVoter { .. }
            | Self::UnknownKey { .. } => NotFound,
            Self::BadInstances { .. }
            | Self::BadOption { .. }
            | Self::BadManifest { .. }
            | Self::ArtifactMismatch { .. }
            | Self::Unreadable { .. } => Invalid,
            Self::Modified { .. } | Self::KeyModified { .. } | Self::OtherPending { .. } => {
                Precondition
            }
            _ => State,
        }
    }

    /// The machine-readable code, as in JSON's `code`.
    pub fn code(&self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.get("code")?.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// What `apply` answers to whoever proposed the entry.
pub type Outcome = Result<Answer, Refusal>;
