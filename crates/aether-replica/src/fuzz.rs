//! What comes from the wire and from snapshot files: any bytes, and valid ones
//! with changes.

use std::fs;
use std::io::{self, Cursor};

use aether_fuzz::proptest::prelude::*;
use aether_fuzz::{CASES, Shown, bytes, check, mutated, mutations};
use aether_proto::raft as pb;
use openraft::EntryPayload;
use prost::Message;
use raft_log::codeq::{Decode, Encode};
use sha2::{Digest, Sha256};
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::codec::{WalLogId, WalPayload, WalVote};
use crate::position::Position;
use crate::snapshot::SnapshotDir;
use crate::types::{Command, Entry, INDEX_MAX, Membership, log_id, vote};
use crate::{peers, wire};

/// Cases of a target that only decodes a message.
const CHEAP: u32 = 4 * CASES;

fn encoded(item: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.encode(&mut bytes).unwrap();
    bytes
}

fn payloads() -> Vec<WalPayload> {
    let command = Command { log_time_ms: 7, wall_ms: 9, body: "some command".into() };
    [
        EntryPayload::Blank,
        EntryPayload::Normal(command),
        EntryPayload::Membership(Membership::default()),
    ]
    .map(WalPayload)
    .into()
}

/// Decodes, and asserts that what was read is written as it was.
fn canonical<T: Encode + Decode>(bytes: &[u8]) -> io::Result<T> {
    let mut unread = bytes;
    let item = T::decode(&mut unread)?;
    let read = &bytes[..bytes.len() - unread.len()];
    assert_eq!(Shown(encoded(&item)), Shown(read.to_vec()));
    Ok(item)
}

#[test]
fn records_of_the_log_have_one_encoding() {
    let fixed = vec![encoded(&WalLogId { term: 3, index: 4 }), encoded(&WalVote(vote(5, 6, true)))];
    check(CHEAP, prop_oneof![3 => mutated(fixed), 1 => bytes(40)], |bytes| {
        drop(canonical::<WalLogId>(&bytes));
        drop(canonical::<WalVote>(&bytes));
    });
    let valid = payloads().iter().map(encoded).collect();
    check(CHEAP, prop_oneof![3 => mutated(valid), 1 => bytes(80)], |bytes| {
        match WalPayload::decode(&bytes[..]) {
            // Its text may have been written in another way.
            Ok(payload @ WalPayload(EntryPayload::Membership(_))) => {
                let again = WalPayload::decode(&encoded(&payload)[..]).unwrap();
                assert_eq!(again.0, payload.0);
            }
            Ok(_) => drop(canonical::<WalPayload>(&bytes).unwrap()),
            Err(_) => {}
        }
    });
}

/// Every message of `raft.proto` that is read, as it is sent.
fn messages() -> Vec<Vec<u8>> {
    let ballot = Some(pb::Ballot { term: 3, node_id: 1, committed: true });
    let at = |index| Some(pb::LogId { term: 3, index });
    let entries = payloads().into_iter().zip(7..);
    let entries =
        entries.map(|(payload, index)| Entry { log_id: log_id(3, index), payload: payload.0 });
    let append = openraft::raft::AppendEntriesRequest {
        vote: vote(3, 1, true),
        prev_log_id: Some(log_id(3, 6)),
        entries: entries.collect(),
        leader_commit: Some(log_id(3, 5)),
    };
    let matched = pb::append_response::Result::Matched(pb::Matched { log_id: at(4) });
    vec![
        wire::append_out(append).encode_to_vec(),
        pb::AppendResponse { result: Some(matched) }.encode_to_vec(),
        pb::VoteRequest { ballot, last: at(9), leadership_transfer: true }.encode_to_vec(),
        pb::VoteResponse { ballot, granted: true, last: at(9) }.encode_to_vec(),
        pb::TransferLeaderRequest { from: ballot, to: 2, last: at(9) }.encode_to_vec(),
    ]
}

fn in_range(id: Option<pb::LogId>) -> bool {
    id.is_none_or(|id| id.index <= INDEX_MAX && id.term < u64::MAX)
}

