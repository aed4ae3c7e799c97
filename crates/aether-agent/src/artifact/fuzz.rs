//! Archives with changes, and archives of entries as nobody should make them:
//! checking and unpacking say the same of each, what is refused leaves nothing
//! outside of its directory, and what is accepted holds what it says.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use aether_fuzz::proptest;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::{Index, select};
use aether_fuzz::{CASES, NASTY, bytes, check, mutated, mutations, text};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::unpack::tests::{Raw, pax, small};
use super::{Contents, Digest, Limits, inspect, pack, unpack};

const BLOCK: usize = 512;

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(tar).unwrap();
    gzip.finish().unwrap()
}

/// Archives with entries of every accepted kind.
fn valid() -> Vec<Raw> {
    let script = "#!/bin/sh\nexec sleep 1\n".as_bytes();
    let long = "x".repeat(200);
    vec![
        Raw::new(),
        Raw::new().dir("./").dir("bin/").entry(EntryType::Regular, "bin/a", "", 0o755, script),
        Raw::new().file("a", b"abc").hardlink("b", "a").symlink("d/l", "../a").file("c/e/f", b""),
        Raw::new().pax(&[("path", "etc/é"), ("size", "3"), ("mtime", "1.5")]).file("p", b"abc"),
        Raw::new().pax(&[("linkpath", "slice.toml")]).symlink("l", "x"),
        Raw::new()
            .entry(EntryType::GNULongName, "././@LongLink", "", 0, long.as_bytes())
            .file("short", &[7; 1_500]),
        Raw::new().entry(EntryType::XGlobalHeader, "g", "", 0, &pax(&[("comment", "c")])),
    ]
}

/// Whoever changes a header on purpose makes its checksum fit.
fn fit_checksums(tar: &mut [u8], headers: &[usize]) {
    for at in headers {
        if let Some(block) = tar.get_mut(*at..at + BLOCK) {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

fn headers(tar: &[u8]) -> Vec<usize> {
    (0..tar.len() / BLOCK)
        .map(|block| block * BLOCK)
        .filter(|at| {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&tar[*at..at + BLOCK]);
            let stored = header.cksum().unwrap_or(0);
            header.set_cksum();
            stored > 0 && header.cksum().ok() == Some(stored)
        })
        .collect()
}

/// A directory with a secret beside the one that is unpacked into.
struct Yard {
    dir: tempfile::TempDir,
}

const SECRET: &[u8] = b"not of the archive";

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        Self { dir }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Checks and unpacks, and asserts what holds of every archive.
    fn take_in(&self, archive: &[u8], limits: &Limits) -> Option<Contents> {
        let checked = inspect(archive, limits);
        let unpacked = unpack(archive, &self.out(), limits);
        let mut beside: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["out", "secret"], "nothing is written beside the tree");
        let secret = self.dir.path().join("secret");
        assert_eq!(fs::read(&secret).unwrap(), SECRET);
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1, "the secret has no other name");
        let (files, bytes) = self.tree();
        assert!(bytes <= limits.unpacked_bytes_max && files <= u64::from(limits.entries_max));
        match (checked, unpacked) {
            (Ok(checked), Ok(unpacked)) => {
                assert_eq!(checked.manifest, unpacked.manifest);
                assert_eq!(checked.entries, unpacked.entries);
                assert_eq!(unpacked.file_bytes, bytes, "all of it is there");
                Some(unpacked)
            }
            // Only on the disk it shows where a chain of links leads.
            (Ok(_), Err(error)) => {
                let error = error.to_string();
                assert!(error.contains("is a link") || error.contains("os error"), "{error}");
                None
            }
            (Err(checked), Err(unpacked)) => {
                assert_eq!(checked.to_string(), unpacked.to_string());
                assert!(checked.to_string().len() < 2_000, "{checked}");
                None
            }
            (Err(error), Ok(_)) => panic!("only checking says {error}"),
        }
    }

    /// Names and bytes of all files; nothing but files, directories and links.
    fn tree(&self) -> (u64, u64) {
        let (mut names, mut bytes) = (0, BTreeMap::new());
        let mut left = vec![self.out()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let mode = meta.permissions().mode() & 0o7777;
                if meta.is_dir() {
                    left.push(path);
                } else if meta.is_file() {
                    names += 1;
                    assert!(mode == 0o444 || mode == 0o555, "{} is {mode:o}", path.display());
                    bytes.insert(meta.ino(), meta.len());
                } else {
                    assert!(meta.is_symlink(), "{} is something else", path.display());
                }
            }
        }
        (names, bytes.values().sum())
    }
}

