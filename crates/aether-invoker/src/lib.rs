//! Calls to slices from any program: which instance takes the next call is
//! decided here, in the caller's own process.
//!
//! An [`Invoker`] watches the routing tables at any node of the control plane
//! and goes on with its last tables when the whole control plane is away. A
//! [`SliceHandle`] picks an instance for one call ([`SliceHandle::pick_when_open`],
//! for any kind of client) or makes the call over HTTP ([`SliceHandle::send`], and
//! [`SliceHandle::service`] for clients made by tonic and others that take a service of
//! tower), which is HTTP/2 in cleartext for gRPC and HTTP/1.1 for all else.
//! Calls are split between two versions by the exact ratio of the route, never
//! by chance, and an instance that left the tables is reported as idle only
//! once no call can start on it any more. A program that has a thread for each
//! processor picks cheaper by a [`Caller`] of each.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use aether_invoker::{Config, Invoker, Outcome, SessionKind};
//!
//! let nodes = vec!["127.0.0.1:8090".parse()?];
//! let invoker = Invoker::connect(Config::new("checkout", SessionKind::Invoker, nodes))?;
//! invoker.ready(Duration::from_secs(5)).await?;
//! let payments = invoker.slice(&"org.example:payments".parse()?);
//!
//! let pick = payments.pick_when_open().await?;
//! println!("calling {} of version {}", pick.address(), pick.version());
//! pick.finish(Outcome::Success);
//! # Ok(())
//! # }
//! ```
//!
//! What is deliberately absent: the crate decides nothing about updates, and speaks
//! no TLS to instances, and HTTP/2 only for gRPC. On disk it keeps its last tables,
//! where it is told to ([`Config::cache_file`]), and nothing else.

mod applier;
mod attempt;
mod body;
mod cache;
mod call;
mod caller;
mod clock;
mod config;
mod doors;
mod endpoint;
mod error;
#[cfg(test)]
mod fuzz;
mod grpc;
mod hold;
#[cfg(test)]
mod hold_tests;
mod invoker;
mod keeper;
mod kept;
mod meter;
mod multiplex;
mod pick;
mod pool;
mod service;
mod session;
mod slice;
#[cfg(test)]
mod stress;
mod tally;
mod tunnel;

pub use aether_core::coordinates::{SliceName, Version};
pub use aether_core::ids::{InstanceId, RevisionNo, SessionId};
pub use aether_core::manifest::IngressRule;
pub use aether_core::schedule::Side;
pub use aether_core::table::{IngressClaim, SliceTable};
pub use aether_core::weights::Weights;
pub use body::{BoxError, RequestBody, ResponseBody};
pub use call::CallOptions;
pub use caller::{Caller, LocalPick, UntimedPick};
pub use config::{Config, SessionKind};
pub use error::{CallError, CallTarget, ConfigError, NotReady, PickError};
pub use grpc::{grpc_timeout, is_grpc};
pub use invoker::{Changes, Invoker, Status};
pub use pick::{Outcome, Pick};
pub use service::SliceService;
pub use slice::SliceHandle;
pub use tally::RouteTally;
pub use tunnel::{Tunnel, TunnelError};
