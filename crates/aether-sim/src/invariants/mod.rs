//! What must always hold, one file for each, with its source in the design.
//!
//! Those over an entry look at the state before and after it; the others at the
//! moment that concerns them (a call begins, an agent stops a process). They
//! know what is true in the simulated world, which the real code only hears of.

mod accounts;
mod acks;
mod barrier;
mod bystanders;
mod capacity_guard;
mod deadlines;
mod decisions;
mod deployed;
mod deposed;
mod every_update_ends;
mod evidence;
mod fence;
mod first_attempts;
mod gates;
mod in_place;
mod leases;
mod log_time;
mod one_live_update;
mod one_outcome;
mod ordered_stop;
mod own_reasons;
mod picks;
mod ready_floor;
mod refused;
mod reloaded;
mod removal_fence;
mod replays;
mod retries;
mod revisions;
mod rolled_back;
mod same_state;
mod split;
mod started_once;
mod steps;
mod structure;
mod tables;
mod tables_forward;
mod transitions;
mod way_back;

use aether_core::command::{Command, Outcome};
use aether_core::records::UpdateRecord;
use aether_core::state::State;

use crate::invoker::Invoker;
use crate::leader::Waits;
use crate::log::{Entry, Payload};
use crate::served::Counted;

pub use accounts::accounts_for_all;
pub use acks::acks_are_true;
pub use deadlines::holds_end;
pub use decisions::refused_as_stale;
pub use every_update_ends::{serves, unfinished};
pub use ordered_stop::ordered_stop;
pub use picks::picks_by_newest;
pub use reloaded::reloaded;
pub use replays::replays;
pub use retries::retried;
pub use same_state::{same_hash, same_state};
pub use tables_forward::forward;

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant, by the name of its file.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
    /// When.
    pub at_ms: u64,
    /// After which log index.
    pub index: u64,
}

/// One entry, and everything around it.
pub struct Step<'a> {
    /// State before it.
    pub before: &'a State,
    /// State after it.
    pub after: &'a State,
    /// The entry.
    pub entry: &'a Entry,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// Log index of the state that a coordinator decided it on, if one did.
    pub decided_at: Option<u64>,
    /// Term of the entry before.
    pub last_term: u64,
    /// All callers, as they really are.
    pub callers: &'a [Invoker],
    /// What callers counted whose process has ended.
    pub counted: &'a Counted,
    /// Leases and the like.
    pub waits: &'a Waits,
    /// Now.
    pub now_ms: u64,
    /// Since when the present leader leads.
    pub ready_since_ms: u64,
}

impl Step<'_> {
    /// The command, if the entry has one and it was carried out.
    fn done(&self) -> Option<&Command> {
        match &self.entry.payload {
            Payload::Request(request) if self.outcome.is_ok() => Some(&request.command),
            _ => None,
        }
    }

    /// Updates that the entry started.
    pub fn started(&self) -> u64 {
        let is_new = |id| !self.before.updates.contains_key(id);
        match self.done() {
            Some(
                Command::StartUpdate { .. } | Command::StartWith { .. } | Command::Undo { .. },
            ) => self.after.updates.keys().filter(|id| is_new(*id)).count() as u64,
            _ => 0,
        }
    }

    /// Updates that the entry changed, before and after.
    fn changed_updates(&self) -> impl Iterator<Item = (Option<&UpdateRecord>, &UpdateRecord)> {
        let is_same = self.before.updates.ptr_eq(&self.after.updates);
        let all = self.after.updates.values().filter(move |_| !is_same);
        all.map(|after| (self.before.updates.get(&after.id), after))
            .filter(|(before, after)| {
                before.is_none_or(|before| !std::sync::Arc::ptr_eq(before, after))
            })
            .map(|(before, after)| (before.map(|before| &**before), &**after))
    }
}

type Check = fn(&Step<'_>) -> Result<(), String>;

/// Those that need to know nothing but the entry.
const OVER_ENTRIES: &[(&str, Check)] = &[
    ("deposed", deposed::check),
    ("refused", refused::check),
    ("one_live_update", one_live_update::check),
    ("transitions", transitions::check),
    ("own_reasons", own_reasons::check),
    ("deadlines", deadlines::check),
    ("capacity_guard", capacity_guard::check),
    ("removal_fence", removal_fence::check),
    ("in_place", in_place::check),
    ("ready_floor", ready_floor::check),
    ("way_back", way_back::check),
    ("rolled_back", rolled_back::check),
    ("bystanders", bystanders::check),
    ("leases", leases::check),
    ("log_time", log_time::check),
    ("deployed", deployed::check),
    ("steps", steps::check),
    ("reloaded", reloaded::check),
    // The core's own look comes last, so that what it would find as well is found
    // by whoever knows why it is wrong.
    ("structure", structure::check),
];

/// Those that remember something.
#[derive(Debug, Default)]
pub struct Checker {
    /// What agents accepted.
    pub fence: fence::Fences,
    /// What was started.
    pub started_once: started_once::Started,
    /// Calls and their outcomes.
    pub one_outcome: one_outcome::Outcomes,
    /// What sessions counted.
    pub first_attempts: first_attempts::FirstAttempts,
    /// How calls were split.
    pub split: split::Splits,
    /// Which sessions were waited for before an instance was stopped.
    pub fenced: removal_fence::Fenced,
    /// What routing tables there were.
    pub tables: tables::Tables,
    /// Switches that were made behind a barrier.
    pub barrier: barrier::Barriers,
    /// Since when deadlines are known.
    pub deadlines: deadlines::Deadlines,
    /// What was counted for whom.
    evidence: evidence::Evidence,
    /// Which gates were passed.
    gates: gates::Passed,
    revisions: revisions::Revisions,
}

impl Checker {
    /// Looks at one entry.
    ///
    /// # Errors
    /// The first invariant that it broke, and how.
    pub fn entry(&mut self, step: &Step<'_>) -> Result<(), (&'static str, String)> {
        for (name, check) in OVER_ENTRIES {
            check(step).map_err(|detail| (*name, detail))?;
        }
        self.gates.check(step).map_err(|detail| ("gates", detail))?;
        self.revisions.check(step.after).map_err(|detail| ("revisions", detail))?;
        self.evidence.check(step).map_err(|detail| ("evidence", detail))?;
        self.barrier.check(step).map_err(|detail| ("barrier", detail))?;
        self.tables.check(step).map_err(|detail| ("tables", detail))?;
        self.fenced.note(step);
        Ok(())
    }
}