#[test]
fn an_archive_with_changed_headers_is_refused_or_holds_what_it_says() {
    let archives: Vec<Vec<u8>> = valid().into_iter().map(|raw| raw.0).collect();
    check(CASES, (select(archives), mutations(4), any::<bool>()), |(mut tar, changes, fits)| {
        let headers = headers(&tar);
        changes.iter().for_each(|change| change.apply(&mut tar));
        if fits {
            fit_checksums(&mut tar, &headers);
        }
        tar.extend([0; 2 * BLOCK]);
        drop(Yard::new().take_in(&gzip(&tar), &small()));
    });
}

#[test]
fn an_archive_that_was_damaged_on_its_way_is_refused_or_the_same() {
    let archives: Vec<Vec<u8>> = valid().into_iter().map(Raw::gzip).collect();
    let whole: Vec<Contents> =
        archives.iter().map(|bytes| inspect(&bytes[..], &small()).unwrap()).collect();
    for (at, bytes) in archives.iter().enumerate() {
        check(CASES / 8, mutated(vec![bytes.clone()]), |damaged| {
            if let Some(contents) = Yard::new().take_in(&damaged, &small()) {
                assert_eq!(contents.manifest, whole[at].manifest);
                assert_eq!(contents.entries, whole[at].entries);
                assert_eq!(contents.file_bytes, whole[at].file_bytes);
            }
        });
    }
    check(2 * CASES, bytes(600), |bytes| assert!(inspect(&bytes[..], &small()).is_err()));
}

#[derive(Debug, Clone)]
struct Entry {
    kind: u8,
    name: String,
    link: String,
    mode: u32,
    data: Vec<u8>,
    /// The name stands in a PAX record before it.
    pax: bool,
}

