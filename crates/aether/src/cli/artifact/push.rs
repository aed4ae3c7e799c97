//! `aether artifact push`

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aether_agent::artifact::{Limits, inspect, pack_to_file};
use aether_proto::v1;
use aether_proto::v1::push_request::Part;
use clap::Args;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::artifacts;
use crate::cli::exit::Failure;
use crate::cli::output::say;
use crate::cli::progress::{Progress, Shown};
use crate::cli::{Global, render};

/// Size of one message of the stream: far below the largest message, and large
/// enough that the messages cost nothing beside the bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// Slowest transfer that is waited for, in bytes per second.
const UPLOAD_RATE_MIN: u64 = 1024 * 1024;

/// Push an artifact: a directory with a slice.toml, or a packed .tar.gz of one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether artifact push ./my-slice-1.0.0
  aether artifact push my-slice-1.0.0.tar.gz

A directory is packed on the way. Its slice.toml names the artifact and says how
an instance is started:

  artifact = \"org.example:my-slice:1.0.0\"
  [run]
  command = [\"./server\", \"--port\", \"${PORT}\"]
  [ready]
  http = \"/ready\"

See also: aether artifact list, aether deploy, aether update start")]
pub struct Push {
    /// The directory or archive
    #[arg(value_name = "DIR|FILE.tar.gz")]
    path: PathBuf,
}

impl Push {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let (path, actor) = (self.path, client.actor());
        // Packing takes a while; on a thread of its own it can be interrupted.
        let archive = tokio::task::spawn_blocking(move || Archive::of(&path, actor));
        let archive = archive
            .await
            .map_err(|error| Failure::failed(format!("cannot pack the artifact: {error}")))??;
        for warning in &archive.warnings {
            say(&format!("warning: {warning}"));
        }
        let progress = Progress::bytes(archive.header.size_bytes);
        let shown = Shown(&progress);
        progress.now(format!("push {}", archive.header.artifact));
        // Once to the node, and once more from there to the other voters.
        let upload = Duration::from_secs(2 * archive.header.size_bytes / UPLOAD_RATE_MIN);
        let pushed = client
            .slower_by(upload)
            .write(archive.source(), async |c, request| {
                let (metadata, extensions, (header, path)) = request.into_parts();
                let file = tokio::fs::File::open(&path).await?;
                let messages = messages(header, file, progress.clone());
                let request = tonic::Request::from_parts(metadata, extensions, messages);
                artifacts(c).push(request).await
            })
            .await?;
        drop(shown);
        global.output().show(&pushed, |pushed| {
            // The manifest is what the user has just written.
            render::artifact::whole(&v1::Artifact { manifest: String::new(), ..pushed.clone() })
        })
    }
}

/// A checked archive, ready to be sent.
struct Archive {
    header: v1::PushHeader,
    path: PathBuf,
    warnings: Vec<String>,
    /// Holds the file that was packed here; goes with it.
    _packed_in: Option<TempDir>,
}

impl Archive {
    /// Packs a directory, or checks a packed archive, as a node would.
    ///
    /// # Errors
    /// Usage errors, with what to change: every node would refuse it too.
    fn of(path: &Path, actor: String) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
        if path.metadata().map_err(cannot)?.is_dir() {
            return Self::packed(path, actor);
        }
        let file = File::open(path).map_err(cannot)?;
        let contents = inspect(io::BufReader::new(file), &Limits::default())
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let (sha256, size_bytes) = digest(path).map_err(cannot)?;
        let artifact = contents.manifest.artifact.to_string();
        Ok(Self {
            header: v1::PushHeader { artifact, sha256, size_bytes, actor, ..Default::default() },
            path: path.to_owned(),
            warnings: contents.warnings,
            _packed_in: None,
        })
    }

    fn packed(dir: &Path, actor: String) -> Result<Self, Failure> {
        let place = TempDir::new()
            .map_err(|error| Failure::failed(format!("no temporary directory: {error}")))?;
        let path = place.path().join("artifact.tar.gz");
        let packed = pack_to_file(dir, &path).map_err(Failure::usage)?;
        let header = v1::PushHeader {
            artifact: packed.manifest.artifact.to_string(),
            sha256: packed.digest.to_string(),
            size_bytes: packed.size_bytes,
            actor,
            // The digest says by itself whether it is the same archive.
            request_id: String::new(),
        };
        Ok(Self { header, path, warnings: packed.warnings, _packed_in: Some(place) })
    }

    /// What every try needs to send it from the beginning.
    fn source(&self) -> (v1::PushHeader, PathBuf) {
        (self.header.clone(), self.path.clone())
    }
}

/// Digest and size of a file.
fn digest(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut size_bytes = 0;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                hasher.update(&buffer[..read]);
                size_bytes += read as u64;
            }
        }
    }
    let hex = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((hex, size_bytes))
}

/// The header, then the file in chunks. A file that can no longer be read ends
/// the stream early, which the node notices by the size.
fn messages(
    header: v1::PushHeader,
    file: tokio::fs::File,
    progress: Progress,
) -> impl Stream<Item = v1::PushRequest> + Send + 'static {
    let first = v1::PushRequest { part: Some(Part::Header(header)) };
    let chunks = stream::unfold((file, 0), move |(mut file, sent)| {
        progress.done(sent);
        async move {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await;
            match read {
                Ok(0) | Err(_) => None,
                Ok(read) => {
                    let message = v1::PushRequest { part: Some(Part::Chunk(chunk)) };
                    Some((message, (file, sent + read as u64)))
                }
            }
        }
    });
    stream::iter([first]).chain(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    const MANIFEST: &str = "artifact = 'a.b:c:1.0.0'\n[run]\ncommand = ['bin/run']\n";

    fn slice_dir() -> TempDir {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("slice.toml"), MANIFEST).unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/run"), vec![7; 2 * CHUNK_BYTES]).unwrap();
        dir
    }

    #[tokio::test]
    async fn a_directory_and_its_archive_are_sent_alike() {
        let dir = slice_dir();
        let from_dir = Archive::of(dir.path(), "me".into()).unwrap();
        assert_eq!(from_dir.header.artifact, "a.b:c:1.0.0");
        let from_file = Archive::of(&from_dir.path, "me".into()).unwrap();
        assert_eq!(from_file.header, from_dir.header);

        let file = tokio::fs::File::open(&from_dir.path).await.unwrap();
        let sent: Vec<_> =
            messages(from_dir.header.clone(), file, Progress::bytes(0)).collect().await;
        assert_eq!(sent[0].part, Some(Part::Header(from_dir.header.clone())));
        let mut bytes = Vec::new();
        for message in &sent[1..] {
            let Some(Part::Chunk(chunk)) = &message.part else { panic!("a second header") };
            assert!(chunk.len() <= CHUNK_BYTES);
            bytes.extend_from_slice(chunk);
        }
        assert_eq!(bytes, std::fs::read(&from_dir.path).unwrap());
    }

    #[test]
    fn what_no_node_would_take_is_a_usage_error() {
        let dir = TempDir::new().unwrap();
        let refused = |path: &Path| Archive::of(path, "me".into()).err().unwrap();
        assert_eq!(refused(dir.path()).exit(), Exit::Usage);
        assert_eq!(refused(&dir.path().join("absent")).exit(), Exit::Usage);
        let file = dir.path().join("a.tar.gz");
        std::fs::write(&file, "not an archive").unwrap();
        assert_eq!(refused(&file).exit(), Exit::Usage);
    }
}
