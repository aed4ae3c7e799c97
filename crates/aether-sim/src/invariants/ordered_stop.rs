//! Nothing is stopped that nobody told to stop: the data plane goes on serving
//! when the control plane is away, and what drains may still be wanted again.
//! (Design, sections 3 and 5.)

use aether_core::ids::InstanceId;
use aether_core::records::Desired;
use aether_core::state::State;

/// An agent asks an instance to end.
///
/// # Errors
/// That the log wants it to run on.
pub fn ordered_stop(newest: &State, id: &InstanceId) -> Result<(), String> {
    match newest.instances.get(id).map(|record| record.desired) {
        None | Some(Desired::Stop) => Ok(()),
        Some(desired) => Err(format!("{id} is asked to end, and is to {desired:?}")),
    }
}
