//! `aether undeploy`

use aether_core::coordinates::SliceReference;
use aether_core::words::counted;
use aether_proto::v1;
use clap::Args;

use super::Global;
use super::client::Client;
use super::confirm::Sure;
use super::deploy::slices;
use super::exit::Failure;
use super::slices::find;

/// Remove a slice, or the new version of an update that takes no traffic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether undeploy org.example:my-slice             all of it
  aether undeploy org.example:my-slice:2.0.0       what an update brought

On a terminal it asks before what serves is removed.

See also: aether update rollback, aether slices")]
pub struct Undeploy {
    /// What to remove: group:artifact[:version][@env]
    #[arg(value_name = "SLICE", value_parser = reference)]
    slice: String,
    #[command(flatten)]
    sure: Sure,
}

/// Checks the form and keeps the text.
fn reference(text: &str) -> Result<String, String> {
    text.parse::<SliceReference>().map(|_| text.to_owned()).map_err(|e| e.to_string())
}

impl Undeploy {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.sure.asks() {
            self.ask(&client).await?;
        }
        let message = v1::UndeployRequest {
            slice: self.slice.clone(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let response =
            client.write(message, async |c, request| slices(c).undeploy(request).await).await?;
        global.output().show(&response, |response| match response.note.as_str() {
            "" => format!("{} is being removed", self.slice),
            note => note.to_owned(),
        })
    }

    /// Asks where what serves would go. A slice that is not there is left to the
    /// node to refuse.
    async fn ask(&self, client: &Client) -> Result<(), Failure> {
        let reference: SliceReference = self.slice.parse().map_err(Failure::usage)?;
        let Some(slice) = find(client, reference.slice.to_string()).await? else { return Ok(()) };
        let serves = reference.version.as_ref().map(ToString::to_string);
        if serves.is_some() && serves != slice.version {
            return Ok(());
        }
        let question = format!(
            "{} serves version {} with {}, {} ready. Remove all of it?",
            slice.slice,
            slice.version.as_deref().unwrap_or("(none)"),
            counted(slice.instances, "instance"),
            slice.ready
        );
        self.sure.confirm(&question).await
    }
}
