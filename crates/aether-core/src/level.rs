//! The feature level: which meanings of commands hold.
//!
//! During a rolling restart two releases apply the same log, and have to make
//! the same of each entry. So each command needs a level, and the state holds
//! the one that is committed. A command above it is refused, which leaves the
//! state as a build leaves it that cannot even read the command. A leader raises
//! the level ([`Command::RaiseFeatureLevel`]) once all members say that they
//! support more; it never goes down again.
//!
//! # What each level brought
//!
//! | level | release | brought |
//! |---|---|---|
//! | 1 | 0.1 | everything of the first format |
//! | 2 | 0.1 | values under `config/`: `PutConfig`, `RemoveConfig` |
//! | 3 | 0.1 | strategies and evidence: `StartWith`, `Promote`, `Suspend`, `EnterStep`, `ScaleNew`, `MoveInPlace`, `MarkSwitched`, `RecordEvidence` |
//! | 4 | 0.1 | gates: `RecordGate`, and `gates` of a strategy in `StartWith`; configurations of slices: `PushConfig`, `remake` of `StartWith`; `RecordInput`; `SetCurrent`, and colours of revisions; a promotion ahead of gates and batches; `Rolling.max_failures`; evidence by instance: `RecordEvidence.instances`; a removal that names what it was decided on: `RemoveLosingSide.if_modified` |
//! | 5 | 0.1 | a switch behind a barrier: `BlueGreen.barrier`, `HoldCalls`, `EnterStep.opened_max`, `MarkSwitched.late_calls`, and what sessions say of it in `RecordInput` |
//! | 6 | 0.1 | reload by signal: `Rolling.reload`, `Observation.reloaded`, and `reload_signal` of a manifest in `RegisterArtifact`; the floor of the last batch with `Rolling.max_failures` |
//! | 7 | 0.1 | no command; a batch is approved once it is there, whoever forced its promotion; a promotion ahead of the gates after the last step; who has not reloaded when an update is forced to its end is replaced |
//!
//! # Adding to it
//!
//! - A new command gets the next level in [`level_of`], and a row above.
//! - What a command does, once released, changes only for commands of a new
//!   level: a new variant, or a new field. A build that does not know the field
//!   must not read the command without it: what travels in commands only denies
//!   unknown fields, and what records have too (options, reasons) gets a new
//!   variant of the command instead. [`level_of`] looks at the field. Where no command
//!   could say it, `apply` and the planner look at the committed level ([`since`]).
//! - What a level brought is frozen with its release: entries of each command, the
//!   rows that they make and the hashes, in `tests/frozen` (see `state/frozen.rs`,
//!   whose tests fail for all of the above). Entries with what is new go into
//!   `level-N.log` of the new level, with every field filled at least once.
//! - The planner and the services propose what is above the committed level to
//!   no avail: each asks for the level first, or takes the refusal.

use std::fmt;

use serde::Deserialize;
use thiserror::Error;

use crate::apply::Position;
use crate::command::{Command, Refusal, Request};
use crate::records::Strategy;
use crate::state::{Meta, RowError, State};

/// The level of every build and every new cluster before anything is raised.
pub const FEATURE_LEVEL_FIRST: u32 = 1;

/// The highest level that this build can apply.
pub const FEATURE_LEVEL_MAX: u32 = 7;

/// What holds from a level on though no command says so: the planner and `apply` look at
/// the committed level for these.
pub mod since {
    /// A batch that waits for approval is approved once it is there, whoever forced its
    /// promotion.
    pub const APPROVAL_OF_BATCH: u32 = 7;
    /// Sets of instances have colours of their own.
    pub const COLOURS: u32 = 4;
    /// Evidence may be told by instance.
    pub const EVIDENCE_BY_INSTANCE: u32 = 4;
    /// The last batch of an update in place is given all calls by no fewer than the floor.
    pub const FLOOR_OF_LAST_BATCH: u32 = 6;
    /// A promotion at the last step ends its hold before the gates after it have passed.
    pub const PROMOTION_TO_END: u32 = 7;
    /// Who has not reloaded when an update completes by force is replaced, and not called.
    pub const RELOADED_ONLY: u32 = 7;
    /// The removal of a side names what it was decided on.
    pub const GUARDED_REMOVAL: u32 = 4;
    /// What the planner saw is written down.
    pub const INPUTS: u32 = 4;
    /// A step can be promoted before its gates have passed, or its instances are there.
    pub const PROMOTION_AHEAD: u32 = 4;
}

