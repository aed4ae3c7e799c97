//! Every file that a node writes, and every message of Raft that it sends, as the
//! first release writes and sends them (`tests/frozen`). Each is written as it was
//! and read as what it was. The records of the log have their test in `codec`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aether_frozen::Frozen;
use aether_proto::raft as pb;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use prost::Message;
use tonic::Status;

use crate::config::{Config, Joined, Voter};
use crate::data_dir::{DataDir, Identity, Joining};
use crate::image::Image;
use crate::log_store::LogStore;
use crate::machine::{Machine, Row, Stamp};
use crate::position::Position;
use crate::refound::Restored;
use crate::snapshot::{SnapshotFile, write_snapshot};
use crate::toy::{Toy, set};
use crate::types::{Command, Entry, Member, Membership, Payload, StoredMembership, log_id, vote};
use crate::wire;

const ON_DISK: &str = "Nodes of released versions have this on their disks. A released format is \
    never edited: give the file a new format number (FORMAT), have this release write the new one \
    and read both, and freeze the new one beside the old one.";

const ON_THE_WIRE: &str = "Voters of the release before send and expect this during a rolling \
    restart. A released message is never edited: add a field with a number that was never used, \
    and freeze a message that has it beside those without.";

fn file(name: &str) -> Frozen {
    Frozen::new(env!("CARGO_MANIFEST_DIR"), name, ON_DISK)
}

/// In the middle of a change: two sets of voters, and one that only learns.
fn membership() -> Membership {
    let member = |id: u64| Member {
        name: format!("n{id}"),
        peer_addr: format!("n{id}.example:8091"),
        dir_id: format!("{id:032x}"),
    };
    let nodes: BTreeMap<u64, Member> = [1, 2, 3, 1_004].map(|id| (id, member(id))).into();
    let sets = [[1, 2], [2, 3]].map(BTreeSet::from).to_vec();
    Membership::new(sets, nodes).expect("they are all in it")
}

fn position(membership: Membership) -> Position {
    Position {
        applied: Some(log_id(3, 41)),
        membership: StoredMembership::new(Some(log_id(2, 17)), membership),
        log_time_ms: 77_000,
        wall_ms: 1_700_000_000_000,
    }
}

fn rows() -> Vec<Row> {
    let row = |key: &str, value: &[u8]| (key.to_owned(), value.to_vec());
    vec![row("a", b"1"), row("b/c", b"{\"d\":\"\xc3\xa9\"}"), row("empty", b"")]
}

#[test]
fn snapshot_files_are_written_and_read_as_they_were() {
    let first = Position::default();
    let (plain, members) = (position(Membership::default()), position(membership()));
    for (name, position, rows) in [
        ("snapshot-first.snap", first, Vec::new()),
        ("snapshot-plain.snap", plain, rows()),
        ("snapshot-members.snap", members, rows()),
    ] {
        let mut written = Vec::new();
        write_snapshot(&mut written, "shop", &position, rows.clone().into_iter()).unwrap();
        file(name).holds(&written);
        let (read, cluster) = SnapshotFile::read(file(name).path()).unwrap();
        assert_eq!((cluster.as_str(), &read.position), ("shop", &position), "{name}");
        let mut all = read.rows();
        assert_eq!(all.by_ref().collect::<Vec<_>>(), rows, "{name}");
        all.finish().unwrap();
    }
}

/// Two rows at a position, in the way that they come about.
fn image_written(dir: &Path, position: &Position) {
    let mut toy = Toy::default();
    let (image, _) = Image::open(dir, "shop", &mut toy, |_| Ok(())).unwrap();
    Machine::apply(&mut toy, Stamp::default(), &set("a", "1"));
    Machine::apply(&mut toy, Stamp::default(), &set("b/c", "{}"));
    image.advance(Machine::drain_changes(&mut toy), position, Machine::hash(&toy));
    image.close();
}

