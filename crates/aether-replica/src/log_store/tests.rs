//! Openraft's own suite, and what the log does about damaged files.

use std::fs;
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use openraft::StorageError;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::machine::ErasedMachine;
use crate::position::Position;
use crate::snapshot::SnapshotDir;
use crate::state::{Progresses, StateMachine};
use crate::toy::Toy;
use crate::types::{Command, log_id, vote};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        for part in ["wal", "snapshots"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        let log = LogStore::open(&dir.path().join("wal")).unwrap();
        let mut machine: Box<dyn ErasedMachine> = Box::new(Toy::default());
        let (snapshots, _) = SnapshotDir::open(&dir.path().join("snapshots"), "test").unwrap();
        let (image, _) =
            crate::image::Image::open(&dir.path().join("image"), "test", machine.as_mut(), |_| {
                Ok(())
            })
            .unwrap();
        let state = StateMachine::new(
            machine,
            Position::default(),
            Arc::new(snapshots),
            Arc::new(image),
            Arc::new(Progresses::default()),
        );
        Ok((dir, log, state))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

fn entry(term: u64, index: u64, body: &str) -> Entry {
    let command =
        Command { log_time_ms: index * 10, wall_ms: index * 20, body: body.to_owned().into() };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

/// A log with a vote and a few entries, closed; and its only file.
async fn written(dir: &Path) -> PathBuf {
    let mut log = LogStore::open(dir).unwrap();
    log.save_vote(&vote(1, 1, true)).await.unwrap();
    let entries = (0..4).map(|i| entry(1, i, &format!("command {i}")));
    log.blocking_append(entries).await.unwrap();
    log.save_committed(Some(log_id(1, 2))).await.unwrap();
    log.blocking_append([entry(1, 4, "the last command")]).await.unwrap();
    drop(log);
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wal"))
        .collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

/// Puts back one file as the only one: opening a torn log starts another.
fn only_file(file: &Path, content: &[u8]) {
    for entry in fs::read_dir(file.parent().unwrap()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::write(file, content).unwrap();
}

fn last_index(dir: &Path) -> Option<u64> {
    let log = LogStore::open(dir).unwrap();
    log.bounds().1.map(|id| id.index)
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|w| w == what).expect("it is in the file")
}

/// Opens the log in `dir` and reads all of it.
async fn read_all(dir: &Path) -> Result<Vec<Entry>, DamagedLog> {
    let mut log = LogStore::open(dir)?;
    Ok(log.try_get_log_entries(0..100).await.expect("what opens can be read"))
}

#[tokio::test]
async fn entries_vote_and_commit_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let entries = read_all(dir.path()).await.unwrap();
    assert_eq!(entries[1], entry(1, 1, "command 1"));
    assert_eq!(entries.len(), 5);
    let mut log = LogStore::open(dir.path()).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(1, 1, true)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 2)));
}

/// Every bit of the file, so of every length, payload, type, id and checksum,
/// of the last record too, which is the one that a torn write may cut.
#[tokio::test]
async fn any_flipped_bit_is_refused_by_the_name_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let whole = fs::read(&file).unwrap();
    let length = find(&whole, b"the last command") - 25;
    assert_eq!(whole[length], 0xb2, "the record of the last command is where it is sought");
    let mut silent = Vec::new();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        only_file(&file, &flipped);
        match LogStore::open(dir.path()) {
            Ok(_) => silent.push(bit),
            Err(damaged) => assert_eq!(Path::new(&damaged.file), file, "bit {bit}"),
        }
    }
    only_file(&file, &whole);
    assert_eq!(silent, Vec::<usize>::new(), "of {} bits", whole.len() * 8);
    assert_eq!(last_index(dir.path()), Some(4));
}

#[tokio::test]
async fn a_cut_tail_is_truncated_to_the_last_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let whole = fs::read(&file).unwrap();
    let last_record = find(&whole, b"the last command") - 25 - 17 - 4;
    for cut in last_record + 1..whole.len() {
        only_file(&file, &whole[..cut]);
        assert_eq!(last_index(dir.path()), Some(3), "cut at {cut} of {}", whole.len());
    }
    // And it goes on from there.
    let mut log = LogStore::open(dir.path()).unwrap();
    log.blocking_append([entry(2, 4, "another")]).await.unwrap();
    drop(log);
    assert_eq!(last_index(dir.path()), Some(4));
}

#[tokio::test]
async fn a_zero_filled_tail_is_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let whole = fs::read(&file).unwrap();
    for zeros in [1, 7, 4_096, 100_000] {
        let mut grown = whole.clone();
        grown.resize(whole.len() + zeros, 0);
        only_file(&file, &grown);
        assert_eq!(last_index(dir.path()), Some(4), "{zeros} zeros");
    }
}

/// The file has its new length, but not all bytes of the last record.
#[tokio::test]
async fn a_last_record_that_ends_in_zeros_is_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let whole = fs::read(&file).unwrap();
    let intact = &read_all(dir.path()).await.unwrap()[..4];
    let last_record = find(&whole, b"the last command") - 25 - 17 - 4;
    let end = whole.len();
    assert!(whole[end - 1].count_ones() > 1, "without its last byte the CRC lacks more than a bit");
    for (zero_from, more) in (last_record..end).flat_map(|at| [(at, 0), (at, 1), (at, 5_000)]) {
        let what = format!("{more} more, from {zero_from} of {last_record}..{end}");
        let mut torn = whole[..zero_from].to_vec();
        torn.resize(whole.len() + more, 0);
        only_file(&file, &torn);
        assert_eq!(read_all(dir.path()).await.expect(&what), intact, "{what}");
        // And it goes on from there.
        let mut log = LogStore::open(dir.path()).unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(vote(1, 1, true)), "{what}");
        assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 2)), "{what}");
        log.blocking_append([entry(2, 4, "another")]).await.unwrap();
        drop(log);
        let entries = read_all(dir.path()).await.unwrap();
        assert_eq!(entries, [intact, &[entry(2, 4, "another")]].concat(), "{what}");
    }
}

