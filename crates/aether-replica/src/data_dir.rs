//! The data directory: whose it is, and that only one process uses it.
//!
//! ```text
//! lock            held while the node runs
//! identity.json   whose directory this is, written once
//! joining.json    of a node that is not admitted yet: who it will be
//! restored.json   of a founder that was restored from a backup (refound)
//! wal/            the log (log_store)
//! snapshots/      snapshot files (snapshot)
//! image/          the KV image (image); may be deleted at any time
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::OpenError;
use crate::files::replace_durably;
use crate::refound::Restored;
use crate::restore;

/// Version of the layout above and of every file format in it.
const FORMAT: u32 = 1;

const JOINING: &str = "joining.json";

/// Whose directory it is. The Raft id belongs to the directory, not to the
/// name: an emptied directory is a new member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub format: u32,
    pub cluster: String,
    pub node: String,
    pub raft_id: u64,
    /// Random, so that a directory is never mistaken for one that was wiped.
    pub dir_id: String,
}

impl Identity {
    /// Of the node that this is the configuration of.
    pub fn of(config: &Config, raft_id: u64, dir_id: String) -> Self {
        Identity {
            format: FORMAT,
            cluster: config.cluster_name.clone(),
            node: config.node_name.clone(),
            raft_id,
            dir_id,
        }
    }

    /// The content of its file.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings and numbers")
    }
}

/// An opened directory. The lock is released when this is dropped.
pub(crate) struct DataDir {
    pub root: PathBuf,
    pub identity: Identity,
    /// Of one that was restored from a backup.
    pub restored: Option<Restored>,
    /// The identity is not written yet.
    new: bool,
    _lock: Flock<File>,
}

impl DataDir {
    /// Opens or creates the directory of this node.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let root = config.data_dir.clone();
        let unfinished = restore::unfinished(&root);
        if unfinished.exists() {
            return Err(OpenError::HalfRestored { path: unfinished });
        }
        create_dir(&root)?;
        let lock = lock(&root.join("lock"))?;
        let found = read_identity(&root.join("identity.json"), config)?;
        let new = found.is_none();
        let identity = match found {
            Some(identity) => identity,
            None => new_identity(config)?,
        };
        for part in ["wal", "snapshots"] {
            create_dir(&root.join(part))?;
        }
        let restored = Restored::read(&root)?;
        let this = DataDir { root, identity, restored, new, _lock: lock };
        if !new && !this.has_files("wal") {
            let detail = "it is empty, and this node has a log".to_owned();
            return Err(OpenError::Damaged { path: this.wal(), detail });
        }
        Ok(this)
    }

    /// Makes a new directory this node's own, now that its log exists.
    pub fn confirm(&mut self, log_is_pristine: bool) -> Result<(), OpenError> {
        if !self.new {
            return Ok(());
        }
        let path = self.root.join("identity.json");
        if !log_is_pristine || self.has_files("snapshots") {
            let detail = "it is missing although there is a log or a snapshot".to_owned();
            return Err(OpenError::Damaged { path, detail });
        }
        let json = self.identity.to_json();
        replace_durably(&path, &json).map_err(OpenError::io("write", &path))?;
        self.new = false;
        // Of no use any more; it would be read only without an identity.
        let _ = fs::remove_file(self.root.join(JOINING));
        Ok(())
    }

    fn has_files(&self, part: &str) -> bool {
        let finished = |e: io::Result<fs::DirEntry>| {
            e.is_ok_and(|e| e.path().extension().is_some_and(|x| x == "wal" || x == "snap"))
        };
        fs::read_dir(self.root.join(part)).is_ok_and(|mut files| files.any(finished))
    }

    pub fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }
}

pub(crate) fn create_dir(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).map_err(OpenError::io("create the folder", path))
}

pub(crate) fn lock(path: &Path) -> Result<Flock<File>, OpenError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(OpenError::io("open the lock file", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => OpenError::Locked { path: path.to_owned() },
        other => OpenError::io("lock", path)(other.into()),
    })
}

fn read_identity(path: &Path, config: &Config) -> Result<Option<Identity>, OpenError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("read", path)(error)),
    };
    let damaged =
        |e: serde_json::Error| OpenError::Damaged { path: path.to_owned(), detail: e.to_string() };
    // The format first: a newer one may not have the fields known here.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } = serde_json::from_slice(&json).map_err(damaged)?;
    if format > FORMAT {
        return Err(OpenError::NewerFormat { path: path.to_owned(), found: format, known: FORMAT });
    }
    let identity: Identity = serde_json::from_slice(&json).map_err(damaged)?;
    if identity.node != config.node_name || identity.cluster != config.cluster_name {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
            found_node: identity.node,
            found_cluster: identity.cluster,
            node: config.node_name.clone(),
            cluster: config.cluster_name.clone(),
        });
    }
    Ok(Some(identity))
}

fn new_identity(config: &Config) -> Result<Identity, OpenError> {
    let (raft_id, dir_id) = match &config.joined {
        Some(joined) => (joined.raft_id, joined.dir_id.clone()),
        None => {
            let founding = config.founding_id().ok_or_else(|| OpenError::NotFounding {
                path: config.data_dir.clone(),
                node: config.node_name.clone(),
            })?;
            (founding, new_dir_id())
        }
    };
    Ok(Identity::of(config, raft_id, dir_id))
}

