//! Snapshots from one voter to another, which go on where they broke off.
//!
//! The sender first asks how much the receiver has kept of this very snapshot
//! (its size and checksum name it: no two differ that have the same), and sends
//! the rest. The receiver keeps what came in one file, `SIZE-CHECKSUM.partial`,
//! over broken connections, other leaders and its own restarts. It trusts none
//! of it: the whole is held against its checksum before anybody sees it, and
//! what fails is thrown away, so that the next attempt begins anew.
//!
//! One at a time: who comes with the same or a later term takes the place of
//! who was there, and begins only after that one has written its last byte.
//! What is not gone on with for [`KEPT_MAX`] is removed.
//!
//! A receiver of the release before does not know the question, and a sender of
//! it does not ask: between those a transfer begins at zero each time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::raft as pb;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::blocking;
use crate::files::TMP_SUFFIX;
use crate::node::Node;
use crate::peers::Client;
use crate::snapshot::{Checksum, SnapshotDir, SnapshotFile};
use crate::space;
use crate::types::Vote;
use crate::watch;
use crate::wire;

/// Large enough that a message costs little beside its bytes, and small enough
/// that a slow link gets one through before anybody calls it silent.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;
/// Chunks read ahead of the connection.
const CHUNKS_AHEAD: usize = 4;
/// How long a sender may be silent: it reads from its own disk.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long one waits for the place of another, which has a chunk to write or
/// the whole to install.
const TURN_MAX: Duration = Duration::from_secs(5);
/// How long the sender waits for an answer to its question: a turn and a disk.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How long a part is kept that nobody goes on with.
const KEPT_MAX: Duration = Duration::from_secs(10 * 60);
const EXPIRY_CHECK: Duration = Duration::from_secs(30);
/// Longest pause after transfers that were whole and yet not what was announced.
const PAUSE_MAX: Duration = Duration::from_secs(60);
const SUFFIX: &str = ".partial";

/// Which snapshot: no two differ that have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: u64,
    checksum: Checksum,
}

impl Name {
    fn of(file: &SnapshotFile) -> Self {
        Name { bytes: file.bytes, checksum: file.checksum }
    }

    /// Reads one that a peer sent.
    pub fn from_wire(name: &pb::SnapshotName) -> Result<Self, Status> {
        let checksum = Checksum::try_from(&name.checksum[..]).map_err(|_| {
            let bytes = name.checksum.len();
            Status::invalid_argument(format!("the checksum of a snapshot has {bytes} bytes"))
        })?;
        Ok(Name { bytes: name.bytes, checksum })
    }

    fn to_wire(self) -> pb::SnapshotName {
        pb::SnapshotName { bytes: self.bytes, checksum: Bytes::copy_from_slice(&self.checksum) }
    }

    fn file_name(&self) -> String {
        let checksum: String = self.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{checksum}{SUFFIX}", self.bytes)
    }
}

/// What the sender announces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announced {
    pub bytes: u64,
    /// Without one it begins at zero, and nothing of it is kept.
    pub name: Option<Name>,
    /// Where the first chunk belongs.
    pub offset: u64,
}

impl Announced {
    /// Reads the announcement of a peer.
    pub fn from_wire(start: &pb::SnapshotStart) -> Result<Self, Status> {
        let name = start.name.as_ref().map(Name::from_wire).transpose()?;
        let announced = Announced { bytes: start.bytes, name, offset: start.offset };
        let fits = name.is_none_or(|name| name.bytes == start.bytes)
            && start.offset <= start.bytes
            && (name.is_some() || start.offset == 0);
        if fits {
            Ok(announced)
        } else {
            Err(Status::invalid_argument(format!(
                "a snapshot of {} bytes can't go on at {} under the name {:?}",
                start.bytes, start.offset, start.name
            )))
        }
    }
}

