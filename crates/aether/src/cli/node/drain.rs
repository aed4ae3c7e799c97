//! `aether node drain`

use std::time::Duration;

use aether_core::ids::NodeName;
use aether_core::words::{are, counted};
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
        let mut said = None;
        while self.wait.wait && node.instances > 0 {
            if said != Some(node.instances) {
                let (count, name) = (counted(node.instances, "instance"), &self.node);
                say(&format!("{count} {} left on {name}", are(node.instances)));
                said = Some(node.instances);
            }
            if Instant::now() >= until {
                return Err(Failure::failed(format!(
                    "{} {} still on {} after {}; the drain goes on, 'aether update explain' \
                     says what updates wait for",
                    counted(node.instances, "instance"),
                    are(node.instances),
                    self.node,
                    self.wait.wait_timeout
                )));
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
}
