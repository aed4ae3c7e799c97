//! No revision number ever means two things, also after a slice was removed.
//! (Design, section 2, "revision".)

use std::collections::BTreeMap;

use aether_core::state::{RevisionKey, State};

/// Which entry made each revision.
#[derive(Debug, Default)]
pub struct Revisions(BTreeMap<RevisionKey, u64>);

impl Revisions {
    pub(super) fn check(&mut self, state: &State) -> Result<(), String> {
        for (key, revision) in &state.revisions {
            let made = *self.0.entry(key.clone()).or_insert(revision.created);
            if made != revision.created {
                let (slice, no) = key;
                return Err(format!("{no} of {slice} was made by {made} and again"));
            }
        }
        Ok(())
    }
}
