//! The agent with real processes, against a control plane that a test plays.

mod cache;
mod failures;
mod life;
mod limits;
mod logs;
mod plane;
mod probes;
mod release;
mod reload;
mod takeover;
mod world;
