//! DEPLOYED means that every wanted instance is READY, and has been so for the
//! minimum healthy time. (Design, section 5, the table of states.)

use aether_core::command::Command;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let Some(Command::MarkDeployed { update }) = step.done() else { return Ok(()) };
    let Some(update) = step.after.updates.get(update) else { return Ok(()) };
    let now_ms = step.entry.at.log_time_ms;
    let steady = step.before.instances_of(&update.slice).filter(|i| {
        let since_ms = i.observed_since_ms.saturating_add(update.options.healthy_ms);
        i.revision == update.new.revision && i.is_updated() && since_ms <= now_ms
    });
    // Where the new version grows with its weight, fewer are wanted at first.
    let target = step.before.targets.get(&(update.slice.clone(), update.new.revision));
    let wanted = target.map_or(update.instances, |target| target.instances);
    // In place the first batch is.
    let way = update.way().filter(|way| way.in_place.is_some());
    let wanted = way.map_or(wanted, |way| way.goal(1, update.base_instances));
    let steady = steady.count();
    match steady >= wanted as usize {
        true => Ok(()),
        false => Err(format!("{} is DEPLOYED with {steady} of {wanted} instances", update.id)),
    }
}
