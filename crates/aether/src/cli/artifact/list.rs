//! `aether artifact list`

use aether_core::coordinates::ArtifactBase;
use aether_proto::v1;
use clap::Args;

use super::artifacts;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// List the artifacts that were pushed
#[derive(Debug, Args)]
pub struct List {
    /// Only of this group:artifact
    #[arg(value_name = "ARTIFACT-BASE")]
    base: Option<ArtifactBase>,
}

impl List {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let artifact_base = self.base.map(|base| base.to_string()).unwrap_or_default();
        let message = v1::ListArtifactsRequest { artifact_base, ..Default::default() };
        let response =
            client.read_all(message, async |c, request| artifacts(c).list(request).await).await?;
        say_if_old(response.as_of.as_ref());
        global.output().show(&response, render::artifact::list)
    }
}
