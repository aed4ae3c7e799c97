//! Sled's files with changes: an image is right, or it is not used.

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, check, mutations};

use super::*;
use crate::machine::Machine;
use crate::toy::Toy;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Few by default: sled takes its time, and some of its panics print a page.
#[test]
fn changed_files_are_the_same_image_or_none() {
    let changes = vec((any::<Index>(), mutations(4)), 1..3);
    check(CASES / 16, changes, |changes| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("image");
        super::tests::written(&dir);
        let files = files(&dir);
        for (at, changes) in changes {
            let path = &files[at.index(files.len())];
            let mut bytes = fs::read(path).unwrap();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            fs::write(path, bytes).unwrap();
        }
        let mut toy = Toy::default();
        let (image, found) = super::tests::open(&dir, &mut toy);
        if found.is_some() {
            let keys: Vec<String> = Machine::image(&toy).map(|(key, _)| key).collect();
            assert_eq!(keys, ["a", "c", "d"]);
        }
        image.close();
    });
}