/// What a node that does not tell its level supports.
pub(crate) fn first() -> u32 {
    FEATURE_LEVEL_FIRST
}

pub(crate) fn is_first(level: &u32) -> bool {
    *level == FEATURE_LEVEL_FIRST
}

pub(crate) fn is_none_of_them(count: &u64) -> bool {
    *count == 0
}

/// The level that a command needs. Every command has its own line here, so that
/// a new one is decided about.
pub fn level_of(command: &Command) -> u32 {
    match command {
        Command::RegisterArtifact { manifest, .. } => match manifest.run.reload_signal {
            None => 1,
            Some(_) => 6,
        },
        Command::Observe { observations, .. } => {
            let reloaded = observations.iter().any(|seen| seen.reloaded.is_some());
            if reloaded { 6 } else { 1 }
        }
        Command::RemoveArtifact { .. }
        | Command::ArtifactDropped { .. }
        | Command::ArtifactHeld { .. }
        | Command::Deploy { .. }
        | Command::Scale { .. }
        | Command::Undeploy { .. }
        | Command::StartUpdate { .. }
        | Command::SetWeights { .. }
        | Command::Approve { .. }
        | Command::Complete { .. }
        | Command::Rollback { .. }
        | Command::Resume { .. }
        | Command::Undo { .. }
        | Command::Cleanup { .. }
        | Command::SetOptions { .. }
        | Command::Pause { .. }
        | Command::BeginDeploy { .. }
        | Command::MarkDeployed { .. }
        | Command::ShiftBack { .. }
        | Command::Finish { .. }
        | Command::Fail { .. }
        | Command::Rearm { .. }
        | Command::Retire { .. }
        | Command::Assign { .. }
        | Command::MarkUnplaced { .. }
        | Command::Drain { .. }
        | Command::Stop { .. }
        | Command::RegisterNode { .. }
        | Command::SetNodeLifecycle { .. }
        | Command::SetNodeSchedule { .. }
        | Command::ForgetNode { .. }
        | Command::FreezeReplacement { .. }
        | Command::OpenSession { .. }
        | Command::CloseSession { .. }
        | Command::InviteVoter { .. }
        | Command::AdmitVoter { .. }
        | Command::RemoveVoter { .. }
        | Command::EndVoterChange { .. }
        // Whatever it raises to: that is for those who apply it to support.
        | Command::RaiseFeatureLevel { .. }
        | Command::Tick {} => 1,
        Command::PutConfig { .. } | Command::RemoveConfig { .. } => 2,
        Command::StartWith { remake, strategy, .. } => {
            let of_remake = if remake.is_nothing() { 3 } else { 4 };
            of_remake.max(level_of_strategy(strategy))
        }
        Command::RecordGate { .. } | Command::PushConfig { .. } => 4,
        Command::Promote { .. }
        | Command::Suspend { .. }
        | Command::ScaleNew { .. }
        | Command::MoveInPlace { .. } => 3,
        Command::EnterStep { opened_max, .. } => match opened_max {
            None => 3,
            Some(_) => 5,
        },
        Command::MarkSwitched { late_calls, .. } => match late_calls {
            0 => 3,
            _ => 5,
        },
        Command::SetCurrent { .. } => 4,
        Command::RecordInput { seen, decided, .. } => {
            let decided = decided.iter().map(level_of).max().unwrap_or_default();
            decided.max(if seen.tells_of_holding() { 5 } else { 4 })
        }
        Command::HoldCalls { .. } => 5,
        Command::RemoveLosingSide { if_modified, .. } => match if_modified {
            None => 1,
            Some(_) => 4,
        },
        Command::RecordEvidence { instances, .. } => match instances.is_empty() {
            true => 3,
            false => 4,
        },
    }
}

/// The level that what an update is to go by needs.
fn level_of_strategy(strategy: &Strategy) -> u32 {
    if strategy.is_reload() {
        return 6;
    }
    let has_gates = strategy.analysis().is_some_and(|analysis| !analysis.gates.is_empty());
    match strategy.has_barrier() {
        true => 5,
        false if has_gates || strategy.max_failures() > 0 => 4,
        false => 3,
    }
}

