//! The artifact repository: archives come in, become known, and are handed out.

use std::sync::Arc;
use std::time::Duration;

use aether_agent::artifact::{ArtifactStore, Digest, Limits, StoreError};
use aether_core::command::Command;
use aether_core::coordinates::{Artifact, ArtifactBase};
use aether_core::ids::NodeName;
use aether_core::records::ArtifactRecord;
use aether_proto::v1;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::push_request::Part;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::Streamed;
use crate::control::Control;
use crate::deadline::Deadline;
use crate::{render, status};

/// Size of the pieces in which archives travel.
const CHUNK_BYTES: usize = 256 * 1024;
/// Pieces queued towards one reader.
const QUEUED_MAX: usize = 4;
/// How long connecting to another holder may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The `Artifacts` service.
#[derive(Clone)]
pub struct ArtifactsService {
    control: Control,
    store: Arc<ArtifactStore>,
    node: NodeName,
}

fn not_stored(error: StoreError) -> Status {
    match error {
        StoreError::Unknown(_) => status::not_found("unknown_artifact", error.to_string()),
        StoreError::Io { .. } => Status::internal(error.to_string()),
        StoreError::Source(_) => Status::aborted(error.to_string()),
        StoreError::TooLarge { .. }
        | StoreError::DigestMismatch { .. }
        | StoreError::Refused(_) => status::invalid("archive", error),
    }
}

impl ArtifactsService {
    /// Over the node's parts.
    pub fn new(control: Control, store: Arc<ArtifactStore>, node: NodeName) -> Self {
        Self { control, store, node }
    }

    /// Stores what arrives under the digest that was announced.
    async fn receive(
        &self,
        expected: Digest,
        size_bytes: u64,
        from: &mut Streaming<v1::PushRequest>,
    ) -> Result<u64, Status> {
        let mut incoming = self.store.begin().await.map_err(not_stored)?;
        while let Some(request) = from.message().await? {
            match request.part {
                Some(Part::Chunk(chunk)) => incoming.write(&chunk).await.map_err(not_stored)?,
                Some(Part::Header(_)) => return Err(status::invalid("part", "a second header")),
                None => return Err(status::invalid("part", "is missing")),
            }
        }
        let stored = incoming.finish(Some(expected)).await.map_err(not_stored)?;
        if size_bytes != stored.size_bytes {
            let problem = format!("{size_bytes} bytes were announced, {} came", stored.size_bytes);
            return Err(status::invalid("size_bytes", problem));
        }
        Ok(stored.size_bytes)
    }

    fn known(
        &self,
        state: &aether_core::state::State,
        digest: &str,
    ) -> Option<Arc<ArtifactRecord>> {
        state.artifacts.values().find(|record| record.digest == digest).cloned()
    }

    /// Channels to whoever may hold an archive: known holders, then voters.
    fn sources(&self, record: &ArtifactRecord) -> Vec<Channel> {
        let published = self.control.local();
        let replica = self.control.replica();
        let holders = record.held_by.iter().filter(|holder| **holder != self.node);
        holders
            .filter_map(|holder| {
                replica.peer_channel(holder.as_str()).or_else(|| {
                    let address = published.state.nodes.get(holder)?.address;
                    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
                    Some(endpoint.connect_timeout(CONNECT_MAX).connect_lazy())
                })
            })
            .collect()
    }

    /// Gets an archive from another holder into this node's store.
    async fn obtain(&self, record: &ArtifactRecord) -> Result<(), Status> {
        let digest: Digest = record.digest.parse().map_err(|e| status::invalid("sha256", e))?;
        let mut problem = "no other node is known to hold it".to_owned();
        for channel in self.sources(record) {
            let mut client = ArtifactsClient::new(channel);
            let request = v1::FetchRequest { sha256: record.digest.clone(), local_only: true };
            match self.copy(&mut client, request, digest).await {
                Ok(()) => return Ok(()),
                Err(status) => problem = status.message().to_owned(),
            }
        }
        Err(status::unavailable(format!("archive {digest} could not be fetched: {problem}")))
    }

    async fn copy(
        &self,
        client: &mut ArtifactsClient<Channel>,
        request: v1::FetchRequest,
        digest: Digest,
    ) -> Result<(), Status> {
        let mut chunks = client.fetch(request).await?.into_inner();
        let mut incoming = self.store.begin().await.map_err(not_stored)?;
        while let Some(part) = chunks.message().await? {
            incoming.write(&part.chunk).await.map_err(not_stored)?;
        }
        incoming.finish(Some(digest)).await.map(drop).map_err(not_stored)
    }

