//! Configurations of slice names are pushed, picked for a revision, and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Tx;
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::SliceName;
use crate::ids::{ConfigNo, RevisionNo};
use crate::records::{
    CONFIGURATIONS_BYTES_MAX, CONFIGURATIONS_KEPT, ConfigPick, ConfigRevisionRecord, Configuration,
    RevisionRecord, SliceRecord,
};
use crate::state::State;

impl State {
    /// The configuration of a slice that was pushed last.
    pub fn latest_config(&self, slice: &SliceName) -> Option<&Arc<ConfigRevisionRecord>> {
        let last = self.slices.get(slice)?.last_config;
        self.config_revisions.get(&(slice.clone(), last))
    }

    /// The configuration that an update would move to.
    ///
    /// # Errors
    /// There is none such.
    pub fn picked_config(&self, slice: &SliceName, pick: ConfigPick) -> Result<ConfigNo, Refusal> {
        let known = match pick {
            ConfigPick::Latest {} => self.latest_config(slice),
            ConfigPick::Number { no } => self.config_revisions.get(&(slice.clone(), no)),
        };
        known.map(|known| known.no).ok_or_else(|| {
            let config = match pick {
                ConfigPick::Latest {} => None,
                ConfigPick::Number { no } => Some(no),
            };
            Refusal::UnknownConfig { slice: slice.clone(), config }
        })
    }

    /// The configuration of a slice's next revision: what was asked for, else that of
    /// the current one. The first has what was pushed before it.
    ///
    /// # Errors
    /// There is none such.
    pub fn next_config(
        &self,
        slice: &SliceName,
        current: Option<&RevisionRecord>,
        pick: Option<ConfigPick>,
    ) -> Result<Option<ConfigNo>, Refusal> {
        match (pick, current) {
            (Some(pick), _) => self.picked_config(slice, pick).map(Some),
            (None, Some(current)) => Ok(current.config),
            (None, None) => Ok(self.latest_config(slice).map(|latest| latest.no)),
        }
    }
}

impl Tx<'_> {
    /// Keeps a configuration under the next number. The same content as that of the
    /// latest makes no new one, so that a push can be repeated.
    pub(super) fn push_config(
        &mut self,
        slice: &SliceName,
        files: &BTreeMap<String, Arc<str>>,
        env: &BTreeMap<String, String>,
        if_latest: Option<ConfigNo>,
    ) -> Outcome {
        let content = Configuration { files: files.clone(), env: env.clone() };
        content.check().map_err(|problem| Refusal::BadConfig { slice: slice.clone(), problem })?;
        self.check_known_slice(slice)?;
        let latest = self.state.latest_config(slice).cloned();
        let actual = latest.as_ref().map_or(ConfigNo(0), |latest| latest.no);
        if let Some(expected) = if_latest.filter(|expected| *expected != actual) {
            return Err(Refusal::ConfigPushed { slice: slice.clone(), expected, actual });
        }
        if let Some(latest) = latest.filter(|latest| *latest.content == content) {
            let note = format!("{} of {slice} says the same already", latest.no);
            return Ok(Answer { note: Some(note), config: Some(latest.no), ..Answer::default() });
        }
        self.check_configs_fit(&content)?;
        let mut record = self.slice_or_new(slice);
        let last = match record.last_config {
            // Above that of any configuration this name ever had.
            ConfigNo(0) => ConfigNo(self.state.meta.revisions_forgotten.0),
            last => last,
        };
        record.last_config = ConfigNo(last.0 + 1);
        let no = record.last_config;
        self.put_slice(record);
        let event = format!("pushed configuration {no}: {content}");
        let digest = content.digest();
        let pushed = ConfigRevisionRecord {
            slice: slice.clone(),
            no,
            content: Arc::new(content),
            digest,
            actor: self.actor.to_owned(),
            created: self.index(),
            wall_ms: self.state.meta.wall_ms,
        };
        self.state.put_config_revision(pushed);
        self.forget_configs(slice, CONFIGURATIONS_KEPT);
        self.audit(Subject::slice(slice), event);
        Ok(Answer { config: Some(no), ..Answer::default() })
    }

    /// A name is known that is deployed, or of which there is an artifact: what is
    /// pushed under any other would be found by nobody.
    fn check_known_slice(&self, slice: &SliceName) -> Result<(), Refusal> {
        let has_artifact = || self.state.artifacts.keys().any(|a| a.base == *slice.base());
        if self.state.slices.contains_key(slice) || has_artifact() {
            return Ok(());
        }
        Err(Refusal::UnknownSlice { slice: slice.clone() })
    }

    fn check_configs_fit(&self, content: &Configuration) -> Result<(), Refusal> {
        if self.state.config_revision_bytes() + content.weight() <= CONFIGURATIONS_BYTES_MAX {
            return Ok(());
        }
        let what = "bytes of configurations".to_owned();
        Err(Refusal::TooMany { what, most: CONFIGURATIONS_BYTES_MAX })
    }

    /// Lets go of the oldest configurations that no revision refers to, beyond `kept`
    /// of them.
    pub(super) fn forget_configs(&mut self, slice: &SliceName, kept: usize) {
        let all = (slice.clone(), RevisionNo(0))..=(slice.clone(), RevisionNo(u32::MAX));
        let used: BTreeSet<ConfigNo> =
            self.state.revisions.range(all).filter_map(|(_, revision)| revision.config).collect();
        let unused = self.state.configs_of(slice).map(|r| r.no).filter(|no| !used.contains(no));
        let unused: Vec<ConfigNo> = unused.collect();
        let surplus = unused.len().saturating_sub(kept);
        for no in unused.into_iter().take(surplus) {
            self.state.remove_config_revision(&(slice.clone(), no));
        }
    }

    /// What was pushed for a slice goes with it: at once, or once no revision refers
    /// to it any more. Numbers are not used again.
    pub(super) fn withdraw_configs(&mut self, record: &mut SliceRecord) {
        let forgotten = &mut self.state.meta.revisions_forgotten;
        *forgotten = RevisionNo(record.last_config.0).max(*forgotten);
        record.last_config = ConfigNo(0);
        self.forget_configs(&record.slice, 0);
    }

    /// Whether two configurations of a slice say the same.
    pub(super) fn is_same_config(
        &self,
        slice: &SliceName,
        one: Option<ConfigNo>,
        other: Option<ConfigNo>,
    ) -> bool {
        let content = |no: Option<ConfigNo>| {
            let known = no.and_then(|no| self.state.config_revisions.get(&(slice.clone(), no)));
            // None at all says as much as an empty one.
            let content = known.map(|known| &known.content);
            content.filter(|content| ***content != Configuration::default()).cloned()
        };
        one == other || content(one) == content(other)
    }
}
