//! The gRPC services of a node, one file each.

pub mod agents;
pub mod archives;
pub mod artifacts;
pub mod cluster;
mod configs;
mod events;
mod following;
mod foresight;
pub(crate) mod gates;
mod holders;
mod kv;
mod logs;
mod options;
pub mod peer;
mod reading;
mod resolve;
pub mod routing;
pub mod slices;
mod snapshots;
mod standing;
mod strategy;
mod streams;
pub mod updates;
pub mod voters;

#[cfg(test)]
mod tests;

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

/// A streamed answer.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
