//! Archives as an attacker would make them, byte by byte.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::*;
use crate::artifact::inspect;

const MANIFEST: &str = "artifact='org.example:a:1.0.0'\n[run]\ncommand=['bin/a']\n";

/// Writes headers as given, where the tar crate's builder would refuse.
pub(in crate::artifact) struct Raw(pub Vec<u8>);

impl Raw {
    pub fn new() -> Self {
        Self(Vec::new()).file("slice.toml", MANIFEST.as_bytes())
    }

    pub fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        data: &[u8],
    ) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, data)
    }
    pub fn dir(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, b"")
    }
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        self.entry(EntryType::XHeader, "pax", "", 0o644, &pax(records))
    }

    pub fn gzip(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.0).unwrap();
        gzip.finish().unwrap()
    }
}

pub(in crate::artifact) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (1..=4).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n);
        writeln!(bytes, "{} {key}={value}", length.unwrap()).unwrap();
    }
    bytes
}

pub(in crate::artifact) fn small() -> Limits {
    Limits { entries_max: 50, unpacked_bytes_max: 1 << 20, path_bytes_max: 300 }
}

fn check(name: &str, archive: Raw, expect: Result<(), &str>) {
    let bytes = archive.gzip();
    let dir = tempfile::tempdir().unwrap();
    let result = unpack(&bytes[..], &dir.path().join("out"), &small());
    match (&result, expect) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) if error.to_string().contains(part) => {}
        _ => panic!("{name}: expected {expect:?}, got {result:?}"),
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{name}: wrote beside its tree");
}

#[test]
fn entries_that_could_leave_the_tree_are_refused() {
    let long = "x".repeat(90);
    let deep = |n: usize| vec![long.as_str(); n].join("/");
    let path = |path: &str| Raw::new().pax(&[("path", path)]).file("plain", b"");
    let cases: Vec<(&str, Raw, Result<(), &str>)> = vec![
        ("plain", Raw::new().dir("bin/").file("bin/a", b"x").dir("./"), Ok(())),
        ("parent", Raw::new().file("../x", b""), Err("'..'")),
        ("parent inside", Raw::new().file("a/../b", b""), Err("'..'")),
        ("absolute", Raw::new().file("/etc/x", b""), Err("absolute")),
        ("pax parent", path("../x"), Err("'..'")),
        ("pax absolute", path("/x"), Err("absolute")),
        ("pax NUL", path("a\0b"), Err("control character")),
        ("pax fine", path("other/name"), Ok(())),
        ("name too long", path(&"y".repeat(256)), Err("255 bytes")),
        ("path too long", path(&deep(4)), Err("longer than 300")),
        ("symlink inside", Raw::new().file("a", b"").symlink("d/l", "../a"), Ok(())),
        ("symlink absolute", Raw::new().symlink("l", "/etc/passwd"), Err("outside")),
        ("symlink up", Raw::new().symlink("d/l", "../../x"), Err("outside")),
        ("symlink to nothing", Raw::new().symlink("l", "gone"), Err("link to nothing")),
        (
            "symlink out by another link",
            Raw::new().symlink("x/y/l", "../..").symlink("e", "x/y/l/.."),
            Err("leaves the artifact"),
        ),
        ("write through link", Raw::new().symlink("l", ".").file("l/f", b""), Err("under a link")),
        ("hardlink inside", Raw::new().file("a", b"").hardlink("b", "a"), Ok(())),
        ("hardlink by another spelling", Raw::new().hardlink("b", "./slice.toml/."), Ok(())),
        ("hardlink out", Raw::new().hardlink("b", "../a"), Err("'..'")),
        ("hardlink absolute", Raw::new().hardlink("b", "/etc/passwd"), Err("absolute")),
        (
            "hardlink to link",
            Raw::new().symlink("l", "slice.toml").hardlink("b", "l"),
            Err("no earlier file"),
        ),
        (
            "pax linkpath",
            Raw::new().pax(&[("linkpath", "../../x")]).symlink("l", "slice.toml"),
            Err("outside"),
        ),
    ];
    for (name, archive, expect) in cases {
        check(name, archive, expect);
    }
}

