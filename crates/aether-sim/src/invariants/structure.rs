//! The structural invariants that the core itself knows how to look for.
//! (Design, section 10, "structural"; `aether_core::lint`.)

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    match aether_core::lint::lint(step.after).first() {
        None => Ok(()),
        Some(finding) => Err(finding.clone()),
    }
}
