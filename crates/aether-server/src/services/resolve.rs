//! Which update a request names: an id, a unique prefix of one, or `current`.

use std::sync::Arc;

use aether_core::ids::UpdateId;
use aether_core::records::UpdateRecord;
use aether_core::state::State;
use tonic::Status;

use crate::status;

/// What `current` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// The one live update.
    Live,
    /// The one completed update whose old set is kept warm.
    Kept,
}

impl Current {
    fn updates(self, state: &State) -> Vec<&Arc<UpdateRecord>> {
        match self {
            Self::Live => {
                state.slices.values().filter_map(|s| state.live_update(&s.slice)).collect()
            }
            Self::Kept => {
                let kept = state.retained.values();
                kept.filter_map(|kept| state.updates.get(&kept.update)).collect()
            }
        }
    }

    fn none(self) -> Status {
        let message = match self {
            Self::Live => "no update is live; 'aether update list --all' shows the ended ones",
            Self::Kept => {
                "no completed update keeps its old set; 'aether slices' shows what is kept"
            }
        };
        status::no_such("update", "current", message.to_owned())
    }
}

fn listed(updates: &[&Arc<UpdateRecord>]) -> String {
    // A fleet has thousands; a sentence does not.
    const LISTED_MAX: usize = 10;
    let names = updates.iter().take(LISTED_MAX).map(|u| format!("{} ({})", u.id, u.slice));
    let mut names: Vec<String> = names.collect();
    if updates.len() > LISTED_MAX {
        names.push(format!("{} more", updates.len() - LISTED_MAX));
    }
    names.join(", ")
}

/// Finds an update. A prefix means one of those that `current` may mean, and
/// any other only if none of them has it.
///
/// # Errors
/// No such update, or several.
pub fn resolve(state: &State, text: &str, current: Current) -> Result<Arc<UpdateRecord>, Status> {
    let id: UpdateId = status::parsed("update_id", text)?;
    let likely = current.updates(state);
    if text == "current" {
        return match likely.as_slice() {
            [only] => Ok(Arc::clone(only)),
            [] => Err(current.none()),
            _ => Err(status::invalid(
                "update_id",
                format!("'current' is ambiguous, name one of {}", listed(&likely)),
            )),
        };
    }
    if let Some(update) = state.updates.get(&id) {
        return Ok(Arc::clone(update));
    }
    let has_prefix = |u: &&Arc<UpdateRecord>| u.id.as_str().starts_with(text);
    let mut found: Vec<_> = likely.into_iter().filter(has_prefix).collect();
    if found.is_empty() {
        found = state.updates.values().filter(has_prefix).collect();
    }
    match found.as_slice() {
        [only] => Ok(Arc::clone(only)),
        [] => Err(status::no_such(
            "update",
            text,
            format!("update '{id}' does not exist; 'aether update list' shows the live ones"),
        )),
        several => Err(status::invalid(
            "update_id",
            format!("'{text}' is ambiguous, name one of {}", listed(several)),
        )),
    }
}
