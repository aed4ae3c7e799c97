//! The pure kernel of Aether: what is true, what follows from it, and what to
//! do next. It has no clock, no randomness, no I/O and no threads; time, ids
//! and observations are arguments.

pub mod command;
pub mod coordinates;
pub mod duration;
pub mod ids;
pub mod latency;
pub mod manifest;
pub mod records;
pub mod table;
pub mod weights;
