//! Each accepted call has exactly one outcome. (Design, invariant 14.)

use std::collections::BTreeSet;

use crate::invoker::CallId;

/// Calls that have begun and have no outcome yet.
#[derive(Debug, Default)]
pub struct Outcomes(BTreeSet<CallId>);

impl Outcomes {
    /// A call begins.
    pub fn began(&mut self, call: CallId) {
        self.0.insert(call);
    }

    /// A call has its outcome.
    ///
    /// # Errors
    /// That it had one before.
    pub fn ended(&mut self, call: CallId) -> Result<(), String> {
        match self.0.remove(&call) {
            true => Ok(()),
            false => Err(format!("call {call} has a second outcome")),
        }
    }

    /// Compares with the calls that callers know to be in flight.
    ///
    /// # Errors
    /// That some are in flight for nobody.
    pub fn balance(&self, in_flight: usize) -> Result<(), String> {
        match self.0.len() == in_flight {
            true => Ok(()),
            false => Err(format!("{} calls are open, {in_flight} in flight", self.0.len())),
        }
    }
}
