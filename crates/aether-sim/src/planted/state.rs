//! Bugs in what `apply` leaves behind.

use std::sync::Arc;

use aether_core::audit::Subject;
use aether_core::command::{Answer, Command, Outcome, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::evidence::{Side, Tallies};
use aether_core::ids::{RevisionNo, UpdateId};
use aether_core::records::{
    AuditRecord, Desired, GateVerdict, HistoryEntry, InstanceRecord, NodeLifecycle, Reload,
    RouteRecord, TargetRecord, UpdateRecord, UpdateState,
};
use aether_core::state::State;
use aether_core::weights::Weights;

use super::Planted;
use crate::log::{Entry, Payload};

/// Changes the state that an entry made, on every replica alike.
pub fn after_apply(
    bug: Planted,
    before: &State,
    state: &mut State,
    entry: &Entry,
    outcome: Outcome,
) -> Outcome {
    let Payload::Request(request) = &entry.payload else {
        at_failover(bug, state);
        return outcome;
    };
    match outcome {
        Err(refusal) => refused(bug, state, &request.command, refusal),
        Ok(answer) => {
            done(bug, before, state, &request.command);
            Ok(answer)
        }
    }
}

/// Changes one replica only.
pub fn diverge(state: &mut State, index: u64) {
    if index.is_multiple_of(50) {
        let first = state.nodes.values().next().cloned();
        if let Some(node) = first {
            let mut node = (*node).clone();
            node.since_ms += 1;
            state.nodes.insert(node.name.clone(), node.into());
        }
    }
}

/// Changes an update as a handler would: with a history entry, an audit record
/// and a new revision, so that only what is wrong about it shows.
fn rewrite(state: &mut State, id: &UpdateId, how: impl FnOnce(&mut UpdateRecord)) {
    let Some(update) = state.updates.get(id) else { return };
    let mut update = (**update).clone();
    how(&mut update);
    let meta = &state.meta;
    update.modified = meta.index;
    let is_noted = update.history.last().is_some_and(|last| last.index == meta.index);
    if let Some(last) = update.history.last().cloned().filter(|_| !is_noted) {
        let (index, log_time_ms) = (meta.index, meta.log_time_ms);
        update.history.push(HistoryEntry { index, log_time_ms, ..last });
        let record = AuditRecord {
            index,
            n: 0,
            log_time_ms,
            wall_ms: meta.wall_ms,
            actor: "planted".to_owned(),
            subject: Subject::update(id),
            event: "planted".to_owned(),
        };
        let n = state.audit.values().filter(|known| known.index == index).count() as u32;
        let record = AuditRecord { n, ..record };
        state.audit.insert(record.position(), record.into());
    }
    if let Some(last) = update.history.last_mut() {
        (last.state, last.weights) = (update.state, update.weights);
    }
    state.updates.insert(id.clone(), Arc::new(update));
}

fn live(state: &State) -> Vec<UpdateId> {
    state.slices.values().filter_map(|slice| slice.live_update.clone()).collect()
}

fn reweigh(state: &mut State, id: &UpdateId, weights: Weights) {
    rewrite(state, id, |update| update.weights = weights);
    let slice = state.updates.get(id).map(|update| update.slice.clone());
    let route = slice.and_then(|slice| state.routes.get(&slice).cloned());
    if let Some(route) = route.filter(|route| route.new.is_some()) {
        let index = state.meta.index;
        let route = RouteRecord {
            weights,
            route_revision: index,
            table_revision: index,
            ..(*route).clone()
        };
        state.routes.insert(route.slice.clone(), route.into());
    }
}

fn at_failover(bug: Planted, state: &mut State) {
    for id in live(state) {
        match bug {
            Planted::FailoverResetsWeights => reweigh(state, &id, Weights::ALL_OLD),
            Planted::FailoverForgetsPause => rewrite(state, &id, |update| update.pause = None),
            _ => {}
        }
    }
}

fn refused(bug: Planted, state: &mut State, command: &Command, refusal: Refusal) -> Outcome {
    let done = |id: &UpdateId| Ok(Answer { update: Some(id.clone()), ..Answer::default() });
    match (bug, command, &refusal) {
        (
            Planted::CompletesWithoutAllNew,
            Command::Complete { update, .. },
            Refusal::NotAllNew { .. },
        ) => {
            rewrite(state, update, |update| update.state = UpdateState::Completing);
            done(update)
        }
        (
            Planted::RollsBackRollback,
            Command::Rollback { update, .. },
            Refusal::WrongState { state: UpdateState::RollingBack, .. },
        ) => {
            rewrite(state, update, |update| update.state = UpdateState::Routing);
            done(update)
        }
        (Planted::RefusalLeavesTrace, Command::SetWeights { update, weights, .. }, _) => {
            if let Some(known) = state.updates.get(update) {
                let pending_weights = Some(*weights);
                let record = UpdateRecord { pending_weights, ..(**known).clone() };
                state.updates.insert(update.clone(), record.into());
            }
            Err(refusal)
        }
        (Planted::DeployedBeforeReady, Command::MarkDeployed { update }, _) => {
            let (now_ms, index) = (state.meta.log_time_ms, state.meta.index);
            rewrite(state, update, |update| {
                update.state = UpdateState::Deployed;
                (update.state_since_ms, update.state_index) = (now_ms, index);
            });
            done(update)
        }
        (
            Planted::NoCapacityGuard,
            Command::SetWeights { update, weights, .. },
            Refusal::CapacityGuard { .. },
        )
        | (
            Planted::PauseHoldsNothing,
            Command::SetWeights { update, weights, .. },
            Refusal::Paused { .. },
        ) => {
            reweigh(state, update, *weights);
            done(update)
        }
        (
            Planted::AdmitsUnreadyBatch,
            Command::EnterStep { update, step, .. },
            Refusal::CapacityGuard { weights, .. },
        ) => {
            rewrite(state, update, |update| {
                update.state = UpdateState::Routing;
                if let Some(progress) = &mut update.progress {
                    progress.step = *step;
                }
            });
            reweigh(state, update, *weights);
            done(update)
        }
        _ => Err(refusal),
    }
}

fn done(bug: Planted, before: &State, state: &mut State, command: &Command) {
    match (bug, command) {
        (Planted::StopsOnRemove, Command::RemoveLosingSide { .. }) => stop_drained(before, state),
        (Planted::IgnoresFloor | Planted::SurgesTwice, Command::MoveInPlace { update, .. }) => {
            moves_too_far(bug, before, state, update);
        }
        (Planted::CountsReloadEarly, Command::MoveInPlace { .. }) => {
            let open = state.instances.values().filter(|i| !i.has_reloaded());
            let open: Vec<_> = open.cloned().collect();
            for record in open {
                let reload = record.reload.clone().map(|reload| Reload { done: true, ..reload });
                let record = InstanceRecord { reload, ..(*record).clone() };
                state.instances.insert(record.id.clone(), record.into());
            }
        }
        (Planted::RestoresAllAtOnce, Command::Rollback { update, .. }) => {
            let update = state.updates.get(update).filter(|u| u.strategy.is_in_place()).cloned();
            if let Some((update, old)) = update.as_ref().and_then(|u| Some((u, u.old.as_ref()?))) {
                want(state, &update.slice, old.revision, |_| update.base_instances);
            }
        }
        (Planted::CountsSumsTwice, Command::RecordEvidence { update, .. }) => {
            counts_again(before, state, update);
        }
        (Planted::ForgottenGate, Command::RecordGate { update, verdict, .. })
            if *verdict == GateVerdict::Inconclusive =>
        {
            rewrite(state, update, |update| {
                let progress = update.progress.as_mut();
                let gates = progress.into_iter().flat_map(|progress| &mut progress.gates);
                gates.for_each(|gate| gate.last = GateVerdict::Pass);
            });
        }
        (Planted::RestoresTooFew, Command::Rollback { update, .. }) => {
            let update = state.updates.get(update).cloned();
            let old = update.as_ref().and_then(|u| Some((u.slice.clone(), u.old.clone()?)));
            let target = old.and_then(|(slice, old)| {
                state.targets.get(&(slice, old.revision)).filter(|t| t.instances > 1).cloned()
            });
            if let Some(target) = target {
                let instances = target.instances - 1;
                let target = TargetRecord { instances, ..(*target).clone() };
                let key = (target.slice.clone(), target.revision);
                state.targets.insert(key, target.into());
            }
        }
        (Planted::DropsDeadline, Command::SetWeights { update, .. }) => {
            rewrite(state, update, |update| update.deadline = None);
        }
        (Planted::KeepsWeightAfterRollback, Command::Finish { update }) => {
            let one_in_ten = Weights::new(1, 9).expect("1:9 is a ratio");
            rewrite(state, update, |update| {
                if update.state == UpdateState::RolledBack {
                    update.weights = one_in_ten;
                }
            });
        }
        (Planted::RouteWithoutTableRevision, Command::SetWeights { update, .. }) => {
            let slice = state.updates.get(update).map(|update| update.slice.clone());
            let routes = slice.and_then(|slice| {
                Some((before.routes.get(&slice)?.clone(), state.routes.get(&slice)?.clone()))
            });
            if let Some((was, route)) = routes {
                let (table_revision, route_revision) = (was.table_revision, was.route_revision);
                let route = RouteRecord { table_revision, route_revision, ..(*route).clone() };
                state.routes.insert(route.slice.clone(), route.into());
            }
        }
        (Planted::ForgetsWayBack, Command::MarkDeployed { update }) => {
            let update = state.updates.get(update).cloned();
            let old = update.as_ref().and_then(|u| Some((u, u.old.as_ref()?)));
            if let Some((update, old)) = old {
                let artifact = update.slice.base().at(old.version.clone());
                state.artifacts.remove(&artifact);
            }
        }
        (Planted::AssignsTooMany, Command::Assign { .. }) => one_more(before, state),
        (
            Planted::LossTouchesBystanders,
            Command::SetNodeLifecycle { lifecycle: NodeLifecycle::Lost, .. },
        ) => {
            let targets: Vec<_> = state.targets.values().cloned().collect();
            for target in targets {
                let modified = state.meta.index;
                let target = TargetRecord { modified, ..(*target).clone() };
                state.targets.insert((target.slice.clone(), target.revision), target.into());
            }
        }
        (Planted::NoAudit, Command::MarkDeployed { .. }) => {
            let last = state.audit.keys().next_back().copied();
            last.map(|last| state.audit.remove(&last));
        }
        _ => {}
    }
}

/// Another number of instances of a version is wanted, where some are.
fn want(state: &mut State, slice: &SliceName, no: RevisionNo, how: impl Fn(u32) -> u32) {
    let key = (slice.clone(), no);
    if let Some(target) = state.targets.get(&key).cloned() {
        let instances = how(target.instances);
        state.targets.insert(key, TargetRecord { instances, ..(*target).clone() }.into());
    }
}

/// A move in place goes one instance further.
fn moves_too_far(bug: Planted, before: &State, state: &mut State, id: &UpdateId) {
    let Some(update) = state.updates.get(id).cloned() else { return };
    let wanted = |state: &State, no| {
        state.targets.get(&(update.slice.clone(), no)).map_or(0, |target| target.instances)
    };
    let new = update.new.revision;
    if bug == Planted::SurgesTwice && wanted(state, new) > wanted(before, new) {
        want(state, &update.slice, new, |instances| instances + 1);
    }
    if let Some(old) = update.old.as_ref().map(|side| side.revision)
        && bug == Planted::IgnoresFloor
        && wanted(state, old) < wanted(before, old)
    {
        want(state, &update.slice, old, |instances| instances.saturating_sub(1));
    }
}

/// What an entry added to the evidence of an update is added once more.
fn counts_again(before: &State, state: &mut State, id: &UpdateId) {
    let (Some(was), Some(is)) = (before.evidence.get(id), state.evidence.get(id)) else { return };
    let (mut record, was) = ((**is).clone(), was.present());
    let Some((last, _)) = record.evidence.epochs().last_key_value() else { return };
    let (last, is) = (*last, record.present());
    let side = |is: Side, was: Side| Side {
        requests: is.requests - was.requests,
        errors: is.errors - was.errors,
        timed: is.timed - was.timed,
        slow: is.slow - was.slow,
    };
    let tallies = Tallies { new: side(is.new, was.new), old: side(is.old, was.old) };
    record.evidence.fold(last, tallies);
    state.evidence.insert(id.clone(), record.into());
}

/// What was told to drain is told to stop instead.
fn stop_drained(before: &State, state: &mut State) {
    let ran = |i: &InstanceRecord| {
        before.instances.get(&i.id).is_some_and(|was| was.desired == Desired::Run)
    };
    let drained = state.instances.values().filter(|i| i.desired == Desired::Drain && ran(i));
    let drained: Vec<Arc<InstanceRecord>> = drained.cloned().collect();
    for record in drained {
        let record = InstanceRecord { desired: Desired::Stop, ..(*record).clone() };
        state.instances.insert(record.id.clone(), record.into());
    }
}

/// What leaves its node because that is drained is not counted; here what is
/// about to leave is.
fn one_more(before: &State, state: &mut State) {
    let drained = |i: &InstanceRecord| {
        before.instances.get(&i.id).is_some_and(|was| was.desired == Desired::Drain)
            && i.desired == Desired::Drain
            && i.is_revivable()
    };
    let first = state.instances.values().find(|i| drained(i)).cloned();
    if let Some(record) = first {
        let record = InstanceRecord { desired: Desired::Run, ..(*record).clone() };
        state.instances.insert(record.id.clone(), record.into());
    }
}
