//! Transfers over a link that breaks where a test says.

use std::collections::VecDeque;

use super::*;
use crate::machine::Row;
use crate::position::Position;
use crate::types::{log_id, vote};

const TIME_MAX: Duration = Duration::from_secs(60);
/// Chunks of the snapshots here, beside a last one that is not full.
const CHUNKS: usize = 12;

fn rows(seed: u8) -> Vec<Row> {
    let value = |i: usize| vec![seed.wrapping_add(i as u8); CHUNK_BYTES];
    (0..CHUNKS).map(|i| (format!("key/{i:04}"), value(i))).collect()
}

fn open(dir: &Path) -> (Arc<SnapshotDir>, Arc<Incoming>) {
    let snapshots = Arc::new(SnapshotDir::open(dir, "test").unwrap().0);
    let incoming = Incoming::open(snapshots.clone(), 1).unwrap();
    (snapshots, incoming)
}

/// The snapshot of a sender.
fn made(dir: &Path, seed: u8) -> SnapshotFile {
    let at = Position { applied: Some(log_id(1, seed.into())), ..Position::default() };
    let (snapshots, _) = SnapshotDir::open(dir, "test").unwrap();
    snapshots.write(&at, rows(seed).into_iter()).unwrap()
}

fn parts(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_str().unwrap().ends_with(SUFFIX)).collect()
}

/// A receiver behind a link that breaks after so many messages with data, each
/// number once, and then holds.
struct Link {
    incoming: Arc<Incoming>,
    breaks: VecDeque<usize>,
    /// Bytes that went over it, of all attempts.
    bytes: u64,
    attempts: usize,
    /// Whether the receiver is of the release before.
    old: bool,
    installed: Option<SnapshotFile>,
}

impl Link {
    fn to(incoming: &Arc<Incoming>, breaks: &[usize]) -> Self {
        let breaks = breaks.iter().copied().collect();
        let incoming = incoming.clone();
        Link { incoming, breaks, bytes: 0, attempts: 0, old: false, installed: None }
    }
}

#[tonic::async_trait]
impl Receiver for Link {
    async fn kept(&mut self, offer: pb::SnapshotOffer) -> Result<pb::SnapshotPart, Status> {
        if self.old {
            return Err(Status::unimplemented("what is that?"));
        }
        let term = wire::vote_in(offer.ballot)?.leader_id.term;
        let bytes = self.incoming.kept(term, Name::from_wire(&offer.name.unwrap())?).await?;
        Ok(pb::SnapshotPart { ballot: offer.ballot, bytes })
    }

    async fn install(
        &mut self,
        mut chunks: ReceiverStream<pb::SnapshotChunk>,
        _time_max: Duration,
    ) -> Result<pb::SnapshotResponse, Status> {
        self.attempts += 1;
        let mut start = chunks.next().await.unwrap().start.unwrap();
        if self.old {
            (start.name, start.offset) = (None, 0);
        }
        let mut left = self.breaks.pop_front();
        let sent = chunks.map(|chunk| {
            if let Some(left) = &mut left {
                *left = left.checked_sub(1).ok_or_else(|| Status::unavailable("cut"))?;
            }
            self.bytes += chunk.data.len() as u64;
            Ok(chunk)
        });
        let term = wire::vote_in(start.ballot)?.leader_id.term;
        let announced = Announced::from_wire(&start)?;
        let received = self.incoming.receive(term, announced, Box::pin(sent)).await?;
        let (snapshot, turn) = received.verify().await?;
        let installed = self.incoming.snapshots.put_in_place(snapshot.clone()).unwrap();
        turn.end(&snapshot.path);
        self.installed = Some(installed);
        Ok(pb::SnapshotResponse { ballot: start.ballot })
    }
}

/// Sends until it is there, at most so many times; gives what failed.
async fn send(link: &mut Link, file: &SnapshotFile, attempts_max: usize) -> Vec<Code> {
    let mut outgoing = Outgoing::default();
    let mut failed = Vec::new();
    while failed.len() < attempts_max {
        match outgoing.send(link, &vote(1, 1, true), file.clone(), TIME_MAX).await {
            Ok(answered) => {
                assert_eq!(answered, vote(1, 1, true));
                return failed;
            }
            Err(status) => failed.push(status.code()),
        }
    }
    panic!("not there after {attempts_max} attempts: {failed:?}");
}

/// Sends once, which fails.
async fn breaks_off(link: &mut Link, file: &SnapshotFile) {
    let sent = Outgoing::default().send(link, &vote(1, 1, true), file.clone(), TIME_MAX).await;
    assert_eq!(sent.unwrap_err().code(), Code::Unavailable);
}

fn same_rows(link: &Link, seed: u8) {
    let mut read = link.installed.as_ref().expect("it is installed").rows();
    assert!(read.by_ref().eq(rows(seed)));
    read.finish().unwrap();
}

