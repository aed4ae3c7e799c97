//! The log's files with changes: a log opens with what was written, or without
//! an end that was torn off, or not at all. Never with something else.

use std::fs;
use std::path::{Path, PathBuf};

use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, Mutation, bytes, check, mutations};
use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt;

use super::*;
use crate::types::{Command, log_id, vote};

fn entry(index: u64) -> Entry {
    // Lengths differ, so that records of one do not fit into another's place.
    let body = format!("command {index}{}", "x".repeat(index as usize * 3));
    let command = Command { log_time_ms: index * 10, wall_ms: 0, body: body.into() };
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(command) }
}

/// What a log says of itself.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    entries: Vec<Entry>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

fn said(mut log: LogStore) -> Said {
    block_on(async {
        Said {
            entries: log.try_get_log_entries(0..100).await.expect("what opens can be read"),
            vote: log.read_vote().await.unwrap(),
            committed: log.read_committed().await.unwrap(),
        }
    })
}

/// Files of a log, oldest first.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wal"))
        .collect();
    files.sort();
    files
}

/// A log of ten entries in files of at most so many bytes.
fn written(dir: &Path, chunk_bytes: usize) -> (Vec<(PathBuf, Vec<u8>)>, Said) {
    let mut log = LogStore::open_in_files_of(dir, chunk_bytes).unwrap();
    block_on(async {
        log.save_vote(&vote(1, 1, true)).await.unwrap();
        for index in 0..10 {
            log.blocking_append([entry(index)]).await.unwrap();
            log.save_committed(Some(log_id(1, index))).await.unwrap();
        }
        log.blocking_append([entry(10)]).await.unwrap();
    });
    drop(log);
    let whole = said(LogStore::open_in_files_of(dir, chunk_bytes).unwrap());
    assert_eq!(whole.entries.len(), 11);
    (files(dir).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect(), whole)
}

fn put_back(dir: &Path, contents: &[(PathBuf, Vec<u8>)]) {
    for entry in fs::read_dir(dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (path, content) in contents {
        fs::write(path, content).unwrap();
    }
}

/// Whether `changed` is `whole` without its end: cut off, or zeros.
fn is_torn(whole: &[u8], changed: &[u8]) -> bool {
    let same = whole.iter().zip(changed).take_while(|(a, b)| a == b).count();
    changed[same..].iter().all(|byte| *byte == 0)
}

/// What disks and their drivers do. Removing a whole record, or putting a second
/// one in, is what only somebody would do who means it.
fn is_of_a_disk(change: &Mutation) -> bool {
    !matches!(change, Mutation::Remove(..) | Mutation::Repeat(..) | Mutation::Copy(..))
}

/// Opens what was changed, and asserts what holds of it.
fn open(dir: &Path, chunk_bytes: usize, whole: &Said, torn: bool) {
    let found = match LogStore::open_in_files_of(dir, chunk_bytes) {
        Ok(log) => said(log),
        Err(damaged) => {
            assert!(Path::new(&damaged.file).starts_with(dir), "{damaged:?}");
            return;
        }
    };
    if found == *whole {
        return;
    }
    assert!(torn, "silently: {found:?}");
    let kept = found.entries.len();
    assert!(kept <= whole.entries.len() && found.entries == whole.entries[..kept]);
    assert!(found.committed <= whole.committed);
    assert!(found.vote == whole.vote || found.vote.is_none());
}

#[test]
fn a_changed_file_is_read_as_written_or_without_a_torn_end_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (contents, whole) = written(dir.path(), CHUNK_BYTES);
    let [(path, content)] = &contents[..] else { panic!("{} files", contents.len()) };
    // One at a time: a change within an end that is cut off as well cannot be
    // told from the cut alone.
    let changes = mutations(1).prop_map(|mut changes| {
        changes.retain(is_of_a_disk);
        changes
    });
    check(CASES, changes, |changes| {
        let mut changed = content.clone();
        changes.iter().for_each(|change| change.apply(&mut changed));
        put_back(dir.path(), &[(path.clone(), changed.clone())]);
        open(dir.path(), CHUNK_BYTES, &whole, is_torn(content, &changed));
    });
}

#[test]
fn a_changed_file_among_several_is_damage_unless_it_is_the_last() {
    const CHUNK_BYTES: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let (contents, whole) = written(dir.path(), CHUNK_BYTES);
    assert!(contents.len() > 3, "{} files", contents.len());
    let last_with_records = contents.iter().rposition(|(_, bytes)| !bytes.is_empty()).unwrap();
    check(CASES, (any::<Index>(), mutations(1)), |(at, mut changes)| {
        changes.retain(is_of_a_disk);
        let at = at.index(contents.len());
        let mut files = contents.clone();
        let changed = &mut files[at].1;
        changes.iter().for_each(|change| change.apply(changed));
        let torn = at >= last_with_records && is_torn(&contents[at].1, &files[at].1);
        put_back(dir.path(), &files);
        open(dir.path(), CHUNK_BYTES, &whole, torn);
    });
    for at in 0..last_with_records {
        let mut files = contents.clone();
        drop(files.remove(at));
        put_back(dir.path(), &files);
        open(dir.path(), CHUNK_BYTES, &whole, false);
        let mut files = contents.clone();
        files[at].1.clear();
        put_back(dir.path(), &files);
        open(dir.path(), CHUNK_BYTES, &whole, false);
        let mut files = contents.clone();
        let other = files[(at + 1) % last_with_records].1.clone();
        files[at].1 = other;
        put_back(dir.path(), &files);
        open(dir.path(), CHUNK_BYTES, &whole, false);
    }
}

#[test]
fn any_bytes_as_a_file_of_the_log_break_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (contents, _) = written(dir.path(), CHUNK_BYTES);
    check(CASES / 2, bytes(300), |bytes| {
        put_back(dir.path(), &[(contents[0].0.clone(), bytes.to_vec())]);
        if let Ok(log) = LogStore::open(dir.path()) {
            assert_eq!(said(log).entries, [], "of {bytes:?}");
        }
    });
}
