//! What sessions have counted and the log does not have yet: sums by session, and by
//! instance as far as it can be told.
//!
//! Sessions tell sums without an end. The record of an update has for each the sums that
//! it has taken in, its mark. A leader remembers of which instances the sums were that it
//! proposed; once they are the mark, what is beyond them is known by instance too.

use std::collections::BTreeMap;

use crate::ids::{InstanceId, SessionId};
use crate::level::since;
use crate::records::{Counts, EvidenceRecord, INSTANCES_TOLD_MAX, Sums};
use crate::state::State;

/// What a session's sums of the new version are made of.
type ByInstance = BTreeMap<InstanceId, Counts>;

/// What is to be committed next of one update.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Of sessions that have others than the record.
    pub sums: BTreeMap<SessionId, Sums>,
    /// What is new in them by instance of the new version.
    pub instances: ByInstance,
}

/// What a leader proposed last of one update, by session. Volatile: of what another
/// leader committed it knows no instances.
#[derive(Debug, Default)]
pub struct Proposed(BTreeMap<SessionId, (Sums, ByInstance)>);

impl Proposed {
    /// What is new in what committed sessions `told`, each with a way to ask for its
    /// instances, which is done where there is something new only.
    pub fn news<F: FnOnce() -> ByInstance>(
        &mut self,
        state: &State,
        known: &EvidenceRecord,
        told: impl IntoIterator<Item = (SessionId, Sums, F)>,
    ) -> News {
        self.0.retain(|id, _| state.sessions.contains_key(id));
        let mut news = News::default();
        for (id, sums, instances) in told {
            if !known.is_news(&id, &sums) {
                continue;
            }
            let instances = instances();
            let mark = known.marks.get(&id).map(|mark| mark.sums);
            if let Some((_, before)) = self.0.get(&id).filter(|(sums, _)| mark == Some(*sums)) {
                for (instance, counts) in added(&instances, before) {
                    news.instances.entry(instance).or_default().fold(counts);
                }
            }
            news.sums.insert(id.clone(), sums);
            self.0.insert(id, (sums, instances));
        }
        // Who shares the log may not know of it yet.
        let is_known = state.meta.feature_level >= since::EVIDENCE_BY_INSTANCE;
        let most = if is_known { INSTANCES_TOLD_MAX } else { 0 };
        news.instances = std::mem::take(&mut news.instances).into_iter().take(most).collect();
        news
    }
}

/// What each instance served since `before`; nothing where one of them has less of
/// anything than it had.
fn added(now: &ByInstance, before: &ByInstance) -> ByInstance {
    let added = now.iter().map(|(id, now)| {
        let before = before.get(id).copied().unwrap_or_default();
        Some((id.clone(), now.since(before)?))
    });
    let mut added = added.collect::<Option<ByInstance>>().unwrap_or_default();
    added.retain(|_, counts| *counts != Counts::default());
    added
}
