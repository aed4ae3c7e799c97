//! Makes the data directory of a founding voter from a backup.
//!
//! Every founder does this by itself, without the others: of the same backup
//! and the same list of voters all of them make the same log position, state
//! and membership. The directory looks like that of a voter that installed a
//! snapshot and was stopped, with one file more, `restored.json` (see
//! `refound`), because nobody has met anybody yet.
//!
//! It is made beside its place and moved there at the end. What a crash leaves
//! is refused when the node starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use sha2::{Digest, Sha256};

use crate::backup::Backup;
use crate::config::Config;
use crate::data_dir::{self, Identity};
use crate::error::OpenError;
use crate::files::{replace_durably, sync_dir};
use crate::log_store::LogStore;
use crate::machine::{Row, Stamp};
use crate::position::Position;
use crate::refound::Restored;
use crate::snapshot::SnapshotDir;
use crate::types::{INDEX_MAX, Member, Membership, StoredMembership, log_id, vote};

/// Name of the directory that is being made, beside its place.
pub(crate) fn unfinished(root: &Path) -> PathBuf {
    root.with_extension("restoring")
}

/// Where the new log begins that `gap` entries after a backup would.
///
/// # Errors
/// There is no such position.
pub fn restored_at(backup: &Backup, gap: u64) -> Result<Stamp, OpenError> {
    let at = backup.at();
    match at.index.checked_add(gap).filter(|index| *index <= INDEX_MAX) {
        // The time until there is a cluster again counts for nothing: without a
        // wall clock the first leader goes on with the backup's log time.
        Some(index) => Ok(Stamp { index, wall_ms: 0, ..at }),
        None => Err(OpenError::Config(format!("index {} of the backup is too high", at.index))),
    }
}

/// Makes the data directory of this node, a founding voter of a new cluster,
/// from what `rows` made of a backup at the position [`restored_at`]. Blocks.
///
/// # Errors
/// If there is a directory with anything in it, the settings name no such voter,
/// or a file can't be written. There is no directory then.
pub async fn restore(
    config: &Config,
    backup: &Backup,
    at: Stamp,
    rows: impl Iterator<Item = Row> + Send,
) -> Result<(), OpenError> {
    config.validate().map_err(OpenError::Config)?;
    let raft_id = config.founding_id().ok_or_else(|| OpenError::NotFounding {
        path: config.data_dir.clone(),
        node: config.node_name.clone(),
    })?;
    let root = &config.data_dir;
    let made = unfinished(root);
    data_dir::create_dir(&made)?;
    let _lock = data_dir::lock(&made.join("lock"))?;
    let occupied = match fs::read_dir(root) {
        Ok(mut files) => files.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(OpenError::io("read the folder", root)(error)),
    };
    if occupied {
        remove(&made)?;
        return Err(OpenError::Occupied { path: root.clone() });
    }
    empty(&made)?;
    let restored = Restored::new(backup.checksum(), config);
    let position = position(config, &restored, at);
    let member = position.membership.membership().get_node(&raft_id).expect("all are in it");
    let identity = Identity::of(config, raft_id, member.dir_id.clone());
    write_log(&made.join("wal"), &position, raft_id).await?;
    let snapshots = made.join("snapshots");
    data_dir::create_dir(&snapshots)?;
    SnapshotDir::open(&snapshots, &config.cluster_name)
        .and_then(|(dir, _)| dir.write(&position, rows))
        .map_err(OpenError::io("write a snapshot into", &snapshots))?;
    restored.write(&made).map_err(OpenError::io("write into", &made))?;
    let path = made.join("identity.json");
    replace_durably(&path, &identity.to_json()).map_err(OpenError::io("write", &path))?;
    let parent = root.parent().unwrap_or(Path::new("."));
    fs::rename(&made, root)
        .and_then(|()| sync_dir(parent))
        .map_err(OpenError::io("move the finished directory to", root))
}

