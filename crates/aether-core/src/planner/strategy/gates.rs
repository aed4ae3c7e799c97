//! Gates: who outside is to be asked now, and what follows from what they said.
//!
//! Which gates stand before the next step is in the strategy, what they answered
//! is in the record; so a new leader goes on where the old one stopped. Asking is
//! the driver's: it makes the measurements that a plan lists, and proposes what
//! they showed. Nothing here holds a rollback.

use super::{Plan, View, Wait};
use crate::command::Command;
use crate::coordinates::{SliceName, Version};
use crate::duration::Millis;
use crate::ids::UpdateId;
use crate::planner::GATE;
use crate::records::{
    DeadlineAction, Gate, GateState, GateVerdict, GateWhen, Hold, Reason, UpdateRecord,
    UpdateState, Way,
};
use crate::weights::Weights;

/// One question that is to be asked now. As long as it has no answer, every plan
/// lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// The update.
    pub update: UpdateId,
    /// Its slice.
    pub slice: SliceName,
    /// The gate.
    pub gate: Gate,
    /// Number of the step that it is asked for, from 1.
    pub step: u32,
    /// How many steps there are.
    pub last_step: u32,
    /// Weights of that step.
    pub weights_of_step: Option<Weights>,
    /// Weights that hold now.
    pub weights: Weights,
    /// State of the update.
    pub state: UpdateState,
    /// The version that it moves from; none in a first deployment.
    pub from: Option<Version>,
    /// The version that it moves to.
    pub to: Version,
    /// Since when the update is where it is, log time.
    pub since_ms: u64,
    /// Which measurement of this gate for this step it is, from 1.
    pub number: u32,
}

impl Measurement {
    /// The same for every repetition of this measurement, by whichever leader, and
    /// for no other one.
    pub fn key(&self) -> String {
        let Self { update, step, since_ms, number, .. } = self;
        let Gate { name, when, .. } = &self.gate;
        format!("{update}.{when}-{step}.{name}.{since_ms}.{number}")
    }

