//! What moves an update on along the way of its strategy: its steps, and a
//! person's word.

use super::Tx;
use super::gates::{self, check_gates};
use super::updates::SPAN_MS_MAX;
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::SliceName;
use crate::ids::UpdateId;
use crate::level::since;
use crate::records::{
    Analysis, DeadlineAction, Hold, Pause, Reason, STEPS_MAX, Step, Strategy, UpdateRecord,
    UpdateState, Way,
};
use crate::transition;
use crate::weights::Weights;
use crate::words::counted;

/// Longest reason of a person for a pause, in bytes.
const WHY_BYTES_MAX: usize = 500;

/// Whether a strategy makes sense.
///
/// # Errors
/// [`Refusal::BadOption`] names what does not.
pub(super) fn check_strategy(strategy: &Strategy) -> Result<(), Refusal> {
    match strategy {
        Strategy::Manual {} => Ok(()),
        Strategy::Canary(canary) => {
            check_analysis(&canary.analysis)?;
            check_steps(&canary.steps)?;
            let last = canary.steps.len();
            let from = canary.one_way_from.map_or(1, |from| from as usize);
            if from < 1 || from > last {
                return bad("the one-way step", from.to_string(), &format!("1 to {last}"));
            }
            Ok(())
        }
        Strategy::BlueGreen(switch) => {
            check_analysis(&switch.analysis)?;
            check_span("verification", switch.verify_ms)?;
            check_span("hold", switch.hold_ms)
        }
        Strategy::Rolling(rolling) => super::in_place::check_rolling(rolling),
        Strategy::Recreate(recreate) => check_analysis(&recreate.analysis),
    }
}

pub(super) fn bad(what: &str, given: String, expected: &str) -> Result<(), Refusal> {
    let (what, expected) = (what.to_owned(), expected.to_owned());
    Err(Refusal::BadOption { what, given, expected })
}

pub(super) fn check_span(what: &str, ms: u64) -> Result<(), Refusal> {
    if ms <= SPAN_MS_MAX { Ok(()) } else { bad(what, format!("{ms} ms"), "at most 30 days") }
}

pub(super) fn check_analysis(analysis: &Analysis) -> Result<(), Refusal> {
    if !matches!(analysis.on_failure, DeadlineAction::Pause | DeadlineAction::Rollback) {
        let given = analysis.on_failure.to_string();
        return bad("action on a failed step", given, "PAUSE or ROLLBACK");
    }
    if analysis.patience_ms == 0 {
        return bad("patience", "0 ms".to_owned(), "above zero");
    }
    check_gates(&analysis.gates)?;
    check_span("patience", analysis.patience_ms)?;
    check_span("warm-up", analysis.warm_up_ms)
}

fn check_steps(steps: &[Step]) -> Result<(), Refusal> {
    let Some(last) = steps.last().filter(|_| steps.len() <= STEPS_MAX) else {
        return bad("the number of steps", steps.len().to_string(), &format!("1 to {STEPS_MAX}"));
    };
    if last.weights != Weights::ALL_NEW {
        return bad("the last step", last.weights.to_string(), "1:0, all to the new version");
    }
    for step in steps {
        match step.hold {
            Hold::For { ms } | Hold::Wait { ms } => check_span("the hold of a step", ms)?,
            Hold::Evidence { most_ms: 0 } => {
                return bad("the wait for evidence", "0 ms".to_owned(), "above zero");
            }
            Hold::Evidence { most_ms } => check_span("the wait for evidence", most_ms)?,
            Hold::Promotion {} => {}
        }
    }
    if steps[0].weights == Weights::ALL_OLD {
        return bad("the first step", "0:1".to_owned(), "a share of the calls");
    }
    for pair in steps.windows(2) {
        let (before, after) = (pair[0].weights, pair[1].weights);
        if after.is_raised_by(before) {
            let expected = format!("at least the {before} of the step before");
            return bad("the share of a step", after.to_string(), &expected);
        }
    }
    Ok(())
}