#[test]
fn raft_messages_are_refused_or_go_out_as_they_came_in() {
    let input = prop_oneof![4 => mutated(messages()), 1 => bytes(120)];
    check(CHEAP, input, |bytes| {
        let bytes = &bytes[..];
        if let Ok(message) = pb::AppendRequest::decode(bytes)
            && let Ok(read) = wire::append_in(message.clone())
        {
            assert!(in_range(message.previous) && in_range(message.committed));
            assert!(message.entries.iter().all(|entry| in_range(entry.log_id)));
            let again = wire::append_out(read);
            assert_eq!((again.previous, again.committed), (message.previous, message.committed));
            assert_eq!(again.ballot, message.ballot);
            assert_eq!(again.entries.len(), message.entries.len());
        }
        if let Ok(message) = pb::AppendResponse::decode(bytes)
            && let Ok(read) = wire::appended_in(message)
        {
            assert_eq!(wire::appended_out(read), message);
        }
        if let Ok(message) = pb::VoteRequest::decode(bytes)
            && let Ok(read) = wire::vote_request_in(message)
        {
            assert_eq!(wire::vote_request_out(read), message);
        }
        if let Ok(message) = pb::VoteResponse::decode(bytes)
            && let Ok(read) = wire::vote_response_in(message)
        {
            assert_eq!(wire::vote_response_out(read), message);
        }
        if let Ok(message) = pb::TransferLeaderRequest::decode(bytes)
            && let Ok(read) = wire::transfer_in(message)
        {
            assert_eq!(wire::transfer_out(&read), message);
        }
    });
}

#[test]
fn a_route_is_that_of_this_directory_or_refused() {
    let me = crate::data_dir::Identity {
        format: 1,
        cluster: "c".into(),
        node: "n".into(),
        raft_id: 1,
        dir_id: "d1".into(),
    };
    let route =
        pb::Route { cluster: "c".into(), target_id: 1, target_dir_id: "d1".into(), source_id: 2 };
    let input = prop_oneof![4 => mutated(vec![route.encode_to_vec()]), 1 => bytes(40)];
    check(CHEAP, input, |bytes| {
        let mut metadata = MetadataMap::new();
        metadata.insert_bin("aether-route-bin", MetadataValue::from_bytes(&bytes));
        let fits = pb::Route::decode(&bytes[..])
            .is_ok_and(|found| pb::Route { source_id: 2, ..found } == route);
        assert_eq!(peers::check_route(&metadata, &me).is_ok(), fits);
    });
}

fn rows() -> Vec<(String, Vec<u8>)> {
    (0..5u8).map(|i| (format!("key/{i}"), vec![i; usize::from(i) * 3])).collect()
}

fn position(index: u64) -> Position {
    Position { applied: Some(log_id(1, index)), log_time_ms: 77, ..Position::default() }
}

#[test]
fn a_snapshot_that_was_changed_yields_to_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = SnapshotDir::open(dir.path(), "test").unwrap();
    snapshots.write(&position(5), rows().into_iter()).unwrap();
    let newest = snapshots.write(&position(9), rows().into_iter()).unwrap();
    let whole = fs::read(&newest.path).unwrap();
    check(CASES / 2, mutated(vec![whole.clone()]), |changed| {
        fs::write(&newest.path, &changed[..]).unwrap();
        let (reopened, damaged) = SnapshotDir::open(dir.path(), "test").unwrap();
        let same = changed[..] == whole[..];
        assert_eq!(reopened.current().unwrap().position, position(if same { 9 } else { 5 }));
        assert_eq!(damaged.len(), usize::from(!same));
    });
}

/// As a peer could send it that means harm: its checksum fits.
#[test]
fn a_snapshot_of_any_content_is_refused_or_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, _) = SnapshotDir::open(dir.path(), "test").unwrap();
    let written = snapshots.write(&position(9), rows().into_iter()).unwrap();
    let mut content = fs::read(&written.path).unwrap();
    content.truncate(content.len() - 32);
    let input = prop_oneof![
        5 => mutated(vec![content.clone()]),
        1 => bytes(200),
        1 => (mutations(2), bytes(60)).prop_map(move |(changes, tail)| {
            let mut bytes = content.clone();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            bytes.extend(&tail[..]);
            Shown(bytes)
        }),
    ];
    let received = dir.path().join("received.tmp");
    check(2 * CASES, input, |content| {
        let whole = [&content[..], &Sha256::digest(&content[..])].concat();
        fs::write(&received, &whole).unwrap();
        let Ok(snapshot) = snapshots.open_received(&received) else { return };
        assert!(snapshot.position.index() <= INDEX_MAX);
        let mut rows = snapshot.rows();
        let read: Vec<_> = rows.by_ref().take(1_000).collect();
        let bytes: usize = read.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        assert!(bytes < whole.len(), "no more is read than is there");
        if rows.finish().is_ok() {
            let held = whole.len() - 32 - 12 - bytes;
            let mut header = Cursor::new(&whole[12..16]);
            let mut length = [0; 4];
            io::Read::read_exact(&mut header, &mut length).unwrap();
            assert_eq!(held, 16 + u32::from_be_bytes(length) as usize, "every byte was read");
        }
    });
}
