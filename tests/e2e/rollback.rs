//! The way back from every state.
