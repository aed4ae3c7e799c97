//! The artifact repository: archives come in, become known, and are handed out.

use std::sync::Arc;
use std::time::Duration;

use aether_agent::artifact::{ArtifactStore, Digest, Limits, StoreError, Stored};
use aether_core::command::{Command, Refusal};
use aether_core::coordinates::{Artifact, ArtifactBase};
use aether_core::ids::NodeName;
use aether_core::manifest::Manifest;
use aether_core::records::ArtifactRecord;
use aether_proto::v1;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::push_request::Part;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::archives::{self, Known};
use super::{Streamed, holders, streams};
use crate::control::Control;
use crate::deadline::Deadline;
use crate::page::Page;
use crate::{render, status};

/// Size of the pieces in which archives travel.
const CHUNK_BYTES: usize = 256 * 1024;
/// Pieces queued towards one reader.
const QUEUED_MAX: usize = 4;
/// How long connecting to another holder may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long another holder may take for its answer, and for each piece. It
/// reads them from its own disk. A copy as a whole has no bound: it takes as
/// long as it makes progress.
const PIECE_MAX: Duration = Duration::from_secs(5);
/// How long whoever pushes may take for each piece: a slow line sends one in a
/// few seconds. What was received of an archive is then given up.
const PUSHED_MAX: Duration = Duration::from_secs(60);

/// The `Artifacts` service.
#[derive(Clone)]
pub struct ArtifactsService {
    control: Control,
    store: Arc<ArtifactStore>,
    node: NodeName,
}

fn not_stored(error: StoreError) -> Status {
    match error {
        StoreError::Unknown(digest) => {
            let name = digest.to_string();
            status::no_such("artifact", &name, error.to_string())
        }
        StoreError::Io { .. } => status::internal(error),
        // What sends the archive broke off: nothing was kept.
        StoreError::Source(_) => status::aborted(error),
        StoreError::TooLarge { .. }
        | StoreError::DigestMismatch { .. }
        | StoreError::Refused(_) => status::invalid("archive", error),
        // Of opening the store, which no caller does.
        StoreError::InUse(_) => Status::internal(error.to_string()),
    }
}

/// Copies an archive from the first source that sends all of it. One that
/// sends nothing for `piece_max` is given up for the next.
async fn obtain_from(
    sources: Vec<Channel>,
    store: &Arc<ArtifactStore>,
    digest: Digest,
    piece_max: Duration,
) -> Result<(), Status> {
    let mut problem = "no other node is known to hold it".to_owned();
    for source in sources {
        match copy(source, store, digest, piece_max).await {
            Ok(()) => return Ok(()),
            Err(status) => problem = status.message().to_owned(),
        }
    }
    Err(status::unavailable(format!("archive {digest} could not be fetched: {problem}")))
}

async fn copy(
    source: Channel,
    store: &Arc<ArtifactStore>,
    digest: Digest,
    piece_max: Duration,
) -> Result<(), Status> {
    let stalled = |_| status::unavailable(format!("its holder sent nothing for {piece_max:?}"));
    let mut client = ArtifactsClient::new(source);
    let request = v1::FetchRequest { sha256: digest.to_string(), local_only: true };
    let answer = timeout(piece_max, client.fetch(request)).await.map_err(stalled)?;
    let mut pieces = answer?.into_inner();
    let mut incoming = store.begin().await.map_err(not_stored)?;
    while let Some(piece) = timeout(piece_max, pieces.message()).await.map_err(stalled)?? {
        incoming.write(&piece.chunk).await.map_err(not_stored)?;
    }
    incoming.finish(Some(digest)).await.map(drop).map_err(not_stored)
}

impl ArtifactsService {
    /// Over the node's parts.
    pub fn new(control: Control, store: Arc<ArtifactStore>, node: NodeName) -> Self {
        Self { control, store, node }
    }