/// What arrives at this node.
pub(crate) struct Incoming {
    snapshots: Arc<SnapshotDir>,
    /// What has to be left free on the disk; 0 to not look.
    free_min_bytes: u64,
    /// Held by who may touch the files.
    turn: Arc<tokio::sync::Mutex<()>>,
    running: Mutex<Running>,
}

/// Who has the turn, if anybody has.
struct Running {
    /// Of the last one who had it.
    number: u64,
    term: u64,
    /// Tells it to make room.
    leave: Option<watch::Sender<bool>>,
    /// When the last one left.
    since: Instant,
}

/// The right to touch the files. It ends the transfer that had it before.
pub(crate) struct Turn {
    incoming: Arc<Incoming>,
    number: u64,
    leave: watch::Receiver<bool>,
    _held: OwnedMutexGuard<()>,
}

impl Turn {
    /// The snapshot at this path was given to consensus. What has not been put
    /// in its place by now was of no use.
    pub fn end(self, path: &Path) {
        if path.to_str().is_some_and(|name| !name.ends_with(crate::snapshot::SUFFIX)) {
            remove(path);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.incoming.running();
        if running.number == self.number {
            running.leave = None;
            running.since = Instant::now();
        }
    }
}

/// A snapshot that came to its end, and is not looked at yet.
pub(crate) struct Received {
    turn: Turn,
    path: PathBuf,
    announced: Announced,
    /// `None` if it is in its place already.
    file: Option<File>,
}

/// Keeps the newest part that is there, and no other.
fn sweep(dir: &Path, keep: Option<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_part = path.to_str().is_some_and(|name| name.ends_with(SUFFIX));
        if is_part && keep != Some(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        // The next transfer, or the next start, tries again.
        tracing::warn!(file = %path.display(), %error, "a part of a snapshot can't be removed");
    }
}

fn disk(error: io::Error) -> Status {
    let text = format!("a snapshot can't be received: {error}");
    match error.kind() {
        // It is what was sent that is wrong.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Status::data_loss(text),
        _ => Status::internal(text),
    }
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = blocking::run(work).await;
    done.map_err(|panic| Status::internal(panic.to_string()))?
}

impl Incoming {
    /// Into this folder; a part that is in it is gone on with. Of several none
    /// is: one at a time is written, so they are not all this release's.
    pub fn open(snapshots: Arc<SnapshotDir>, free_min_bytes: u64) -> io::Result<Arc<Self>> {
        let mut parts = Vec::new();
        for entry in fs::read_dir(snapshots.dir())? {
            let path = entry?.path();
            if path.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
                parts.push(path);
            }
        }
        sweep(snapshots.dir(), parts.pop().filter(|_| parts.is_empty()).as_deref())?;
        let running = Running { number: 0, term: 0, leave: None, since: Instant::now() };
        Ok(Arc::new(Incoming {
            snapshots,
            free_min_bytes,
            turn: Arc::default(),
            running: Mutex::new(running),
        }))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().expect("no panic while held")
    }

    /// Takes the place of who has the turn, unless that one's term is later.
    async fn turn(self: &Arc<Self>, term: u64) -> Result<Turn, Status> {
        {
            let running = self.running();
            if let Some(leave) = &running.leave {
                if running.term > term {
                    let text = format!("a snapshot of term {} is being received", running.term);
                    return Err(Status::aborted(text));
                }
                leave.send_replace(true);
            }
        }
        let held = timeout(TURN_MAX, self.turn.clone().lock_owned()).await.map_err(|_| {
            Status::unavailable(format!(
                "another snapshot is being received or installed, for {TURN_MAX:?} by now"
            ))
        })?;
        let (sender, leave) = watch::channel(false);
        let mut running = self.running();
        running.number += 1;
        (running.term, running.leave) = (term, Some(sender));
        Ok(Turn { incoming: self.clone(), number: running.number, leave, _held: held })
    }

