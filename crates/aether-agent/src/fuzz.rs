//! What an agent reads: directives and questions of the control plane, files of
//! its own, and what slices write.

use std::fs;
use std::path::Path;

use aether_core::ids::Fence;
use aether_core::manifest::Manifest;
use aether_core::records::Configuration;
use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, NASTY, bytes, check, mutated, text};
use aether_proto::v1;
use prost::Message;

use crate::artifact::Digest;
use crate::directive::{Directive, Keeper, Verdict};
use crate::shim::{LINE_BYTES_MAX, LogFile, LogLimits, rotated_path};
use crate::substitute::Variables;

fn manifest() -> Manifest {
    Manifest::parse("artifact='org.example:a:1.0.0'\n[run]\ncommand=['./a']\n").unwrap()
}

fn down() -> v1::AgentDown {
    let config = Configuration { files: [("a".to_owned(), "x".into())].into(), env: [].into() };
    let assignment = |id: &str, desired: &str| v1::Assignment {
        instance_id: id.to_owned(),
        slice: "org.example:a".to_owned(),
        revision: 1,
        artifact: "org.example:a:1.0.0".to_owned(),
        sha256: Digest::of(b"").to_string(),
        size_bytes: 10,
        manifest_json: serde_json::to_string(&manifest()).unwrap(),
        desired: desired.to_owned(),
        holders: vec!["127.0.0.1:8090".to_owned()],
        config_sha256: if desired == "RUN" { config.digest() } else { String::new() },
        reload: if desired == "RUN" { 7 } else { 0 },
    };
    v1::AgentDown {
        incarnation: 1,
        term: 2,
        index: 7,
        lease_ms: 3_000,
        assignments: vec![assignment("a-5-0", "RUN"), assignment("a-5-1", "STOP")],
        taken: 1,
        needed_sha256: vec![Digest::of(b"").to_string()],
        unnamed_sha256: vec![Digest::of(b"x").to_string()],
        lists_archives: true,
        configs: vec![v1::InstanceConfig {
            sha256: config.digest(),
            files: [("a".to_owned(), "x".to_owned())].into(),
            env: Default::default(),
        }],
    }
}

#[test]
fn a_directive_is_read_whole_or_not_at_all_and_kept_as_it_was_read() {
    let input = prop_oneof![6 => mutated(vec![down().encode_to_vec()]), 1 => bytes(100)];
    check(CASES / 4, vec(input, 1..5), |messages| {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(dir.path()).unwrap();
        let mut newest: Option<Fence> = None;
        for bytes in messages {
            let Ok(message) = v1::AgentDown::decode(&bytes[..]) else { continue };
            let Ok(directive) = Directive::read(message.clone()) else { continue };
            assert!(directive.assignments.len() <= message.assignments.len());
            for (id, assignment) in &directive.assignments {
                assert!(message.assignments.iter().any(|wire| wire.instance_id == id.as_str()));
                if let Ok(work) = &assignment.work {
                    assert_eq!(work.manifest.check(), Ok(()));
                    assert!(work.digest().is_ok());
                    assert_eq!(work.config.as_ref().map(|c| c.digest()), work.config_digest);
                }
            }
            let lease = directive.lease();
            assert!((100..=3_600_000).contains(&lease.as_millis()), "{lease:?}");
            let before = keeper.accepted().cloned();
            match keeper.offer(directive.clone()).unwrap() {
                Verdict::Older(seen) => {
                    assert!(directive.fence.is_older_than(&seen));
                    assert_eq!(keeper.accepted(), before.as_ref());
                }
                Verdict::Accepted | Verdict::Known => {
                    assert!(newest.is_none_or(|newest| !directive.fence.is_older_than(&newest)));
                    newest = Some(directive.fence);
                    let reopened = Keeper::open(dir.path()).unwrap();
                    assert_eq!(**reopened.accepted().unwrap(), directive);
                }
            }
        }
    });
}

#[test]
fn a_kept_directive_that_was_changed_is_an_error_or_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::open(dir.path()).unwrap();
    let _ = keeper.offer(Directive::read(down()).unwrap()).unwrap();
    let path = dir.path().join("directive.json");
    let whole = fs::read(&path).unwrap();
    check(2 * CASES, mutated(vec![whole]), |bytes| {
        fs::write(&path, &bytes[..]).unwrap();
        match Keeper::open(dir.path()) {
            // Never taken for a node that has nothing to run.
            Ok(keeper) => assert!(keeper.accepted().is_some(), "an empty set"),
            Err(error) => assert!(error.to_string().contains("directive.json"), "{error}"),
        }
    });
}

/// Lines of all files of a log, the oldest first.
fn written(path: &Path, limits: LogLimits) -> Vec<u8> {
    let ages = (0..=limits.rotated_max).rev();
    ages.filter_map(|age| fs::read(rotated_path(path, age)).ok()).flatten().collect()
}

#[test]
fn what_a_slice_writes_is_kept_in_lines_within_their_bounds() {
    let piece = prop_oneof![
        4 => bytes(60).prop_map(|bytes| bytes.0),
        2 => select(NASTY).prop_map(|text| format!("{text}\n").into_bytes()),
        1 => (LINE_BYTES_MAX - 3..LINE_BYTES_MAX + 4).prop_map(|n| vec![b'x'; n]),
        1 => (LINE_BYTES_MAX - 3..LINE_BYTES_MAX + 4).prop_map(|n| [&vec![b'x'; n][..], b"\n"].concat()),
        1 => Just(b"\n".to_vec()),
    ];
    let limits = LogLimits { file_bytes_max: 1 << 20, rotated_max: 2 };
    check(CASES, vec(piece, 1..12), |pieces| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        let mut log = LogFile::new(path.clone(), limits);
        pieces.iter().for_each(|piece| log.write(piece));
        let kept = written(&path, limits);
        let no_ends =
            |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != b'\n').collect::<Vec<u8>>();
        assert_eq!(no_ends(&kept), no_ends(&pieces.concat()), "nothing but line ends is added");
        assert!(kept.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_BYTES_MAX));
        assert!(log.last_line().chars().count() <= 400);
    });
}

#[test]
fn a_text_is_substituted_once_and_what_is_unknown_stays() {
    let variables = Variables(vec![("PORT", "80".to_owned()), ("A", "${PORT}".to_owned())]);
    let part = prop_oneof![
        2 => select(&["${PORT}", "${A}", "${", "}", "$", "${B}", "${PORT", "é"][..])
            .prop_map(str::to_owned),
        1 => text(),
    ];
    check(4 * CASES, vec(part, 0..6), |parts| {
        let text = parts.concat();
        let done = variables.apply(&text);
        assert_eq!(
            done,
            text.replace("${A}", "\0A").replace("${PORT}", "80").replace("\0A", "${PORT}")
        );
    });
}