    /// Whether a key is of a measurement for the same update.
    pub fn is_of_update(&self, key: &str) -> bool {
        key.strip_prefix(self.update.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The command that tells what it showed.
    pub fn answered(&self, verdict: GateVerdict, message: String) -> Command {
        Command::RecordGate {
            update: self.update.clone(),
            gate: self.gate.name.clone(),
            when: self.gate.when,
            step: self.step,
            since_ms: self.since_ms,
            number: self.number,
            verdict,
            message,
        }
    }
}

/// What a gate between this step and the next leads to, if it said no, or nothing
/// for too long.
pub(super) fn objection(
    update: &UpdateRecord,
    way: &Way<'_>,
    on_failure: DeadlineAction,
) -> Option<(DeadlineAction, Reason)> {
    let progress = update.progress.as_ref()?;
    way.gates_beyond(update.step()).find_map(|(gate, step)| {
        let state = progress.gate(gate, step).filter(|state| !state.is_open())?;
        let said = said(gate, step, way, Some(state));
        if state.failed > gate.failures_max {
            return Some((on_failure, Reason::new(Reason::GATE_FAILED, said)));
        }
        // Nobody said that the version is bad: not one to be taken back by itself.
        let is_over = state.inconclusive > gate.inconclusive_max;
        is_over.then(|| (DeadlineAction::Pause, Reason::new(Reason::GATE_INCONCLUSIVE, said)))
    })
}

/// Whether a gate keeps the update where it is. Those that are due are to be
/// measured; says what is waited for.
pub(in crate::planner) fn hold(
    view: &View<'_>,
    update: &UpdateRecord,
    way: &Way<'_>,
    plan: &mut Plan,
) -> bool {
    let mut is_held = false;
    let Some(progress) = &update.progress else { return false };
    for (gate, step) in way.gates_beyond(update.step()) {
        let state = progress.gate(gate, step);
        if state.is_some_and(GateState::is_open) {
            continue;
        }
        is_held = true;
        let due_ms = state.map_or(0, |state| state.at_ms.saturating_add(gate.interval_ms));
        if view.now_ms >= due_ms {
            plan.measurements.push(measurement(update, way, gate, step, state));
        } else {
            plan.wake_at(due_ms);
        }
        wait(update, way, gate, step, state, plan);
    }
    is_held
}

fn measurement(
    update: &UpdateRecord,
    way: &Way<'_>,
    gate: &Gate,
    step: u32,
    state: Option<&GateState>,
) -> Measurement {
    Measurement {
        update: update.id.clone(),
        slice: update.slice.clone(),
        gate: gate.clone(),
        step,
        last_step: way.last(),
        weights_of_step: way.weights(step),
        weights: update.weights,
        state: update.state,
        from: update.old.as_ref().map(|side| side.version.clone()),
        to: update.new.version.clone(),
        since_ms: update.progress.as_ref().map_or(0, |progress| progress.since_ms),
        number: state.map_or(0, |state| state.measured).saturating_add(1),
    }
}

/// What is known of a gate, in a sentence.
fn said(gate: &Gate, step: u32, way: &Way<'_>, state: Option<&GateState>) -> String {
    let Gate { name, when, source, .. } = gate;
    let which = format!("gate '{name}' ({}) {when} step {step} of {}", source.as_str(), way.last());
    let Some(state) = state else { return format!("{which}: not answered yet") };
    let GateState { failed, inconclusive, last, message, .. } = state;
    let counts = match last {
        GateVerdict::Pass => String::new(),
        GateVerdict::Fail => format!(", {failed} of {} tolerated", gate.failures_max),
        GateVerdict::Inconclusive => {
            format!(", {inconclusive} of {} tolerated", gate.inconclusive_max)
        }
    };
    format!("{which}: {last}{counts}: {message}")
}

fn wait(
    update: &UpdateRecord,
    way: &Way<'_>,
    gate: &Gate,
    step: u32,
    state: Option<&GateState>,
    plan: &mut Plan,
) {
    let id = &update.id;
    let again = format!("; asked every {}", Millis(gate.interval_ms));
    let again = if state.is_some() { again } else { String::new() };
    // Past the last step there is no step to force: what is left is to complete.
    let is_last = gate.when == GateWhen::After && step == way.last();
    let how = if is_last { "--full" } else { "--force" };
    plan.wait(
        &update.slice,
        Wait {
            code: GATE,
            message: format!("{}{again}", said(gate, step, way, state)),
            since_ms: since_ms(update, way),
            unblock: format!("it passes, or 'aether update promote {id} {how}' without it"),
        },
    );
}

/// Since when gates are asked, as far as it is known: the end of a hold that has one, or
/// the promotion that ended it.
fn since_ms(update: &UpdateRecord, way: &Way<'_>) -> u64 {
    if update.is_promoted() {
        return update.modified_ms();
    }
    if update.state == UpdateState::Deploying {
        return update.state_since_ms;
    }
    let since_ms = update.progress.as_ref().map_or(update.state_since_ms, |p| p.since_ms);
    match way.hold(update.step()) {
        Hold::For { ms } | Hold::Wait { ms } => since_ms.saturating_add(ms),
        Hold::Evidence { .. } | Hold::Promotion {} => since_ms,
    }
}

/// What gates an update waits for right now, if it does for any.
pub(in crate::planner) fn waited_for(view: &View<'_>, update: &UpdateRecord) -> Option<String> {
    waited_for_by(view, update, GATE)
}

/// What an update waits for right now under a code, if it does.
pub(super) fn waited_for_by(view: &View<'_>, update: &UpdateRecord, code: &str) -> Option<String> {
    let mut plan = Plan::default();
    let way = update.way()?;
    match update.state {
        UpdateState::Deploying if way.in_place.is_some() => {
            hold(view, update, &way, &mut plan);
        }
        UpdateState::Deployed | UpdateState::Routing => super::serving(view, update, &mut plan),
        _ => return None,
    }
    let waits = plan.waits.remove(&update.slice)?;
    waits.into_iter().find(|wait| wait.code == code).map(|wait| wait.message)
}

/// In place the first batch begins before anything is deployed, and so do its
/// gates: what they led to, or whether they hold.
pub(in crate::planner) fn before_first_batch(
    view: &View<'_>,
    update: &UpdateRecord,
    way: &Way<'_>,
    plan: &mut Plan,
) -> bool {
    if let Some((action, reason)) = objection(update, way, way.analysis.on_failure) {
        plan.commands.push(crate::planner::progress::act(update, action, reason));
        return true;
    }
    hold(view, update, way, plan)
}
