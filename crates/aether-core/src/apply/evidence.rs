//! What the calls of updates showed, taken in as sums of sessions.

use std::collections::BTreeMap;

use super::Tx;
use super::strategy::stale;
use crate::command::{Answer, Outcome};
use crate::ids::{InstanceId, SessionId, UpdateId};
use crate::records::{Counts, EvidenceRecord, Measure, Sums, UpdateRecord, UpdateState};

impl Tx<'_> {
    /// Begins an epoch, for the weights that an update has now.
    pub(super) fn begin_epoch(&mut self, update: &UpdateRecord) {
        if update.progress.is_none() {
            return;
        }
        let known = self.state.evidence.get(&update.id);
        let mut record = known.map_or_else(
            || {
                let p99_ms = update.options.thresholds.p99_ms;
                EvidenceRecord::new(update.id.clone(), Measure { p99_ms, reference: None })
            },
            |known| (**known).clone(),
        );
        record.begin(self.index(), update.weights, self.now_ms());
        self.state.evidence.insert(update.id.clone(), record.into());
    }

    /// A person goes on in spite of what was shown: from here on it is shown anew.
    pub(super) fn forget_evidence(&mut self, id: &UpdateId) {
        if let Some(record) = self.state.evidence.get(id) {
            let mut record = (**record).clone();
            record.forget();
            self.state.evidence.insert(id.clone(), record.into());
        }
    }

    /// After a change of options: where another latency is too long, sums mean
    /// something else.
    pub(super) fn count_anew(&mut self, update: &UpdateRecord) {
        let p99_ms = update.options.thresholds.p99_ms;
        let Some(known) = self.state.evidence.get(&update.id) else { return };
        if known.measure.p99_ms != p99_ms {
            let mut record = (**known).clone();
            record.measure_anew(Measure { p99_ms, ..record.measure });
            record.begin(self.index(), update.weights, self.now_ms());
            self.state.evidence.insert(update.id.clone(), record.into());
        }
    }

    /// An update has ended: what was counted stays, and nobody's sums are needed
    /// any more.
    pub(super) fn close_evidence(&mut self, id: &UpdateId) {
        if let Some(record) = self.state.evidence.get(id) {
            let mut record = (**record).clone();
            record.marks.clear();
            self.state.evidence.insert(id.clone(), record.into());
        }
    }

    pub(super) fn record_evidence(
        &mut self,
        id: &UpdateId,
        measure: Measure,
        sums: &BTreeMap<SessionId, Sums>,
        instances: &BTreeMap<InstanceId, Counts>,
    ) -> Outcome {
        let update = self.update(id)?;
        let way = update.way();
        let known = self.state.evidence.get(id).cloned();
        let (Some(known), Some(way), UpdateState::Routing) = (known, way, update.state) else {
            return Err(stale(&update));
        };
        let mut record = (*known).clone();
        if record.measure != measure {
            let is_first = record.measure.reference.is_none();
            if !is_first || record.measure.p99_ms != measure.p99_ms {
                return Err(stale(&update));
            }
            record.refer(measure);
        }
        let (index, sessions) = (self.index(), &self.state.sessions);
        // A life from beyond this entry is none.
        let is_known =
            |id: &SessionId, sums: &Sums| sums.life <= index && sessions.contains_key(id);
        let all_known = sums.iter().all(|(id, sums)| is_known(id, sums));
        let known = sums.iter().filter(|(id, sums)| is_known(id, sums));
        let revision = update.new.revision;
        let counted = record.take(known, way.analysis.warm_up_ms, self.now_ms());
        if let Some(counted) = counted.filter(|_| all_known) {
            let is_new = |id: &InstanceId| {
                let instance = self.state.instances.get(id);
                instance.is_some_and(|i| i.slice == update.slice && i.revision == revision)
                    || record.instances.contains_key(id)
            };
            let known = instances.iter().filter(|(id, _)| is_new(id));
            let known = known.map(|(id, counts)| (id.clone(), *counts)).collect();
            record.take_instances(known, counted);
        }
        record.marks.retain(|session, _| self.state.sessions.contains_key(session));
        self.state.evidence.insert(id.clone(), record.into());
        Ok(Answer::default())
    }
}
