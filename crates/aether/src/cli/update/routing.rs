//! `aether update routing`

use aether_core::weights::Weights;
use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Shift traffic: set the ratio new:old
#[derive(Debug, Args)]
pub struct Routing {
    #[command(flatten)]
    which: Which,
    /// The ratio new:old, such as 1:3 for 25 % to the new version
    #[arg(long, short, value_name = "NEW:OLD")]
    ratio: Weights,
    /// Past the capacity guard and a pause
    #[arg(long)]
    force: bool,
}

impl Routing {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
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
