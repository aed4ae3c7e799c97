//! `aether artifact info`

use aether_core::coordinates::Artifact;
use aether_proto::v1;
use clap::Args;

use super::artifacts;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Show one artifact with its manifest
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether artifact list, aether artifact push")]
pub struct Info {
    /// The artifact: group:artifact:version
    #[arg(value_name = "ARTIFACT")]
    artifact: Artifact,
}

impl Info {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::ArtifactInfoRequest { artifact: self.artifact.to_string() };
        let artifact =
            client.read(message, async |c, request| artifacts(c).info(request).await).await?;
        say_if_old(artifact.as_of.as_ref());
        global.output().show(&artifact, render::artifact::whole)
    }
}
