//! `aether update approve`

use aether_core::weights::Weights;
use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Commit the routing change that waits for approval
///
/// With '--manual-approval', a ratio that 'aether update routing' sets waits for
/// this.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update routing current -r 1:3
  aether update approve current            now the ratio changes
  aether update approve current -r 1:3     only if that is what waits

See also: aether update routing, aether update status")]
pub struct Approve {
    #[command(flatten)]
    which: Which,
    /// Refuse unless this is the ratio that waits
    #[arg(long, short, value_name = "NEW:OLD")]
    ratio: Option<Weights>,
}

impl Approve {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::ApproveRequest {
            update_id: self.which.id(),
            routing: self.ratio.map(|ratio| ratio.to_string()).unwrap_or_default(),
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).approve(request).await).await?;
        show(global.output(), &update)
    }
}