    /// Stores what arrives, under the digest that was announced if one was.
    async fn receive(
        &self,
        expected: Option<Digest>,
        size_bytes: u64,
        from: &mut Streaming<v1::PushRequest>,
    ) -> Result<Stored, Status> {
        let mut incoming = self.store.begin().await.map_err(not_stored)?;
        let stalled = |_| status::late(format!("no piece of the archive came for {PUSHED_MAX:?}"));
        while let Some(request) = timeout(PUSHED_MAX, from.message()).await.map_err(stalled)?? {
            match request.part {
                Some(Part::Chunk(chunk)) => incoming.write(&chunk).await.map_err(not_stored)?,
                Some(Part::Header(_)) => return Err(status::invalid("part", "a second header")),
                None => return Err(status::invalid("part", "is missing")),
            }
        }
        let stored = incoming.finish(expected).await.map_err(not_stored)?;
        let announced = expected.is_some() || size_bytes != 0;
        if announced && size_bytes != stored.size_bytes {
            self.take_back(&stored);
            let problem = format!("{size_bytes} bytes were announced, {} came", stored.size_bytes);
            return Err(status::invalid("size_bytes", problem));
        }
        Ok(stored)
    }

    /// What a push is refused for, once its archive is here. Gives the manifest.
    async fn check(
        &self,
        deadline: Deadline,
        artifact: &Artifact,
        stored: &Stored,
    ) -> Result<Arc<Manifest>, Status> {
        let inspected = self.store.inspect(stored.digest, Limits::default()).await;
        let manifest = Arc::new(inspected.map_err(not_stored)?.manifest);
        let published = self.control.barrier(deadline).await?;
        let digest = stored.digest.to_string();
        let refused = published.state.may_register(artifact, &digest, &manifest);
        refused.map_err(|refusal| status::refused(&refusal))?;
        Ok(manifest)
    }

    /// Removes the archive of a push that was refused, unless another push
    /// brought it too, or something has it by name.
    fn take_back(&self, stored: &Stored) {
        let published = self.control.local();
        let listed = Known::of(&published.state).list(&[stored.digest.to_string()]);
        if !listed.unnamed.is_empty() && self.store.take_back(stored) {
            tracing::debug!(digest = %stored.digest, "archive of a refused push removed");
        }
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
        let digest: Digest = status::parsed("sha256", &record.digest)?;
        obtain_from(self.sources(record), &self.store, digest, PIECE_MAX).await
    }

    /// Whether this voter holds an archive, and all know that it does.
    fn is_held(&self, record: &ArtifactRecord) -> bool {
        let here = record.digest.parse().is_ok_and(|d| self.store.size_bytes(&d).is_some());
        here && record.held_by.contains(&self.node)
    }

