//! A session acknowledges what it has applied, and names every departed instance
//! that it has calls on. (Design, section 6: "acks carry (applied, drained)
//! revisions".)

use crate::invoker::{Invoker, SessionReport};

/// Looks at a report as it leaves.
///
/// # Errors
/// What is not true of it.
pub fn acks_are_true(caller: &Invoker, report: &SessionReport) -> Result<(), String> {
    let session = &caller.session;
    let applied = caller.applied.unwrap_or(0);
    if report.applied > applied {
        return Err(format!("{session} acks {} and has applied {applied}", report.applied));
    }
    let called = caller.calls.values().map(|call| &call.instance);
    let hidden = called.filter(|id| !caller.names(id)).find(|id| !report.busy.contains(*id));
    match hidden {
        None => Ok(()),
        Some(id) => Err(format!("{session} does not tell of its call on {id}")),
    }
}
