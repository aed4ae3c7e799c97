//! What `aether node` is made of: configuration, listeners, and the parts that
//! the roles of a node call for.

pub mod config;
mod forward;
mod grpc;
mod join;
mod metrics;
mod ready;
mod remote;
mod run;

pub use run::{replica_config, run};
