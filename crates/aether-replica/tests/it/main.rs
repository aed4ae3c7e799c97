//! Replicas over real connections on the loopback device, in one process.

use aether_replica::{Machine, Row, RowChange, Stamp};

mod broken_link;
mod cluster;
mod failover;
mod figures;
mod formation;
mod membership;
mod recovery;
mod space;
#[path = "../../src/toy.rs"]
mod toy;
mod unsupported;
mod writes;
