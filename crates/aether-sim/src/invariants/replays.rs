//! From what is written down of a look, the planner decides the same again: it is a
//! pure function, and what it saw is all there. (Design, section 4: `inputs/{updateId}`.)

use aether_core::replay::replay;
use aether_core::state::State;

/// Makes every decision again of which is known what was seen.
///
/// # Errors
/// The first that comes out otherwise.
pub fn replays(state: &State) -> Result<(), String> {
    for update in state.updates.keys() {
        let replayed = replay(state, update).map_err(|error| format!("{update}: {error}"))?;
        if let Some(other) = replayed.decisions.iter().find(|decision| !decision.is_same()) {
            return Err(format!(
                "{update}: at {} {:?} was decided, and from the same {:?} is",
                other.index, other.decided, other.now
            ));
        }
    }
    Ok(())
}
