//! An instance counts as one of the revision that a reload gave it once its process has
//! read the configuration of it, and not before: nor is it called as one. (Design,
//! section 5, `rolling`.)

use std::collections::BTreeMap;

use aether_core::ids::InstanceId;
use aether_core::level::since;
use aether_core::records::{Desired, UpdateState};
use aether_core::state::State;

use super::Step;
use crate::agent::Agent;
use crate::instance::Phase;

/// An update that completes leaves nobody in the table who has not reloaded, and whoever
/// forces it has such an instance replaced.
pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        let ends = after.state == UpdateState::Completed
            && before.is_some_and(|before| before.state != UpdateState::Completed);
        let is_excused = after.forced && step.after.meta.feature_level < since::RELOADED_ONLY;
        if !ends || is_excused {
            continue;
        }
        let instances = step.after.instances_of(&after.slice);
        let mut running =
            instances.filter(|i| i.revision == after.new.revision && i.desired == Desired::Run);
        if let Some(late) = running.find(|i| !i.has_reloaded()) {
            return Err(format!("{} ends, and {} has not reloaded", after.id, late.id));
        }
    }
    Ok(())
}

/// Those that count, as they really are. `runs` says on which node each is.
///
/// # Errors
/// Names one whose process has read another configuration.
pub fn reloaded(
    newest: &State,
    agents: &[Agent],
    runs: &BTreeMap<InstanceId, usize>,
) -> Result<(), String> {
    for record in newest.instances.values().filter(|i| i.desired != Desired::Stop) {
        let Some(reload) = record.reload.as_ref().filter(|reload| reload.done) else { continue };
        let agent = runs.get(&record.id).and_then(|agent| agents.get(*agent));
        let Some(process) = agent.and_then(|agent| agent.processes.get(&record.id)) else {
            continue;
        };
        let is_over = matches!(process.phase, Phase::Stopping | Phase::Stopped);
        if !is_over && process.reload != reload.at {
            let (id, read, at) = (&record.id, process.reload, reload.at);
            return Err(format!("{id} counts as reloaded at {at}, its process has read {read}"));
        }
    }
    Ok(())
}
