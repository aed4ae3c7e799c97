//! `aether snapshot save`

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aether_proto::v1;
use aether_replica::Backup;
use clap::Args;
use serde::Serialize;
use tonic::Streaming;

use super::ARCHIVES;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, Kind};
use crate::cli::output::say;
use crate::cli::status::cluster;
use crate::cli::{Global, render};

/// Save the replicated state of the cluster to a file
///
/// The file holds everything that was acknowledged before, as of one log index,
/// and has a checksum, which is verified before the file gets its name. Any node
/// can be asked; it goes on serving meanwhile.
///
/// Archives of artifacts are not in it. Keep a copy of the 'artifacts' directory
/// of a voter's data directory beside it, or push them again after a restore.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether snapshot save backup.snap
  aether snapshot save --stale backup.snap      without a quorum, what one node has

See also: aether snapshot inspect, aether snapshot restore")]
pub struct Save {
    /// Where to; readable by its owner only
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The copy of whichever node answers, which may be old
    #[arg(long)]
    stale: bool,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

/// What was saved.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    file: String,
    cluster: String,
    node: String,
    index: u64,
    term: u64,
    log_time_ms: u64,
    wall_ms: u64,
    rows: u64,
    bytes: u64,
    sha256: String,
}

impl Save {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let shown = self.file.display().to_string();
        if !self.force && self.file.symlink_metadata().is_ok() {
            return Err(Failure::new(
                Exit::Refused,
                format!("{shown} is there already; take another name, or give --force"),
            ));
        }
        let client = global.client()?;
        let mut unfinished = Unfinished::create(&self.file)?;
        let request = v1::SnapshotSaveRequest { stale: self.stale };
        let mut parts = client
            .open(request, async |c, request| cluster(c).snapshot_save(request).await)
            .await?;
        let position = receive(&client, &mut parts, &mut unfinished).await?;
        let saved = unfinished.finish(&self.file, position)?;
        global.output().show(&saved, |saved| {
            format!(
                "{} holds cluster {} at log index {} (term {}, log time {} ms, {}): {} rows, {} \
                 bytes",
                saved.file,
                saved.cluster,
                saved.index,
                saved.term,
                saved.log_time_ms,
                render::history::when(saved.wall_ms),
                saved.rows,
                saved.bytes
            )
        })?;
        say(&format!("note: {ARCHIVES}"));
        Ok(())
    }
}

/// Writes all parts; gives the position that they begin with.
async fn receive(
    client: &Client,
    parts: &mut Streaming<v1::SnapshotPart>,
    to: &mut Unfinished,
) -> Result<v1::SnapshotPosition, Failure> {
    let mut position = None;
    loop {
        let silent = |_| Failure::new(Exit::Unreachable, to.broke_off("no more came in time"));
        let part = tokio::time::timeout(client.timeout(), parts.message()).await.map_err(silent)?;
        let part = part.map_err(|status| match to.bytes {
            0 => Failure::from_status(&status, Kind::Read),
            _ => Failure::new(Exit::Unreachable, to.broke_off(status.message())),
        })?;
        let Some(part) = part else { break };
        position = position.or(part.position);
        to.write(&part.data)?;
    }
    position.ok_or_else(|| Failure::failed("the node sent nothing"))
}

/// The file under another name until it is whole; removed unless it gets there.
struct Unfinished {
    path: PathBuf,
    file: File,
    bytes: u64,
    kept: bool,
}

impl Unfinished {
    fn create(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().ok_or_else(|| {
            Failure::usage(format!("'{}' is not the name of a file", target.display()))
        })?;
        let name = format!(".{}.{:08x}.tmp", name.to_string_lossy(), rand::random::<u32>());
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|error| cannot("create", &path, &error))?;
        Ok(Self { path, file, bytes: 0, kept: false })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.bytes += data.len() as u64;
        self.file.write_all(data).map_err(|error| cannot("write", &self.path, &error))
    }

    fn broke_off(&self, why: &str) -> String {
        format!(
            "the snapshot broke off after {} bytes ({why}); nothing was kept: try again",
            self.bytes
        )
    }

    /// Makes it durable, verifies it, and gives it its name.
    fn finish(mut self, target: &Path, at: v1::SnapshotPosition) -> Result<Saved, Failure> {
        self.file.sync_all().map_err(|error| cannot("sync", &self.path, &error))?;
        let arrived = Backup::open(&self.path).map_err(|error| {
            Failure::failed(format!("what arrived is not what was sent: {error}; try again"))
        })?;
        let is_same = (arrived.at().index, arrived.cluster()) == (at.index, at.cluster.as_str());
        if !is_same {
            return Err(Failure::failed("the file is of another position than the node said"));
        }
        let mut rows = 0;
        let counted = arrived.rows(|_| {
            rows += 1;
            Ok(())
        });
        counted.map_err(|error| Failure::failed(error.to_string()))?;
        fs::rename(&self.path, target).map_err(|error| cannot("make", target, &error))?;
        self.kept = true;
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| cannot("sync", dir, &error))?;
        Ok(Saved {
            file: target.display().to_string(),
            cluster: at.cluster,
            node: at.node,
            index: at.index,
            term: at.term,
            log_time_ms: at.log_time_ms,
            wall_ms: at.wall_ms,
            rows,
            bytes: arrived.bytes(),
            sha256: arrived.checksum(),
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done about it; its name says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}
