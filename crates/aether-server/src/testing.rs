//! What tests of several modules share.

use aether_core::apply::Position;
use aether_core::command::{Command, Request};
use aether_core::state::State;

/// Applies a command that is carried out.
pub fn apply(state: &mut State, command: Command) {
    let index = state.meta.index + 1;
    let at = Position { term: 1, index, log_time_ms: index, wall_ms: index };
    let request = Request { request_id: None, actor: "test".to_owned(), command };
    state.apply(at, &request).unwrap();
}
