//! The agent of one node: attaches to any voter, gets the node's complete
//! desired set, makes it so with processes, and reports what it sees.
//!
//! What is decided is apart from what is done: [`decide`](mod@decide),
//! [`observe`](mod@observe), [`restart`](mod@restart), the counts in
//! [`probe`](mod@probe) and the choice in [`collect`](mod@collect) are pure; the rest carries out. A slice's process
//! belongs to its *shim*, a small process of its own, so that the agent can be
//! killed and replaced without any slice noticing.
//!
//! ```text
//!   voter ==attach==> Reconciler --tells--> Instance (a task each)
//!     ^                  |  decide            | fetch, unpack, port, launch
//!     |                  v                    v
//!     +---report--- Board <---observe--- shim socket, probes
//! ```
//!
//! Absent on purpose: the agent never decides how many instances there are,
//! never moves one, and never touches routing.
//!
//! # Files
//!
//! ```text
//! data_dir/agent.lock             one agent per directory
//!          directive.json         last accepted desired set with its fence
//!          ports.json             when ports were last used
//!          artifacts.lock         one store per directory
//!          artifacts/<sha256>.tar.gz
//!          unpacked/<sha256>/     shared by the instances, read-only
//!          instances/<id>/        spec.json state.json readiness.json shim.*
//!                                 reload.json: what its process was told to read last
//!                                 enter.err: why limits could not be set
//!                         logs/   stdout.log stderr.log and rotated ones,
//!                                 instance.json: whose they are
//!                         work/   working directory, ${INSTANCE_DIR}
//!          logs/<id>/             logs of the last 32 instances that are gone,
//!                                 of which at most 512 MiB are kept
//! $TMPDIR/aether-ports-<uid>/     one lock per port, for all agents here
//! ```

mod agent;
pub mod artifact;
mod attach;
mod board;
mod collect;
mod config;
mod decide;
mod directive;
mod fetch;
#[cfg(test)]
mod frozen;
mod fsio;
#[cfg(test)]
mod fuzz;
mod instance;
mod logs;
mod observe;
mod ports;
mod prepare;
mod probe;
mod procfs;
mod reconcile;
mod restart;
mod shim;
mod substitute;
mod unpacked;

pub use agent::{Agent, AgentError, kill_instances};
pub use artifact::ArtifactStore;
pub use collect::CacheLimits;
pub use config::Config;
pub use directive::DirectiveError;
pub use logs::LogsService;
pub use restart::RestartPolicy;
pub use shim::{LogLimits, shim_main};
