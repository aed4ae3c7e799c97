//! Whole clusters of this crate's replicas under one scheduler, by seed.
//!
//! Real are the replica and everything in it, openraft, the write-ahead log and
//! its files, the snapshot files, gRPC and HTTP/2. Each node has a runtime of its
//! own with one thread and paused time; [`cluster`] steps them by a millisecond
//! each, all on one thread. What a seed has to decide stands in the place of the
//! system's: the network ([`net`]), when a sync ends and what a power cut leaves
//! ([`disk`]), clocks ([`clock`]), free space, the random numbers of openraft
//! ([`runtime`]), and who is woken first ([`watch`]). The state is the core's, with
//! its request ids ([`machine`]).
//!
//! [`nemesis`] breaks things, [`clients`] and [`watchers`] use the cluster
//! meanwhile, then all is healed, and [`check`] looks at what was answered, told
//! and kept. What chance would hardly bring about is in [`scenes`]. [`trace`] shows that a seed always does the same. [`Bug`]s are
//! planted to see that they are found.
//!
//! Not simulated: threads, so that the race between the log's flush worker and
//! its callers is left to the tests of `log_store`; the KV image, without which a
//! node restarts from snapshot and log; and a power cut that keeps later bytes
//! of the log but not earlier ones.

mod check;
mod clients;
mod clock;
mod cluster;
mod disk;
mod machine;
mod nemesis;
mod net;
mod run;
mod runtime;
mod scenes;
mod tests;
mod trace;
pub(crate) mod watch;
mod watchers;

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::clock::Readings;

use check::Ledger;
use disk::Disk;
use net::Net;
use trace::Trace;

pub(crate) use disk::{begin_sync, log_synced};
pub(crate) use net::connector;
pub(crate) use runtime::Runtime;

/// Nodes that a run has at most, those that came later included.
const NODES_MAX: usize = 8;
/// Size of one file of the log: small, so that purging removes some.
pub(crate) const LOG_FILE_BYTES: usize = 16 * 1024;
/// What the wall clock shows when a run begins.
const WALL_MS: u64 = 1_800_000_000_000;

/// Faults that can be planted to see whether they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Reads don't ask whether somebody else leads.
    UnconfirmedReads,
    /// The log says that it is durable before it is.
    EarlyAcknowledgement,
    /// What a killed node wrote and did not sync is taken for durable by its next
    /// life.
    FoundIsNotSynced,
    /// Request ids are forgotten, so that a repetition is done again.
    NoDeduplication,
    /// A write of unknown outcome is said to be not done.
    UnknownIsNotDone,
    /// A leader that no majority answers goes on sending.
    NeverSilent,
    /// A voter that starts again knows nothing of the leader that it has heard.
    ForgottenPromise,
    /// A leader that has asked somebody else to stand goes on as before.
    UnnoticedHandOver,
    /// Reads are confirmed by openraft's rounds, which count late answers.
    RoundsOfOpenraft,
    /// A leader takes the time for which it was suspended for none.
    UnnoticedSuspension,
}

/// What is simulated for all nodes.
struct World {
    now_ms: u64,
    /// The node that is being stepped.
    node: usize,
    random: StdRng,
    bug: Option<Bug>,
    net: Net,
    disks: Vec<Disk>,
    /// What the wall clock of each node is ahead.
    wall_ahead_ms: Vec<i64>,
    ledger: Ledger,
    trace: Trace,
}

impl World {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        World {
            now_ms: 0,
            node: 0,
            random: StdRng::seed_from_u64(seed),
            bug,
            net: Net::new(NODES_MAX),
            disks: (0..NODES_MAX).map(|_| Disk::default()).collect(),
            wall_ahead_ms: vec![0; NODES_MAX],
            ledger: Ledger::default(),
            trace: Trace::new(seed, std::env::var("AETHER_SIM_TRACE").ok().as_deref()),
        }
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What `look` says of the world of this thread, if it has one.
fn world<T>(look: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(look))
}

/// The same on a thread that has one.
fn in_world<T>(look: impl FnOnce(&mut World) -> T) -> T {
    world(look).expect("a run has begun on this thread")
}

/// Whether this thread is one of a simulation.
pub(crate) fn is_on() -> bool {
    WORLD.with_borrow(Option::is_some)
}

/// Whether this bug was planted.
pub(crate) fn planted(bug: Bug) -> bool {
    world(|world| world.bug == Some(bug)).unwrap_or(false)
}

/// The clocks of the node that is being stepped.
pub(crate) fn readings() -> Option<Readings> {
    world(|world| Readings {
        boot_ms: 1_000_000 + world.now_ms,
        wall_ms: (WALL_MS + world.now_ms).saturating_add_signed(world.wall_ahead_ms[world.node]),
    })
}

/// What may still be written to its disk.
pub(crate) fn free_bytes() -> Option<u64> {
    world(|world| world.disks[world.node].free_bytes)
}

/// The identity of a new data directory.
pub(crate) fn random_id() -> Option<String> {
    world(|world| format!("{:032x}", world.random.random::<u128>()))
}
