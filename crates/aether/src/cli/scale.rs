//! `aether scale`

use aether_core::coordinates::SliceName;
use aether_core::words::counted;
use aether_proto::v1;
use clap::Args;

use super::client::Client;
use super::confirm::Sure;
use super::deploy::slices;
use super::exit::Failure;
use super::options::instances;
use super::output::say;
use super::slices::find;
use super::{Global, render};

/// Change the number of instances of a slice
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether scale org.example:my-slice -n 5

On a terminal it asks before less than half of the instances are left.

See also: aether slices, aether nodes")]
pub struct Scale {
    /// What to scale: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// Number of instances
    #[arg(long, short, visible_short_alias = 'n', value_name = "N",
          value_parser = instances())]
    instances: u32,
    #[command(flatten)]
    sure: Sure,
}

impl Scale {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.sure.asks() {
            self.ask(&client).await?;
        }
        let message = v1::ScaleRequest {
            slice: self.slice.to_string(),
            instances: self.instances,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let slice =
            client.write(message, async |c, request| slices(c).scale(request).await).await?;
        if !slice.note.is_empty() {
            say(&slice.note);
        }
        global.output().show(&slice, render::slice::whole)
    }

    /// Asks where less than half is to be left. A slice that is not there is
    /// left to the node to refuse.
    async fn ask(&self, client: &Client) -> Result<(), Failure> {
        let Some(slice) = find(client, self.slice.to_string()).await? else { return Ok(()) };
        if u64::from(self.instances) * 2 >= u64::from(slice.instances) {
            return Ok(());
        }
        let question = format!(
            "{} has {}, {} ready. Scale it down to {}?",
            self.slice,
            counted(slice.instances, "instance"),
            slice.ready,
            self.instances
        );
        self.sure.confirm(&question).await
    }
}
