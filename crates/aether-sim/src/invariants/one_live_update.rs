//! At most one non-terminal update per slice name. (Design, invariant 1.)

use std::collections::BTreeMap;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let mut live = BTreeMap::new();
    for update in step.after.updates.values().filter(|update| !update.state.is_terminal()) {
        if let Some(other) = live.insert(&update.slice, &update.id) {
            return Err(format!("{} has {other} and {} at once", update.slice, update.id));
        }
    }
    Ok(())
}
