//! Backups: the state at one log index as a file that leaves the cluster.
//!
//! A backup is a snapshot file (see `snapshot`), byte for byte what a replica
//! writes for itself: one format, one reader. Its position is the one that the
//! old cluster had; [`restore`](crate::restore) makes a new one of it.

use std::io::{self, Write};
use std::path::Path;

use openraft::errors::Fatal;

use crate::handle::Handle;
use crate::machine::{Row, Stamp};
use crate::position::Position;
use crate::snapshot::{SnapshotError, SnapshotFile, Written, write_snapshot};
use crate::types::TypeConfig;

/// A consistent copy of the state, not written anywhere yet. It holds the
/// machine's image: write it, or drop it.
pub struct StateCopy {
    cluster: String,
    position: Position,
    rows: Box<dyn Iterator<Item = Row> + Send>,
}

impl StateCopy {
    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Where the state stands.
    pub fn at(&self) -> Stamp {
        self.position.stamp()
    }

    /// Writes all of it, in parts of a few hundred KiB. Blocks as `out` does.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(self, out: impl Write) -> io::Result<Written> {
        write_snapshot(out, &self.cluster, &self.position, self.rows)
    }
}

impl Handle {
    /// Copies the state between two batches of entries: what this node has
    /// applied by now, or a little more. Costs what an image of the machine
    /// costs, and holds up nothing after that.
    ///
    /// # Errors
    /// When the replica has stopped, or its state was lost with a snapshot that
    /// could not be installed.
    pub async fn copy_state(&self) -> Result<StateCopy, String> {
        let taken = self.node().raft.with_state_machine(|machine| {
            let taken = machine.copy();
            Box::pin(async move { taken })
        });
        let taken = taken.await.map_err(|stopped: Fatal<TypeConfig>| stopped.to_string())?;
        let (position, rows) = taken.ok_or("there is no state: a snapshot is not restored")?;
        Ok(StateCopy { cluster: self.node().identity.cluster.clone(), position, rows })
    }
}

/// A voter, as the membership at a backup's position has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackedUpMember {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its name.
    pub name: String,
    /// Its peer listener, as `host:port`.
    pub peer_addr: String,
    /// Whether it voted.
    pub voter: bool,
}

/// A backup on the disk, verified to its last byte.
#[derive(Debug, Clone)]
pub struct Backup {
    pub(crate) file: SnapshotFile,
    cluster: String,
}

impl Backup {
    /// Opens a file, and reads all of it: its checksum is right, and its rows
    /// are as many as it says.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let (file, cluster) = SnapshotFile::read(path)?;
        let this = Self { file, cluster };
        this.rows(|_| Ok(()))?;
        Ok(this)
    }

    /// Hands every row to `each`, in their order, which may refuse one.
    ///
    /// # Errors
    /// A row is refused, or the file has changed since it was opened.
    pub fn rows(
        &self,
        mut each: impl FnMut(Row) -> Result<(), String>,
    ) -> Result<(), SnapshotError> {
        let bytes = self.file.bytes;
        let mut rows = self.file.rows();
        let damaged = |at, detail| SnapshotError::Damaged { at, bytes, detail };
        while let Some(row) = rows.next() {
            each(row).map_err(|detail| damaged(rows.row_at(), detail))?;
        }
        let at = rows.row_at();
        rows.finish().map_err(|error| damaged(at, error.to_string()))
    }

    /// Name of the cluster that it is of.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Where the state stood.
    pub fn at(&self) -> Stamp {
        self.file.position.stamp()
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// SHA-256, hexadecimal: the same for every copy of this backup, and for no
    /// other one.
    pub fn checksum(&self) -> String {
        self.file.checksum_hex()
    }

    /// Who the members were.
    pub fn members(&self) -> Vec<BackedUpMember> {
        let membership = self.file.position.membership.membership();
        let members = membership.nodes().map(|(id, member)| BackedUpMember {
            raft_id: *id,
            name: member.name.clone(),
            peer_addr: member.peer_addr.clone(),
            voter: membership.voter_ids().any(|voter| voter == *id),
        });
        members.collect()
    }
}
