//! `aether update routing`

use aether_core::weights::Weights;
use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;

/// Shift traffic: set the ratio new:old
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update routing current -r 1:3     25 % to the new version
  aether update routing u1f -r 1:1         half
  aether update routing current -r 1:0     everything to the new version

The ratio is exact: of every NEW + OLD calls, NEW go to the new version.

See also: aether update health, aether update complete, aether update rollback")]
pub struct Routing {
    #[command(flatten)]
    which: Which,
    /// The ratio new:old, such as 1:3 for 25 % to the new version
    #[arg(long, short, value_name = "NEW:OLD")]
    ratio: Weights,
    /// Though too few instances are ready for the ratio, or the update is paused
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    sure: Sure,
}

impl Routing {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.force {
            let question = format!(
                "Route update {} at {} whatever its capacity, and past a pause?",
                self.which.id(),
                self.ratio
            );
            self.sure.confirm(&question).await?;
        }
        let message = v1::SetRoutingRequest {
            update_id: self.which.id(),
            routing: self.ratio.to_string(),
            force: self.force,
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).set_routing(request).await).await?;
        show(global.output(), &update)
    }
}
