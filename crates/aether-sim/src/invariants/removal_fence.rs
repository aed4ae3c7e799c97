//! Old capacity goes only after routing moved and every session has applied that;
//! nothing is stopped before no session has a table with it nor a call on it.
//! (Design, invariant 6 and "version-fenced" in section 5.)
//!
//! Looked at in the callers themselves and not in what they said.

use std::collections::{BTreeMap, BTreeSet};

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::{InstanceId, SessionId};
use aether_core::records::{Desired, InstanceRecord, Observed};

use super::Step;
use crate::invoker::Invoker;

/// Callers that run and whose session is committed. One that was silent for
/// longer than tables live is not waited for by anybody until it has come back
/// and got tables: what was decided in between did not know of it.
fn committed<'a>(step: &'a Step<'_>) -> impl Iterator<Item = &'a Invoker> {
    let decided_at = step.decided_at.unwrap_or(u64::MAX);
    let opened = move |caller: &Invoker| {
        let session = step.before.sessions.get(&caller.session)?;
        (session.opened <= decided_at).then_some(session.opened)
    };
    step.callers
        .iter()
        .filter(move |caller| caller.is_up && opened(caller) == Some(caller.told_life))
}

/// Whether a person has said that nobody is to be waited for: of the live update, or of
/// one that was live when this was decided and has ended since.
fn is_forced(step: &Step<'_>, slice: &SliceName) -> bool {
    let decided_at = step.decided_at.unwrap_or(u64::MAX);
    let mut of_slice = step.before.updates.values().filter(|update| update.slice == *slice);
    of_slice.any(|update| {
        let ended_since = || update.history.last().is_some_and(|last| last.index > decided_at);
        update.forced && (!update.state.is_terminal() || ended_since())
    })
}

/// Instances that this entry told to stop.
fn stopped<'a>(step: &'a Step<'_>) -> impl Iterator<Item = &'a InstanceRecord> {
    let is_same = step.before.instances.ptr_eq(&step.after.instances);
    let all = step.after.instances.values().filter(move |_| !is_same);
    all.filter(|i| i.desired == Desired::Stop).map(|i| &**i).filter(|i| {
        step.before.instances.get(&i.id).is_some_and(|was| was.desired != Desired::Stop)
    })
}

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    if let Some(Command::RemoveLosingSide { update, .. }) = step.done()
        && let Some(update) = step.before.updates.get(update).filter(|update| !update.forced)
    {
        route_is_everywhere(step, &update.slice)?;
    }
    for instance in stopped(step) {
        let was = &step.before.instances[&instance.id];
        let is_dead = was.observed == Observed::Stopped;
        if is_dead || is_forced(step, &instance.slice) {
            continue;
        }
        let id = &instance.id;
        if was.is_routable() {
            return Err(format!("{id} is stopped while it is in the tables"));
        }
        let waived = match step.done() {
            Some(Command::Stop { waived, .. }) => waived.is_some(),
            _ => false,
        };
        if waived {
            drain_time_is_over(step, was)?;
        }
        for caller in committed(step) {
            let session = &caller.session;
            if caller.names(id) {
                return Err(format!("{id} is stopped while {session} may call it"));
            }
            if !waived && caller.is_busy_on(id) {
                return Err(format!("{id} is stopped while {session} has a call on it"));
            }
        }
    }
    Ok(())
}

fn drain_time_is_over(step: &Step<'_>, was: &InstanceRecord) -> Result<(), String> {
    let revision = step.before.revisions.get(&(was.slice.clone(), was.revision));
    let drain_ms = revision.map_or(0, |revision| revision.manifest.run.drain.0);
    let drained_ms = step.entry.at.log_time_ms.saturating_sub(was.desired_since_ms);
    match drained_ms >= drain_ms {
        true => Ok(()),
        false => Err(format!("{} had {drained_ms} ms to drain instead of {drain_ms}", was.id)),
    }
}

/// Every caller that holds a table of the slice holds the present route.
fn route_is_everywhere(step: &Step<'_>, slice: &SliceName) -> Result<(), String> {
    let Some(route) = step.before.routes.get(slice) else { return Ok(()) };
    for caller in committed(step) {
        let held = caller.held.get(slice).map(|held| held.table.route_revision);
        if held.is_some_and(|held| held < route.route_revision) {
            let (session, at) = (&caller.session, route.route_revision);
            return Err(format!("{slice}: a side goes while {session} is not at route {at}"));
        }
    }
    Ok(())
}

/// Which sessions were waited for before an instance was told to stop.
#[derive(Debug, Default)]
pub struct Fenced(BTreeMap<InstanceId, BTreeSet<(SessionId, u64)>>);

impl Fenced {
    /// Notes what an entry stopped.
    pub(super) fn note(&mut self, step: &Step<'_>) {
        for instance in stopped(step) {
            let was = &step.before.instances[&instance.id];
            let waited = match was.observed == Observed::Stopped || is_forced(step, &instance.slice)
            {
                true => BTreeSet::new(),
                false => {
                    committed(step).map(|caller| (caller.session.clone(), caller.process)).collect()
                }
            };
            self.0.insert(instance.id.clone(), waited);
        }
    }

    /// Looks whether a call begins on an instance that its caller was waited for
    /// to let go of.
    ///
    /// # Errors
    /// That it does.
    pub fn call(&self, caller: &Invoker, instance: &InstanceId) -> Result<(), String> {
        let who = (caller.session.clone(), caller.process);
        match self.0.get(instance).is_some_and(|waited| waited.contains(&who)) {
            true => Err(format!("{} calls {instance}, which was stopped", caller.session)),
            false => Ok(()),
        }
    }
}
