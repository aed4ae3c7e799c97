//! The whole state as a file: `Cluster.SnapshotSave`.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use aether_proto::v1;
use aether_replica::StateCopy;
use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;
use tonic::{Response, Status};

use super::Streamed;
use super::following::too_slow;
use super::streams::{self, Down};
use crate::control::Control;
use crate::deadline::Deadline;
use crate::status;

/// Parts that wait for the reader, each of at most this size: the next one is
/// made when one of them has gone.
const PARTS_QUEUED_MAX: usize = 4;
const PART_BYTES_MAX: usize = 256 * 1024;

/// How long a reader may leave its queue full before it counts as stuck.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// Sends snapshots, one at a time: each holds a copy of the state that further
/// entries make differ from the present one.
#[derive(Clone)]
pub struct Snapshots {
    control: Control,
    place: Arc<Semaphore>,
}

impl Snapshots {
    pub fn new(control: Control) -> Self {
        Self { control, place: Arc::new(Semaphore::new(1)) }
    }

    /// Sends one, of the state that holds every write acknowledged before, or of
    /// this node's own.
    ///
    /// # Errors
    /// Another one is being sent, or no leader can be asked.
    pub async fn save(
        &self,
        deadline: Deadline,
        request: v1::SnapshotSaveRequest,
    ) -> Result<Response<Streamed<v1::SnapshotPart>>, Status> {
        let place = Arc::clone(&self.place).try_acquire_owned().map_err(|_| {
            status::exhausted(format!(
                "{} sends a snapshot already; wait for its end, or ask another node",
                self.control.node()
            ))
        })?;
        if !request.stale {
            self.control.barrier(deadline).await?;
        }
        let copy = self.control.replica().copy_state().await.map_err(status::unavailable)?;
        let at = copy.at();
        let position = v1::SnapshotPosition {
            cluster: copy.cluster().to_owned(),
            node: self.control.node().to_owned(),
            index: at.index,
            term: at.term,
            log_time_ms: at.log_time_ms,
            wall_ms: at.wall_ms,
        };
        let first = v1::SnapshotPart { position: Some(position), data: Vec::new() };
        Ok(streams::answer(PARTS_QUEUED_MAX, move |to| async move {
            let _place = place;
            send(first, copy, to).await
        }))
    }
}

/// Ends when all was sent, the reader has left, or it does not read.
async fn send(
    first: v1::SnapshotPart,
    copy: StateCopy,
    to: Down<v1::SnapshotPart>,
) -> Result<(), Status> {
    deliver(&to, first, UNREAD_MAX).await?;
    let mut parts = Parts { to, runtime: Runtime::current(), end: None };
    // Rows are encoded on the way out, which takes seconds of a large state.
    let written = tokio::task::spawn_blocking(move || {
        let written = copy.write(&mut parts);
        (written, parts.end)
    });
    match written.await.map_err(status::internal)? {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(end)) => Err(end),
        (Err(error), None) => Err(status::internal(error)),
    }
}

/// Brings a part to the reader.
///
/// # Errors
/// It left, which nobody is told, or does not read.
async fn deliver<T>(to: &Down<T>, part: T, unread_max: Duration) -> Result<(), Status> {
    match tokio::time::timeout(unread_max, to.send(Ok(part))).await {
        Ok(sent) => sent.map_err(|_| Status::cancelled("the reader left")),
        Err(_) => Err(too_slow(format!("nothing was read for {unread_max:?}"))),
    }
}

/// Cuts what is written into parts, and waits with the reader.
struct Parts {
    to: Down<v1::SnapshotPart>,
    runtime: Runtime,
    /// Why it goes no further.
    end: Option<Status>,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let data = bytes[..bytes.len().min(PART_BYTES_MAX)].to_vec();
        let written = data.len();
        let part = v1::SnapshotPart { position: None, data };
        match self.runtime.block_on(deliver(&self.to, part, UNREAD_MAX)) {
            Ok(()) => Ok(written),
            Err(end) => {
                self.end = Some(end);
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;
    use tonic::Code;

    #[tokio::test]
    async fn a_reader_that_does_not_read_is_let_go() {
        let (to, from) = mpsc::channel(1);
        let soon = Duration::from_millis(50);
        assert!(deliver(&to, 1, soon).await.is_ok());
        let status = deliver(&to, 2, soon).await.expect_err("there was no room");
        assert_eq!(status.code(), Code::ResourceExhausted);
        drop(from);
        assert_eq!(deliver(&to, 3, soon).await.unwrap_err().code(), Code::Cancelled);
    }

    #[tokio::test]
    async fn parts_are_bounded_and_wait_for_the_reader_who_may_leave() {
        let (to, mut from) = mpsc::channel(1);
        let mut parts = Parts { to, runtime: Runtime::current(), end: None };
        let writing = tokio::task::spawn_blocking(move || {
            let whole = vec![7u8; 3 * PART_BYTES_MAX + 1];
            let first = parts.write_all(&whole);
            let second = parts.write_all(&whole);
            (first.is_ok(), second.is_err(), parts.end.is_some())
        });
        let mut sizes = Vec::new();
        while sizes.len() < 4 {
            sizes.push(from.recv().await.unwrap().unwrap().data.len());
        }
        assert_eq!(sizes, [PART_BYTES_MAX, PART_BYTES_MAX, PART_BYTES_MAX, 1]);
        assert_eq!(from.recv().await.unwrap().unwrap().data.len(), PART_BYTES_MAX);
        assert!(!writing.is_finished(), "the reader has not taken the next one");
        drop(from);
        assert_eq!(writing.await.unwrap(), (true, true, true));
    }
}