#[test]
fn entries_that_deceive_or_do_harm_are_refused() {
    let special = |kind| Raw::new().entry(kind, "s", "", 0o644, b"");
    let cases: Vec<(&str, Raw, Result<(), &str>)> = vec![
        ("twice", Raw::new().file("a", b"").file("./a", b""), Err("appears twice")),
        ("manifest twice", Raw::new().file("slice.toml", b""), Err("appears twice")),
        ("under a file", Raw::new().file("a", b"").file("a/b", b""), Err("under a file")),
        ("file over directory", Raw::new().file("a/b", b"").file("a", b""), Err("appears twice")),
        ("device", special(EntryType::Char), Err("device node")),
        ("block device", special(EntryType::Block), Err("device node")),
        ("pipe", special(EntryType::Fifo), Err("named pipe")),
        ("sparse", special(EntryType::GNUSparse), Err("sparse")),
        (
            "pax size",
            Raw::new().pax(&[("size", "0")]).file("a", b"abc"),
            Err("two different sizes"),
        ),
        ("pax size equal", Raw::new().pax(&[("size", "3")]).file("a", b"abc"), Ok(())),
        ("pax twice", Raw::new().pax(&[("path", "a"), ("path", "b")]).file("c", b""), Err("twice")),
        ("pax sparse", Raw::new().pax(&[("GNU.sparse.major", "1")]).file("a", b""), Err("sparse")),
        ("times in pax", Raw::new().pax(&[("mtime", "1.5")]).file("a", b""), Ok(())),
        (
            "global pax path",
            Raw::new().entry(EntryType::XGlobalHeader, "g", "", 0, &pax(&[("path", "evil")])),
            Err("all later entries"),
        ),
        (
            "global pax comment",
            Raw::new().entry(EntryType::XGlobalHeader, "g", "", 0, &pax(&[("comment", "c")])),
            Ok(()),
        ),
        (
            "long extension",
            Raw::new().pax(&[("comment", "")]).entry(
                EntryType::GNULongName,
                "l",
                "",
                0,
                &vec![b'a'; 70_000],
            ),
            Err("64 KiB"),
        ),
        (
            "directory with content",
            Raw::new().entry(EntryType::Directory, "d", "", 0, b"x"),
            Err("no file"),
        ),
        ("bomb", Raw::new().file("zeroes", &vec![0; 2 << 20]), Err("more than 1048576 bytes")),
        (
            "many",
            (0..60).fold(Raw::new(), |raw, n| raw.file(&format!("f{n}"), b"")),
            Err("more than 50 entries"),
        ),
        (
            "many directories by a few paths",
            (0..10).fold(Raw::new(), |raw, n| raw.file(&format!("{n}{}", "/d".repeat(40)), b"")),
            Err("more than 50 entries"),
        ),
    ];
    for (name, archive, expect) in cases {
        check(name, archive, expect);
    }
}

