//! Whoever asks why an update does not move is told: each pass of the planner does
//! something about it, or says what it waits for, since when and what would end that.
//! (Design, section 5, "explain".)

use aether_core::planner::{Plan, Wait};
use aether_core::state::State;

/// Looks at a pass over a state at log time `now_ms`.
///
/// # Errors
/// The first update about which it says nothing, or too little.
pub fn accounts_for_all(state: &State, plan: &Plan, now_ms: u64) -> Result<(), String> {
    // Of what comes after many commands the next pass tells.
    if !plan.commands.is_empty() {
        return Ok(());
    }
    for update in state.slices.values().filter_map(|slice| state.live_update(&slice.slice)) {
        let waits = plan.waits.get(&update.slice).map_or(&[][..], Vec::as_slice);
        if waits.is_empty() {
            return Err(format!(
                "{} is {}; nothing is done and nothing is waited for",
                update.id, update.state
            ));
        }
        let says_all = |wait: &&Wait| {
            !wait.message.is_empty() && !wait.unblock.is_empty() && wait.since_ms <= now_ms
        };
        if let Some(wait) = waits.iter().find(|wait| !says_all(wait)) {
            return Err(format!("{} is {}, and waits for {wait:?}", update.id, update.state));
        }
    }
    Ok(())
}
