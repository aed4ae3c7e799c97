//! What the coordinator asks of an update once its conditions hold. Each
//! condition that the state itself can show is checked again here.

use super::{Tx, back_as_far_as};
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::SliceName;
use crate::ids::{NodeName, UpdateId};
use crate::records::{
    CleanupPolicy, Deadline, DeadlineAction, Pause, Reason, UpdateRecord, UpdateState,
};
use crate::transition;
use crate::weights::Weights;
use crate::words::{are, counted};

fn stale<T>(update: &UpdateRecord) -> Result<T, Refusal> {
    Err(Refusal::Stale { what: format!("update {} in state {}", update.id, update.state) })
}

impl Tx<'_> {
    pub(super) fn pause(
        &mut self,
        id: &UpdateId,
        reason: &Reason,
        if_modified: Option<u64>,
    ) -> Outcome {
        let mut update = self.update(id)?;
        let moved_on = if_modified.is_some_and(|expected| expected != update.modified);
        if moved_on || update.state.is_terminal() || update.pause.is_some() {
            return stale(&update);
        }
        update.pause = Some(Pause { reason: reason.clone(), since_ms: self.now_ms() });
        Self::pause_deadline(&mut update, self.now_ms());
        self.put_update(update, format!("paused: {}: {}", reason.code, reason.message));
        Ok(Answer::default())
    }

    /// What would pause an update has nothing left to do once it is paused,
    /// whether its time came or not; a pause has a deadline of its own.
    pub(super) fn pause_deadline(update: &mut UpdateRecord, now_ms: u64) {
        let is_spent = |d: &Deadline| d.at_ms <= now_ms || d.action == DeadlineAction::Pause;
        if update.deadline.as_ref().is_some_and(is_spent) {
            update.deadline = Some(transition::deadline_of_pause(now_ms));
        }
    }

    pub(super) fn begin_deploy(&mut self, id: &UpdateId, placements: &[NodeName]) -> Outcome {
        let update = self.update(id)?;
        let wanted = update.first_instances();
        if update.state != UpdateState::Pending || placements.len() != wanted as usize {
            return stale(&update);
        }
        if wanted > 0 {
            self.put_target(&update.slice, update.new.revision, wanted);
        }
        let instances = self.make_instances(&update.slice, update.new.revision, placements)?;
        if update.old.is_some() {
            self.route_update(&update);
        }
        let event = format!("deploying {}", counted(instances.len(), "instance"));
        self.transition(update, UpdateState::Deploying, event);
        Ok(Answer { instances, ..Answer::default() })
    }

    pub(super) fn mark_deployed(&mut self, id: &UpdateId) -> Outcome {
        let update = self.update(id)?;
        let ready = self.state.ready_count(&update.slice, update.new.revision);
        if update.state != UpdateState::Deploying || ready < update.deploy_goal() {
            return stale(&update);
        }
        if update.old.is_none() {
            self.route_update(&update);
        }
        let event = format!("{} {} ready", counted(ready, "instance"), are(ready));
        self.transition(update, UpdateState::Deployed, event);
        Ok(Answer::default())
    }

    pub(super) fn shift_back(&mut self, id: &UpdateId, weights: Weights) -> Outcome {
        let mut update = self.update(id)?;
        let Some(old) = &update.old else { return stale(&update) };
        let lowered = weights.is_raised_by(update.weights);
        // Old instances may have died since.
        let ready = self.state.ready_count(&update.slice, old.revision);
        let carried = !weights.is_raised_by(back_as_far_as(ready, update.base_instances));
        if update.state != UpdateState::RollingBack || !lowered || !carried {
            return stale(&update);
        }
        let event = format!("routing {} -> {weights}", update.weights);
        self.reweigh(&mut update, weights);
        self.put_update(update, event);
        Ok(Answer::default())
    }

    pub(super) fn remove_losing_side(
        &mut self,
        id: &UpdateId,
        if_modified: Option<u64>,
    ) -> Outcome {
        let update = self.update(id)?;
        if if_modified.is_some_and(|decided_on| decided_on != update.modified) {
            return stale(&update);
        }
        // The new side may have died since `complete` was accepted.
        let completing = update.state == UpdateState::Completing;
        if completing && !update.forced && !self.state.is_new_side_whole(&update) {
            return stale(&update);
        }
        let side = match (update.state, &update.old) {
            (UpdateState::Completing, Some(old)) if update.weights == Weights::ALL_NEW => {
                old.clone()
            }
            (UpdateState::RollingBack, _) if update.weights == Weights::ALL_OLD => {
                update.new.clone()
            }
            _ => return stale(&update),
        };
        self.drain_revision(&update.slice, side.revision);
        self.put_update(update, format!("removing the instances of {}", side.version));
        Ok(Answer::default())
    }

    pub(super) fn finish(&mut self, id: &UpdateId) -> Outcome {
        let update = self.update(id)?;
        match update.state {
            UpdateState::Completing => self.finish_completing(update),
            UpdateState::RollingBack => self.finish_rolling_back(update),
            _ => stale(&update),
        }
    }

    fn instances_left(&self, update: &UpdateRecord, side: &crate::records::Side) -> bool {
        self.state.has_instances_left(&update.slice, side.revision, update.forced)
    }

    fn finish_completing(&mut self, mut update: UpdateRecord) -> Outcome {
        let mut slice = self.slice(&update.slice)?;
        let mut event = format!("{} is the current version", update.new.version);
        if let Some(old) = update.old.clone() {
            let is_whole = update.forced || self.state.is_new_side_whole(&update);
            let removes = update.options.cleanup == CleanupPolicy::Immediate;
            if (!is_whole && self.state.has_way_back(&update))
                || (removes && self.instances_left(&update, &old))
            {
                return stale(&update);
            }
            if removes {
                // Its instances may have ended by themselves.
                self.drain_revision(&update.slice, old.revision);
            } else {
                self.retain_old_side(&update, &old);
                event += &format!("; {} is kept warm", old.version);
            }
        }
        slice.current = Some(update.new.revision);
        slice.instances = update.instances;
        self.put_slice(slice);
        // A person may have promoted past the steps at which it would have grown.
        let key = (update.slice.clone(), update.new.revision);
        if self.state.targets.get(&key).is_some_and(|t| t.instances != update.instances) {
            self.put_target(&update.slice, update.new.revision, update.instances);
        }
        self.replace_late(&update);
        self.end_reloads(&update.slice);
        self.route_to(&update.slice, update.new.clone());
        update.outcome = None;
        self.transition(update, UpdateState::Completed, event);
        Ok(Answer::default())
    }

    fn finish_rolling_back(&mut self, update: UpdateRecord) -> Outcome {
        let new_side_left = self.instances_left(&update, &update.new);
        if new_side_left || update.weights != Weights::ALL_OLD {
            return stale(&update);
        }
        // Its instances may have ended by themselves.
        self.drain_revision(&update.slice, update.new.revision);
        let (slice, event) = match &update.old {
            Some(old) => {
                self.end_reloads(&update.slice);
                self.route_to(&update.slice, old.clone());
                (update.slice.clone(), format!("{} serves alone", old.version))
            }
            None => (update.slice.clone(), "nothing is deployed, as before".to_owned()),
        };
        let end = if update.ends_failed { UpdateState::Failed } else { UpdateState::RolledBack };
        self.transition(update, end, event);
        self.forget_slice_if_empty(&slice);
        Ok(Answer::default())
    }

    pub(super) fn fail(&mut self, id: &UpdateId, reason: &Reason) -> Outcome {
        let mut update = self.update(id)?;
        match update.state {
            UpdateState::Pending => {
                update.outcome = Some(reason.clone());
                let slice = update.slice.clone();
                self.transition(update, UpdateState::Failed, reason.message.clone());
                self.forget_slice_if_empty(&slice);
                Ok(Answer::default())
            }
            state if transition::is_allowed(state, UpdateState::RollingBack) => {
                // What was deployed has to go first; ROLLING_BACK does that.
                update.ends_failed = true;
                self.state.updates.insert(id.clone(), update.into());
                self.rollback(id, false, Some(reason), false, None)
            }
            _ => stale(&update),
        }
    }

    pub(super) fn rearm(&mut self, id: &UpdateId) -> Outcome {
        let mut update = self.update(id)?;
        let due = |d: &&mut Deadline| {
            d.action == DeadlineAction::Alert && d.at_ms <= self.state.meta.log_time_ms
        };
        let Some(deadline) = update.deadline.as_mut().filter(due) else {
            return stale(&update);
        };
        deadline.at_ms = self.state.meta.log_time_ms.saturating_add(deadline.span_ms);
        let state = update.state;
        let minutes = deadline.span_ms / 60_000;
        self.put_update(update, format!("still {state}; next reminder in {minutes} min"));
        Ok(Answer::default())
    }

    pub(super) fn retire(&mut self, slice: &SliceName) -> Outcome {
        let Some(record) = self.state.retained.remove(slice) else {
            return Err(Refusal::NothingRetained { slice: slice.clone() });
        };
        self.drain_revision(slice, record.side.revision);
        self.audit(
            Subject::slice(slice),
            format!("retained version {} is removed", record.side.version),
        );
        Ok(Answer::default())
    }
}
