//! The pure kernel of Aether: what is true, what follows from it, and what to
//! do next. It has no clock, no randomness, no I/O and no threads; time, ids
//! and observations are arguments.

pub mod apply;
pub mod audit;
pub mod command;
pub mod coordinates;
pub mod diff;
pub mod divisor;
pub mod duration;
pub mod evidence;
#[cfg(test)]
mod fuzz;
pub mod health;
pub mod ids;
pub mod keep;
pub mod latency;
pub mod level;
pub mod lint;
pub mod manifest;
pub mod planner;
pub mod preview;
pub mod records;
pub mod replay;
pub mod schedule;
pub mod state;
pub mod table;
pub mod transition;
pub mod weights;
pub mod words;
