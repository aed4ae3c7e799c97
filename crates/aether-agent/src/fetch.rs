//! Gets archives from nodes that hold them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::v1::FetchRequest;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use bytes::Bytes;
use thiserror::Error;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use crate::artifact::{ArtifactStore, Digest, StoreError};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Longest wait for the first or the next piece of an archive. A node that has
/// to fetch it itself first needs a while for the first.
const PIECE_MAX: Duration = Duration::from_secs(15);

/// Most sources whose answers are told: the text is replicated.
const TRIED_MAX: usize = 4;

/// No source gave the archive.
#[derive(Debug, Error)]
// The advice first: what is replicated of the text has an end.
#[error(
    "archive {digest} could not be fetched; push it again if no node has it any more ({})",
    .tried.join("; ")
)]
pub(crate) struct FetchError {
    digest: Digest,
    /// What each source answered.
    tried: Vec<String>,
    /// Every source that sent an archive sent another one.
    pub differs: bool,
}

/// Knows where to ask.
#[derive(Debug)]
pub(crate) struct Fetcher {
    store: Arc<ArtifactStore>,
    /// Asking ourselves is of no use.
    own: SocketAddr,
    control_plane: Vec<SocketAddr>,
}

impl Fetcher {
    pub fn new(store: Arc<ArtifactStore>, own: SocketAddr, control_plane: Vec<SocketAddr>) -> Self {
        Self { store, own, control_plane }
    }

    /// Stores the archive, from a holder if one answers, from the control
    /// plane otherwise.
    pub async fn fetch(&self, digest: Digest, holders: &[String]) -> Result<(), FetchError> {
        let own = self.own.to_string();
        let holders = holders.iter().filter(|holder| **holder != own);
        let control_plane = self.control_plane.iter().filter(|node| **node != self.own);
        let sources = holders
            .map(|holder| (holder.clone(), true))
            .chain(control_plane.map(|node| (node.to_string(), false)));
        let mut error = FetchError { digest, tried: Vec::new(), differs: false };
        for (source, local_only) in sources {
            match self.fetch_from(digest, &source, local_only).await {
                Ok(()) => return Ok(()),
                Err((problem, differs)) => {
                    tracing::debug!(%digest, source, problem, "archive not fetched from here");
                    if error.tried.len() < TRIED_MAX {
                        error.tried.push(format!("{source}: {problem}"));
                    }
                    error.differs |= differs;
                }
            }
        }
        if error.tried.is_empty() {
            error.tried.push("no other node is known".to_owned());
        }
        Err(error)
    }

    async fn fetch_from(
        &self,
        digest: Digest,
        source: &str,
        local_only: bool,
    ) -> Result<(), (String, bool)> {
        let plain = |problem: String| (problem, false);
        let channel = connect(source).await.map_err(plain)?;
        let request = FetchRequest { sha256: digest.to_string(), local_only };
        let mut client = ArtifactsClient::new(channel);
        let stream = tokio::time::timeout(PIECE_MAX, client.fetch(request))
            .await
            .map_err(|_| plain(format!("no answer within {} s", PIECE_MAX.as_secs())))?
            .map_err(|status| plain(status.message().to_owned()))?
            .into_inner();
        let pieces = stream.timeout(PIECE_MAX).map(|piece| match piece {
            Ok(Ok(piece)) => Ok(Bytes::from(piece.chunk)),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("stalled for {} s", PIECE_MAX.as_secs())),
        });
        match self.store.put(pieces, Some(digest)).await {
            Ok(_) => Ok(()),
            Err(error @ StoreError::DigestMismatch { .. }) => Err((error.to_string(), true)),
            Err(error) => Err(plain(error.to_string())),
        }
    }
}

async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("'{address}' is no address: {error}"))?;
    endpoint
        .connect_timeout(CONNECT_MAX)
        .connect()
        .await
        .map_err(|error| format!("no connection ({})", root_cause(&error)))
}

/// The innermost error: transports wrap it in ones that say little.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
