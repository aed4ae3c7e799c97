//! What a completed update left warm: back to it, or away with it.

use super::Tx;
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::UpdateId;
use crate::records::{
    CleanupPolicy, RetainedRecord, Side, UpdateOptions, UpdateRecord, UpdateState,
};
use crate::transition;
use crate::weights::Weights;

impl Tx<'_> {
    /// The set that an update left, while it is kept.
    fn retained_by(
        &self,
        id: &UpdateId,
        if_modified: Option<u64>,
    ) -> Result<RetainedRecord, Refusal> {
        if if_modified.is_some() {
            Self::check_unmodified(&self.update(id)?, if_modified)?;
        }
        let record = self.state.retained.values().find(|record| record.update == *id);
        if let Some(record) = record {
            return Ok((**record).clone());
        }
        self.update(id)?;
        Err(Refusal::NothingToUndo { update: id.clone() })
    }

    pub(super) fn undo(
        &mut self,
        id: &UpdateId,
        weights: Weights,
        force: bool,
        cleanup: Option<CleanupPolicy>,
        grace_ms: Option<u64>,
        if_modified: Option<u64>,
    ) -> Outcome {
        let kept = self.retained_by(id, if_modified)?;
        if let Some(left) = self.state.updates.get(id).filter(|update| update.is_one_way()) {
            return Err(Refusal::OneWay { update: id.clone(), step: left.step() });
        }
        let slice = kept.slice.clone();
        self.check_no_update(&slice)?;
        let mut record = self.slice(&slice)?;
        let current = record.current.and_then(|no| self.state.revisions.get(&(slice.clone(), no)));
        let old = current.map(|r| Side { revision: r.no, version: r.version.clone() });
        // What is left is judged by the same thresholds. The way back waits for
        // nobody's approval.
        let before = self.state.updates.get(id).map(|update| update.options.clone());
        let options = UpdateOptions {
            cleanup: cleanup.unwrap_or_default(),
            grace_ms: grace_ms.unwrap_or(UpdateOptions::default().grace_ms),
            manual_approval: false,
            ..before.unwrap_or_default()
        };
        super::updates::check_options(&options)?;
        let new_id = UpdateId::from_index(self.index());
        let base_instances = record.instances;
        record.live_update = Some(new_id.clone());
        self.put_slice(record);
        self.state.retained.remove(&slice);
        let now_ms = self.now_ms();
        let left = old.as_ref().map_or_else(String::new, |side| format!(" from {}", side.version));
        let event = format!("undoes {id}: {slice}{left} to {}, kept warm", kept.side.version);
        let update = UpdateRecord {
            old,
            state: UpdateState::Deployed,
            deadline: transition::deadline(UpdateState::Deployed, &options, now_ms),
            ..self.new_update(
                new_id.clone(),
                slice,
                kept.side,
                kept.instances,
                base_instances,
                options,
            )
        };
        self.route_update(&update);
        if weights != Weights::ALL_OLD && !force {
            self.check_capacity(&update, weights)?;
        }
        self.put_update(update, event);
        if weights != Weights::ALL_OLD {
            let update = self.update(&new_id)?;
            self.commit_weights(update, weights, "");
        }
        Ok(Answer { update: Some(new_id), named: Some(id.clone()), ..Answer::default() })
    }

    pub(super) fn cleanup(&mut self, id: &UpdateId, if_modified: Option<u64>) -> Outcome {
        let kept = self.retained_by(id, if_modified)?;
        self.retire(&kept.slice)?;
        let note = format!("version {} of {} is being removed", kept.side.version, kept.slice);
        Ok(Answer { update: Some(id.clone()), note: Some(note), ..Answer::default() })
    }
}