#[tokio::test]
async fn what_came_over_a_link_that_breaks_is_not_sent_again() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let (snapshots, incoming) = open(to.path());
    let mut link = Link::to(&incoming, &[3, 0, 5, 1]);
    let failed = send(&mut link, &file, 5).await;
    assert_eq!((failed, link.attempts), (vec![Code::Unavailable; 4], 5));
    assert_eq!(link.bytes, file.bytes, "each byte once");
    same_rows(&link, 7);
    assert_eq!(snapshots.current().unwrap().checksum, file.checksum);
    assert!(parts(to.path()).is_empty());

    // Whoever asks again, not having heard, sends nothing.
    send(&mut link, &file, 1).await;
    assert_eq!(link.bytes, file.bytes);
}

#[tokio::test]
async fn a_receiver_that_was_restarted_goes_on_also_in_the_middle_of_a_chunk() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let mut link = Link::to(&open(to.path()).1, &[6]);
    breaks_off(&mut link, &file).await;
    let part = parts(to.path()).pop().unwrap();
    let length = fs::metadata(&part).unwrap().len();
    let cut = length - CHUNK_BYTES as u64 / 3;
    OpenOptions::new().write(true).open(&part).unwrap().set_len(cut).unwrap();
    let mut link = Link::to(&open(to.path()).1, &[]);
    send(&mut link, &file, 1).await;
    assert_eq!(link.bytes, file.bytes - cut);
    same_rows(&link, 7);
}

#[tokio::test]
async fn a_damaged_part_costs_one_transfer_from_the_beginning() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let (_, incoming) = open(to.path());
    let mut link = Link::to(&incoming, &[6]);
    breaks_off(&mut link, &file).await;
    let part = parts(to.path()).pop().unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[CHUNK_BYTES] ^= 1;
    fs::write(&part, &bytes).unwrap();
    let before = link.bytes;
    assert_eq!(send(&mut link, &file, 2).await, [Code::DataLoss]);
    assert_eq!(link.bytes - before, file.bytes - before + file.bytes, "the rest, then all");
    same_rows(&link, 7);
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_where_it_comes_from_is_not_sent_without_pause() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let mut bytes = fs::read(&file.path).unwrap();
    bytes[CHUNK_BYTES] ^= 1;
    fs::write(&file.path, &bytes).unwrap();
    let (snapshots, incoming) = open(to.path());
    let mut link = Link::to(&incoming, &[]);
    let mut outgoing = Outgoing::default();
    let mut send = async |outgoing: &mut Outgoing, file: &SnapshotFile| {
        outgoing.send(&mut link, &vote(1, 1, true), file.clone(), TIME_MAX).await
    };
    assert_eq!(outgoing.pause(), Duration::ZERO);
    assert_eq!(send(&mut outgoing, &file).await.unwrap_err().code(), Code::DataLoss);
    assert!(parts(to.path()).is_empty(), "nothing of it is gone on with");
    assert!(snapshots.current().is_none());
    let pauses = (1..10).map(|damaged| Outgoing { damaged }.pause().as_secs());
    assert_eq!(outgoing.damaged, 1);
    assert!(pauses.eq([2, 4, 8, 16, 32, 60, 60, 60, 60]));
    // One that is whole ends that.
    send(&mut outgoing, &made(from.path(), 8)).await.unwrap();
    assert_eq!(outgoing.pause(), Duration::ZERO);
}

#[tokio::test]
async fn a_part_of_another_snapshot_is_thrown_away() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (file, newer) = (made(from.path(), 7), made(from.path(), 8));
    let (_, incoming) = open(to.path());
    let mut link = Link::to(&incoming, &[6]);
    breaks_off(&mut link, &file).await;
    let mut link = Link::to(&incoming, &[2]);
    breaks_off(&mut link, &newer).await;
    let kept = parts(to.path());
    assert_eq!(kept.len(), 1, "one at a time");
    assert_eq!(fs::metadata(&kept[0]).unwrap().len(), 2 * CHUNK_BYTES as u64);
    send(&mut link, &newer, 1).await;
    assert_eq!(link.bytes, newer.bytes);
    same_rows(&link, 8);
    // Several that a crash or a hand left are not told apart.
    for name in ["1-aa", "2-bb"] {
        fs::write(to.path().join(format!("{name}{SUFFIX}")), "x").unwrap();
    }
    open(to.path());
    assert!(parts(to.path()).is_empty());
}

#[tokio::test]
async fn with_a_receiver_of_the_release_before_it_begins_at_zero_each_time() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let mut link = Link::to(&open(to.path()).1, &[6]);
    link.old = true;
    send(&mut link, &file, 2).await;
    assert_eq!(link.bytes, file.bytes + 6 * CHUNK_BYTES as u64);
    same_rows(&link, 7);
    let left = fs::read_dir(to.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but the snapshot");
}

