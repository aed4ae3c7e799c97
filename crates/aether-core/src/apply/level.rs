//! The feature level rises.

use super::Tx;
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::level::brought_by;
use crate::records::VoterWanted;

impl Tx<'_> {
    pub(super) fn raise_feature_level(&mut self, to: u32) -> Outcome {
        let from = self.state.meta.feature_level;
        if to <= from {
            return Err(Refusal::Stale { what: "the feature level".to_owned() });
        }
        // Whoever is admitted may vote before the next entry, and was not asked.
        let holds = self.state.voter_changes.values().find(|change| match &change.wanted {
            VoterWanted::Join { admitted: Some(admitted), .. } => admitted.feature_level < to,
            _ => false,
        });
        if let Some(change) = holds {
            return Err(Refusal::Stale { what: format!("who votes: {} joins", change.node) });
        }
        self.state.meta.feature_level = to;
        let brought: Vec<&str> = (from + 1..=to.min(from + 8)).map(brought_by).collect();
        let event =
            format!("feature level {to} holds from now on, after {from}: {}", brought.join(", "));
        self.audit(Subject::cluster(), event);
        Ok(Answer::default())
    }
}
