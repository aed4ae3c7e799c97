//! `aether node drain`

use std::time::Duration;

use aether_core::ids::NodeName;
use aether_core::words::{are, counted};
use aether_proto::v1;
use clap::Args;
use tokio::time::Instant;

use super::schedule::{find, set, show};
use crate::cli::Global;
use crate::cli::exit::{Exit, Failure};
use crate::cli::options::Wait;
use crate::cli::output::say;

/// How often a drain that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Move what a node runs to other nodes, and keep new instances away from it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node drain w1
  aether node drain w1 --wait              until nothing is left on it

Each instance is replaced elsewhere before it goes. 'aether node uncordon' ends
the drain.

See also: aether node cordon, aether nodes")]
pub struct Drain {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeName,
    #[command(flatten)]
    wait: Wait,
}

impl Drain {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let mut node = set(&client, &self.node, "DRAINING").await?;
        let until = Instant::now() + self.wait.wait_timeout.duration();
        let mut said = String::new();
        while self.wait.wait && node.instances > 0 {
            let left = left(&node);
            if left != said {
                say(&left);
                said = left;
            }
            if Instant::now() >= until {
                return Err(Failure::failed(self.not_done(&node)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            node = find(&client, &self.node).await?.ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("node {} is gone", self.node))
            })?;
            if node.schedule != "DRAINING" {
                return Err(Failure::failed(format!(
                    "node {} is not drained any more: somebody made it {}",
                    self.node, node.schedule
                )));
            }
        }
        show(global, &node)
    }

    fn not_done(&self, node: &v1::Node) -> String {
        let hint = match node.waits_for.is_empty() {
            true => "'aether slices' shows what is on it, 'aether update list' what may hold it",
            false => "'aether node uncordon' ends it",
        };
        format!(
            "{} {} still on {} after {}{}; the drain goes on, {hint}",
            counted(node.instances, "instance"),
            are(node.instances),
            self.node,
            self.wait.wait_timeout,
            why(node)
        )
    }
}

/// How much is left on a node.
fn left(node: &v1::Node) -> String {
    let count = counted(node.instances, "instance");
    format!("{count} {} left on {}{}", are(node.instances), node.name, why(node))
}

/// Why it is, if the node that answers knows.
fn why(node: &v1::Node) -> String {
    node.waits_for.iter().map(|wait| format!("; {wait}")).collect()
}
