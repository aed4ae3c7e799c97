//! Every transition is in the table; revisions are monotone; exactly one audit
//! record with each change. Terminal states absorb, and a rollback is never
//! rolled back. (Design, invariant 2 and section 5.)
//!
//! The table is written down here once more, from the design's picture: one that
//! the core got wrong would agree with itself.

use aether_core::audit::Subject;
use aether_core::records::{UpdateRecord, UpdateState as S};

use super::Step;

fn is_in_the_picture(from: S, to: S) -> bool {
    match from {
        S::Pending => matches!(to, S::Deploying | S::RollingBack | S::Failed),
        S::Deploying => matches!(to, S::Deployed | S::RollingBack | S::Failed),
        S::Deployed => matches!(to, S::Routing | S::RollingBack | S::Failed),
        S::Routing => matches!(to, S::Completing | S::RollingBack | S::Failed),
        S::Completing => matches!(to, S::Completed | S::RollingBack | S::Failed),
        S::RollingBack => matches!(to, S::RolledBack | S::Failed),
        S::Completed | S::RolledBack | S::Failed => false,
    }
}

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        one(step, before, after)?;
    }
    Ok(())
}

/// An entry may take an update through several states, each of them noted: one
/// that is superseded goes back and ends.
fn walks(step: &Step<'_>, before: &UpdateRecord, after: &UpdateRecord) -> Result<(), String> {
    let noted = after.history.iter().filter(|entry| entry.index == step.entry.at.index);
    let mut at = before.state;
    for to in noted.map(|entry| entry.state).chain([after.state]) {
        if at != to && !is_in_the_picture(at, to) {
            return Err(format!("{} went from {at} to {to}", after.id));
        }
        at = to;
    }
    Ok(())
}

fn one(step: &Step<'_>, before: Option<&UpdateRecord>, after: &UpdateRecord) -> Result<(), String> {
    let id = &after.id;
    match before {
        // An undo begins with what was deployed before.
        None if !matches!(after.state, S::Pending | S::Deployed | S::Routing) => {
            return Err(format!("{id} begins in {}", after.state));
        }
        Some(before) if before.state.is_terminal() => {
            return Err(format!("{id} changed after it had ended in {}", before.state));
        }
        Some(before) if before.modified >= after.modified => {
            return Err(format!("{id} changed and its revision did not rise"));
        }
        Some(before) => walks(step, before, after)?,
        _ => {}
    }
    let index = step.entry.at.index;
    let noted = after.history.iter().filter(|entry| entry.index == index).count();
    let subject = Subject::update(id);
    let records = step.after.audit.values().rev().take_while(|record| record.index == index);
    let audited = records.filter(|record| record.subject == subject).count();
    if noted == 0 || noted != audited {
        return Err(format!("{id}: {noted} changes in its history and {audited} audit records"));
    }
    Ok(())
}
