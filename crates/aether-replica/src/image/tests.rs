//! An image is used only if it is whole and fits the log.

use super::*;
use crate::machine::{Machine, Stamp};
use crate::toy::{Toy, set};
use crate::types::log_id;

fn position(index: u64) -> Position {
    Position { applied: Some(log_id(1, index)), log_time_ms: index, ..Position::default() }
}

pub(super) fn open(dir: &Path, machine: &mut Toy) -> (Image, Option<Position>) {
    Image::open(dir, "test", machine, |_| Ok(())).unwrap()
}

/// An image with three rows at index 7.
pub(super) fn written(dir: &Path) {
    let mut toy = Toy::default();
    let (image, found) = open(dir, &mut toy);
    assert_eq!(found, None);
    for key in ["a", "b", "c"] {
        Machine::apply(&mut toy, Stamp::default(), &set(key, "1"));
    }
    image.advance(Machine::drain_changes(&mut toy), &position(6), Machine::hash(&toy));
    Machine::apply(&mut toy, Stamp::default(), b"-b");
    Machine::apply(&mut toy, Stamp::default(), &set("d", "2"));
    image.advance(Machine::drain_changes(&mut toy), &position(7), Machine::hash(&toy));
    image.close();
    assert_eq!(image.status().index, Some(7));
}

fn keys(toy: &Toy) -> Vec<String> {
    Machine::image(toy).map(|(key, _)| key).collect()
}

#[test]
fn rows_and_position_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("image");
    written(&dir);
    let mut toy = Toy::default();
    assert_eq!(open(&dir, &mut toy).1, Some(position(7)));
    assert_eq!(keys(&toy), ["a", "c", "d"]);
}

#[test]
fn an_image_that_does_not_fit_the_log_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("image");
    written(&dir);
    let mut toy = Toy::default();
    let stale = |found: &Position| Err(format!("{} is stale", found.index()));
    let (image, found) = Image::open(&dir, "test", &mut toy, stale).unwrap();
    assert_eq!(found, None);
    assert_eq!(image.status().rebuilt_because.as_deref(), Some("7 is stale"));
    image.close();
    assert_eq!(open(&dir, &mut toy).1, None, "nothing of it is left");
}

#[test]
fn a_hash_that_does_not_match_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("image");
    written(&dir);
    {
        let db = sled::open(&dir).unwrap();
        db.insert(row_key("c"), b"9").unwrap();
        db.flush().unwrap();
    }
    let (image, found) = open(&dir, &mut Toy::default());
    assert_eq!(found, None);
    let reason = image.status().rebuilt_because.unwrap();
    assert!(reason.contains("hash"), "{reason}");
}

/// Garbage in any of sled's files: whatever sled makes of it, the image is
/// either right or not used.
#[test]
fn garbage_is_replaced_without_an_operator() {
    for seed in 0..8u8 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("image");
        written(&dir);
        let garbage: Vec<u8> = (0..4_096u32).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
        for name in ["db", "conf"] {
            let file = dir.join(name);
            let mut bytes = std::fs::read(&file).unwrap();
            let at = bytes.len().min(usize::from(seed) * 64);
            let end = bytes.len().min(at + garbage.len());
            bytes[at..end].copy_from_slice(&garbage[..end - at]);
            std::fs::write(&file, bytes).unwrap();
        }
        let mut toy = Toy::default();
        let (image, found) = open(&dir, &mut toy);
        if found.is_some() {
            assert_eq!(keys(&toy), ["a", "c", "d"], "seed {seed}");
        }
        image.replace(Box::new([("z".to_owned(), vec![1])].into_iter()), &position(8), {
            let mut one = Toy::default();
            Machine::apply(&mut one, Stamp::default(), b"z=\x01");
            Machine::hash(&one)
        });
        image.close();
        assert_eq!(image.status().off_because, None, "seed {seed}");
        assert_eq!(open(&dir, &mut toy).1, Some(position(8)), "seed {seed}");
        assert_eq!(keys(&toy), ["z"]);
    }
}

#[test]
fn a_file_where_the_folder_should_be_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, b"not a folder").unwrap();
    let (image, found) = open(&path, &mut Toy::default());
    assert_eq!(found, None);
    assert_eq!(image.status().off_because, None);
}

/// Applies one command and hands its changes over, as the replica does.
fn apply(image: &Image, toy: &mut Toy, index: u64, command: &[u8]) {
    let at = Stamp { index, ..Stamp::default() };
    Machine::apply(toy, at, command);
    let (changes, hash) = (Machine::drain_changes(toy), Machine::hash(toy));
    match image.wants_all() {
        true => image.replace(Box::new(Machine::image(toy)), &position(index), hash),
        false => image.advance(changes, &position(index), hash),
    }
}

fn size(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.filter(fs::Metadata::is_file).map(|data| data.len()).sum()
}

#[test]
fn an_image_that_is_far_larger_than_its_rows_is_written_anew() {
    assert_eq!(size_max(0, 0), SIZE_MIN);
    assert_eq!(size_max(SIZE_MIN, 0), SIZE_TIMES_MAX * SIZE_MIN);
    assert_eq!(size_max(SIZE_MIN, 9 * SIZE_MIN), NEW_TIMES_MAX * 9 * SIZE_MIN);

    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("image");
    let mut toy = Toy::default();
    let (image, _) = open(&dir, &mut toy);
    // The same row, again and again: what is written grows, the rows do not.
    let mut index = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    let (mut written, mut was_asked) = (0, false);
    while !was_asked || image.wants_all() {
        let value = format!("{index:08}").repeat(2 * 1024 * 1024);
        written += value.len() as u64;
        index += 1;
        was_asked |= image.wants_all();
        apply(&image, &mut toy, index, &set("k", &value));
        while image.status().index < Some(index) {
            assert!(std::time::Instant::now() < deadline, "{:?}", image.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert!(written > SIZE_MIN);
    assert!(size(&dir) < SIZE_MIN, "{} bytes", size(&dir));
    // It is whole, and goes on.
    apply(&image, &mut toy, index + 1, &set("last", "1"));
    image.close();
    let mut toy = Toy::default();
    assert_eq!(open(&dir, &mut toy).1, Some(position(index + 1)));
    assert_eq!(keys(&toy), ["k", "last"]);
}

/// What this process has in memory. A test has a process of its own.
fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn rows_that_are_written_again_and_again_take_no_more_memory_and_files() {
    const ROWS: u32 = 4_000;
    const BATCHES: u32 = 40;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("image");
    let db = create_anew(&dir).unwrap();
    let before = resident_mib();
    for batch in 0..BATCHES {
        // Each batch is of other rows, ten times as many in all.
        let row = |k: u32| {
            let key = format!("{:06}", k * 10 + batch % 10).into();
            (key, Some(vec![batch as u8; 400].into()))
        };
        let changes = (0..ROWS).map(row).collect();
        let target = (position(u64::from(batch) + 1), 0);
        guarded(|| write(&db, "test", Work { base: None, changes, target })).unwrap();
    }
    let (memory, files) = (resident_mib() - before, size(&dir) / (1024 * 1024));
    println!("{memory} MiB of memory and {files} MiB of files");
    // 64 MB were written, of 16 MB of rows.
    assert!(memory < 128 && files < 60, "{memory} MiB of memory and {files} MiB of files");
}