/// What came with a level, for people.
pub fn brought_by(level: u32) -> &'static str {
    match level {
        0 | 1 => "the first format",
        2 => "values under config/",
        3 => "strategies, 'aether update pause' and 'promote'",
        4 => "gates, configurations of slices, 'aether env', replays, evidence by instance",
        5 => "'--switch barrier' of blue-green updates",
        6 => "reload by signal",
        7 => {
            "promotions ahead of the gates after the last step, approvals that wait for their batch"
        }
        _ => "what a newer release brought",
    }
}

/// Refuses a command that is above the committed level.
///
/// # Errors
/// [`Refusal::LevelTooLow`]. Who holds the level back is not known here.
pub fn check(command: &Command, committed: u32) -> Result<(), Refusal> {
    let needs = level_of(command);
    if needs <= committed {
        return Ok(());
    }
    Err(Refusal::LevelTooLow { needs, committed, held_back_by: Vec::new() })
}

/// A state or an entry is above what a node supports. Its text is the reason
/// with which that node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub struct Unsupported {
    /// The level that is committed.
    pub committed: u32,
    /// The highest that the node supports.
    pub supports: u32,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, supports } = self;
        write!(
            f,
            "feature level {committed} is committed, and this node supports no more than \
             {supports}; it never goes down again: "
        )?;
        // Then it is the build that cannot.
        if *committed > FEATURE_LEVEL_MAX {
            return f.write_str("install the release that the other nodes run");
        }
        write!(
            f,
            "take compatibility.feature_level_max = {supports} out of this node's configuration"
        )
    }
}

impl State {
    /// Whether a node that supports levels up to `supports` can go on from here.
    ///
    /// # Errors
    /// The committed level is above that.
    pub fn check_level(&self, supports: u32) -> Result<(), Unsupported> {
        Gate { supports, committed: self.meta.feature_level }.check()
    }

    /// Whether such a node can apply this request. Cheap for all but the raise.
    ///
    /// # Errors
    /// It would raise the level above what the node supports.
    pub fn check_raise(
        &self,
        at: Position,
        request: &Request,
        supports: u32,
    ) -> Result<(), Unsupported> {
        match request.command {
            Command::RaiseFeatureLevel { to } if to > supports => {
                let mut raised = self.clone();
                // One that is refused raises nothing.
                drop(raised.apply(at, request));
                raised.check_level(supports)
            }
            _ => Ok(()),
        }
    }
}

/// Makes a state of rows by `make`, for a node that supports levels up to
/// `supports`.
///
/// # Errors
/// As `make`, and where the committed level is above that, whatever else of a
/// newer release is in the rows.
pub fn up_to<T>(
    supports: u32,
    rows: &mut dyn Iterator<Item = (String, Vec<u8>)>,
    make: impl FnOnce(&mut dyn Iterator<Item = (String, Vec<u8>)>) -> Result<T, RowError>,
) -> Result<T, RowsError> {
    let mut gate = Gate::new(supports);
    let mut rows = rows.inspect(|(key, value)| gate.see(key, value));
    let made = make(&mut rows);
    // A row that cannot be read may come before the one that says why.
    rows.for_each(drop);
    gate.check()?;
    Ok(made?)
}

/// Looks in rows for the level that they are of.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    supports: u32,
    committed: u32,
}

impl Gate {
    /// For a node that supports levels up to `supports`.
    pub fn new(supports: u32) -> Self {
        Self { supports, committed: FEATURE_LEVEL_FIRST }
    }

    /// To be shown every row.
    pub fn see(&mut self, key: &str, value: &[u8]) {
        if key == Meta::KEY {
            self.committed = level_in(value).unwrap_or(self.committed);
        }
    }

    /// Whether the node may take what it was shown.
    ///
    /// # Errors
    /// The level is above what the node supports.
    pub fn check(self) -> Result<(), Unsupported> {
        let Self { supports, committed } = self;
        if committed > supports { Err(Unsupported { committed, supports }) } else { Ok(()) }
    }
}