    /// Copies every known archive that this voter does not hold, so that the
    /// loss of the node it was pushed to loses no version.
    pub async fn replicate(self) {
        const RETRY: Duration = Duration::from_secs(1);
        let mut states = self.control.watch();
        let mut held = self.store.changes();
        loop {
            let state = states.borrow_and_update().state.clone();
            let mut failed = false;
            held.borrow_and_update();
            for record in state.artifacts.values() {
                if !self.is_held(record) && self.hold(record).await.is_err() {
                    failed = true;
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                // One that was damaged is not here any more.
                Ok(()) = held.changed() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    }

    /// Has an archive on the disk, verified, by copying it from another voter
    /// unless it is here whole: for that voter's push.
    pub(super) async fn hold_archive(&self, digest: Digest, from: &str) -> Result<(), Status> {
        // It is not dropped while its push goes on.
        if self.store.touch(&digest) && self.store.open(digest).await.is_ok() {
            return Ok(());
        }
        let source = self.control.replica().peer_channel(from).ok_or_else(|| {
            status::unavailable(format!("'{from}', which holds {digest}, is no member"))
        })?;
        obtain_from(vec![source], &self.store, digest, PIECE_MAX).await
    }

    /// Drops what belongs to no artifact; see [`archives::collect`].
    pub async fn collect(self) {
        archives::collect(self.control, self.store).await;
    }

    async fn hold(&self, record: &ArtifactRecord) -> Result<(), Status> {
        let digest: Digest = status::parsed("sha256", &record.digest)?;
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
        let Some(v1::PushRequest { part: Some(Part::Header(header)) }) =
            streams::first(&mut from).await?
        else {
            return Err(status::invalid("part", "the first one must be the header"));
        };
        let artifact: Artifact = status::parsed("artifact", &header.artifact)?;
        let expected: Option<Digest> = status::parsed_if_any("sha256", &header.sha256)?;
        // Refused before the bytes are kept, where that can be known.
        let published = self.control.barrier(deadline).await?;
        let known = published.state.artifacts.get(&artifact).filter(|_| expected.is_some());
        if let Some(known) = known.filter(|known| known.digest != header.sha256) {
            let refusal = aether_core::command::Refusal::ArtifactDiffers {
                artifact,
                known: known.digest.clone(),
                given: header.sha256,
            };
            return Err(status::refused(&refusal));
        }
        let stored = self.receive(expected, header.size_bytes, &mut from).await?;
        let manifest = match self.check(deadline, &artifact, &stored).await {
            Ok(manifest) => manifest,
            Err(status) => {
                self.take_back(&stored);
                return Err(status);
            }
        };
        let Stored { digest, size_bytes, .. } = stored;
        let spreading = deadline.within(holders::longest(size_bytes));
        let others = holders::spread(self.control.replica(), &self.node, digest, spreading).await;
        let others = others.map_err(|few| {
            status::unavailable(format!("artifact {artifact} is not registered: {few}"))
        })?;
        self.store.touch(&digest);
        let command = Command::RegisterArtifact {
            artifact: artifact.clone(),
            digest: digest.to_string(),
            size_bytes,
            manifest,
            holder: self.node.clone(),
            others,
        };
        self.control.write(deadline, &header.actor, &header.request_id, command).await?;
        let published = self.control.local();
        let record = published.state.artifacts.get(&artifact);
        let record =
            record.ok_or_else(|| status::internal(format!("artifact {artifact} is gone")))?;
        Ok(Response::new(render::artifact(record)))
    }

    async fn list(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let base: Option<ArtifactBase> =
            status::parsed_if_any("artifact_base", &request.artifact_base)?;
        let (size, token) = (request.page_size, &*request.page_token);
        let page = Page::of("Artifacts.List", &request.artifact_base, size, token)?;
        let read = self.control.read(false, deadline).await;
        let all = read.published.state.artifacts.values();
        let wanted = all.filter(|r| base.as_ref().is_none_or(|base| r.artifact.base == *base));
        let rows = wanted.map(|record| (record.artifact.clone(), record));
        let rows = rows.filter(|(artifact, _)| page.wants(artifact));
        let (artifacts, next_page_token) = page.cut(rows, |record| render::artifact(record));
        let as_of = Some(self.control.as_of(&read));
        Ok(Response::new(v1::ListArtifactsResponse { artifacts, as_of, next_page_token }))
    }

    async fn info(
        &self,
        request: Request<v1::ArtifactInfoRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let (deadline, request) = Deadline::split(request);
        let artifact: Artifact = status::parsed("artifact", &request.artifact)?;
        let read = self.control.read(false, deadline).await;
        match read.published.state.artifacts.get(&artifact) {
            Some(record) => {
                let as_of = Some(self.control.as_of(&read));
                Ok(Response::new(v1::Artifact { as_of, ..render::artifact(record) }))
            }
            None => {
                let refusal = Refusal::UnknownArtifact { artifact, is_sought: true };
                Err(read.missing(status::refused(&refusal)))
            }
        }
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveArtifactRequest>,
    ) -> Result<Response<v1::RemoveArtifactResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let artifact: Artifact = status::parsed("artifact", &request.artifact)?;
        let command = Command::RemoveArtifact { artifact: artifact.clone() };
        self.control.write(deadline, &request.actor, &request.request_id, command).await?;
        let note = format!("{artifact} is removed; its archives go within some minutes");
        Ok(Response::new(v1::RemoveArtifactResponse { note }))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let digest: Digest = status::parsed("sha256", &request.sha256)?;
        let mut opened = self.store.open_unverified(&digest).await;
        if matches!(opened, Err(StoreError::Unknown(_))) && !request.local_only {
            let published = self.control.barrier(deadline).await?;
            let record = self.known(&published.state, &request.sha256).ok_or_else(|| {
                let problem = format!("no artifact has digest {digest}");
                status::no_such("artifact", &request.sha256, problem)
            })?;
            self.obtain(&record).await?;
            opened = self.store.open_unverified(&digest).await;
        }
        let mut file = opened.map_err(not_stored)?;
        let (to, stream) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let message = match file.read(&mut chunk).await {
                    Ok(0) => return,
                    Ok(n) => Ok(v1::FetchResponse { chunk: chunk[..n].to_vec() }),
                    Err(error) => Err(status::internal(error)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use aether_proto::v1::artifacts_server::ArtifactsServer;
    use futures::StreamExt;
    use tonic::transport::server::TcpIncoming;

    /// A holder that sends these bytes, one piece each, and then ends or hangs.
    #[derive(Clone)]
    struct Holder {
        sends: &'static [u8],
        hangs: bool,
    }

    #[tonic::async_trait]
    impl Artifacts for Holder {
        type FetchStream = Streamed<v1::FetchResponse>;

        async fn fetch(
            &self,
            _: Request<v1::FetchRequest>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            if self.sends.is_empty() && self.hangs {
                std::future::pending::<()>().await;
            }
            let piece = |byte: &u8| Ok(v1::FetchResponse { chunk: vec![*byte] });
            let pieces = futures::stream::iter(self.sends.iter().map(piece));
            Ok(Response::new(match self.hangs {
                true => Box::pin(pieces.chain(futures::stream::pending())),
                false => Box::pin(pieces),
            }))
        }
        async fn push(
            &self,
            _: Request<Streaming<v1::PushRequest>>,
        ) -> Result<Response<v1::Artifact>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn remove(
            &self,
            _: Request<v1::RemoveArtifactRequest>,
        ) -> Result<Response<v1::RemoveArtifactResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn list(
            &self,
            _: Request<v1::ListArtifactsRequest>,
        ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn info(
            &self,
            _: Request<v1::ArtifactInfoRequest>,
        ) -> Result<Response<v1::Artifact>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    async fn serve(holder: Holder) -> Channel {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(ArtifactsServer::new(holder));
        tokio::spawn(server.serve_with_incoming(incoming));
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }

    #[tokio::test]
    async fn a_holder_that_hangs_is_given_up_for_the_next_one() {
        let piece_max = Duration::from_secs(1);
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let mute = serve(Holder { sends: b"", hangs: true }).await;
        let stalls = serve(Holder { sends: b"arch", hangs: true }).await;
        let whole = serve(Holder { sends: b"archive", hangs: false }).await;
        let digest = Digest::of(b"archive");
        let limit = Duration::from_secs(60);

        let hung = vec![mute.clone(), stalls.clone()];
        let failed = timeout(limit, obtain_from(hung, &store, digest, piece_max)).await;
        let problem = failed.expect("it ends").unwrap_err();
        assert!(problem.message().contains("sent nothing for 1s"), "{problem}");
        assert_eq!(store.size_bytes(&digest), None, "half of it is not kept");
        let left = std::fs::read_dir(dir.path().join("artifacts")).unwrap().count();
        assert_eq!(left, 0, "nor is its file");

        let all = vec![mute, stalls, whole];
        let done = timeout(limit, obtain_from(all, &store, digest, piece_max)).await;
        done.expect("it ends").unwrap();
        assert_eq!(store.size_bytes(&digest), Some(7));
    }
}
