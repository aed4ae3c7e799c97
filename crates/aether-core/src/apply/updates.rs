//! What people ask of an update.

use super::{Tx, back_as_far_as, instances_needed};
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::{SliceName, Version};
use crate::ids::{ConfigNo, UpdateId};
use crate::level::since;
use crate::records::{
    CleanupPolicy, DeadlineAction, OptionChanges, Progress, Reason, Remake, RevisionRecord, Side,
    Strategy, UpdateOptions, UpdateRecord, UpdateState,
};
use crate::transition;
use crate::weights::Weights;
use crate::words::{are, counted};

/// Most requests that a verdict may be made to wait for: no version gets more in
/// a window.
const REQUESTS_MIN_MAX: u64 = 1_000_000_000;
/// Longest time any wait of an update may be set to: 30 days.
pub(super) const SPAN_MS_MAX: u64 = 30 * 24 * 3_600_000;

pub(super) fn check_options(options: &UpdateOptions) -> Result<(), Refusal> {
    let bad = |what: &str, given: String, expected: &str| {
        Err(Refusal::BadOption { what: what.to_owned(), given, expected: expected.to_owned() })
    };
    let thresholds = &options.thresholds;
    if thresholds.error_rate_ppm > 1_000_000 {
        return bad("error rate", format!("{} ppm", thresholds.error_rate_ppm), "0 to 1");
    }
    if thresholds.p99_ms == 0 {
        return bad("latency", "0 ms".to_owned(), "at least 1 ms");
    }
    if !(1..=REQUESTS_MIN_MAX).contains(&thresholds.requests_min) {
        let given = format!("{} requests", thresholds.requests_min);
        return bad("min requests", given, "1 to 1000000000");
    }
    for (what, span) in [
        ("grace time", options.grace_ms),
        ("deploy timeout", options.deploy_timeout_ms),
        ("healthy time", options.healthy_ms),
    ] {
        if span > SPAN_MS_MAX {
            return bad(what, format!("{span} ms"), "at most 30 days");
        }
    }
    if options.deploy_timeout_ms == 0 {
        return bad("deploy timeout", "0 ms".to_owned(), "above zero");
    }
    if options.deploy_timeout_ms <= options.healthy_ms {
        let expected = format!("above the healthy time of {} ms", options.healthy_ms);
        return bad("deploy timeout", format!("{} ms", options.deploy_timeout_ms), &expected);
    }
    if options.on_deploy_failure == DeadlineAction::Alert {
        return bad("action on deploy failure", "ALERT".to_owned(), "ROLLBACK, PAUSE or FAIL");
    }
    Ok(())
}

/// What helps where a side has too few instances for its weight; empty where it
/// is what helps most updates.
fn way_out(update: &UpdateRecord, weights: Weights, weight: u32, needed: u32) -> String {
    let slice = &update.slice;
    if !update.is_undo() {
        return String::new();
    }
    if needed <= update.instances {
        return format!("wait for them ('aether slices {slice}' shows them), or use --force");
    }
    // An undo begins with what was kept, which nothing makes more of; but it is
    // enough for a smaller slice.
    let carried = u64::from(update.instances) * u64::from(weights.total()) / u64::from(weight);
    let rollback = format!("'aether update rollback {}', ", update.id);
    let rollback = if update.history.is_empty() { "" } else { &rollback };
    format!(
        "{} {} kept: {rollback}'aether scale {slice} -n {carried}' first, or use --force",
        counted(update.instances, "instance"),
        are(update.instances)
    )
}

/// What the start of an update asks for.
pub(super) struct Start<'a> {
    pub slice: &'a SliceName,
    pub version: &'a Version,
    pub instances: Option<u32>,
    pub options: &'a UpdateOptions,
    pub strategy: &'a Strategy,
    pub supersede: bool,
    pub remake: Remake,
}

/// What a new revision has beside its version, and how it differs in that from the
/// current one, for people.
struct Beside {
    config: Option<ConfigNo>,
    restarts: u32,
    said: String,
}

