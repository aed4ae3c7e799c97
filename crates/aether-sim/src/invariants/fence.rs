//! An older fence is refused, also by an agent that was restarted in between.
//! (Design, invariant 11.)

use std::collections::BTreeMap;

/// The highest index that each node has accepted, ever.
#[derive(Debug, Default)]
pub struct Fences(BTreeMap<usize, u64>);

impl Fences {
    /// An agent accepts a directive.
    ///
    /// # Errors
    /// That it had accepted a later one.
    pub fn accepted(&mut self, agent: usize, index: u64) -> Result<(), String> {
        let highest = self.0.entry(agent).or_default();
        if index < *highest {
            return Err(format!("n{} accepts {index} after {highest}", agent + 1));
        }
        *highest = index;
        Ok(())
    }
}
