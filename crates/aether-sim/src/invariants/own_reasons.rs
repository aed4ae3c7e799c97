//! Nothing reverts or advances unless a command or a recorded verdict says so.
//! (Design, invariant 10.) With it: a pause keeps the new version from getting
//! more unless somebody forces it, and ends only when somebody says so; and what
//! happened already stays in the history.

use aether_core::command::Command;
use aether_core::records::{UpdateRecord, UpdateState as S};
use aether_core::weights::Weights;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        let Some(before) = before else { continue };
        state(step, before, after)?;
        weights(step, before, after)?;
        pause(step, before, after)?;
    }
    slices(step)
}

/// Which commands may bring an update into a state.
fn state(step: &Step<'_>, before: &UpdateRecord, after: &UpdateRecord) -> Result<(), String> {
    if before.state == after.state {
        return Ok(());
    }
    let done = step.done();
    let is_right = match after.state {
        S::Pending => false,
        S::Deploying => matches!(done, Some(Command::BeginDeploy { .. })),
        S::Deployed => matches!(done, Some(Command::MarkDeployed { .. })),
        S::Routing => matches!(
            done,
            Some(
                Command::SetWeights { .. }
                    | Command::Approve { .. }
                    | Command::EnterStep { .. }
                    | Command::Promote { .. }
            )
        ),
        S::Completing => {
            let says_so = matches!(done, Some(Command::Complete { .. } | Command::Promote { .. }));
            says_so && after.weights == Weights::ALL_NEW
        }
        S::Completed => matches!(done, Some(Command::Finish { .. })),
        S::RollingBack => matches!(
            done,
            Some(Command::Rollback { .. } | Command::Fail { .. } | Command::Undeploy { .. })
        ),
        S::RolledBack => matches!(
            done,
            Some(Command::Finish { .. } | Command::StartWith { supersede: true, .. })
        ),
        S::Failed => matches!(
            done,
            Some(
                Command::Finish { .. }
                    | Command::Fail { .. }
                    | Command::StartWith { supersede: true, .. }
            )
        ),
    };
    match is_right {
        true => Ok(()),
        false => Err(format!("{} became {} by {done:?}", after.id, after.state)),
    }
}

/// Which commands may change weights, and in which direction.
fn weights(step: &Step<'_>, before: &UpdateRecord, after: &UpdateRecord) -> Result<(), String> {
    if before.weights == after.weights {
        return Ok(());
    }
    let is_raised = before.weights.is_raised_by(after.weights);
    let (id, from, to) = (&after.id, before.weights, after.weights);
    let said = || format!("{id}: {from} became {to} by {:?}", step.done());
    let forced = match step.done() {
        Some(Command::SetWeights { weights, force, .. }) if *weights == to => *force,
        // Fewer of one version carry less: on the way back, of the new one. Forward
        // the share of the new one falls where more of the old one than the batch
        // left are there, as they are with a surge.
        Some(Command::MoveInPlace { .. }) if after.state == S::Routing || !is_raised => false,
        Some(Command::EnterStep { step: to_step, .. }) if after.step() == *to_step => false,
        Some(Command::Promote { force, .. }) => *force,
        Some(Command::Approve { .. }) if before.pending_weights == Some(to) => {
            before.pending_forced
        }
        Some(
            Command::Rollback { .. }
            | Command::ShiftBack { .. }
            | Command::Fail { .. }
            | Command::Undeploy { .. }
            | Command::StartWith { supersede: true, .. },
        ) if !is_raised => false,
        _ => return Err(said()),
    };
    if is_raised && before.pause.is_some() && !forced {
        return Err(format!("{}, though it is paused", said()));
    }
    Ok(())
}

fn pause(step: &Step<'_>, before: &UpdateRecord, after: &UpdateRecord) -> Result<(), String> {
    if before.pause == after.pause {
        return Ok(());
    }
    let is_right = match (step.done(), &after.pause) {
        (Some(Command::Pause { reason, .. }), Some(pause)) => pause.reason == *reason,
        (Some(Command::Suspend { .. }), Some(_)) => before.pause.is_none(),
        // A ratio by hand holds until somebody has the steps go on.
        (Some(Command::SetWeights { force: true, .. }), Some(_)) => before.progress.is_some(),
        (Some(Command::Promote { force, .. }), None) => *force || before.pause.is_none(),
        // What was promoted past it.
        (Some(Command::Approve { .. }), None) => before.pending_forced,
        (Some(Command::Resume { .. }), None) => true,
        (Some(Command::Complete { force: true, .. }), None) => true,
        // Another state is another matter, but for routing on.
        (Some(_), None) => before.state != after.state && after.state != S::Routing,
        _ => false,
    };
    // A rollback that is told not to wait does not wait for what paused it;
    // taking the new version away by name is another way to say so.
    let hurried = matches!(
        step.done(),
        Some(Command::Rollback { force: true, .. } | Command::Undeploy { .. })
    );
    match is_right || (hurried && after.pause.is_none()) {
        true => Ok(()),
        false => Err(format!("the pause of {} changed by {:?}", after.id, step.done())),
    }
}

/// What is deployed changes when an update ends, or by a person's own command.
fn slices(step: &Step<'_>) -> Result<(), String> {
    if step.before.slices.ptr_eq(&step.after.slices) {
        return Ok(());
    }
    for (name, after) in &step.after.slices {
        let before = step.before.slices.get(name).and_then(|before| before.current);
        let says_so = matches!(
            step.done(),
            Some(Command::Finish { .. } | Command::Deploy { .. } | Command::Undeploy { .. })
        );
        if before != after.current && !says_so {
            let now = after.current;
            return Err(format!("{name} is {now:?} instead of {before:?} by {:?}", step.done()));
        }
    }
    Ok(())
}
