//! `aether node forget`

use aether_core::ids::NodeName;
use aether_core::words::counted;
use aether_proto::v1;
use clap::Args;

use super::schedule::find;
use crate::cli::Global;
use crate::cli::client::Client;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;
use crate::cli::status::cluster;

/// Forget a node that is lost for good, with its instances
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node forget w1
  aether node forget w1 --force --yes      it does not come back, do not ask

On a terminal it asks first.

See also: aether nodes, aether node drain")]
pub struct Forget {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Also while it is only unreachable, and not yet lost
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    sure: Sure,
}

impl Forget {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.sure.asks() {
            self.ask(&client).await?;
        }
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

    /// Says what would be forgotten. A node that is not there is left to the
    /// cluster to refuse.
    async fn ask(&self, client: &Client) -> Result<(), Failure> {
        let Some(node) = find(client, &self.node).await? else { return Ok(()) };
        let question = format!(
            "Node {} is {} and has {}. Forget it, with all that it has?",
            node.name,
            node.lifecycle,
            counted(node.instances, "instance")
        );
        self.sure.confirm(&question).await
    }
}