/// Why rows are no state of this node's.
#[derive(Debug, Error)]
pub enum RowsError {
    /// One of them cannot be read.
    #[error(transparent)]
    Row(#[from] RowError),
    /// They are above what it supports.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// The level in a meta row of whatever release.
fn level_in(value: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Level {
        feature_level: u32,
    }
    serde_json::from_slice::<Level>(value).ok().map(|level| level.feature_level)
}

/// What a member of the log says of its level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Its node name.
    pub node: String,
    /// The highest level that it supports; `None` if it does not answer.
    pub supports: Option<u32>,
}

/// The level to raise to: the highest one that all members support, if that is
/// above the committed one. A member that does not answer may be of any release.
pub fn raise_to(committed: u32, members: &[Support]) -> Option<u32> {
    let lowest = members.iter().map(|member| member.supports).min().flatten();
    lowest.filter(|lowest| *lowest > committed)
}

/// Which members keep the level below `wanted`, each with the reason.
pub fn held_back_by(wanted: u32, members: &[Support]) -> Vec<String> {
    let holds = |member: &Support| match member.supports {
        Some(supports) if supports >= wanted => None,
        Some(supports) => Some(format!("{} supports {supports}", member.node)),
        None => Some(format!("{} does not answer", member.node)),
    };
    members.iter().filter_map(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn support(node: &str, supports: impl Into<Option<u32>>) -> Support {
        Support { node: node.to_owned(), supports: supports.into() }
    }

    #[test]
    fn the_level_rises_to_what_all_members_support_and_never_past_a_silent_one() {
        let all = |levels: &[Option<u32>]| -> Vec<Support> {
            levels.iter().zip('a'..).map(|(l, n)| support(&n.to_string(), *l)).collect()
        };
        assert_eq!(raise_to(1, &all(&[Some(2), Some(2), Some(2)])), Some(2));
        assert_eq!(raise_to(1, &all(&[Some(4), Some(3), Some(5)])), Some(3), "several at once");
        assert_eq!(raise_to(1, &all(&[Some(2), Some(1), Some(2)])), None);
        assert_eq!(raise_to(1, &all(&[Some(2), None, Some(2)])), None);
        assert_eq!(raise_to(2, &all(&[Some(2)])), None, "it is there already");
        assert_eq!(raise_to(3, &all(&[Some(2)])), None, "it never goes down");
        assert_eq!(raise_to(1, &[]), None);
    }

    #[test]
    fn whoever_holds_the_level_back_is_named_with_the_reason() {
        let members = [support("a", 2), support("b", 1), support("c", None)];
        assert_eq!(held_back_by(2, &members), ["b supports 1", "c does not answer"]);
        assert_eq!(held_back_by(1, &members), ["c does not answer"]);
    }

    #[test]
    fn every_level_up_to_the_highest_brought_something() {
        for level in 1..=FEATURE_LEVEL_MAX {
            assert_ne!(brought_by(level), brought_by(FEATURE_LEVEL_MAX + 1), "level {level}");
        }
    }

    #[test]
    fn rows_of_a_newer_release_are_refused_for_their_level_and_not_for_what_is_in_them() {
        let mut newer = State::default();
        newer.meta.feature_level = 9;
        let mut rows = newer.rows();
        // Both before and after the row that says the level.
        for key in ["a-new-table/x", "zones/x"] {
            rows.push((key.to_owned(), b"{}".to_vec()));
        }
        rows.sort();
        let made = |supports, rows: Vec<_>| {
            up_to(supports, &mut rows.into_iter(), |rows| State::from_rows(rows))
        };
        let refused = made(2, rows.clone()).unwrap_err();
        let RowsError::Unsupported(why) = refused else { panic!("{refused}") };
        assert_eq!(why, Unsupported { committed: 9, supports: 2 });
        // Of this level they are damaged.
        let refused = made(9, rows).unwrap_err();
        assert!(matches!(refused, RowsError::Row(_)), "{refused}");
        let taken = made(2, State::default().rows()).unwrap();
        assert_eq!(taken.rows(), State::default().rows());
    }

    #[test]
    fn the_reason_says_what_to_change() {
        let of = |committed, supports| Unsupported { committed, supports }.to_string();
        let held = of(FEATURE_LEVEL_MAX, 1);
        assert!(held.contains("take compatibility.feature_level_max = 1 out"), "{held}");
        let old = of(FEATURE_LEVEL_MAX + 1, FEATURE_LEVEL_MAX);
        assert!(old.contains("install the release"), "{old}");
    }
}
