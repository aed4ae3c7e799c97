//! What the coordinator decides is never refused, except as stale: the planner and
//! `apply` agree on what may be done, and only what somebody asked for in between
//! may make a decision wrong. (Design, section 10: "apply rejects a command that
//! would break one"; such a command is not planned in the first place.)

use aether_core::command::{Command, Outcome, Refusal};

use crate::log::{Entry, Payload};

/// Looks at what came of the newest entry, a decision of a coordinator that had
/// applied everything up to log index `decided_at`.
///
/// # Errors
/// The refusal that nothing in between explains.
pub fn refused_as_stale(
    entries: &[Entry],
    decided_at: u64,
    outcome: &Outcome,
) -> Result<(), String> {
    let (Some((last, before)), Err(refusal)) = (entries.split_last(), outcome) else {
        return Ok(());
    };
    let between = before.iter().rev().take_while(|entry| entry.at.index > decided_at);
    let changes = |entry: &&Entry| match &entry.payload {
        // That is what was seen, of the same look.
        Payload::Request(request) => !matches!(request.command, Command::RecordInput { .. }),
        Payload::Blank => true,
    };
    let between: Vec<_> = between.filter(changes).collect();
    let by_person = |entry: &Entry| match &entry.payload {
        Payload::Request(request) => request.actor == crate::operator::ACTOR,
        Payload::Blank => false,
    };
    let is_raced = between.iter().any(|entry| by_person(entry));
    match (refusal, &last.payload) {
        (_, Payload::Blank) => Ok(()),
        // Who is asked answers when they like, also when it is of no matter any more.
        (Refusal::Stale { .. }, Payload::Request(request))
            if matches!(request.command, Command::RecordGate { .. }) =>
        {
            Ok(())
        }
        // With nothing in between there is nothing that could have made it stale.
        (Refusal::Stale { .. }, Payload::Request(request)) => match between.is_empty() {
            true => Err(format!("{:?} was stale when it was decided", request.command)),
            false => Ok(()),
        },
        _ if is_raced => Ok(()),
        (_, Payload::Request(request)) => {
            Err(format!("{:?} was decided and is refused: {refusal}", request.command))
        }
    }
}
