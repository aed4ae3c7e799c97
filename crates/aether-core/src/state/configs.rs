//! Configurations of slices in the state, and what they weigh together.

use std::sync::Arc;

use super::{ConfigKey, State};
use crate::coordinates::SliceName;
use crate::ids::ConfigNo;
use crate::records::{ConfigRevisionRecord, RevisionRecord};

impl State {
    /// Configurations of a slice, ordered by number.
    pub fn configs_of<'a>(
        &'a self,
        slice: &SliceName,
    ) -> impl Iterator<Item = &'a Arc<ConfigRevisionRecord>> + 'a + use<'a> {
        let all = (slice.clone(), ConfigNo(0))..=(slice.clone(), ConfigNo(u32::MAX));
        self.config_revisions.range(all).map(|(_, record)| record)
    }

    /// What is laid over the artifact of a revision, if anything.
    pub fn config_of(&self, revision: &RevisionRecord) -> Option<&Arc<ConfigRevisionRecord>> {
        self.config_revisions.get(&(revision.slice.clone(), revision.config?))
    }

    /// What all configurations count towards their bound.
    pub fn config_revision_bytes(&self) -> u64 {
        self.derived.config_revision_bytes
    }

    /// Inserts a configuration, and keeps their sum true.
    pub(crate) fn put_config_revision(&mut self, record: impl Into<Arc<ConfigRevisionRecord>>) {
        let record = record.into();
        self.derived.config_revision_bytes += record.content.weight();
        let key = (record.slice.clone(), record.no);
        if let Some(replaced) = self.config_revisions.insert(key, record) {
            self.derived.config_revision_bytes -= replaced.content.weight();
        }
    }

    /// Removes a configuration, and keeps their sum true.
    pub(crate) fn remove_config_revision(&mut self, key: &ConfigKey) {
        if let Some(removed) = self.config_revisions.remove(key) {
            self.derived.config_revision_bytes -= removed.content.weight();
        }
    }
}
