//! Openraft's state machine: drives a [`Machine`](crate::Machine), builds and
//! installs snapshots, and feeds the KV image.
//!
//! What is decided here: a batch is published before anybody is answered, log
//! time never decreases whatever entries say, and an installed snapshot is
//! durable before the state changes.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::ahead::ahead;
use crate::blocking;
use crate::image::Image;
use crate::machine::{ErasedMachine, Row, Stamp};
use crate::position::Position;
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, term_of};
use crate::watch;

type OpenraftSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// Entries applied before the machine publishes and proposers are answered.
const BATCH_ENTRIES: usize = 1_024;

/// How far this node has applied, as watchers see it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub at: Stamp,
    /// Index of the first entry of the term that `at` is in.
    pub term_start_index: u64,
}

/// Owned by openraft's worker, which is the only one to touch the machine.
pub(crate) struct StateMachine {
    /// `None` while, or after, a snapshot that could not be restored.
    machine: Option<Box<dyn ErasedMachine>>,
    position: Position,
    snapshots: Arc<SnapshotDir>,
    image: Arc<Image>,
    progress: Arc<Progresses>,
}

/// The watched ends of [`Progress`].
#[derive(Debug, Default)]
pub(crate) struct Progresses {
    pub detail: watch::Sender<Progress>,
    pub index: watch::Sender<u64>,
    /// Why nothing more is applied: what comes next is for a newer release.
    pub unsupported: OnceLock<String>,
}

impl StateMachine {
    /// `machine` already is at `position`.
    pub(crate) fn new(
        machine: Box<dyn ErasedMachine>,
        position: Position,
        snapshots: Arc<SnapshotDir>,
        image: Arc<Image>,
        progress: Arc<Progresses>,
    ) -> Self {
        let machine = Some(machine);
        let mut this = StateMachine { machine, position, snapshots, image, progress };
        this.publish();
        this
    }

    fn machine(&mut self) -> &mut dyn ErasedMachine {
        // Openraft stops using this after an error, and one worker owns it.
        self.machine.as_deref_mut().expect("present between two calls")
    }

    /// Where the state stands, and all of its rows; `None` without one.
    pub(crate) fn copy(&self) -> Option<(Position, Box<dyn Iterator<Item = Row> + Send>)> {
        let rows = self.machine.as_ref()?.image();
        Some((self.position.clone(), rows))
    }

    /// Ends the replica with the machine's reason, if it cannot go on.
    fn check_supported(&self, machine: &dyn ErasedMachine) -> io::Result<()> {
        let Some(reason) = machine.unsupported() else { return Ok(()) };
        // Openraft gives up on an error; the first reason stays.
        let _ = self.progress.unsupported.set(reason.clone());
        Err(io::Error::other(reason))
    }

    fn apply_entry(&mut self, entry: Entry) -> io::Result<Bytes> {
        let position = &mut self.position;
        let before = (position.applied, position.log_time_ms, position.wall_ms);
        if let EntryPayload::Normal(command) = &entry.payload {
            position.log_time_ms = position.log_time_ms.max(command.log_time_ms);
            position.wall_ms = command.wall_ms;
        }
        position.applied = Some(entry.log_id);
        let at = position.stamp();
        match entry.payload {
            EntryPayload::Blank => self.machine().skip(at),
            EntryPayload::Normal(command) => {
                let response = self.machine().apply(at, &command.body);
                let supported = self.check_supported(self.machine.as_deref().expect("as above"));
                if supported.is_err() {
                    // Nothing of it was applied.
                    let position = &mut self.position;
                    (position.applied, position.log_time_ms, position.wall_ms) = before;
                }
                return supported.map(|()| response);
            }
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.machine().skip(at);
            }
        }
        Ok(Bytes::new())
    }

    /// Shows watchers where the state is now.
    fn publish(&mut self) {
        self.machine().publish();
        let at = self.position.stamp();
        self.progress.index.send_replace(at.index);
        self.progress.detail.send_modify(|progress| {
            // Entries of one term follow each other, so the first one applied
            // here is the term's first, unless a snapshot skipped it.
            if at.term != progress.at.term || progress.term_start_index == 0 {
                progress.term_start_index = at.index;
            }
            progress.at = at;
        });
    }

    fn finish_batch(&mut self, answers: &mut Vec<(ApplyResponder<TypeConfig>, Bytes)>) {
        self.publish();
        let changes = self.machine().drain_changes();
        let hash = self.machine().hash();
        match self.image.wants_all() {
            true => {
                let rows = self.machine().image();
                self.image.replace(rows, &self.position, hash);
            }
            false => self.image.advance(changes, &self.position, hash),
        }
        for (responder, response) in answers.drain(..) {
            responder.send(response);
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.position.applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut batches = entries.ready_chunks(BATCH_ENTRIES);
        while let Some(batch) = batches.next().await {
            let mut failed = None;
            for item in batch {
                let (entry, responder) = match item {
                    Ok(item) => item,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                // A new term is published by itself, so that its first index
                // is seen.
                let new_term = self.position.term() != term_of(&entry.log_id);
                let response = match self.apply_entry(entry) {
                    Ok(response) => response,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                if new_term {
                    self.publish();
                }
                if let Some(responder) = responder {
                    answers.push((responder, response));
                }
            }
            self.finish_batch(&mut answers);
            if let Some(error) = failed {
                return Err(error);
            }
            // A long replay must not keep heartbeats from being answered.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            position: self.position.clone(),
            rows: Mutex::new(Some(self.machine().image())),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let mut machine = self.machine.take().expect("present between two calls");
        let install = move || {
            let installed = snapshots.put_in_place(snapshot)?;
            let at = installed.position.stamp();
            let (rows, restored) = ahead(installed.rows(), |rows| machine.restore(at, rows));
            let restored = restored.map_err(io::Error::other);
            Ok::<_, io::Error>((machine, restored.and_then(|()| rows.finish()), installed.position))
        };
        let (machine, restored, position) =
            blocking::run(install).await.map_err(io::Error::other)??;
        self.check_supported(machine.as_ref())?;
        restored?;
        let (rows, hash) = (machine.image(), machine.hash());
        self.machine = Some(machine);
        self.position = position;
        self.publish();
        self.image.replace(rows, &self.position, hash);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OpenraftSnapshot>> {
        let current = self.snapshots.current();
        Ok(current.map(|s| Snapshot { meta: s.position.meta(), snapshot: s }))
    }
}

/// Writes one snapshot beside further applies.
pub(crate) struct SnapshotBuilder {
    position: Position,
    /// A lock only because openraft wants this to be `Sync`.
    rows: Mutex<Option<Box<dyn Iterator<Item = Row> + Send>>>,
    snapshots: Arc<SnapshotDir>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<OpenraftSnapshot> {
        let rows = self.rows.get_mut().ok().and_then(Option::take);
        let rows = rows.ok_or_else(|| io::Error::other("already built"))?;
        let (snapshots, position) = (self.snapshots.clone(), self.position.clone());
        let written = blocking::run(move || snapshots.write(&position, rows))
            .await
            .map_err(io::Error::other)??;
        Ok(Snapshot { meta: written.position.meta(), snapshot: written })
    }
}