/// Leaves nothing but the lock, which is held.
fn empty(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(OpenError::io("read the folder", dir))? {
        let path = entry.map_err(OpenError::io("read the folder", dir))?.path();
        if path.file_name().is_some_and(|name| name != "lock") {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), OpenError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(OpenError::io("remove", path))
}

/// The founding position, the same on every founder.
fn position(config: &Config, restored: &Restored, at: Stamp) -> Position {
    let members: BTreeMap<u64, Member> = (1..)
        .zip(&config.voters)
        .map(|(id, voter)| {
            let dir_id = dir_id(config, restored, &voter.name);
            (id, Member { name: voter.name.clone(), peer_addr: voter.peer_addr.clone(), dir_id })
        })
        .collect();
    let applied = Some(log_id(at.term, at.index));
    Position {
        applied,
        membership: StoredMembership::new(applied, Membership::from(members)),
        log_time_ms: at.log_time_ms,
        wall_ms: at.wall_ms,
    }
}

/// Identity of a founder's directory. Not random, so that each founder knows
/// those of all: nothing but this backup, for these voters, in a cluster of this
/// name, makes the same. That it was restored twice is for `refound` to see.
fn dir_id(config: &Config, restored: &Restored, node: &str) -> String {
    let parts = (&config.cluster_name, &restored.backup, &restored.voters, node);
    let text = serde_json::to_vec(&parts).expect("texts");
    Sha256::digest(text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A log that holds nothing after the position, and a ballot of this node's in
/// its term, so that all terms to come are higher.
async fn write_log(dir: &Path, position: &Position, raft_id: u64) -> Result<(), OpenError> {
    data_dir::create_dir(dir)?;
    let opened = LogStore::open(dir);
    let mut log = opened.map_err(|damaged| OpenError::io("make a log in", dir)(damaged.error))?;
    let write = async {
        if let Some(applied) = position.applied {
            log.purge(applied).await?;
        }
        // Waits for the other one too.
        log.save_vote(&vote(position.term(), raft_id, false)).await
    };
    let written = write.await;
    drop(log);
    written.and_then(|()| sync_dir(dir)).map_err(OpenError::io("write a log into", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Voter;
    use crate::data_dir::DataDir;
    use crate::snapshot::SnapshotError;

    const GAP: u64 = 1_000;

    fn rows() -> Vec<Row> {
        (0..100).map(|i| (format!("key/{i:03}"), vec![i as u8; i])).collect()
    }

    fn backup(dir: &Path) -> Backup {
        let at = Position { applied: Some(log_id(3, 41)), log_time_ms: 77, ..Position::default() };
        let (snapshots, _) = SnapshotDir::open(dir, "c").unwrap();
        let file = snapshots.write(&at, rows().into_iter()).unwrap();
        Backup::open(&file.path).unwrap()
    }

    fn config(root: &Path, node: &str) -> Config {
        let voters =
            ["a", "b"].map(|n| Voter { name: n.into(), peer_addr: format!("{n}:1") }).to_vec();
        Config {
            node_name: node.into(),
            cluster_name: "c".into(),
            data_dir: root.join(node).join("replica"),
            voters,
            ..Config::default()
        }
    }

    async fn make(config: &Config, backup: &Backup) -> Result<(), OpenError> {
        let at = restored_at(backup, GAP).unwrap();
        restore(config, backup, at, rows().into_iter()).await
    }

    fn snapshot_of(config: &Config) -> Vec<u8> {
        let mut files = fs::read_dir(config.data_dir.join("snapshots")).unwrap();
        fs::read(files.next().unwrap().unwrap().path()).unwrap()
    }

    #[tokio::test]
    async fn founders_make_the_same_state_and_differ_in_who_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let (a, b) = (config(dir.path(), "a"), config(dir.path(), "b"));
        make(&a, &backup).await.unwrap();
        make(&b, &backup).await.unwrap();
        assert_eq!(snapshot_of(&a), snapshot_of(&b), "to the last byte, membership included");
        let (of_a, of_b) = (DataDir::open(&a).unwrap(), DataDir::open(&b).unwrap());
        assert_eq!((of_a.identity.raft_id, of_b.identity.raft_id), (1, 2));
        assert_ne!(of_a.identity.dir_id, of_b.identity.dir_id);
        assert_ne!(of_a.restored.unwrap().life, of_b.restored.unwrap().life);
        let log = LogStore::open(&a.data_dir.join("wal")).unwrap();
        let end = Some(log_id(3, 41 + GAP));
        assert_eq!(log.bounds(), (end, end));
        assert!(!log.is_pristine());
    }

    #[tokio::test]
    async fn another_backup_or_list_makes_other_directories() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let config = config(dir.path(), "a");
        let of = |config: &Config, backup: &str| {
            dir_id(config, &Restored::new(backup.to_owned(), config), "a")
        };
        let id = of(&config, &backup.checksum());
        assert_eq!(id, of(&config, &backup.checksum()));
        let frozen = "079a7719130428a2b74db8eb0a317cc2";
        assert_eq!(of(&config, "b1"), frozen, "founders of two releases make the same of it");
        assert_ne!(id, of(&config, "another"));
        let mut longer = config.clone();
        longer.voters.push(Voter { name: "d".into(), peer_addr: "d:1".into() });
        assert_ne!(id, of(&longer, &backup.checksum()));
        let renamed = Config { cluster_name: "d".into(), ..config };
        assert_ne!(id, of(&renamed, &backup.checksum()));
    }

    #[tokio::test]
    async fn nothing_is_overwritten_and_what_a_crash_leaves_is_refused_until_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let backup = backup(dir.path());
        let config = config(dir.path(), "a");
        let left = unfinished(&config.data_dir);
        fs::create_dir_all(left.join("wal")).unwrap();
        fs::write(left.join("identity.json"), "half").unwrap();
        let error = DataDir::open(&config).err().unwrap();
        assert!(matches!(error, OpenError::HalfRestored { .. }), "{error}");
        assert!(!config.data_dir.exists(), "nor is a new one made");
        make(&config, &backup).await.unwrap();
        assert!(!left.exists());
        drop(DataDir::open(&config).unwrap());
        let before = snapshot_of(&config);
        let error = make(&config, &backup).await.unwrap_err();
        assert!(matches!(error, OpenError::Occupied { .. }), "{error}");
        assert!(!left.exists());
        assert_eq!(snapshot_of(&config), before);
    }

    #[test]
    fn a_damaged_backup_is_refused_with_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let good = backup(dir.path());
        let whole = fs::read(&good.file.path).unwrap();
        let path = dir.path().join("changed");
        let opened = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Backup::open(&path).map(drop)
        };
        assert!(opened(&whole).is_ok());
        // A value, a length, and the end.
        let at_of = |bytes: &[u8]| match opened(bytes) {
            Err(SnapshotError::Damaged { at, bytes, detail }) => (at, bytes, detail),
            other => panic!("{other:?}"),
        };
        let bytes = whole.len() as u64;
        let mut changed = whole.clone();
        *changed.iter_mut().rev().nth(60).unwrap() ^= 1;
        let (at, _, detail) = at_of(&changed);
        assert_eq!((at, detail.contains("checksum")), (bytes - 32, true), "{detail}");
        let cut = &whole[..whole.len() / 2];
        let (at, of, detail) = at_of(cut);
        assert!(
            at <= of && of == cut.len() as u64 && detail.contains("fewer are left"),
            "{detail}"
        );
        assert!(matches!(opened(b"PK"), Err(SnapshotError::Foreign)));
        assert!(matches!(opened(b"a file of another kind"), Err(SnapshotError::Foreign)));
        let mut newer = whole;
        newer[11] = 9;
        let found = opened(&newer);
        assert!(matches!(found, Err(SnapshotError::NewerFormat { found: 9, .. })), "{found:?}");
    }
}
