//! A deploy effect happens once per instance. (Design, invariant 11.)

use std::collections::BTreeSet;

use aether_core::ids::InstanceId;

/// Instances that were started, ever.
#[derive(Debug, Default)]
pub struct Started(BTreeSet<InstanceId>);

impl Started {
    /// An agent makes an instance.
    ///
    /// # Errors
    /// That it was made before.
    pub fn created(&mut self, id: &InstanceId) -> Result<(), String> {
        match self.0.insert(id.clone()) {
            true => Ok(()),
            false => Err(format!("{id} is started a second time")),
        }
    }
}
