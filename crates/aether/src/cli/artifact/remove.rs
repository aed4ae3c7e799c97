//! `aether artifact remove`

use aether_core::coordinates::Artifact;
use aether_proto::v1;
use clap::Args;

use super::artifacts;
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Remove an artifact that nothing deployed needs
#[derive(Debug, Args)]
pub struct Remove {
    /// Which: group:artifact:version
    #[arg(value_name = "ARTIFACT")]
    artifact: Artifact,
}

impl Remove {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::RemoveArtifactRequest {
            artifact: self.artifact.to_string(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let response =
            client.write(message, async |c, request| artifacts(c).remove(request).await).await?;
        global.output().show(&response, |response| response.note.clone())
    }
}