/// The end of a checksum says that the record was written: what does not match
/// it is damage, zeros too.
#[tokio::test]
async fn zeros_in_front_of_the_end_of_a_checksum_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let whole = fs::read(&file).unwrap();
    let body = find(&whole, b"the last command");
    let crc = whole.len() - 4;
    let cases = [
        ("the middle of the payload", body + 4..body + 8),
        ("the whole payload", body..crc),
        ("from the length on", body - 24..crc),
        ("from the log's id on", body - 25 - 17..crc),
        ("the beginning of the checksum", crc..crc + 2),
        ("all but the last byte of the payload and the checksum", body..whole.len() - 1),
    ];
    for (what, zeroed) in cases {
        for more in [0, 5_000] {
            let mut damaged = whole.clone();
            damaged[zeroed.clone()].fill(0);
            damaged.resize(whole.len() + more, 0);
            only_file(&file, &damaged);
            let refused = LogStore::open(dir.path()).err().expect(what);
            assert_eq!(Path::new(&refused.file), file, "{what}");
            assert_eq!(fs::read(&file).unwrap(), damaged, "{what}: it is left as it was");
        }
    }
}

#[tokio::test]
async fn damage_before_a_torn_tail_is_still_damage() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let mut bytes = fs::read(&file).unwrap();
    let at = find(&bytes, b"command 1");
    bytes[at] ^= 1;
    bytes.truncate(bytes.len() - 5);
    bytes.extend([0; 4_096]);
    fs::write(&file, &bytes).unwrap();
    assert!(LogStore::open(dir.path()).is_err());
}

#[tokio::test]
async fn appends_share_flushes_and_complete_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path()).unwrap();
    let mut waiting = Vec::new();
    for index in 0..500 {
        let (tx, rx) = TypeConfig::oneshot();
        log.append([entry(1, index, "x")], IOFlushed::signal(tx)).await.unwrap();
        waiting.push(rx);
    }
    for (index, rx) in waiting.into_iter().enumerate() {
        rx.await.unwrap().unwrap_or_else(|e| panic!("append {index}: {e}"));
    }
    drop(log);
    assert_eq!(last_index(dir.path()), Some(499));
}

#[tokio::test]
async fn purging_frees_whole_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path()).unwrap();
    let body = "x".repeat(1024 * 1024);
    for index in 0..30 {
        log.blocking_append([entry(1, index, &body)]).await.unwrap();
    }
    let before = log.bytes();
    log.purge(log_id(1, 28)).await.unwrap();
    log.blocking_append([entry(1, 30, "x")]).await.unwrap();
    assert!(log.bytes() < before / 2, "{} of {before} bytes are left", log.bytes());
    drop(log);
    let log = LogStore::open(dir.path()).unwrap();
    assert_eq!(log.bounds(), (Some(log_id(1, 28)), Some(log_id(1, 30))));
}

#[tokio::test]
async fn a_first_file_that_is_empty_or_gone_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open_in_files_of(dir.path(), 200).unwrap();
    for index in 0..10 {
        log.blocking_append([entry(1, index, "some command")]).await.unwrap();
    }
    drop(log);
    let first = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let first = first.filter(|p| p.extension().is_some_and(|e| e == "wal")).min().unwrap();
    fs::write(&first, "").unwrap();
    let damaged = LogStore::open_in_files_of(dir.path(), 200).err().expect("it is refused");
    assert_eq!(Path::new(&damaged.file), first, "{}", damaged.error);
    fs::remove_file(&first).unwrap();
    let damaged = LogStore::open_in_files_of(dir.path(), 200).err().expect("it is refused");
    assert!(damaged.error.to_string().contains("from index 0"), "{}", damaged.error);
}

#[test]
fn a_slow_sync_is_told_of_once_in_a_while() {
    let longest = Duration::from_millis(150);
    let mut slow = SlowSyncs { longest, told: None };
    let began = Instant::now();
    let mut tell = |at: Duration, took: Duration| slow.worth_telling(began + at, began + at + took);
    let ms = Duration::from_millis;
    assert!(!tell(ms(0), longest), "it is in time");
    assert!(tell(ms(1), ms(151)));
    assert!(!tell(ms(500), ms(900)), "it was told just now");
    assert!(tell(ms(500) + TELL_EVERY, ms(151)));
}

/// It is not damaged: whoever closes it is not done yet.
#[tokio::test]
async fn a_log_that_is_open_already_is_in_use_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path()).await;
    let before = fs::read(&file).unwrap();
    let open = LogStore::open(dir.path()).unwrap();
    let refused = LogStore::open(dir.path()).err().unwrap();
    assert_eq!(refused.error.kind(), io::ErrorKind::WouldBlock, "{}", refused.error);
    assert_eq!(fs::read(&file).unwrap(), before);
    drop(open);
}