    /// Copies every known archive that this voter does not hold, so that the
    /// loss of the node it was pushed to loses no version.
    pub async fn replicate(self) {
        const RETRY: Duration = Duration::from_secs(1);
        let mut states = self.control.watch();
        loop {
            let state = states.borrow_and_update().state.clone();
            let mut failed = false;
            for record in state.artifacts.values() {
                if !record.held_by.contains(&self.node) && self.hold(record).await.is_err() {
                    failed = true;
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    async fn hold(&self, record: &ArtifactRecord) -> Result<(), Status> {
        let digest: Digest = record.digest.parse().map_err(|e| status::invalid("sha256", e))?;
        if self.store.size_bytes(&digest).is_none() {
            self.obtain(record).await?;
        }
        let command = Command::ArtifactHeld {
            artifact: record.artifact.clone(),
            digest: record.digest.clone(),
            holder: self.node.clone(),
        };
        self.control.write(Deadline::default(), self.node.as_str(), "", command).await.map(drop)
    }
}

#[tonic::async_trait]
impl Artifacts for ArtifactsService {
    type FetchStream = Streamed<v1::FetchResponse>;

    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let (deadline, mut from) = Deadline::split(request);
        let Some(v1::PushRequest { part: Some(Part::Header(header)) }) = from.message().await?
        else {
            return Err(status::invalid("part", "the first one must be the header"));
        };
        let artifact: Artifact =
            header.artifact.parse().map_err(|e| status::invalid("artifact", e))?;
        let digest: Digest = header.sha256.parse().map_err(|e| status::invalid("sha256", e))?;
        // Refused before the bytes are kept, where that can be known.
        let published = self.control.barrier(deadline).await?;
        let known = published.state.artifacts.get(&artifact);
        if let Some(known) = known.filter(|known| known.digest != header.sha256) {
            let refusal = aether_core::command::Refusal::ArtifactDiffers {
                artifact,
                known: known.digest.clone(),
                given: header.sha256,
            };
            return Err(status::refused(&refusal));
        }
        let size_bytes = self.receive(digest, header.size_bytes, &mut from).await?;
        let contents = match self.store.inspect(digest, Limits::default()).await {
            Ok(contents) => contents,
            Err(error) => {
                self.store.discard(&digest);
                return Err(not_stored(error));
            }
        };
        let command = Command::RegisterArtifact {
            artifact: artifact.clone(),
            digest: header.sha256,
            size_bytes,
            manifest: Arc::new(contents.manifest),
            holder: self.node.clone(),
        };
        self.control.write(deadline, &header.actor, "", command).await?;
        let published = self.control.local();
        let record = published.state.artifacts.get(&artifact);
        let record =
            record.ok_or_else(|| Status::internal(format!("artifact {artifact} is gone")))?;
        Ok(Response::new(render::artifact(record)))
    }

    async fn list(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let base: Option<ArtifactBase> = match request.artifact_base.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e| status::invalid("artifact_base", e))?),
        };
        let read = self.control.read(false, deadline).await;
        let all = read.published.state.artifacts.values();
        let wanted = all.filter(|r| base.as_ref().is_none_or(|base| r.artifact.base == *base));
        let artifacts = wanted.map(|record| render::artifact(record)).collect();
        Ok(Response::new(v1::ListArtifactsResponse { artifacts }))
    }

    async fn info(
        &self,
        request: Request<v1::ArtifactInfoRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let (deadline, request) = Deadline::split(request);
        let artifact: Artifact =
            request.artifact.parse().map_err(|e| status::invalid("artifact", e))?;
        let read = self.control.read(false, deadline).await;
        match read.published.state.artifacts.get(&artifact) {
            Some(record) => Ok(Response::new(render::artifact(record))),
            None => {
                Err(status::refused(&aether_core::command::Refusal::UnknownArtifact { artifact }))
            }
        }
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let digest: Digest = request.sha256.parse().map_err(|e| status::invalid("sha256", e))?;
        if self.store.size_bytes(&digest).is_none() && !request.local_only {
            let published = self.control.barrier(deadline).await?;
            let record = self.known(&published.state, &request.sha256).ok_or_else(|| {
                status::not_found("unknown_artifact", format!("no artifact has digest {digest}"))
            })?;
            self.obtain(&record).await?;
        }
        let mut file = self.store.open_unverified(&digest).await.map_err(not_stored)?;
        let (to, stream) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let message = match file.read(&mut chunk).await {
                    Ok(0) => return,
                    Ok(n) => Ok(v1::FetchResponse { chunk: chunk[..n].to_vec() }),
                    Err(error) => Err(Status::internal(error.to_string())),
                };
                let failed = message.is_err();
                if to.send(message).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
