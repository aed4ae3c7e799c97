//! `aether update cleanup`

use aether_core::ids::UpdateId;
use aether_proto::v1;
use clap::Args;

use super::{show, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;

/// Remove the version that a completed update keeps warm
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update cleanup current
  aether update cleanup u1f --yes          do not ask

On a terminal it asks, because the update cannot be undone any more.

See also: aether update undo, aether update list --all")]
pub struct Cleanup {
    /// Id of the completed update, a unique prefix of it, or 'current' for the only one that
    /// keeps its old version
    #[arg(value_name = "UPDATE-ID")]
    id: UpdateId,
    #[command(flatten)]
    sure: Sure,
}

impl Cleanup {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let question = format!(
            "Remove the version that update {} keeps warm? The update cannot be undone then.",
            self.id
        );
        self.sure.confirm(&question).await?;
        let message = v1::UpdateRef {
            update_id: self.id.to_string(),
            request_id: client.request_id(),
            actor: client.actor(),
            ..Default::default()
        };
        let update =
            client.write(message, async |c, request| updates(c).cleanup(request).await).await?;
        show(global.output(), &update)
    }
}