impl Tx<'_> {
    /// What the next revision of a slice has beside its version.
    ///
    /// # Errors
    /// There is no such configuration, or the revision would be the current one.
    fn beside(
        &self,
        start: &Start<'_>,
        digest: &str,
        current: Option<&RevisionRecord>,
    ) -> Result<Beside, Refusal> {
        let Start { slice, version, remake, .. } = start;
        let config = self.state.next_config(slice, current, remake.config)?;
        let named = |config: Option<ConfigNo>| {
            config.map_or_else(|| "no configuration".to_owned(), |no| format!("configuration {no}"))
        };
        let Some(current) = current else {
            let said = config.map(|_| format!(", {}", named(config))).unwrap_or_default();
            return Ok(Beside { config, restarts: 0, said });
        };
        let mut said = String::new();
        if config != current.config {
            said = format!(", {} -> {}", named(current.config), named(config));
        }
        if current.version != **version || current.digest != digest {
            return Ok(Beside { config, restarts: 0, said });
        }
        if !remake.restart && self.is_same_config(slice, current.config, config) {
            let (slice, version) = ((*slice).clone(), (*version).clone());
            return Err(Refusal::SameRevision { slice, version });
        }
        let restarts = current.restarts.saturating_add(remake.restart.into());
        if remake.restart {
            said += ", restart";
        }
        Ok(Beside { config, restarts, said })
    }

    pub(super) fn start_update(&mut self, start: Start<'_>) -> Outcome {
        let Start { slice, version, instances, options, strategy, supersede, .. } = start;
        check_options(options)?;
        super::strategy::check_strategy(strategy)?;
        // What makes no sense in any state is said before what this state lacks.
        instances.map_or(Ok(()), |instances| self.check_instances(instances))?;
        let superseded = if supersede { self.supersede(slice)? } else { None };
        let mut record = self.slice_or_new(slice);
        self.check_no_update(slice)?;
        let known = self.known_artifact(slice, version)?;
        let current = record.current.and_then(|no| self.state.revisions.get(&(slice.clone(), no)));
        let beside = self.beside(&start, &known.digest, current.map(|current| &**current))?;
        if strategy.is_reload() {
            let current = current.map(|current| &**current);
            self.check_reload(slice, version, current, beside.config, start.remake)?;
        }
        let old = current.map(|r| Side { revision: r.no, version: r.version.clone() });
        let wanted = instances.unwrap_or(record.instances.max(1));
        self.check_instances(wanted)?;
        let deployed = old.as_ref().map(|_| record.instances);
        // First, so that the room of a retained set counts.
        let kept = self.state.retained.get(slice).map(|kept| kept.side.version.clone());
        if kept.is_some() {
            self.retire(slice)?;
        }
        let retired = kept.map(|kept| format!("version {kept}, which was kept warm, is removed"));
        let extra = super::in_place::check_start(strategy, options, wanted, deployed)?;
        self.check_room(extra, &known.manifest)?;
        let new = self.make_revision(&mut record, version, beside.config, beside.restarts)?;
        let id = UpdateId::from_index(self.index());
        let base_instances = if old.is_some() { record.instances } else { wanted };
        record.live_update = Some(id.clone());
        self.put_slice(record);
        let from =
            old.as_ref().map_or_else(|| "nothing".to_owned(), |side| side.version.to_string());
        let mut update = UpdateRecord {
            old,
            strategy: strategy.clone(),
            ..self.new_update(
                id.clone(),
                slice.clone(),
                new,
                wanted,
                base_instances,
                options.clone(),
            )
        };
        if let Some(way) = update.strategy.way(base_instances, false) {
            super::gates::check_gate_steps(&way)?;
            update.progress = Some(Progress::default());
        }
        let by = match strategy.is_reload() {
            _ if strategy.is_manual() => String::new(),
            true => format!(", {strategy} by reload"),
            false => format!(", {strategy}"),
        };
        let instances = counted(wanted, "instance");
        self.put_update(
            update,
            format!("started: {slice} from {from} to {version}{}, {instances}{by}", beside.said),
        );
        let rules = self.rules_of_others(slice, &known.manifest.ingress);
        let notes: Vec<String> = superseded.into_iter().chain(retired).chain(rules).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        Ok(Answer { update: Some(id), note, ..Answer::default() })
    }

    /// A fresh record in PENDING, without an old side. The caller writes it.
    pub(super) fn new_update(
        &self,
        id: UpdateId,
        slice: SliceName,
        new: Side,
        instances: u32,
        base_instances: u32,
        options: UpdateOptions,
    ) -> UpdateRecord {
        let now_ms = self.now_ms();
        UpdateRecord {
            id,
            slice,
            old: None,
            new,
            state: UpdateState::Pending,
            weights: Weights::ALL_OLD,
            pending_weights: None,
            pending_forced: false,
            pending_actor: None,
            instances,
            base_instances,
            deadline: transition::deadline(UpdateState::Pending, &options, now_ms),
            options,
            pause: None,
            forced: false,
            ends_failed: false,
            health_from_ms: now_ms,
            outcome: None,
            actor: self.actor.to_owned(),
            modified: self.index(),
            created_ms: now_ms,
            created_wall_ms: self.state.meta.wall_ms,
            state_since_ms: now_ms,
            state_index: self.index(),
            history: Vec::new(),
            history_left_out: 0,
            strategy: Strategy::Manual {},
            progress: None,
        }
    }

    pub(super) fn set_options(
        &mut self,
        id: &UpdateId,
        changes: &OptionChanges,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        if update.state.is_terminal() {
            return Err(Self::wrong_state(&update, "a change of options", "live states"));
        }
        Self::check_unmodified(&update, if_modified)?;
        if update.state == UpdateState::Completing && changes.cleanup.is_some() {
            // The old set may be on its way out already.
            let action = "a change of the cleanup policy";
            return Err(Self::wrong_state(&update, action, "states before COMPLETING"));
        }
        let said = changes.make(&mut update.options);
        let answer = |note: String| {
            Ok(Answer { update: Some(id.clone()), note: Some(note), ..Answer::default() })
        };
        if said.is_empty() {
            return answer("nothing changes: the update has these options already".to_owned());
        }
        check_options(&update.options)?;
        let (strategy, wanted) = (&update.strategy, update.base_instances);
        super::in_place::check_options_in_place(strategy, &update.options, wanted)?;
        if update.state == UpdateState::Deploying && update.pause.is_none() {
            update.deadline = transition::deadline_of(&update, update.state_since_ms);
        }
        self.count_anew(&update);
        let event = format!("set {}", said.join(", "));
        let paused = update.pause.is_some();
        let resume = format!("; it is still paused: 'aether update resume {id}' to go on");
        let pending = update.pending().filter(|_| !update.options.manual_approval);
        let approve = pending.map(|pending| {
            format!("; routing {pending}, still waits for 'aether update approve {id}'")
        });
        self.put_update(update, event.clone());
        answer(event + if paused { &resume } else { "" } + &approve.unwrap_or_default())
    }

    pub(super) fn check_unmodified(
        update: &UpdateRecord,
        if_modified: Option<u64>,
    ) -> Result<(), Refusal> {
        match if_modified {
            Some(expected) if expected != update.modified => Err(Refusal::Modified {
                update: update.id.clone(),
                expected,
                actual: update.modified,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn wrong_state(update: &UpdateRecord, action: &str, allowed: &str) -> Refusal {
        Refusal::WrongState {
            update: update.id.clone(),
            state: update.state,
            action: action.to_owned(),
            allowed: allowed.to_owned(),
        }
    }

    /// A pause lets only a smaller share of the new side through, and nothing
    /// that takes the way back away.
    pub(super) fn check_not_paused(update: &UpdateRecord, goes_on: bool) -> Result<(), Refusal> {
        match &update.pause {
            Some(pause) if goes_on => Err(Refusal::Paused {
                update: update.id.clone(),
                code_of_pause: pause.reason.code.clone(),
                message: pause.reason.message.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The capacity guard: each side with weight needs `w * B <= ready * T`.
    pub(super) fn check_capacity(
        &self,
        update: &UpdateRecord,
        weights: Weights,
    ) -> Result<(), Refusal> {
        let sides = [
            ("new", weights.new_side(), Some(&update.new)),
            ("old", weights.old_side(), update.old.as_ref()),
        ];
        for (name, weight, side) in sides {
            let Some(side) = side else {
                if weight == 0 {
                    continue;
                }
                return Err(Refusal::BadOption {
                    what: "the ratio".to_owned(),
                    given: weights.to_string(),
                    expected: "1:0, as there is no old version".to_owned(),
                });
            };
            let needed = instances_needed(weight, weights, update.base_instances);
            let ready = self.state.ready_count(&update.slice, side.revision);
            if needed > ready {
                return Err(Refusal::CapacityGuard {
                    weights,
                    side: name.to_owned(),
                    version: side.version.clone(),
                    needed,
                    ready,
                    way_out: way_out(update, weights, weight, needed),
                });
            }
        }
        Ok(())
    }

    pub(super) fn set_weights(
        &mut self,
        id: &UpdateId,
        weights: Weights,
        force: bool,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        if !matches!(update.state, UpdateState::Deployed | UpdateState::Routing) {
            return Err(Self::wrong_state(&update, "a routing change", "DEPLOYED and ROUTING"));
        }
        Self::check_unmodified(&update, if_modified)?;
        if update.progress.is_some() {
            return self.set_weights_by_hand(update, weights, force);
        }
        let answer = |note: Option<String>| {
            Ok(Answer { update: Some(id.clone()), note, ..Answer::default() })
        };
        if weights == update.weights {
            let Some(pending) = update.pending_weights else {
                return answer(Some(format!("the ratio already is {weights}")));
            };
            update.forget_pending();
            let event =
                format!("routing {pending} no longer waits for approval; it stays {weights}");
            self.put_update(update, event.clone());
            return answer(Some(event));
        }
        if !force {
            Self::check_not_paused(&update, update.weights.is_raised_by(weights))?;
            self.check_capacity(&update, weights)?;
        }
        if update.options.manual_approval {
            update.pending_weights = Some(weights);
            update.pending_forced = force;
            update.pending_actor = Some(self.actor.to_owned());
            self.put_update(update, format!("routing {weights} waits for approval"));
            return answer(Some(format!(
                "routing {weights} waits for 'aether update approve {id}'"
            )));
        }
        self.commit_weights(update, weights, "");
        answer(None)
    }

    /// Commits weights. What the history says of it begins with why.
    pub(super) fn commit_weights(&mut self, mut update: UpdateRecord, weights: Weights, why: &str) {
        let event = format!("{why}routing {} -> {weights}", update.weights);
        self.reweigh(&mut update, weights);
        if update.state == UpdateState::Deployed {
            self.transition(update, UpdateState::Routing, event);
        } else {
            update.forget_pending();
            self.put_update(update, event);
        }
    }

    /// Sets weights and routes by them; figures start anew. The caller writes
    /// the update.
    pub(super) fn reweigh(&mut self, update: &mut UpdateRecord, weights: Weights) {
        update.weights = weights;
        update.health_from_ms = self.now_ms();
        self.route_update(update);
        self.begin_epoch(update);
    }

    /// Writes the route that an update's sides and weights ask for.
    pub(super) fn route_update(&mut self, update: &UpdateRecord) {
        self.put_route(crate::records::RouteRecord {
            slice: update.slice.clone(),
            new: Some(update.new.clone()),
            old: update.old.clone(),
            weights: update.weights,
            route_revision: 0,
            table_revision: 0,
            ingress: Vec::new(),
            hold: None,
        });
    }

    pub(super) fn approve(
        &mut self,
        id: &UpdateId,
        seen: Option<Weights>,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        let (Some(weights), Some(pending)) = (update.pending_weights, update.pending()) else {
            return Err(Refusal::NothingToApprove { update: id.clone() });
        };
        if let Some(seen) = seen.filter(|seen| *seen != weights) {
            return Err(Refusal::OtherPending { update: id.clone(), seen, pending });
        }
        let step = update.progress.as_ref().and_then(|progress| progress.pending);
        if !update.pending_forced {
            Self::check_not_paused(&update, update.weights.is_raised_by(weights))?;
        }
        // In place, instances that are not there can take no calls, whoever asks.
        let needs_batch = self.state.meta.feature_level >= since::APPROVAL_OF_BATCH
            && update.way().is_some_and(|way| way.in_place.is_some());
        if !update.pending_forced || needs_batch {
            match step {
                Some(step) => self.check_step(&update, step, weights)?,
                None => self.check_capacity(&update, weights)?,
            }
        }
        let why = format!("approved {pending}: ");
        match step {
            Some(step) if update.has_barrier_at(step) && !update.pending_forced => {
                return self.approve_switch(update, step, &pending);
            }
            Some(step) => {
                // It was promoted past its pause, which ends as it would have then.
                if update.pending_forced && update.pause.take().is_some() {
                    self.forget_evidence(id);
                }
                self.commit_step(update, step, weights, &why);
            }
            None => self.commit_weights(update, weights, &why),
        }
        Ok(Answer { update: Some(id.clone()), ..Answer::default() })
    }

    pub(super) fn complete(
        &mut self,
        id: &UpdateId,
        force: bool,
        if_modified: Option<u64>,
    ) -> Outcome {
        self.complete_past_gates(id, force, force, if_modified)
    }

    /// The same, past gates that are not passed though sessions are waited for.
    pub(super) fn complete_past_gates(
        &mut self,
        id: &UpdateId,
        force: bool,
        past_gates: bool,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        let answer = Answer { update: Some(id.clone()), ..Answer::default() };
        if update.state == UpdateState::Completing && force && !update.forced {
            update.forced = true;
            update.pause = None;
            self.put_update(update, "no longer waits for sessions that do not answer".to_owned());
            return Ok(answer);
        }
        if update.state != UpdateState::Routing {
            return Err(Self::wrong_state(&update, "'complete'", "ROUTING"));
        }
        if update.weights != Weights::ALL_NEW {
            return Err(Refusal::NotAllNew { update: id.clone(), weights: update.weights });
        }
        if !force {
            Self::check_not_paused(&update, true)?;
        }
        if !force && !self.state.is_new_side_whole(&update) {
            self.check_capacity(&update, Weights::ALL_NEW)?;
        }
        let mut event = "completing".to_owned();
        if let Some(way) = update.way() {
            let end = way.last().saturating_add(1);
            if !past_gates {
                super::gates::check_open(&update, &way, end)?;
            }
            event += &super::gates::past(&update, &way, end);
        }
        update.forced = force;
        self.transition(update, UpdateState::Completing, event);
        Ok(answer)
    }

    pub(super) fn rollback(
        &mut self,
        id: &UpdateId,
        now: bool,
        reason: Option<&Reason>,
        force: bool,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        let mut answer = Answer { update: Some(id.clone()), ..Answer::default() };
        if update.state == UpdateState::RollingBack {
            return self.hurry_rollback(update, now, force);
        }
        if !transition::is_allowed(update.state, UpdateState::RollingBack) {
            let allowed = "PENDING, DEPLOYING, DEPLOYED, ROUTING and COMPLETING";
            return Err(Self::wrong_state(&update, "a rollback", allowed));
        }
        if update.is_one_way() {
            return Err(Refusal::OneWay { update: id.clone(), step: update.step() });
        }
        update.forced = force;
        update.outcome = Some(reason.cloned().unwrap_or_else(|| {
            Reason::new(Reason::OPERATOR, format!("{} asked for it", self.actor))
        }));
        self.take_back(&mut update, now);
        let text = update.outcome.as_ref().map_or("", |reason| reason.message.as_str());
        let event = format!("rolling back, routing {}: {text}", update.weights);
        answer.note = (update.weights != Weights::ALL_OLD)
            .then(|| format!("routing is {} until restored instances are ready", update.weights));
        self.transition(update, UpdateState::RollingBack, event);
        Ok(answer)
    }

    /// A rollback is never rolled back, but it can be told not to wait: for the
    /// old side's capacity (`now`), or for sessions that do not answer (`force`).
    fn hurry_rollback(&mut self, mut update: UpdateRecord, now: bool, force: bool) -> Outcome {
        let answer = Answer { update: Some(update.id.clone()), ..Answer::default() };
        let mut said = Vec::new();
        if now && update.weights != Weights::ALL_OLD && update.old.is_some() {
            self.reweigh(&mut update, Weights::ALL_OLD);
            said.push("routes 0:1 whatever the old version's capacity");
        }
        if force && !update.forced {
            update.forced = true;
            update.pause = None;
            said.push("no longer waits for sessions that do not answer");
        }
        if said.is_empty() {
            let allowed = "PENDING, DEPLOYING, DEPLOYED, ROUTING and COMPLETING";
            return Err(Self::wrong_state(&update, "a rollback", allowed));
        }
        self.put_update(update, said.join("; "));
        Ok(answer)
    }

    /// Routes to the old side all that its ready capacity carries, and asks
    /// for the rest of that capacity.
    pub(super) fn take_back(&mut self, update: &mut UpdateRecord, now: bool) {
        let Some(old) = update.old.clone() else {
            // First deployment: there is nothing to go back to.
            update.weights = Weights::ALL_OLD;
            self.remove_route(&update.slice);
            return;
        };
        self.revive_revision(&update.slice, old.revision);
        match update.strategy.is_in_place() {
            // There may be no room for all at once.
            true => self.keep_what_runs(update, old.revision),
            false => self.put_target(&update.slice, old.revision, update.base_instances),
        }
        let deployed = self.state.routes.get(&update.slice).is_some_and(|r| r.new.is_some());
        if !deployed || update.weights == Weights::ALL_OLD {
            update.weights = Weights::ALL_OLD;
            return;
        }
        let ready = self.state.ready_count(&update.slice, old.revision);
        let back =
            if now { Weights::ALL_OLD } else { back_as_far_as(ready, update.base_instances) };
        if !update.weights.is_raised_by(back) {
            self.reweigh(update, back);
        }
    }

    pub(super) fn resume(&mut self, id: &UpdateId, if_modified: Option<u64>) -> Outcome {
        let mut update = self.update(id)?;
        Self::check_unmodified(&update, if_modified)?;
        if update.pause.is_none() {
            return Err(Refusal::NotPaused { update: id.clone() });
        }
        self.end_pause(&mut update);
        // Whoever promoted past gates is not asked again because a session was slow.
        let keeps_forced = update.is_promoted() && update.strategy.has_barrier();
        if let Some(progress) = &mut update.progress {
            progress.since_ms = self.now_ms();
            // What is approved next has passed them.
            if update.pending_weights.is_none() {
                progress.gates.retain(|gate| keeps_forced && gate.forced_by.is_some());
            }
        }
        update.deadline = transition::deadline_of(&update, self.now_ms());
        self.put_update(update, "resumed".to_owned());
        Ok(Answer { update: Some(id.clone()), ..Answer::default() })
    }

    /// A person goes on: what was shown up to now is what it paused over.
    pub(super) fn end_pause(&mut self, update: &mut UpdateRecord) {
        if update.pause.take().is_none() {
            return;
        }
        update.health_from_ms = self.now_ms();
        if update.progress.is_some() {
            self.forget_evidence(&update.id);
            self.begin_epoch(update);
        }
    }

    pub(super) fn retain_old_side(&mut self, update: &UpdateRecord, old: &Side) {
        let expires_at_ms = match update.options.cleanup {
            CleanupPolicy::GracePeriod => {
                Some(self.now_ms().saturating_add(update.options.grace_ms))
            }
            CleanupPolicy::Manual | CleanupPolicy::Immediate => None,
        };
        let record = crate::records::RetainedRecord {
            slice: update.slice.clone(),
            side: old.clone(),
            instances: update.base_instances,
            expires_at_ms,
            update: update.id.clone(),
        };
        self.state.retained.insert(update.slice.clone(), record.into());
    }
}