/// Announces the file and sends the first chunks; what follows never comes.
async fn hanging(
    incoming: &Arc<Incoming>,
    term: u64,
    file: &SnapshotFile,
    chunks: usize,
) -> (tokio::task::JoinHandle<Result<Received, Status>>, Arc<tokio::sync::Notify>) {
    let name = Some(Name::of(file));
    let announced = Announced { bytes: file.bytes, name, offset: 0 };
    let (incoming, file) = (incoming.clone(), file.clone());
    let all_taken = Arc::new(tokio::sync::Notify::new());
    let taken = all_taken.clone();
    let task = tokio::spawn(async move {
        let sent = futures::stream::iter(0..chunks).map(move |i| {
            let mut data = vec![0; CHUNK_BYTES];
            file.read_at((i * CHUNK_BYTES) as u64, &mut data).unwrap();
            Ok(pb::SnapshotChunk { start: None, data: data.into() })
        });
        let silence = futures::stream::once(async move {
            taken.notify_one();
            std::future::pending().await
        });
        incoming.receive(term, announced, Box::pin(sent.chain(silence))).await
    });
    (task, all_taken)
}

#[tokio::test]
async fn a_new_leader_takes_the_place_of_a_transfer_that_hangs_and_goes_on_with_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let (_, incoming) = open(to.path());
    let (old, hangs) = hanging(&incoming, 2, &file, 4).await;
    hangs.notified().await;

    // One of an earlier term is not let in.
    let refused = incoming.kept(1, Name::of(&file)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let kept = incoming.kept(3, Name::of(&file)).await.unwrap();
    assert_eq!(kept, 4 * CHUNK_BYTES as u64);
    assert_eq!(old.await.unwrap().err().unwrap().code(), Code::Aborted);

    // Nor does the old one come back between the two.
    let (second, hangs) = hanging(&incoming, 3, &file, 5).await;
    hangs.notified().await;
    let mut link = Link::to(&incoming, &[]);
    let sent = Outgoing::default().send(&mut link, &vote(3, 2, true), file.clone(), TIME_MAX).await;
    sent.unwrap();
    assert_eq!(second.await.unwrap().err().unwrap().code(), Code::Aborted);
    assert_eq!(link.bytes, file.bytes - 5 * CHUNK_BYTES as u64);
    same_rows(&link, 7);
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let (snapshots, incoming) = open(to.path());
    let name = Some(Name::of(&file));
    let gap = Announced { bytes: file.bytes, name, offset: 9 };
    let nothing = || futures::stream::empty::<Result<pb::SnapshotChunk, Status>>();
    let refused = incoming.receive(1, gap, nothing()).await.err().unwrap();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    // The name belongs to another file of that size.
    let mut other = Name::of(&file);
    other.checksum[0] ^= 1;
    let announced = Announced { bytes: file.bytes, name: Some(other), offset: 0 };
    let mut all = vec![0; file.bytes as usize];
    file.read_at(0, &mut all).unwrap();
    let chunk = pb::SnapshotChunk { start: None, data: all.into() };
    let received = incoming.receive(1, announced, futures::stream::iter([Ok(chunk)])).await;
    let refused = received.unwrap().verify().await.err().unwrap();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert!(parts(to.path()).is_empty());

    let full = Incoming::open(snapshots, u64::MAX / 2).unwrap();
    let announced = Announced { offset: 0, ..gap };
    let refused = full.receive(1, announced, nothing()).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    let wire = |bytes, checksum: usize, offset| {
        let name = pb::SnapshotName { bytes: 9, checksum: vec![0; checksum].into() };
        let start = pb::SnapshotStart { bytes, offset, name: Some(name), ..Default::default() };
        Announced::from_wire(&start)
    };
    assert!(wire(9, 32, 9).is_ok() && wire(9, 32, 0).is_ok());
    assert!(wire(9, 31, 0).is_err() && wire(8, 32, 0).is_err() && wire(9, 32, 10).is_err());
    let unnamed = pb::SnapshotStart { bytes: 9, offset: 1, ..Default::default() };
    assert!(Announced::from_wire(&unnamed).is_err());
}

#[tokio::test]
async fn a_part_that_nobody_goes_on_with_is_removed_in_time() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = made(from.path(), 7);
    let (_, incoming) = open(to.path());
    let (hanging, hangs) = hanging(&incoming, 1, &file, 4).await;
    hangs.notified().await;
    let much_later = Instant::now() + 2 * KEPT_MAX;
    incoming.expire(much_later).unwrap();
    assert_eq!(parts(to.path()).len(), 1, "somebody goes on with it");
    hanging.abort();
    assert!(hanging.await.is_err_and(|error| error.is_cancelled()));
    incoming.expire(Instant::now()).unwrap();
    assert_eq!(parts(to.path()).len(), 1, "somebody may");
    incoming.expire(much_later).unwrap();
    assert!(parts(to.path()).is_empty());
}
