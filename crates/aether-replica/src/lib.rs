//! The replicated log under Aether: consensus (openraft), a durable log
//! (raft-log), snapshots, a KV image for quick restarts (sled), and the peer
//! protocol over tonic. The only crate that names any of them.
//!
//! It knows nothing of updates: bytes go in through [`Handle::propose`], come
//! out in the same order on every voter's [`Machine`], and the machine's
//! answer goes back to whoever proposed them.
//!
//! ```text
//!  Handle ── propose, read_barrier, leadership, status
//!    │  leader                     │ follower
//!    v                             v
//!  openraft <── PeerService <── forward / read index   (peers, network, wire)
//!    │   └── log_store ── raft-log files
//!    └────── state ────── Machine ──> image (sled), snapshot files
//! ```
//!
//! Deliberately absent: listeners (the binary owns them), any opinion on who
//! should be a member, and any clock inside what the machine sees other than
//! the log time of [`Stamp`].

#[cfg(test)]
use sim::watch;
#[cfg(not(test))]
use tokio::sync::watch;

mod ahead;
mod backup;
mod blocking;
mod changes;
mod clock;
mod codec;
mod config;
mod data_dir;
mod deaf;
mod error;
mod files;
mod formation;
mod forward;
#[cfg(test)]
mod frozen;
#[cfg(test)]
mod fuzz;
mod handle;
mod image;
mod leadership;
mod lease;
mod log_store;
mod machine;
mod membership;
mod network;
mod node;
mod peers;
mod position;
mod reads;
mod refound;
mod replica;
mod report;
mod restore;
mod rounds;
mod service;
mod silence;
#[cfg(test)]
mod sim;
mod snapshot;
mod space;
mod state;
mod status;
#[cfg(test)]
mod toy;
mod transfer;
mod types;
mod wire;

pub use backup::{BackedUpMember, Backup, StateCopy};
pub use changes::{Changes, EntryChanges, Gone};
pub use config::{Config, DISK_FREE_MIN_BYTES, ELECTION_MS_MAX_MIN, Joined, Voter};
pub use data_dir::Joining;
pub use error::{ChangeError, OpenError, ProposeError, ReadError, TransferError};
pub use handle::{COMMAND_BYTES_MAX, Handle};
pub use leadership::{LeaderInfo, Leadership};
pub use log_store::SyncFigures;
pub use machine::{Machine, Row, RowChange, Stamp};
pub use membership::{Membership, MembershipChange};
pub use node::Applied;
pub use replica::{PeerServer, Replica, peer_incoming};
pub use report::VoterReport;
pub use restore::{restore, restored_at};
pub use service::PeerService;
pub use snapshot::{SnapshotError, Written};
pub use space::DiskStatus;
pub use status::{ImageStatus, MemberStatus, Status};
