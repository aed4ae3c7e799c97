//! An instance counts as one of the revision that a reload gave it once its process has
//! read the configuration of it, and not before. (Design, section 5, `rolling`.)

use std::collections::BTreeMap;

use aether_core::ids::InstanceId;
use aether_core::records::Desired;
use aether_core::state::State;

use crate::agent::Agent;
use crate::instance::Phase;

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
