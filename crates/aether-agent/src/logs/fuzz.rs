//! Logs of any content, read from any place, and any question about them.

use std::fs;

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::{CASES, bytes, check, mutated};
use aether_proto::v1::LogPosition;
use prost::Message;
use tokio_stream::StreamExt;

use super::*;
use crate::shim::LINE_BYTES_MAX;

/// Lines as they are read: those that are too long in pieces.
fn lines_of(content: &[u8]) -> Vec<Vec<u8>> {
    let lines = content.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| line[..line.len() - 1].to_vec()).collect()
}

#[test]
fn the_last_lines_are_those_at_the_end_of_the_file() {
    let content = vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..200);
    check(2 * CASES, (content, 0usize..40), |(content, tail)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        fs::write(&path, &content).unwrap();
        let mut follower = Follower::new(path.clone());
        let mut seen = Vec::new();
        assert!(follower.tail(tail, &mut |line, _| {
            seen.push(line.to_vec());
            true
        }));
        let all = lines_of(&content);
        // A last line without its end counts, and waits for it.
        let waits = usize::from(content.last().is_some_and(|byte| *byte != b'\n'));
        let wanted = tail.saturating_sub(waits).min(all.len());
        assert_eq!(seen, all[all.len() - wanted..]);
        let mut rest = Vec::new();
        assert!(follower.finish(&mut |line, _| {
            rest.push(line.to_vec());
            true
        }));
        assert_eq!(rest.len(), if tail == 0 { 0 } else { waits });
    });
}

#[test]
fn reading_goes_on_from_any_position_without_a_line_twice() {
    let content = vec(prop_oneof![1 => Just(b'\n'), 3 => any::<u8>()], 0..200);
    let position = (any::<u64>(), any::<u64>(), prop_oneof![any::<u64>(), 0u64..200]);
    check(CASES, (content, position, any::<bool>()), |(content, (inode, made, offset), ours)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.log");
        fs::write(&path, &content).unwrap();
        let mut first = Follower::new(path.clone());
        let mut positions = vec![LogPosition { inode, made_ns: made, offset }];
        assert!(first.more(&mut |_, position| {
            positions.push(position);
            true
        }));
        let known = positions.last().copied().unwrap_or_default();
        let asked = if ours { LogPosition { offset, ..known } } else { positions[0] };
        let mut second = Follower::new(path);
        second.resume(asked);
        let mut bytes = 0;
        assert!(second.more(&mut |line, position| {
            assert!(line.len() <= LINE_BYTES_MAX + 1);
            assert!(position.offset <= content.len() as u64);
            bytes += line.len() + 1;
            true
        }));
        assert!(bytes <= content.len(), "{bytes} bytes of lines in {}", content.len());
    });
}

#[test]
fn any_question_is_answered_and_only_with_lines_of_what_it_names() {
    let data = tempfile::tempdir().unwrap();
    let logs = data.path().join("instances/a-5-0/logs");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("stdout.log"), "one\ntwo\n").unwrap();
    fs::write(data.path().join("secret.log"), "secret\n").unwrap();
    let service = LogsService { data_dir: data.path().to_owned(), node: "n1".to_owned() };
    let read = v1::ReadLogsRequest {
        instance_ids: vec!["a-5-0".to_owned()],
        follow: false,
        tail: 10,
        after: vec![v1::ReadAfter {
            instance_id: "a-5-0".to_owned(),
            stream: "stdout".to_owned(),
            position: Some(LogPosition { inode: 1, made_ns: 2, offset: 3 }),
        }],
    };
    let find = v1::FindLogsRequest {
        instance_id: "a-5-0".to_owned(),
        slice: "org.example:a".to_owned(),
        version: "1.0.0".to_owned(),
    };
    let valid = vec![read.encode_to_vec(), find.encode_to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check(CASES, prop_oneof![6 => mutated(valid), 1 => bytes(60)], |bytes| {
        if let Ok(request) = v1::FindLogsRequest::decode(&bytes[..])
            && let Err(status) = runtime.block_on(service.find(Request::new(request)))
        {
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
        if let Ok(mut request) = v1::ReadLogsRequest::decode(&bytes[..]) {
            request.follow = false;
            let named = request.instance_ids.clone();
            runtime.block_on(async {
                match service.read(Request::new(request)).await {
                    Ok(answer) => {
                        let mut lines = answer.into_inner();
                        while let Some(line) = lines.next().await {
                            let line = line.unwrap();
                            assert!(named.contains(&line.instance_id));
                            assert_ne!(line.line.as_deref(), Some("secret"));
                        }
                    }
                    Err(status) => assert!(status.message().len() < 20_000, "{status}"),
                }
            });
        }
    });
}
