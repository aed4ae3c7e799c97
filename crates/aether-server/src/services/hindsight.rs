//! What was decided about an update, decided again: an answer that is computed from
//! the state and changes nothing.

use aether_core::command::Command;
use aether_core::records::{INPUTS_UPDATES_MAX, UpdateRecord};
use aether_core::replay;
use aether_core::state::State;
use aether_proto::errors::Problem;
use aether_proto::v1;
use tonic::{Code, Status};

/// Code of an update of which nothing is written down.
const INPUTS_UNKNOWN: &str = "inputs_unknown";

/// Decides again. Reads all that was seen anew for each decision, which takes up to
/// seconds where much was seen: not for an async thread.
///
/// # Errors
/// Nothing is written down of the update, or what is cannot be read.
pub fn replay(state: &State, update: &UpdateRecord) -> Result<v1::UpdateReplay, Status> {
    let replay = replay::replay(state, &update.id).map_err(|error| {
        Status::data_loss(format!("what was seen of update {} cannot be read: {error}", update.id))
    })?;
    let Some(first) = replay.decisions.first().map(|decision| decision.now_ms) else {
        return Err(unknown(update));
    };
    let decision = |decision: &replay::Replayed| {
        let differs = !decision.is_same();
        let now: &[Command] = if differs { &decision.now } else { &[] };
        v1::ReplayedDecision {
            index: decision.index,
            after_ms: decision.now_ms.saturating_sub(first),
            decided: decision.decided.iter().map(decided).collect(),
            now: now.iter().map(decided).collect(),
            differs,
        }
    };
    let decisions: Vec<_> = replay.decisions.iter().map(decision).collect();
    let differ = decisions.iter().filter(|decision| decision.differs).count();
    Ok(v1::UpdateReplay {
        update_id: update.id.to_string(),
        artifact_base: update.slice.to_string(),
        differ: u32::try_from(differ).unwrap_or(u32::MAX),
        decisions,
        cut: replay.is_cut,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        as_of: None,
    })
}

fn unknown(update: &UpdateRecord) -> Status {
    let id = &update.id;
    let message = format!(
        "nothing is written down of what was seen of update {id}: that is kept of the latest \
         {INPUTS_UPDATES_MAX} updates, from feature level {} on, and not of the largest; \
         'aether update history {id}' has what happened",
        aether_core::level::since::INPUTS
    );
    let problem = Problem::new(Code::FailedPrecondition, INPUTS_UNKNOWN, message);
    problem.precondition_of(format!("update {id}")).status()
}

fn decided(command: &Command) -> v1::DecidedCommand {
    // A command is what the log has of it, and that is an object with a `type`.
    let json = serde_json::to_value(command).unwrap_or_default();
    v1::DecidedCommand {
        name: json["type"].as_str().unwrap_or_default().to_owned(),
        json: json.to_string(),
    }
}
