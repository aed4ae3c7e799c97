//! `aether update promote`

use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;

/// Enter the next step of an update that goes by steps
///
/// From the last step it completes. A blue-green update switches. Gates on the way are asked
/// first; --force goes past those of one step, --full past all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update promote current            the next step, though this one still holds
  aether update promote current --full     the last step at once

See also: aether update explain, aether update pause, aether update rollback")]
pub struct Promote {
    #[command(flatten)]
    which: Which,
    /// The last step at once
    #[arg(long)]
    full: bool,
    /// Though too few instances are ready for it, or the update is paused
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    sure: Sure,
}

impl Promote {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.force {
            let question = format!(
                "Promote update {} whatever its capacity, and past a pause?",
                self.which.id()
            );
            self.sure.confirm(&question).await?;
        }
        let message = v1::PromoteRequest {
            update_id: self.which.id(),
            full: self.full,
            force: self.force,
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).promote(request).await).await?;
        show(global.output(), &update)
    }
}