    /// How many bytes of this snapshot are here. Whoever was sending one stops.
    pub async fn kept(self: &Arc<Self>, term: u64, name: Name) -> Result<u64, Status> {
        let turn = self.turn(term).await?;
        off_the_runtime(move || {
            if turn.incoming.in_place(&name).is_some() {
                return Ok(name.bytes);
            }
            let path = turn.incoming.snapshots.dir().join(name.file_name());
            turn.incoming.length(&path, name.bytes).map_err(disk)
        })
        .await
    }

    /// The current snapshot, if that is this one.
    fn in_place(&self, name: &Name) -> Option<SnapshotFile> {
        self.snapshots.current().filter(|current| Name::of(current) == *name)
    }

    /// Bytes of this part; all others are removed.
    fn length(&self, path: &Path, bytes: u64) -> io::Result<u64> {
        sweep(self.snapshots.dir(), Some(path))?;
        match fs::metadata(path) {
            Ok(found) if found.len() <= bytes => Ok(found.len()),
            Ok(_) => fs::remove_file(path).map(|()| 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Receives a snapshot, or the rest of it, up to its end.
    pub async fn receive(
        self: &Arc<Self>,
        term: u64,
        announced: Announced,
        mut chunks: impl Stream<Item = Result<pb::SnapshotChunk, Status>> + Unpin,
    ) -> Result<Received, Status> {
        let mut turn = self.turn(term).await?;
        let name = match announced.name {
            Some(name) => name.file_name(),
            None => format!("unnamed{TMP_SUFFIX}"),
        };
        let path = self.snapshots.dir().join(name);
        if let Some(found) = announced.name.and_then(|name| self.in_place(&name)) {
            return Ok(Received { turn, path: found.path, announced, file: None });
        }
        let unnamed = RemoveUnlessKept(announced.name.is_none().then(|| path.clone()));
        let (incoming, at) = (self.clone(), path.clone());
        let mut file = off_the_runtime(move || incoming.open_at(&at, announced)).await?;
        let mut received = announced.offset;
        while received < announced.bytes || announced.name.is_none() {
            let chunk = tokio::select! {
                biased;
                _ = turn.leave.wait_for(|leave| *leave) => {
                    return Err(Status::aborted("a later transfer took the place of this one"));
                }
                chunk = timeout(SILENCE_MAX, chunks.next()) => chunk,
            };
            let stalled =
                |_| Status::deadline_exceeded(format!("no chunk came for {SILENCE_MAX:?}"));
            let Some(chunk) = chunk.map_err(stalled)?.transpose()? else { break };
            received += chunk.data.len() as u64;
            if received > announced.bytes {
                remove(&path);
                return Err(Status::invalid_argument("the snapshot is longer than announced"));
            }
            let at = path.clone();
            let write = move || match file.write_all(&chunk.data) {
                Ok(()) => Ok(file),
                // What is on a disk that is full or broken is not gone on with.
                Err(error) => {
                    remove(&at);
                    Err(disk(error))
                }
            };
            file = off_the_runtime(write).await?;
        }
        if received != announced.bytes {
            let text = format!("the snapshot ended after {received} of {} bytes", announced.bytes);
            return Err(Status::data_loss(text));
        }
        unnamed.keep();
        Ok(Received { turn, path, announced, file: Some(file) })
    }

    /// The part, ready for what comes at the offset.
    fn open_at(&self, path: &Path, announced: Announced) -> Result<File, Status> {
        let kept = match announced.name {
            Some(_) => self.length(path, announced.bytes).map_err(disk)?,
            None => sweep(self.snapshots.dir(), None).map(|()| 0).map_err(disk)?,
        };
        if kept < announced.offset {
            return Err(Status::out_of_range(format!(
                "{kept} bytes of the snapshot are here, and it is to go on at {}",
                announced.offset
            )));
        }
        let free = space::free(self.snapshots.dir()).map_err(disk)?.saturating_add(kept);
        let wanted = announced.bytes.saturating_add(self.free_min_bytes);
        if self.free_min_bytes > 0 && free < wanted {
            return Err(Status::resource_exhausted(format!(
                "a snapshot of {} bytes has no place in {}: {} are free, and {} of them have to \
                 stay so; free some space",
                announced.bytes,
                self.snapshots.dir().display(),
                free - kept,
                self.free_min_bytes
            )));
        }
        let open = || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.set_len(announced.offset)?;
            file.seek(SeekFrom::Start(announced.offset))?;
            Ok(file)
        };
        open().map_err(disk)
    }

    /// Removes the part that nobody went on with.
    fn expire(&self, now: Instant) -> io::Result<()> {
        let Ok(_held) = self.turn.try_lock() else { return Ok(()) };
        match now.duration_since(self.running().since) < KEPT_MAX {
            true => Ok(()),
            false => sweep(self.snapshots.dir(), None),
        }
    }
}

impl Received {
    /// Holds it against its checksum and the announcement. What fails is gone.
    pub async fn verify(self) -> Result<(SnapshotFile, Turn), Status> {
        let Received { turn, path, announced, file } = self;
        off_the_runtime(move || {
            let incoming = &turn.incoming;
            if let Some(found) = announced.name.and_then(|name| incoming.in_place(&name)) {
                return Ok((found, turn));
            }
            let Some(file) = file else {
                return Err(Status::aborted("the snapshot was replaced meanwhile"));
            };
            let verified = file
                .sync_all()
                .and_then(|()| incoming.snapshots.open_received(&path))
                .map_err(disk)
                .and_then(|found| {
                    match announced.name.is_none_or(|name| name == Name::of(&found)) {
                        true => Ok(found),
                        false => Err(Status::data_loss("the snapshot is not the one announced")),
                    }
                });
            match verified {
                Ok(found) => Ok((found, turn)),
                Err(status) => {
                    tracing::warn!(
                        file = %path.display(), offset = announced.offset, %status,
                        "a received snapshot is thrown away; the next attempt begins anew"
                    );
                    remove(&path);
                    Err(status)
                }
            }
        })
        .await
    }
}

/// Removes a file that was not received completely.
struct RemoveUnlessKept(Option<PathBuf>);

impl RemoveUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveUnlessKept {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Removes what nobody goes on with, for as long as the node runs.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut ticks = interval(EXPIRY_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !node.is_closed() {
        ticks.tick().await;
        let incoming = node.incoming.clone();
        let swept = blocking::run(move || incoming.expire(Instant::now())).await;
        if let Err(error) = swept.map_err(io::Error::other).flatten() {
            tracing::warn!(node = node.identity.node, %error, "parts of snapshots can't be removed");
        }
    }
}

/// Whoever a snapshot is sent to.
#[tonic::async_trait]
pub(crate) trait Receiver: Send {
    /// See `SnapshotKept` in `raft.proto`.
    async fn kept(&mut self, offer: pb::SnapshotOffer) -> Result<pb::SnapshotPart, Status>;
    /// See `InstallSnapshot` there.
    async fn install(
        &mut self,
        chunks: ReceiverStream<pb::SnapshotChunk>,
        time_max: Duration,
    ) -> Result<pb::SnapshotResponse, Status>;
}

#[tonic::async_trait]
impl Receiver for Client {
    async fn kept(&mut self, offer: pb::SnapshotOffer) -> Result<pb::SnapshotPart, Status> {
        let mut request = Request::new(offer);
        request.set_timeout(ASK_MAX);
        Ok(self.snapshot_kept(request).await?.into_inner())
    }

    async fn install(
        &mut self,
        chunks: ReceiverStream<pb::SnapshotChunk>,
        time_max: Duration,
    ) -> Result<pb::SnapshotResponse, Status> {
        let mut request = Request::new(chunks);
        request.set_timeout(time_max);
        Ok(self.install_snapshot(request).await?.into_inner())
    }
}

/// The sending end, over all attempts at one receiver.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Whole transfers in a row that were not what was announced.
    damaged: u32,
}

impl Outgoing {
    /// What the next attempt waits for.
    fn pause(&self) -> Duration {
        match self.damaged {
            0 => Duration::ZERO,
            times => Duration::from_secs(1 << times.min(6)).min(PAUSE_MAX),
        }
    }

    /// Sends what the receiver lacks; gives its ballot.
    pub async fn send(
        &mut self,
        to: &mut impl Receiver,
        vote: &Vote,
        file: SnapshotFile,
        time_max: Duration,
    ) -> Result<Vote, Status> {
        // Sending it again at once would send the same.
        tokio::time::sleep(self.pause()).await;
        let name = Name::of(&file);
        let offer =
            pb::SnapshotOffer { ballot: Some(wire::vote_out(vote)), name: Some(name.to_wire()) };
        let offset = match to.kept(offer).await {
            Ok(part) => {
                let theirs = wire::vote_in(part.ballot)?;
                if theirs.leader_id.term > vote.leader_id.term {
                    return Ok(theirs);
                }
                part.bytes
            }
            // Of the release before.
            Err(status) if status.code() == Code::Unimplemented => 0,
            Err(status) => return Err(status),
        };
        if offset > file.bytes {
            let text = format!("{offset} bytes are kept of a snapshot of {}", file.bytes);
            return Err(Status::internal(text));
        }
        tracing::info!(snapshot = %file.path.display(), bytes = file.bytes, offset, "is sent");
        let (bytes, sent) = (file.bytes, file.clone());
        let start = pb::SnapshotStart {
            ballot: Some(wire::vote_out(vote)),
            bytes,
            name: Some(name.to_wire()),
            offset,
        };
        let answered = to.install(chunks(start, file), time_max).await;
        match &answered {
            Err(status) if status.code() == Code::DataLoss && offset == 0 => {
                self.damaged += 1;
                complain(sent, status).await;
            }
            _ => self.damaged = 0,
        }
        wire::vote_in(answered?.ballot)
    }
}

/// Says whose file it is that is damaged.
async fn complain(sent: SnapshotFile, status: &Status) {
    let path = sent.path.clone();
    let whole = blocking::run(move || SnapshotFile::read(&sent.path).map(drop)).await;
    let own = match whole {
        Ok(Ok(())) => "it is whole here".to_owned(),
        Ok(Err(error)) => format!("{error}; restart this node, so that it uses another"),
        Err(panic) => panic.to_string(),
    };
    tracing::error!(
        snapshot = %path.display(), own, %status,
        "a snapshot that was sent from its beginning was refused as damaged"
    );
}

/// Reads a snapshot file ahead of the connection, off the runtime.
fn chunks(start: pb::SnapshotStart, file: SnapshotFile) -> ReceiverStream<pb::SnapshotChunk> {
    let (tx, rx) = mpsc::channel(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let mut offset = start.offset;
        let first = pb::SnapshotChunk { start: Some(start), data: Bytes::new() };
        let mut sent = tx.send(first).await;
        while sent.is_ok() && offset < file.bytes {
            let part = (file.bytes - offset).min(CHUNK_BYTES as u64) as usize;
            let read = file.clone();
            let read = blocking::run(move || {
                let mut data = vec![0u8; part];
                read.read_at(offset, &mut data).map(|()| data)
            });
            match read.await.map_err(io::Error::other).flatten() {
                Ok(data) => {
                    offset += part as u64;
                    let chunk = pb::SnapshotChunk { start: None, data: data.into() };
                    sent = tx.send(chunk).await;
                }
                Err(error) => {
                    // The receiver sees a short file and refuses it.
                    tracing::error!(snapshot = %file.path.display(), %error, "can't be read");
                    return;
                }
            }
        }
    });
    ReceiverStream::new(rx)
}

#[cfg(test)]
mod tests;