/// Few names, so that entries meet: twice, under files, under links.
fn name() -> impl Strategy<Value = String> {
    const PARTS: [&str; 11] =
        ["a", "b", "A", "d", "а", "..", ".", "", "slice.toml", "secret", "out"];
    let path = prop::collection::vec(select(&PARTS[..]), 1..4).prop_map(|parts| parts.join("/"));
    let deep = (1usize..60).prop_map(|n| "a/".repeat(n));
    prop_oneof![
        8 => path,
        1 => select(NASTY).prop_map(str::to_owned),
        1 => deep,
        1 => (250usize..260).prop_map(|n| "n".repeat(n)),
        1 => text(),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![4 => Just(b'0'), 2 => Just(b'1'), 3 => Just(b'2'), 2 => Just(b'5'),
        1 => select(&b"\x0034567gxLKSVMDNA"[..])];
    let mode = select(&[0o644u32, 0o755, 0o4755, 0o2000, 0o1777, 0, 0o7777_7777][..]);
    let data = prop::collection::vec(any::<u8>(), 0..40);
    (kind, name(), name(), mode, data, prop::bool::weighted(0.2)).prop_map(
        |(kind, name, link, mode, data, pax)| {
            let data = if b"0x".contains(&kind) { data } else { Vec::new() };
            Entry { kind, name, link, mode, data, pax }
        },
    )
}

/// As much of a text as the field of a header holds, at a letter's border.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(99)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[test]
fn entries_of_any_kind_and_name_stay_inside_or_are_refused() {
    let entries = (prop::collection::vec(entry(), 1..6), any::<Index>());
    check(CASES, entries, |(entries, manifest)| {
        let at = manifest.index(entries.len());
        let mut raw = Raw(Vec::new());
        for (number, entry) in entries.iter().enumerate() {
            if number == at {
                raw.0.extend(Raw::new().0);
            }
            if entry.pax && entry.name.len() < 9_000 {
                raw = raw.pax(&[("path", &entry.name)]);
            }
            let (name, link) = (cut(&entry.name), cut(&entry.link));
            raw = raw.entry(EntryType::new(entry.kind), name, link, entry.mode, &entry.data);
        }
        drop(Yard::new().take_in(&raw.gzip(), &small()));
    });
}

#[test]
fn any_records_of_an_extension_header_are_read_or_refused() {
    let record = pax(&[("path", "a/b"), ("size", "3"), ("linkpath", "x"), ("mtime", "1.5")]);
    let records = prop_oneof![4 => mutated(vec![record]), 1 => bytes(200)];
    let kind = select(&b"xgLK"[..]);
    check(CASES, (records, kind), |(records, kind)| {
        let raw = Raw::new().entry(EntryType::new(kind), "x", "", 0, &records).file("f", b"abc");
        drop(Yard::new().take_in(&raw.gzip(), &small()));
    });
}

#[derive(Debug, Clone)]
enum Leaf {
    File(Vec<u8>, bool),
    Link,
}

#[test]
fn what_is_packed_and_unpacked_packs_to_the_same_bytes() {
    let names =
        prop_oneof!["[a-z][a-zA-Zé .~-]{0,19}", (150usize..256).prop_map(|n| "n".repeat(n))];
    let leaf = prop_oneof![
        4 => (prop::collection::vec(any::<u8>(), 0..3_000), any::<bool>())
            .prop_map(|(bytes, executable)| Leaf::File(bytes, executable)),
        1 => Just(Leaf::Link),
    ];
    let tree = prop::collection::vec((prop::collection::vec(names, 1..4), leaf), 0..8);
    check(CASES / 8, tree, |tree| {
        let yard = tempfile::tempdir().unwrap();
        let dir = yard.path().join("in");
        fs::create_dir(&dir).unwrap();
        let manifest = "artifact='org.example:a:1.0.0'\n[run]\ncommand=['x']\n";
        fs::write(dir.join("slice.toml"), manifest).unwrap();
        for (names, leaf) in tree {
            let path = names.iter().fold(dir.clone(), |path, name| path.join(name));
            if path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_err()) {
                continue; // A file is in the way.
            }
            // Likewise, or a directory.
            match leaf {
                Leaf::File(bytes, executable) if fs::write(&path, &bytes).is_ok() => {
                    let mode = if executable { 0o700 } else { 0o600 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                Leaf::Link => drop(symlink(Path::new("."), &path)),
                Leaf::File(..) => {}
            }
        }
        let mut first = Vec::new();
        let (digest, bytes) = pack(&dir, &mut first).unwrap();
        assert_eq!((digest, bytes), (Digest::of(&first), first.len() as u64));
        let out = yard.path().join("out");
        unpack(&first[..], &out, &Limits::default()).unwrap();
        let mut second = Vec::new();
        assert_eq!(pack(&out, &mut second).unwrap(), (digest, bytes));
        assert_eq!(first, second);
    });
}

#[test]
fn a_digest_has_one_spelling() {
    let digest = Digest::of(b"x").to_string();
    let texts = prop_oneof![mutated(vec![digest.clone().into_bytes()]), bytes(80)];
    check(8 * CASES, texts, |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(digest) = text.parse::<Digest>() {
            assert_eq!(digest.to_string(), text);
        }
    });
}

/// Letters and others that are drawn the same.
const ALIKE: [(char, char); 8] = [
    ('a', '\u{430}'),
    ('c', '\u{441}'),
    ('e', '\u{FF45}'),
    ('i', '\u{456}'),
    ('o', '\u{3BF}'),
    ('p', '\u{440}'),
    ('x', '\u{445}'),
    ('s', '\u{455}'),
];

#[test]
fn of_two_names_that_read_the_same_one_is_refused() {
    let letters: Vec<char> = ALIKE.iter().map(|(letter, _)| *letter).collect();
    let names = proptest::collection::vec(select(letters), 1..8);
    check(CASES / 4, (names, any::<Index>(), any::<bool>()), |(name, at, swap)| {
        let plain: String = name.iter().collect();
        let place = at.index(name.len());
        let alike = |letter: char| ALIKE.iter().find(|(own, _)| *own == letter).unwrap().1;
        let other: String =
            name.iter().enumerate().map(|(i, c)| if i == place { alike(*c) } else { *c }).collect();
        let (first, second) = if swap { (&other, &plain) } else { (&plain, &other) };
        for alone in [first, second] {
            inspect(&Raw::new().file(alone, b"").gzip()[..], &small()).unwrap();
        }
        let both = Raw::new().file(first, b"").file("between", b"").file(second, b"");
        assert!(Yard::new().take_in(&both.gzip(), &small()).is_none(), "{first} {second}");
    });
}

#[test]
fn a_name_with_something_unseen_is_refused_in_words_that_are_seen() {
    const UNSEEN: [char; 8] =
        ['\u{1}', '\u{7F}', '\u{AD}', '\u{200B}', '\u{202E}', '\u{2067}', '\u{FEFF}', '\u{E0020}'];
    check(CASES, ("[a-zé/]{0,12}", select(&UNSEEN[..]), any::<Index>()), |(name, unseen, at)| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.insert(at.index(letters.len() + 1), unseen);
        let name: String = letters.into_iter().collect();
        let archive = Raw::new().pax(&[("path", &name)]).file("p", b"").gzip();
        let error = inspect(&archive[..], &small()).unwrap_err().to_string();
        assert!(!error.contains(unseen) && error.contains("\\u{"), "{error}");
        assert!(Yard::new().take_in(&archive, &small()).is_none());
    });
}