#[test]
fn the_content_of_the_image_is_written_and_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (written, copied) = (dir.path().join("written"), dir.path().join("copied"));
    let position = position(membership());
    image_written(&written, &position);
    let mut text = String::new();
    for row in sled::open(&written).unwrap().iter() {
        let (key, value) = row.unwrap();
        text += &format!("{}\t{}\n", key.escape_ascii(), String::from_utf8_lossy(&value));
    }
    file("image.txt").holds(text.as_bytes());

    {
        let db = sled::open(&copied).unwrap();
        for line in file("image.txt").text().lines() {
            let (key, value) = line.split_once('\t').unwrap();
            db.insert(key, value).unwrap();
        }
        db.flush().unwrap();
    }
    let mut toy = Toy::default();
    let (image, found) = Image::open(&copied, "shop", &mut toy, |_| Ok(())).unwrap();
    assert_eq!(found.as_ref(), Some(&position), "{:?}", image.status());
    let rows: Vec<Row> = Machine::image(&toy).collect();
    assert_eq!(rows, [("a".to_owned(), b"1".to_vec()), ("b/c".to_owned(), b"{}".to_vec())]);
}

fn config(dir: &Path) -> Config {
    let voter = |name: &str| Voter { name: name.into(), peer_addr: format!("{name}.example:8091") };
    Config {
        node_name: "n2".into(),
        cluster_name: "shop".into(),
        data_dir: dir.to_owned(),
        voters: ["n1", "n2", "n3"].map(voter).to_vec(),
        ..Config::default()
    }
}

#[test]
fn small_files_of_the_data_directory_are_written_and_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let (dir_id, config) = ("000102030405060708090a0b0c0d0e0f", config(root));
    let written = |name: &str| fs::read(root.join(name)).unwrap();
    let put = |name: &str| fs::write(root.join(name), file(name).bytes()).unwrap();

    // Who a node that is not admitted yet will be is random: the form is frozen.
    let joins = Joining::prepare(&config).unwrap();
    let Joining::Asks { dir_id: random } = joins else { panic!("it is nobody yet") };
    let joining = String::from_utf8(written("joining.json")).unwrap();
    file("joining.json").holds(joining.replace(&random, dir_id).as_bytes());
    put("joining.json");
    let asks = Joining::Asks { dir_id: dir_id.into() };
    assert_eq!(Joining::prepare(&config).unwrap(), asks);

    let joined = Joined { raft_id: 1_004, dir_id: dir_id.into() };
    let mut opened = DataDir::open(&Config { joined: Some(joined), ..config.clone() }).unwrap();
    fs::write(opened.wal().join("r-0.wal"), b"").unwrap();
    opened.confirm(true).unwrap();
    drop(opened);
    file("identity.json").holds(&written("identity.json"));
    put("identity.json");

    let restored = Restored {
        backup: "ab".repeat(32),
        voters: vec!["n1=n1.example:8091".into(), "n2=n2.example:8091".into()],
        life: "f0".repeat(16),
        met: vec!["e0".repeat(16), "f0".repeat(16)],
    };
    restored.write(root).unwrap();
    file("restored.json").holds(&written("restored.json"));
    put("restored.json");

    let read = DataDir::open(&config).unwrap();
    assert_eq!(read.identity, Identity::of(&config, 1_004, dir_id.into()));
    assert_eq!(read.restored, Some(restored));
}

fn entries() -> Vec<Entry> {
    let command = Command { log_time_ms: 7, wall_ms: 9, body: "some command".into() };
    let payloads: [Payload; 3] = [
        EntryPayload::Membership(membership()),
        EntryPayload::Blank,
        EntryPayload::Normal(command),
    ];
    let entries = payloads.into_iter().zip(0..);
    entries.map(|(payload, index)| Entry { log_id: log_id(2, index), payload }).collect()
}