impl Tx<'_> {
    /// Ends the live update of a slice, so that another one can start from what
    /// serves beside it. Both are one entry: nobody sees a slice between them.
    /// What became of it, if there was one.
    pub(super) fn supersede(&mut self, slice: &SliceName) -> Result<Option<String>, Refusal> {
        let Some(live) = self.state.live_update(slice).cloned() else { return Ok(None) };
        let mut update = (*live).clone();
        let refuse = |problem: &str| Refusal::NotSuperseded {
            update: live.id.clone(),
            slice: slice.clone(),
            state: live.state,
            problem: problem.to_owned(),
        };
        if update.is_one_way() {
            return Err(Refusal::OneWay { update: live.id.clone(), step: update.step() });
        }
        if update.strategy.is_in_place() && !self.state.is_old_side_whole(&update) {
            return Err(refuse("some of the old version's instances are replaced already"));
        }
        if update.state != UpdateState::RollingBack {
            let by = self.actor.to_owned();
            update.outcome = Some(Reason::new("superseded", format!("{by} started another one")));
            self.take_back(&mut update, false);
            let event = format!("superseded, routing {}", update.weights);
            self.transition(update, UpdateState::RollingBack, event);
            update = self.update(&live.id)?;
        }
        if update.weights != Weights::ALL_OLD {
            return Err(refuse("the old version is not whole, and cannot carry every call yet"));
        }
        // What is left of the new side goes by the same fence as always; it needs
        // no update for that.
        self.drain_revision(slice, update.new.revision);
        match update.old.clone() {
            Some(old) => self.route_to(slice, old),
            None => self.remove_route(slice),
        }
        let note = format!("update {} to {} is rolled back", update.id, update.new.version);
        self.transition(update, UpdateState::RolledBack, "superseded".to_owned());
        Ok(Some(note))
    }

    /// A person's ratio on an update that goes by steps: what they do not undo by
    /// themselves at the next look.
    pub(super) fn set_weights_by_hand(
        &mut self,
        mut update: UpdateRecord,
        weights: Weights,
        force: bool,
    ) -> Outcome {
        // In place the ratio is that of the instances; and what waits for approval is
        // not to be had without.
        let raises = update.weights.is_raised_by(weights);
        let is_approved = !update.options.manual_approval || !raises;
        if !force || update.strategy.is_in_place() || !is_approved {
            let (update, strategy) = (update.id, update.strategy.to_string());
            return Err(Refusal::GoesBySteps { update, strategy });
        }
        if update.is_one_way() && weights.is_raised_by(update.weights) {
            return Err(Refusal::OneWay { update: update.id.clone(), step: update.step() });
        }
        let id = update.id.clone();
        // Resumed, it goes on with the first step beyond this ratio.
        let passed = update.way().map_or(0, |way| {
            way.steps.iter().take_while(|step| !weights.is_raised_by(step.weights)).count()
        });
        if let Some(progress) = &mut update.progress {
            progress.step = u32::try_from(passed).unwrap_or(u32::MAX);
            progress.since_ms = self.state.meta.log_time_ms;
            progress.gates.clear();
        }
        let message = format!("{} set the ratio {weights} by hand", self.actor);
        update.pause =
            Some(Pause { reason: Reason::new(Reason::OPERATOR, message), since_ms: self.now_ms() });
        Self::pause_deadline(&mut update, self.now_ms());
        let note = format!("paused: 'aether update resume {id}' goes on by its steps");
        self.commit_weights(update, weights, "by hand: ");
        Ok(Answer { update: Some(id), note: Some(note), ..Answer::default() })
    }

    pub(super) fn suspend(
        &mut self,
        id: &UpdateId,
        why: Option<&str>,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        if let Some(why) = why.filter(|why| why.len() > WHY_BYTES_MAX) {
            let expected = format!("at most {WHY_BYTES_MAX} bytes long");
            bad("the reason", format!("{} bytes", why.len()), &expected)?;
        }
        use UpdateState::{Deployed, Deploying, Routing};
        if !matches!(update.state, Deploying | Deployed | Routing) {
            let allowed = "DEPLOYING, DEPLOYED and ROUTING";
            return Err(Self::wrong_state(&update, "a pause", allowed));
        }
        if let Some(pause) = &update.pause {
            return Err(Refusal::PausedAlready {
                update: id.clone(),
                code_of_pause: pause.reason.code.clone(),
                message: pause.reason.message.clone(),
            });
        }
        let by = self.actor;
        let message = why.map_or(format!("{by} asked for it"), |why| format!("{by}: {why}"));
        let event = format!("paused: {message}");
        let reason = Reason::new(Reason::OPERATOR, message);
        update.pause = Some(Pause { reason, since_ms: self.now_ms() });
        // Nothing is to happen by itself while somebody looks.
        update.deadline = Some(transition::deadline_of_pause(self.now_ms()));
        self.put_update(update, event);
        Ok(Answer { update: Some(id.clone()), ..Answer::default() })
    }

    pub(super) fn promote(
        &mut self,
        id: &UpdateId,
        full: bool,
        force: bool,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        let Some(way) = update.way() else {
            return Err(Refusal::HasNoSteps { update: id.clone() });
        };
        if force
            && !full
            && let Some(passed) = self.pass_gates_in_place(&update)
        {
            return passed;
        }
        if !matches!(update.state, UpdateState::Deployed | UpdateState::Routing) {
            return Err(Self::wrong_state(&update, "'promote'", "DEPLOYED and ROUTING"));
        }
        let (last, at) = (way.last(), update.step());
        let step = if full { last } else { at + 1 };
        if at >= last {
            if !force && !full && self.may_end_ahead(&update, &way) {
                Self::check_not_paused(&update, true)?;
                return self.promote_ahead(update, last.saturating_add(1));
            }
            return self.complete_past_gates(id, force, force || full, None);
        }
        let weights = way.weights(step).expect("it is a step");
        if !force {
            Self::check_not_paused(&update, true)?;
        }
        let may_wait = self.state.meta.feature_level >= since::PROMOTION_AHEAD && !full;
        if !force && !full {
            match gates::check_open(&update, &way, step) {
                // They are asked once the hold is over.
                Err(_) if may_wait => return self.promote_ahead(update, step),
                is_open => is_open?,
            }
        }
        let past = gates::past(&update, &way, step);
        // In place, instances that are not there yet can take no calls, whoever asks.
        if !force || way.in_place.is_some() {
            let is_there = self.check_step(&update, step, weights);
            if is_there.is_err() && may_wait && way.in_place.is_some() {
                return self.promote_ahead(update, step);
            }
            is_there?;
        }
        let answer = Answer { update: Some(id.clone()), ..Answer::default() };
        let waits_for_sessions = update.has_barrier_at(step) && !force;
        if update.options.manual_approval && !(waits_for_sessions && update.is_approved()) {
            let note = format!("routing {weights} waits for 'aether update approve {id}'");
            self.ask_for_step(update, step, weights, force, &past);
            return Ok(Answer { note: Some(note), ..answer });
        }
        if waits_for_sessions {
            return self.promote_past_gates(update, step, &past);
        }
        if update.pause.take().is_some() {
            self.forget_evidence(id);
        }
        let how = if update.has_barrier_at(step) { ", without its barrier" } else { "" };
        let why = format!("promoted to step {step} of {last}{past}{how}: ");
        self.commit_step(update, step, weights, &why);
        Ok(answer)
    }

    /// Whether only gates keep an update at its last step from its end: they are asked once
    /// the hold is over, and that can be ended before.
    fn may_end_ahead(&self, update: &UpdateRecord, way: &Way<'_>) -> bool {
        self.state.meta.feature_level >= since::PROMOTION_TO_END
            && update.state == UpdateState::Routing
            && update.weights == Weights::ALL_NEW
            && gates::check_open(update, way, way.last().saturating_add(1)).is_err()
    }

    /// Ends the hold of a step before the next one can be entered: gates between them
    /// are asked then, and in place its instances begin then. Only that way is a step
    /// left that its calls will never decide about.
    pub(super) fn promote_ahead(&mut self, update: UpdateRecord, step: u32) -> Outcome {
        let last = update.way().map_or(0, |way| way.last());
        if update.is_promoted() && update.pause.is_none() {
            // Said once more it is no news, and no more time.
            let note = match step > last {
                true => format!("the end after step {last} is promoted already, and follows"),
                false => format!("step {step} of {last} is promoted already, and follows"),
            };
            let update = Some(update.id);
            return Ok(Answer { update, note: Some(note), ..Answer::default() });
        }
        self.follow_ahead(update, step, "promoted", false)
    }

    /// Writes down that a step follows by itself as soon as it can be entered, and why.
    pub(super) fn follow_ahead(
        &mut self,
        mut update: UpdateRecord,
        step: u32,
        why: &str,
        is_approved: bool,
    ) -> Outcome {
        let last = update.way().map_or(0, |way| way.last());
        update.forget_pending();
        self.end_pause(&mut update);
        if let Some(progress) = &mut update.progress {
            (progress.pending, progress.approved) = (Some(step), is_approved);
        }
        update.deadline = transition::deadline_of(&update, self.now_ms());
        let note = if step > last {
            format!(
                "the end follows once its instances are ready and the gates after step {last} pass"
            )
        } else {
            let needs = match update.has_barrier_at(step) {
                true => "its gates pass and every session holds its calls",
                false => "its instances are ready and its gates pass",
            };
            format!("step {step} of {last} follows once {needs}")
        };
        let answer = Answer {
            update: Some(update.id.clone()),
            note: Some(note.clone()),
            ..Answer::default()
        };
        self.put_update(update, format!("{why}: {note}"));
        Ok(answer)
    }

    pub(super) fn enter_step(
        &mut self,
        id: &UpdateId,
        step: u32,
        if_modified: u64,
        opened_max: Option<u64>,
    ) -> Outcome {
        let update = self.update(id)?;
        let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
        let waits = update.pause.is_some() || update.pending_weights.is_some();
        let way = update.way();
        let weights = way.as_ref().and_then(|way| way.weights(step));
        let is_next = update.step() + 1 == step && update.modified == if_modified;
        let (Some(way), Some(weights), true, true, false) = (way, weights, serves, is_next, waits)
        else {
            return Err(stale(&update));
        };
        if gates::check_open(&update, &way, step).is_err() {
            return Err(stale(&update));
        }
        self.check_step(&update, step, weights)?;
        let why = format!("step {step} of {}: ", way.last());
        // In place it is the batch that is approved: calls follow its instances.
        let changes = weights != update.weights || way.in_place.is_some();
        let has_barrier = update.has_barrier_at(step);
        if update.options.manual_approval && changes && !(has_barrier && update.is_approved()) {
            self.ask_for_step(update, step, weights, false, "");
        } else if has_barrier {
            return self.switch_held(update, step, weights, opened_max);
        } else {
            self.commit_step(update, step, weights, &why);
        }
        Ok(Answer::default())
    }

    /// Whether the instances for a step are there: by the capacity guard, or in
    /// place, where there is less of both versions meanwhile, those of the batch.
    pub(super) fn check_step(
        &self,
        update: &UpdateRecord,
        step: u32,
        weights: Weights,
    ) -> Result<(), Refusal> {
        match update.way().filter(|way| way.in_place.is_some()) {
            Some(way) => self.check_batch(update, way.goal(step, update.base_instances)),
            None => self.check_capacity(update, weights),
        }
    }

    /// Writes down that a step waits for approval, and which gates it went past.
    fn ask_for_step(
        &mut self,
        mut update: UpdateRecord,
        step: u32,
        weights: Weights,
        force: bool,
        past: &str,
    ) {
        update.pending_weights = Some(weights);
        update.pending_forced = force;
        update.pending_actor = Some(self.actor.to_owned());
        if let Some(progress) = &mut update.progress {
            progress.pending = Some(step);
        }
        update.deadline = transition::deadline_of(&update, self.now_ms());
        self.put_update(
            update,
            format!("step {step}{past}, routing {weights}, waits for approval"),
        );
    }

    /// Enters a step. What the history says of it begins with why.
    pub(super) fn commit_step(
        &mut self,
        update: UpdateRecord,
        step: u32,
        weights: Weights,
        why: &str,
    ) {
        self.commit_step_held(update, step, weights, why, None);
    }

    /// The same where sessions held their calls for it by this route revision.
    pub(super) fn commit_step_held(
        &mut self,
        mut update: UpdateRecord,
        step: u32,
        weights: Weights,
        why: &str,
        held_revision: Option<u64>,
    ) {
        let now_ms = self.now_ms();
        update.forget_pending();
        if let Some(progress) = &mut update.progress {
            progress.step = step;
            progress.since_ms = now_ms;
            progress.gates.clear();
            (progress.held_revision, progress.late_calls) = (held_revision, None);
            progress.mixed_ms = progress.mixed_ms.filter(|_| held_revision.is_none());
        }
        update.deadline = transition::deadline_of(&update, now_ms);
        if update.pause.is_some() {
            Self::pause_deadline(&mut update, now_ms);
        }
        self.admit_reloaded(&update);
        self.commit_weights(update, weights, why);
    }

    pub(super) fn scale_new(&mut self, id: &UpdateId, instances: u32, if_modified: u64) -> Outcome {
        let update = self.update(id)?;
        let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
        let key = (update.slice.clone(), update.new.revision);
        let now = self.state.targets.get(&key).map_or(0, |target| target.instances);
        let grows = (now + 1..=update.instances).contains(&instances);
        if !serves || !grows || update.modified != if_modified {
            return Err(stale(&update));
        }
        self.put_target(&update.slice, update.new.revision, instances);
        let version = &update.new.version;
        let event =
            format!("{version} grows to {} for the next step", counted(instances, "instance"));
        self.put_update(update, event);
        Ok(Answer::default())
    }

    pub(super) fn mark_switched(
        &mut self,
        id: &UpdateId,
        mixed_ms: u64,
        late_calls: u64,
        if_modified: u64,
    ) -> Outcome {
        let mut update = self.update(id)?;
        let switched = update.state == UpdateState::Routing && update.weights == Weights::ALL_NEW;
        let Some(progress) = update.progress.as_mut().filter(|p| switched && p.mixed_ms.is_none())
        else {
            return Err(stale(&update));
        };
        let was_held = progress.held_revision.is_some();
        if update.modified != if_modified || (late_calls > 0 && !was_held) {
            return Err(stale(&update));
        }
        progress.mixed_ms = Some(mixed_ms);
        progress.late_calls = was_held.then_some(late_calls);
        let mixed = format!("for {mixed_ms} ms both versions served");
        let how = match (was_held, late_calls) {
            (false, _) => mixed,
            (true, 0) => "no call began at the old version after the first at the new".to_owned(),
            (true, late) => {
                let late = counted(late, "call");
                format!(
                    "{late} could not be held long enough and began at the old version; {mixed}"
                )
            }
        };
        let event = format!("every session has switched; {how}");
        self.put_update(update, event);
        Ok(Answer::default())
    }
}

pub(super) fn stale(update: &UpdateRecord) -> Refusal {
    Refusal::Stale { what: format!("update {} in state {}", update.id, update.state) }
}
