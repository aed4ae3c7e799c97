//! The agent with real processes, against a control plane that a test plays.

mod failures;
mod life;
mod logs;
mod plane;
mod takeover;
mod world;
