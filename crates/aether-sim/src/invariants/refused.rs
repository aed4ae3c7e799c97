//! A refused command changes nothing. (Design, section 10: "apply rejects a
//! command that would break one"; invariant 9: "rolling back an idle slice is an
//! error that changes nothing".)

use aether_core::command::Command;
use aether_core::state::State;

use super::Step;
use crate::log::Payload;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let Payload::Request(request) = &step.entry.payload else { return Ok(()) };
    if step.outcome.is_ok() {
        return on_what_is_over(step, &request.command);
    }
    let changed = State::diff(step.before, step.after);
    if let Some(row) = changed.first() {
        return Err(format!("{:?} was refused and changed {}", request.command, row.key));
    }
    match step.after.meta.differs_in_position_only(&step.before.meta) {
        true => Ok(()),
        false => Err(format!("{:?} was refused and changed the cluster", request.command)),
    }
}

/// What is over cannot be asked to go on, nor back. A request that is repeated
/// gets its first answer, and has done nothing.
fn on_what_is_over(step: &Step<'_>, command: &Command) -> Result<(), String> {
    let update = match command {
        Command::Rollback { update, .. }
        | Command::Complete { update, .. }
        | Command::SetWeights { update, .. }
        | Command::Approve { update, .. }
        | Command::Promote { update, .. }
        | Command::EnterStep { update, .. }
        | Command::Suspend { update, .. }
        | Command::Resume { update, .. } => update,
        _ => return Ok(()),
    };
    let was_over = step.before.updates.get(update).is_none_or(|u| u.state.is_terminal());
    if was_over && !State::diff(step.before, step.after).is_empty() {
        return Err(format!("{command:?} changed something though {update} was over"));
    }
    Ok(())
}