#[test]
fn names_that_read_as_others_are_refused_and_the_rest_of_unicode_is_not() {
    let two = |one: &str, other: &str| Raw::new().file(one, b"").file(other, b"");
    let unseen = Err("cannot be seen");
    let cases: Vec<(&str, Raw, Result<(), &str>)> = vec![
        ("right to left", Raw::new().file("bin/a\u{202E}gpj.sh", b""), unseen),
        ("and spelled out", Raw::new().file("a\u{202E}b", b""), Err("'a\\u{202e}b'")),
        ("isolate", Raw::new().dir("a\u{2066}/"), unseen),
        ("zero width", Raw::new().file("a\u{200B}", b""), Err("U+200B")),
        ("byte order mark", Raw::new().file("\u{FEFF}slice.toml", b""), unseen),
        ("filler", Raw::new().file("\u{3164}", b""), unseen),
        ("line", Raw::new().file("a\u{2028}b", b""), unseen),
        ("newline", Raw::new().file("a\nb", b""), Err("control character")),
        ("newline, spelled out", Raw::new().file("a\nb", b""), Err("'a\\u{a}b'")),
        ("link's target", Raw::new().symlink("l", "slice\u{200D}.toml"), unseen),
        ("hard link's target", Raw::new().hardlink("l", "slice\u{200D}.toml"), unseen),
        ("pax", Raw::new().pax(&[("path", "\u{2067}x")]).file("p", b""), unseen),
        ("another manifest", Raw::new().file("\u{455}lice.toml", b""), Err("'slice.toml'")),
        ("look-alike file", two("bin/a", "bin/\u{430}"), Err("looks like another name")),
        ("look-alike directory", two("a/x", "\u{430}/y"), Err("looks like another name")),
        ("full width", two("a", "\u{FF41}"), Err("looks like another name")),
        ("composed and not", two("\u{E9}", "e\u{301}"), Err("looks like another name")),
        ("look-alike link", Raw::new().file("a", b"").symlink("\u{430}", "a"), Err("looks like")),
        ("ASCII", two("rn0", "mO"), Ok(())),
        ("other scripts", two("\u{43F}\u{440}\u{438}", "\u{65E5}\u{672C}/caf\u{E9}"), Ok(())),
    ];
    for (name, archive, expect) in cases {
        check(name, archive, expect);
    }
}

#[test]
fn odd_but_harmless_things_are_warned_of() {
    let raw = Raw::new().file("Readme", b"").file("README", b"").entry(
        EntryType::Regular,
        "su",
        "",
        0o4755,
        b"x",
    );
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let contents = unpack(&raw.gzip()[..], &out, &small()).unwrap();
    assert_eq!(contents.warnings.len(), 2, "{:?}", contents.warnings);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(out.join("su")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o7777, 0o555);
}

#[test]
fn damaged_archives_are_unreadable_and_never_short() {
    let whole = Raw::new().file("data", &vec![7; 5_000]).gzip();
    for cut in [0, 1, 20, whole.len() / 2, whole.len() - 30] {
        assert!(inspect(&whole[..cut], &small()).is_err(), "cut at {cut}");
    }
    // A tar cut inside of a file, in a gzip that is whole.
    let mut raw = Raw::new().file("data", &vec![7; 5_000]);
    raw.0.truncate(raw.0.len() - 2_000);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&raw.0).unwrap();
    let error = inspect(&gzip.finish().unwrap()[..], &small()).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[test]
fn an_archive_ends_where_its_entries_do() {
    let mut raw = Raw::new();
    raw.0.extend([0; 1_024]);
    let error = inspect(&raw.file("hidden", b"x").gzip()[..], &small()).unwrap_err();
    assert!(error.to_string().contains("after the end"), "{error}");
    // Behind the last entry there is still the checksum over all.
    let mut whole = Raw::new().gzip();
    let crc = whole.len() - 8;
    whole[crc] ^= 1;
    assert!(matches!(inspect(&whole[..], &small()), Err(ArchiveError::Unreadable(_))));
}

#[test]
fn the_manifest_is_found_and_checked() {
    let contents = inspect(&Raw::new().gzip()[..], &small()).unwrap();
    assert_eq!(contents.manifest.artifact.to_string(), "org.example:a:1.0.0");
    let without = Raw(Vec::new()).file("bin/slice.toml", MANIFEST.as_bytes());
    let error = inspect(&without.gzip()[..], &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::NoManifest), "{error}");
    let wrong = Raw(Vec::new()).file("slice.toml", b"colour = 'red'");
    let error = inspect(&wrong.gzip()[..], &small()).unwrap_err();
    assert!(matches!(error, ArchiveError::Manifest(_)), "{error}");
}
