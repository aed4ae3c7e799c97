//! `aether update resume`

use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Clear a pause
#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    which: Which,
}

impl Resume {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef {
            update_id: self.which.id(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).resume(request).await).await?;
        show(global.output(), &update)
    }
}