#[tokio::test]
async fn a_file_of_the_log_is_written_and_read_as_it_was() {
    let (written, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut log = LogStore::open(written.path()).unwrap();
    log.save_vote(&vote(2, 1, true)).await.unwrap();
    log.blocking_append(entries()).await.unwrap();
    log.save_committed(Some(log_id(2, 1))).await.unwrap();
    log.blocking_append([Entry { log_id: log_id(2, 3), payload: EntryPayload::Blank }])
        .await
        .unwrap();
    log.truncate_after(Some(log_id(2, 2))).await.unwrap();
    log.purge(log_id(2, 0)).await.unwrap();
    drop(log);
    let names = fs::read_dir(written.path()).unwrap().map(|e| e.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let names: Vec<String> = names.filter(|name| name.ends_with(".wal")).collect();
    assert_eq!(names, ["r-00_000_000_000_000_000_000.wal"]);
    file("log.wal").holds(&fs::read(written.path().join(&names[0])).unwrap());

    fs::write(copied.path().join(&names[0]), file("log.wal").bytes()).unwrap();
    let mut log = LogStore::open(copied.path()).unwrap();
    assert_eq!(log.try_get_log_entries(1..9).await.unwrap(), entries()[1..]);
    assert_eq!(log.bounds(), (Some(log_id(2, 0)), Some(log_id(2, 2))));
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(2, 1, true)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 1)));
}

/// The line of a message: its name, and its bytes. What comes in as these bytes
/// goes out as they are, with nothing lost.
fn line<T, M: Message + Default>(
    name: &str,
    value: T,
    out: impl Fn(T) -> M,
    within: impl Fn(M) -> Result<T, Status>,
) -> String {
    let bytes = out(value).encode_to_vec();
    let read = within(M::decode(&bytes[..]).unwrap()).unwrap();
    assert_eq!(out(read).encode_to_vec(), bytes, "{name} is read as something else");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {hex}\n")
}

/// That of one that is no more than its fields.
fn plain<M: Message + Default>(name: &str, message: M) -> String {
    line(name, message, |message| message, Ok)
}

#[test]
fn messages_of_raft_are_sent_and_read_as_they_were() {
    let (id, ballot) = (Some(log_id(2, 3)), vote(2, 1, true));
    let append = AppendEntriesRequest {
        vote: ballot,
        prev_log_id: None,
        entries: entries(),
        leader_commit: Some(log_id(2, 1)),
    };
    let heartbeat = AppendEntriesRequest {
        vote: ballot,
        prev_log_id: id,
        entries: Vec::new(),
        leader_commit: None,
    };
    let asks = |transfer| VoteRequest {
        vote: vote(3, 2, false),
        last_log_id: id,
        leadership_transfer: transfer,
    };
    let votes = VoteResponse { vote: ballot, vote_granted: true, last_log_id: id };
    let appended = |name, result| line(name, result, wire::appended_out, wire::appended_in);
    let hands = TransferLeaderRequest::new(ballot, 2, id);
    let wired = Some(wire::vote_out(&ballot));
    let name = Some(pb::SnapshotName { bytes: 300, checksum: vec![7; 32].into() });
    let start = pb::SnapshotStart { ballot: wired, bytes: 300, name: name.clone(), offset: 100 };
    let now = [
        line("append", append, wire::append_out, wire::append_in),
        line("heartbeat", heartbeat, wire::append_out, wire::append_in),
        appended("appended", Ok(id)),
        appended("appended-nothing", Ok(None)),
        appended("conflict", Err(StreamAppendError::Conflict(log_id(2, 3)))),
        appended("higher-vote", Err(StreamAppendError::HigherVote(vote(4, 3, true)))),
        line("vote", asks(false), wire::vote_request_out, wire::vote_request_in),
        line("vote-for-successor", asks(true), wire::vote_request_out, wire::vote_request_in),
        line("voted", votes, wire::vote_response_out, wire::vote_response_in),
        line("hand-over", hands, |request| wire::transfer_out(&request), wire::transfer_in),
        plain("snapshot-offer", pb::SnapshotOffer { ballot: wired, name }),
        plain("snapshot-kept", pb::SnapshotPart { ballot: wired, bytes: 100 }),
        plain("snapshot-start", pb::SnapshotChunk { start: Some(start), data: "".into() }),
        plain("snapshot-chunk", pb::SnapshotChunk { start: None, data: "some bytes".into() }),
        plain("snapshot-installed", pb::SnapshotResponse { ballot: wired }),
    ];
    let rule = ON_THE_WIRE;
    Frozen::new(env!("CARGO_MANIFEST_DIR"), "raft.txt", rule).holds(now.concat().as_bytes());
}
