//! `aether undeploy`

use aether_core::coordinates::SliceReference;
use aether_proto::v1;
use clap::Args;

use super::Global;
use super::deploy::slices;
use super::exit::Failure;

/// Remove a slice, or the new version of an update that takes no traffic
#[derive(Debug, Args)]
pub struct Undeploy {
    /// What to remove: group:artifact[:version][@env]
    #[arg(value_name = "SLICE", value_parser = reference)]
    slice: String,
}

/// Checks the form and keeps the text.
fn reference(text: &str) -> Result<String, String> {
    text.parse::<SliceReference>().map(|_| text.to_owned()).map_err(|e| e.to_string())
}

impl Undeploy {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
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
}
