//! Nothing that a deposed leader does takes effect; a new leader acts only after
//! applying an entry of its own term. (Design, invariant 12.)

use super::Step;
use crate::log::Payload;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let term = step.entry.at.term;
    if step.entry.is_late {
        return Err(format!("an entry of term {term} after one of term {}", step.last_term));
    }
    if term > step.last_term && !matches!(step.entry.payload, Payload::Blank) {
        return Err(format!("the first entry of term {term} is not its leader's own"));
    }
    Ok(())
}
