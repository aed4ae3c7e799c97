//! Starts, kills and watches node processes on this machine: for `aether dev`,
//! the demo, the tests and the benchmarks.
//!
//! Everything here is real: the `aether` binary, its configuration files, its
//! signals. Nothing reaches into a node's memory.

pub mod artifacts;
mod cli;
mod cluster;
pub mod load;
mod node;
mod ports;
mod processes;
mod stage;

pub use cli::Said;
pub use cluster::{Cluster, PeerRoutes, Topology, free_address};
pub use node::{Addresses, Node, Roles};
pub use ports::Lease;
pub use processes::kill_all_below;
pub use stage::{PATIENCE, Stage, Versions};