fn new_dir_id() -> String {
    #[cfg(test)]
    if let Some(id) = crate::sim::random_id() {
        return id;
    }
    format!("{:032x}", rand::random::<u128>())
}

/// What a node that is to join a cluster has to ask for first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joining {
    /// It is somebody already: it joined before, or founded the cluster.
    Done,
    /// It is nobody yet; the cluster is to admit a directory of this identity,
    /// which stays the same however often it asks.
    Asks {
        /// Identity of its data directory.
        dir_id: String,
    },
}

impl Joining {
    /// Looks at the data directory of a node that is to join, and makes it if
    /// there is none.
    ///
    /// # Errors
    /// As [`Replica::open`](crate::Replica::open), for what concerns its files.
    pub fn prepare(config: &Config) -> Result<Self, OpenError> {
        let root = &config.data_dir;
        create_dir(root)?;
        let _lock = lock(&root.join("lock"))?;
        if read_identity(&root.join("identity.json"), config)?.is_some() {
            return Ok(Self::Done);
        }
        let path = root.join(JOINING);
        let dir_id = match fs::read_to_string(&path) {
            Ok(json) => serde_json::from_str(&json).map_err(|e| OpenError::Damaged {
                path: path.clone(),
                detail: format!("{e}; remove it, and invite the node anew if it was admitted"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = new_dir_id();
                let json = serde_json::to_vec(&made).expect("a text");
                replace_durably(&path, &json).map_err(OpenError::io("write", &path))?;
                made
            }
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        Ok(Self::Asks { dir_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Joined, Voter};

    fn config(dir: &Path, node: &str, cluster: &str) -> Config {
        let voters =
            ["a", "b"].map(|n| Voter { name: n.into(), peer_addr: format!("{n}:1") }).to_vec();
        Config {
            node_name: node.into(),
            cluster_name: cluster.into(),
            data_dir: dir.to_owned(),
            voters,
            ..Config::default()
        }
    }

    /// What opening a node does to its directory.
    fn open(config: &Config) -> Result<DataDir, OpenError> {
        let mut opened = DataDir::open(config)?;
        fs::write(opened.wal().join("r-0.wal"), b"").unwrap();
        opened.confirm(true)?;
        Ok(opened)
    }

    #[test]
    fn identity_stays_over_restarts_and_two_directories_differ() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = open(&config(one.path(), "b", "c")).unwrap().identity;
        assert_eq!((first.raft_id, first.format), (2, 1));
        assert_eq!(open(&config(one.path(), "b", "c")).unwrap().identity, first);
        let other = open(&config(two.path(), "b", "c")).unwrap().identity;
        assert_ne!(other.dir_id, first.dir_id);
    }

    #[test]
    fn a_directory_in_use_is_refused_and_released_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(&config(dir.path(), "a", "c")).unwrap();
        let error = open(&config(dir.path(), "a", "c")).err().unwrap();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        drop(opened);
        open(&config(dir.path(), "a", "c")).unwrap();
    }

    #[test]
    fn another_nodes_or_clusters_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&config(dir.path(), "a", "c")).unwrap());
        for (node, cluster) in [("b", "c"), ("a", "d")] {
            let error = open(&config(dir.path(), node, cluster)).err().unwrap();
            let text = error.to_string();
            assert!(matches!(error, OpenError::Foreign { .. }), "{text}");
            assert!(text.contains("identity.json") && text.contains("node \"a\""), "{text}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_even_if_its_fields_are_unknown() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity.json"), r#"{"format": 2, "who": "knows"}"#).unwrap();
        let error = open(&config(dir.path(), "a", "c")).err().unwrap();
        assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }), "{error}");
    }

    #[test]
    fn an_empty_directory_of_a_stranger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(&config(dir.path(), "z", "c")).err().unwrap();
        assert!(matches!(error, OpenError::NotFounding { .. }), "{error}");
    }

    #[test]
    fn a_node_that_joins_is_the_same_however_often_it_asks() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), "z", "c");
        let asks = Joining::prepare(&config).unwrap();
        assert_eq!(Joining::prepare(&config).unwrap(), asks);
        let Joining::Asks { dir_id } = asks else { panic!("it is nobody yet") };
        config.joined = Some(Joined { raft_id: 1_007, dir_id: dir_id.clone() });
        let opened = open(&config).unwrap();
        assert_eq!((opened.identity.raft_id, &opened.identity.dir_id), (1_007, &dir_id));
        drop(opened);
        assert_eq!(Joining::prepare(&config).unwrap(), Joining::Done);
        assert!(!dir.path().join(JOINING).exists());
        config.joined = None;
        assert_eq!(open(&config).unwrap().identity.raft_id, 1_007, "it knows who it is");
    }

    #[test]
    fn a_log_without_identity_is_not_taken_for_a_new_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = DataDir::open(&config(dir.path(), "a", "c")).unwrap();
        let error = opened.confirm(false).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }

    #[test]
    fn an_identity_without_a_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&config(dir.path(), "a", "c")).unwrap());
        fs::remove_file(dir.path().join("wal/r-0.wal")).unwrap();
        let error = DataDir::open(&config(dir.path(), "a", "c")).err().unwrap();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
}
