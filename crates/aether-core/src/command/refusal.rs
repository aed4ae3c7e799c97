//! Why a command is refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coordinates::{Artifact, SliceName, Version};
use crate::ids::{ConfigNo, NodeName, UpdateId};
use crate::records::{GateWhen, NodeLifecycle, UpdateState};
use crate::weights::Weights;

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
    #[error(
        "slice {slice} already runs version {version} (same revision); nothing to update: name another configuration with --config, or replace its instances with --restart"
    )]
    SameRevision { slice: SliceName, version: Version },
    #[error(
        "{slice} cannot be updated by a reload: {problem}; without --reload its instances are replaced"
    )]
    CannotReload { slice: SliceName, problem: String },
    #[error("a configuration of {slice} cannot be taken: it {problem}")]
    BadConfig { slice: SliceName, problem: String },
    #[error(
        "slice {slice} has no configuration{}; 'aether config history {slice}' shows those there are, 'aether config push {slice}' adds one", named(.config)
    )]
    UnknownConfig {
        slice: SliceName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<ConfigNo>,
    },
    #[error(
        "the latest configuration of {slice} is {actual}, not {expected}: somebody else pushed one; 'aether config show {slice}' shows it"
    )]
    ConfigPushed { slice: SliceName, expected: ConfigNo, actual: ConfigNo },
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
    #[error(
        "update {update} is paused already ({code_of_pause}: {message}); 'aether update resume {update}' ends that"
    )]
    PausedAlready { update: UpdateId, code_of_pause: String, message: String },
    #[error(
        "update {update} goes by its steps ({strategy}): 'aether update promote {update}' enters the next one{}", by_hand(.strategy)
    )]
    GoesBySteps { update: UpdateId, strategy: String },
    #[error(
        "update {update} has no steps (MANUAL): set the ratio with 'aether update routing {update} -r <new:old>'"
    )]
    HasNoSteps { update: UpdateId },
    #[error(
        "gate '{gate}' {when} step {step} of update {update} has not passed{}; wait for it ('aether update explain {update}'), or go past it with 'aether update promote {update} --force'", said_so(.said)
    )]
    GateClosed {
        update: UpdateId,
        gate: String,
        when: GateWhen,
        step: u32,
        /// What it said last, if anything.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        said: String,
    },
    #[error(
        "update {update} was marked one-way from step {step} on, and is there: the old version may not understand any more what the new one wrote; go forward, or start an update to a version that does"
    )]
    OneWay { update: UpdateId, step: u32 },
    #[error(
        "update {update} of {slice} cannot be superseded in state {state}: {problem}; roll it back first ('aether update rollback {update}'), then start"
    )]
    NotSuperseded { update: UpdateId, slice: SliceName, state: UpdateState, problem: String },
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
    #[error(
        "{} need feature level {needs}, and the cluster is at {committed}: {}",
        needed_by(.needs), who_holds_back(.needs, .held_back_by)
    )]
    LevelTooLow {
        needs: u32,
        committed: u32,
        /// Members that hold it back, each with the reason, where that is known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        held_back_by: Vec<String>,
    },
    #[error(
        "node {node} supports feature level {supports}, and the cluster is at {committed}, for good: start it with the release that the others run, and without compatibility.feature_level_max in its configuration"
    )]
    LevelUnsupported { node: NodeName, supports: u32, committed: u32 },
    #[error("request id '{request_id}' was already used for another command")]
    RequestReused { request_id: String },
    #[error("the decision is stale: {what} changed meanwhile")]
    Stale { what: String },
    #[error("at most {most} {what} are kept; remove one first")]
    TooMany { what: String, most: u64 },
    #[error("the entry cannot be read: {problem}")]
    Unreadable { problem: String },
}

/// Which configuration is missing.
fn named(config: &Option<ConfigNo>) -> String {
    config.map_or_else(String::new, |no| format!(" {no}"))
}

/// What to do about too few instances.
fn what_helps(said: &str) -> &str {
    match said {
        "" => "wait for them, start the update with more --instances, or use --force",
        said => said,
    }
}

/// What a gate said last.
fn said_so(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

/// Whether the ratio can be set by hand.
fn by_hand(strategy: &str) -> &'static str {
    match strategy {
        "ROLLING" | "RECREATE" => "",
        _ => "; with --force the ratio is set by hand, and the update pauses",
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

/// What cannot be done without a level.
fn needed_by(needs: &u32) -> &'static str {
    crate::level::brought_by(*needs)
}

/// Who keeps the level from rising, and what to do about it.
fn who_holds_back(needs: &u32, held_back_by: &[String]) -> String {
    let who = match held_back_by {
        [] => "it rises by itself once every voter supports it".to_owned(),
        some => some.join(", "),
    };
    format!(
        "{who}; have every voter run a release that supports {needs}, without a \
         compatibility.feature_level_max below it, then try again ('aether status --verbose' shows \
         what each supports)"
    )
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
            | Self::UnknownConfig { .. }
            | Self::UnknownKey { .. } => NotFound,
            Self::BadInstances { .. }
            | Self::BadOption { .. }
            | Self::BadManifest { .. }
            | Self::BadConfig { .. }
            | Self::ArtifactMismatch { .. }
            | Self::Unreadable { .. } => Invalid,
            Self::Modified { .. }
            | Self::KeyModified { .. }
            | Self::ConfigPushed { .. }
            | Self::OtherPending { .. } => Precondition,
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
