//! What can go wrong, on what, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a replica can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings contradict themselves.
    #[error("the replica's settings are wrong: {0}")]
    Config(String),
    /// A file operation failed.
    #[error("can't {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process uses the data directory.
    #[error(
        "{path} is in use by another process: stop that node, or give this one its own data directory",
        path = .path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The data directory belongs to another node or cluster.
    #[error(
        "{path} belongs to node {found_node:?} of cluster {found_cluster:?}, and this is node \
         {node:?} of cluster {cluster:?}: correct the name, or give this node its own data directory",
        path = .path.display()
    )]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        found_node: String,
        /// Which cluster's it is.
        found_cluster: String,
        /// Who opens it.
        node: String,
        /// For which cluster.
        cluster: String,
    },
    /// The data directory was written by a newer release.
    #[error(
        "{path} has format {found}, and this release knows up to {known}: start the newer release again",
        path = .path.display()
    )]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The data directory is new, and the node isn't a founding voter.
    #[error(
        "{path} is empty and node {node:?} is not among the founding voters: correct the list, or \
         have the node join the cluster",
        path = .path.display()
    )]
    NotFounding {
        /// The data directory.
        path: PathBuf,
        /// The node.
        node: String,
    },
    /// A restore needs a place of its own.
    #[error(
        "{path} is not empty: a backup is restored into a new directory only; move this one away \
         first, and keep it until the new cluster is well",
        path = .path.display()
    )]
    Occupied {
        /// The data directory.
        path: PathBuf,
    },
    /// A restore was cut off, or goes on.
    #[error(
        "{path} is what an unfinished restore left: run 'aether snapshot restore' again, or remove \
         it if this node is to start without",
        path = .path.display()
    )]
    HalfRestored {
        /// What it left.
        path: PathBuf,
    },
    /// A file is damaged in a way that is not a torn last write.
    #[error(
        "{path} is damaged: {detail}. Nothing was changed. Repair: move the data directory away and \
         replace this voter ('aether node replace'), or restore the directory from a backup",
        path = .path.display()
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// What the directory holds is for a newer release, as the machine says.
    #[error("{path} cannot be used by this node: {reason}. Nothing was changed", path = .path.display())]
    Unsupported {
        /// The data directory.
        path: PathBuf,
        /// What is needed, and what to do.
        reason: String,
    },
    /// Consensus could not be started on what the directory holds.
    #[error("consensus can't be started on {path}: {detail}", path = .path.display())]
    Consensus {
        /// The data directory.
        path: PathBuf,
        /// Openraft's reason.
        detail: String,
    },
}

impl OpenError {
    /// For `map_err`: an operation on a path failed.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { action, path, source }
    }
}

/// Why a proposal has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Provably not in the log: it may be proposed again.
    #[error("not done: {reason}")]
    NotDone {
        /// What stood in the way.
        reason: String,
    },
    /// Not in the log: too few voters have space on their disks. It may be
    /// proposed again when they have.
    #[error("not done: {reason}")]
    NoSpace {
        /// Whose disks, how much is free and how much would be enough.
        reason: String,
    },
    /// It may or may not be, or come to be, in the log. Propose it again only
    /// if the machine recognises repetitions.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// What cut off the answer.
        reason: String,
    },
    /// [`propose_as_leader`](crate::Handle::propose_as_leader) on a node that
    /// isn't the leader of that term, or is no longer. Not in the log.
    #[error("not done: this node is not the leader of term {term}")]
    NotLeader {
        /// The term that was asked for.
        term: u64,
    },
    /// More than the log takes in one entry.
    #[error("not done: a command of {bytes} bytes is over the limit of {bytes_max}")]
    TooLarge {
        /// Size of the command.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// Why a linearizable read isn't possible now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no linearizable read within {waited_ms} ms: {reason}")]
pub struct ReadError {
    /// What stood in the way.
    pub reason: String,
    /// How long it was tried.
    pub waited_ms: u64,
}

/// Why a step of the membership was not, or not yet, made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the members were not changed: {reason}")]
pub struct ChangeError {
    /// What stood in the way.
    pub reason: String,
}

/// Why the leadership stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Nobody could take it: it makes no sense to try again at once.
    #[error("the leadership cannot be handed over: {reason}")]
    NoSuccessor {
        /// Who is missing.
        reason: String,
    },
    /// It was not taken in time, or this node does not lead any more.
    #[error("the leadership was not handed over: {reason}")]
    NotTaken {
        /// What stood in the way.
        reason: String,
    },
}
