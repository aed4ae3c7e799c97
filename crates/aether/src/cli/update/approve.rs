//! `aether update approve`

use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Commit the routing change that waits for approval
#[derive(Debug, Args)]
pub struct Approve {
    #[command(flatten)]
    which: Which,
}

impl Approve {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef {
            update_id: self.which.id(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).approve(request).await).await?;
        show(global.output(), &update)
    }
}
