//! `aether artifact remove`

use aether_core::coordinates::Artifact;
use aether_proto::v1;
use clap::Args;

use super::artifacts;
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;

/// Remove an artifact that nothing deployed needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether artifact remove org.example:my-slice:1.0.0

On a terminal it asks first.

See also: aether artifact list, aether undeploy")]
pub struct Remove {
    /// The artifact: group:artifact:version
    #[arg(value_name = "ARTIFACT")]
    artifact: Artifact,
    #[command(flatten)]
    sure: Sure,
}

impl Remove {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        self.sure.confirm(&format!("Remove {} from every node?", self.artifact)).await?;
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
