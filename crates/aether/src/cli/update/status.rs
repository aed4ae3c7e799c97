//! `aether update status`

use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Show where an update is: requested and actual weights, instances, waits
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update status current
  aether update status u1f -o json

See also: aether update explain, aether update health, aether update watch")]
pub struct Status {
    #[command(flatten)]
    which: Which,
    /// Answer from the node's own copy, which may be old, without the leader
    #[arg(long)]
    stale: bool,
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::GetUpdateRequest { update_id: self.which.id(), stale: self.stale };
        let update = client.read(message, async |c, request| updates(c).get(request).await).await?;
        show(global.output(), &update)
    }
}
