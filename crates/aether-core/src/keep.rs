//! Which artifacts something deployed still needs, and what that is.
//!
//! A removal is refused while somebody needs the artifact, and nodes do not
//! drop its archive, however long they have not used it.

use std::collections::BTreeMap;

use crate::coordinates::{Artifact, SliceName, Version};
use crate::ids::{RevisionNo, UpdateId};
use crate::records::{SliceRecord, UpdateRecord, UpdateState};
use crate::state::State;

impl State {
    /// Why an artifact is still needed; `None` if nobody needs it.
    ///
    /// Needed is what serves; both sides of a live update; a set that is kept
    /// warm; whatever has a target or instances left; and the version that the
    /// last completed update of a slice replaced, should it have to be reversed.
    pub fn artifact_user(&self, artifact: &Artifact) -> Option<String> {
        let of_base = |slice: &&SliceName| slice.base() == &artifact.base;
        self.slices.keys().filter(of_base).find_map(|slice| {
            let mut uses = self.uses_of(slice, || self.replaced_last(slice));
            uses.remove(&artifact.version)
        })
    }

    /// Every artifact that is still needed, with the reason.
    pub fn artifacts_needed(&self) -> BTreeMap<Artifact, String> {
        // Each update is looked at once, however many slices there are.
        let mut last: BTreeMap<&SliceName, &UpdateRecord> = BTreeMap::new();
        for update in self.updates.values().filter(|u| u.state == UpdateState::Completed) {
            let known = last.entry(&update.slice).or_insert(update);
            if known.state_index < update.state_index {
                *known = update;
            }
        }
        let mut needed = BTreeMap::new();
        for slice in self.slices.keys() {
            let uses = self.uses_of(slice, || last.get(slice).copied());
            for (version, user) in uses {
                needed.entry(slice.base().at(version)).or_insert(user);
            }
        }
        needed
    }

    /// The last completed update of a slice.
    fn replaced_last(&self, slice: &SliceName) -> Option<&UpdateRecord> {
        let completed = |u: &&UpdateRecord| u.slice == *slice && u.state == UpdateState::Completed;
        self.updates.values().map(|u| &**u).filter(completed).max_by_key(|u| u.state_index)
    }

    /// The versions of a slice that are needed, with the first reason of each.
    fn uses_of<'a>(
        &'a self,
        slice: &SliceName,
        replaced: impl FnOnce() -> Option<&'a UpdateRecord>,
    ) -> BTreeMap<Version, String> {
        let mut uses = BTreeMap::new();
        let mut note = |version: &Version, user: String| {
            uses.entry(version.clone()).or_insert(user);
        };
        let Some(record) = self.slices.get(slice) else { return uses };
        let version_of = |no| self.revisions.get(&(slice.clone(), no)).map(|r| &r.version);
        if let Some(version) = record.current.and_then(version_of) {
            note(version, format!("slice {slice} runs it"));
        }
        if let Some(update) = self.live_update(slice) {
            note(&update.new.version, of_update(&update.id, "moves to it"));
            if let Some(old) = &update.old {
                note(&old.version, of_update(&update.id, "may be rolled back to it"));
            }
        }
        if let Some(set) = &record.set {
            note(&set.version, format!("slice {slice} is set to it"));
        }
        if let Some(retained) = self.retained.get(slice) {
            note(&retained.side.version, format!("slice {slice} keeps it warm"));
        }
        let targets = self.targets.range((slice.clone(), RevisionNo::default())..);
        let targets = targets.map(|(_, target)| target).take_while(|t| t.slice == *slice);
        let targets = targets.map(|t| t.revision);
        let instances = self.instances_of(slice).map(|i| i.revision);
        for version in targets.chain(instances).filter_map(version_of) {
            note(version, format!("slice {slice} has instances of it"));
        }
        if let Some(update) = replaced_while_deployed(record, replaced)
            && let Some(old) = &update.old
        {
            note(&old.version, of_update(&update.id, "replaced it, and may have to be reversed"));
        }
        uses
    }
}

/// A slice that is not deployed any more has nothing to be reversed.
fn replaced_while_deployed<'a>(
    record: &SliceRecord,
    replaced: impl FnOnce() -> Option<&'a UpdateRecord>,
) -> Option<&'a UpdateRecord> {
    let update = record.current.and_then(|_| replaced())?;
    (record.current == Some(update.new.revision)).then_some(update)
}

fn of_update(id: &UpdateId, what: &str) -> String {
    format!("update {id} {what}")
}
