//! After a rollback the new side's weight is exactly 0, and nothing of it takes
//! calls. (Design, invariant 9; FAILED, section 5, needs a route to one version
//! and nothing else wanted.)

use aether_core::records::UpdateState as S;
use aether_core::weights::Weights;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, update) in step.changed_updates() {
        let is_over = matches!(update.state, S::RolledBack | S::Failed);
        if !is_over || before.is_some_and(|before| before.state == update.state) {
            continue;
        }
        let (id, state) = (&update.id, update.state);
        if update.weights != Weights::ALL_OLD {
            return Err(format!("{id} is {state} at {}", update.weights));
        }
        if step.after.ready_count(&update.slice, update.new.revision) > 0 {
            return Err(format!("{id} is {state} and its new version takes calls"));
        }
        let target = step.after.targets.get(&(update.slice.clone(), update.new.revision));
        if target.is_some_and(|target| target.instances > 0) {
            return Err(format!("{id} is {state} and its new version is still wanted"));
        }
        if let Some(route) = step.after.routes.get(&update.slice)
            && (route.new.is_some() || route.old != update.old)
        {
            return Err(format!("{id} is {state} and the route is {route:?}"));
        }
    }
    Ok(())
}
