//! `aether node forget`

use aether_core::ids::NodeName;
use aether_proto::v1;
use clap::Args;

use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::status::cluster;

/// Forget a node that is lost for good, with its instances
#[derive(Debug, Args)]
pub struct Forget {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Though it is only unreachable, and not yet lost
    #[arg(long)]
    force: bool,
}

impl Forget {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::ForgetNodeRequest {
            node: self.node.to_string(),
            force: self.force,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let response =
            client.write(message, async |c, request| cluster(c).forget_node(request).await).await?;
        global.output().show(&response, |response| response.note.clone())
    }
}
