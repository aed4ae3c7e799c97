//! Instances are assigned, drained, stopped, and reported on.

use std::collections::BTreeMap;

use super::{INSTANCES_MAX, Tx};
use crate::audit::Subject;
use crate::command::{Answer, Observation, Outcome, Refusal};
use crate::coordinates::SliceName;
use crate::ids::{InstanceId, NodeName, RevisionNo};
use crate::level::since;
use crate::records::{Desired, InstanceRecord, Observed, Reason, TargetRecord};

/// Instances that one history entry names of those that had to be killed: as
/// many as are read; the rest is counted.
const UNCLEAN_NAMED_MAX: usize = 3;

/// Instances that are written down one by one when they are stopped in spite of
/// something. The planner names one at a time; a command with more comes from
/// elsewhere, and must not wash everything else out of the audit.
const WAIVED_AUDITED_MAX: usize = 100;

impl Tx<'_> {
    /// Makes one instance per placement; every node must be known.
    pub(super) fn make_instances(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        placements: &[NodeName],
    ) -> Result<Vec<InstanceId>, Refusal> {
        let mut made = Vec::with_capacity(placements.len());
        for (k, node) in placements.iter().enumerate() {
            if !self.state.nodes.contains_key(node) {
                return Err(Refusal::UnknownNode { node: node.clone() });
            }
            let id = InstanceId::from_index(slice.base().artifact(), self.index(), k);
            self.put_instance(InstanceRecord {
                id: id.clone(),
                slice: slice.clone(),
                revision,
                node: node.clone(),
                desired: Desired::Run,
                fence: self.fence(),
                desired_since_ms: self.now_ms(),
                left_table: 0,
                observed: Observed::Assigned,
                observed_since_ms: self.now_ms(),
                endpoint: None,
                restarts: 0,
                reason: None,
                reload: None,
            });
            made.push(id);
        }
        Ok(made)
    }

    pub(super) fn assign(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        placements: &[NodeName],
        target_modified: u64,
    ) -> Outcome {
        let target = self.state.targets.get(&(slice.clone(), revision));
        let Some(target) = target.filter(|target| target.modified == target_modified) else {
            return Err(Refusal::Stale { what: format!("target of {slice} {revision}") });
        };
        let running = self
            .state
            .instances_of(slice)
            .filter(|i| i.revision == revision && i.desired == Desired::Run)
            // What is to leave makes way for what is assigned now.
            .filter(|i| !self.state.is_to_leave(i))
            .count();
        // A decision made twice must not start anything twice.
        if running + placements.len() > target.instances as usize {
            return Err(Refusal::Stale {
                what: format!("number of instances of {slice} {revision}"),
            });
        }
        let instances = self.make_instances(slice, revision, placements)?;
        Ok(Answer { instances, ..Answer::default() })
    }

    /// Some instances of a target have no place, or all have one again. What was
    /// decided on the target stands: nobody wants another number of them.
    pub(super) fn mark_unplaced(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        why: Option<&str>,
    ) -> Outcome {
        let key = (slice.clone(), revision);
        let target = self.state.targets.get(&key);
        let Some(target) = target.filter(|t| t.unplaced_since_ms.is_some() != why.is_some()) else {
            return Err(Refusal::Stale { what: format!("whether {slice} {revision} has a place") });
        };
        let unplaced_since_ms = why.map(|_| self.now_ms());
        let record = TargetRecord { unplaced_since_ms, ..(**target).clone() };
        self.state.targets.insert(key, record.into());
        let event = match why {
            Some(why) => format!("ALERT: {why}"),
            None => format!("all instances of {revision} have a place again"),
        };
        self.audit(Subject::slice(slice), event);
        Ok(Answer::default())
    }

    pub(super) fn decide(&mut self, id: &InstanceId, desired: Desired) {
        if let Some(record) = self.state.instances.get(id).cloned() {
            self.put_instance(InstanceRecord {
                desired,
                fence: self.fence(),
                desired_since_ms: self.now_ms(),
                ..(*record).clone()
            });
        }
    }

    /// Takes all running instances of a revision out of the table, and wants
    /// no more of them.
    pub(super) fn drain_revision(&mut self, slice: &SliceName, revision: RevisionNo) {
        let left: Vec<(InstanceId, Desired)> = self
            .state
            .instances_of(slice)
            .filter(|i| i.revision == revision)
            .map(|i| (i.id.clone(), i.desired))
            .collect();
        if left.is_empty() {
            // The target goes with the last instance, and that is gone already.
            self.state.targets.remove(&(slice.clone(), revision));
            return;
        }
        self.put_target(slice, revision, 0);
        for (id, _) in left.iter().filter(|(_, desired)| *desired == Desired::Run) {
            self.decide(id, Desired::Drain);
        }
    }

    /// Gives instances that drain and were not signalled yet back to the table. Not those
    /// that go because they have not reloaded.
    pub(super) fn revive_revision(&mut self, slice: &SliceName, revision: RevisionNo) {
        let any = self.state.meta.feature_level < since::RELOADED_ONLY;
        let draining: Vec<InstanceId> = self
            .state
            .instances_of(slice)
            .filter(|i| i.revision == revision && i.is_revivable())
            .filter(|i| any || i.has_reloaded())
            .map(|i| i.id.clone())
            .collect();
        for id in draining {
            self.decide(&id, Desired::Run);
        }
    }

    pub(super) fn drain(&mut self, instances: &[InstanceId], target_modified: u64) -> Outcome {
        for id in instances {
            let Some(record) = self.state.instances.get(id) else {
                continue;
            };
            let target = self.state.targets.get(&(record.slice.clone(), record.revision));
            if target.is_some_and(|target| target.modified != target_modified) {
                return Err(Refusal::Stale { what: format!("target of instance {id}") });
            }
            if record.desired == Desired::Run {
                self.decide(id, Desired::Drain);
            }
        }
        Ok(Answer::default())
    }

    pub(super) fn stop(&mut self, instances: &[InstanceId], waived: Option<&str>) -> Outcome {
        for id in instances {
            let Some(record) = self.state.instances.get(id) else { continue };
            match record.desired {
                // Revived meanwhile, or about to be: it must not be stopped.
                Desired::Run => return Err(Refusal::Stale { what: format!("instance {id}") }),
                Desired::Drain if self.state.is_kept_for_rollback(record) => {
                    return Err(Refusal::Stale { what: format!("capacity beside instance {id}") });
                }
                Desired::Drain => self.decide(id, Desired::Stop),
                Desired::Stop => {}
            }
        }
        for id in instances.iter().filter(|_| waived.is_some()).take(WAIVED_AUDITED_MAX) {
            let why = waived.unwrap_or_default();
            self.audit(Subject::instance(id), format!("stopped although {why}"));
        }
        Ok(Answer::default())
    }

    pub(super) fn observe(&mut self, node: &NodeName, observations: &[Observation]) -> Outcome {
        if observations.len() > INSTANCES_MAX as usize {
            return Err(Refusal::TooMany {
                what: "observations in one report".to_owned(),
                most: INSTANCES_MAX.into(),
            });
        }
        let mut unclean: BTreeMap<SliceName, Vec<String>> = BTreeMap::new();
        for seen in observations {
            let Some(record) = self.state.instances.get(&seen.instance).cloned() else {
                continue;
            };
            if record.node != *node {
                continue;
            }
            if seen.observed == Observed::Stopped && record.desired == Desired::Stop {
                if let Some(killed) = seen.reason.as_ref().filter(|r| r.code == Reason::KILLED) {
                    let ends = unclean.entry(record.slice.clone()).or_default();
                    ends.push(format!("{} on {node}: {}", seen.instance, killed.message));
                }
                self.forget_instance(&record);
                continue;
            }
            // One that has reloaded has to show anew that it is healthy.
            let (reload, reloaded_ms) = self.reloaded(&record, seen);
            let observed_since_ms = match reloaded_ms {
                None if record.observed == seen.observed => record.observed_since_ms,
                _ => self.now_ms(),
            };
            self.put_instance(InstanceRecord {
                observed: seen.observed,
                observed_since_ms,
                endpoint: seen.endpoint,
                restarts: seen.restarts,
                reason: seen.reason.clone(),
                reload,
                ..(*record).clone()
            });
        }
        unclean.into_iter().for_each(|(slice, ends)| self.note_unclean(&slice, &ends));
        Ok(Answer::default())
    }

    /// Instances had to be ended by force: nobody would know once they are gone.
    fn note_unclean(&mut self, slice: &SliceName, ends: &[String]) {
        let mut event = ends[..ends.len().min(UNCLEAN_NAMED_MAX)].join("; ");
        if ends.len() > UNCLEAN_NAMED_MAX {
            event += &format!("; and {} more", ends.len() - UNCLEAN_NAMED_MAX);
        }
        let live = self.state.slices.get(slice).and_then(|record| record.live_update.as_ref());
        match live.and_then(|id| self.state.updates.get(id)).cloned() {
            Some(update) => self.put_update((*update).clone(), event),
            None => self.audit(Subject::slice(slice), event),
        }
    }

    /// The last trace of an instance goes, and with the last instance of an
    /// unwanted revision its target, and with the last of a slice the slice.
    pub(super) fn forget_instance(&mut self, record: &InstanceRecord) {
        self.remove_instance(record);
        let key = (record.slice.clone(), record.revision);
        let more = self.state.instances_of(&record.slice).any(|i| i.revision == record.revision);
        if !more && self.state.targets.get(&key).is_some_and(|target| target.instances == 0) {
            self.state.targets.remove(&key);
        }
        self.forget_slice_if_empty(&record.slice);
    }

    /// Removes a slice that has nothing deployed, nothing kept and no update.
    pub(super) fn forget_slice_if_empty(&mut self, slice: &SliceName) {
        let Ok(record) = self.slice(slice) else { return };
        let in_use = record.current.is_some()
            || record.live_update.is_some()
            // Pushed to be deployed with; `undeploy` withdraws it.
            || !record.last_config.is_none()
            || self.state.retained.contains_key(slice)
            || self.state.instances_of(slice).next().is_some();
        if !in_use {
            let forgotten = &mut self.state.meta.revisions_forgotten;
            *forgotten = record.last_revision.max(*forgotten);
            self.state.slices.remove(slice);
            self.state.remove_revisions(slice);
            self.forget_configs(slice, 0);
        }
    }
}
