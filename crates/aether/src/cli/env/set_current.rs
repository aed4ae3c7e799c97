//! `aether env set-current`

use aether_core::coordinates::{SliceName, Version};
use aether_proto::v1;
use clap::Args;

use crate::cli::deploy::slices;
use crate::cli::exit::Failure;
use crate::cli::output::say;
use crate::cli::{Global, render};

/// Say which version a slice is to have; 'refresh' brings it about
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether env set-current org.example:my-slice@prod 2.0.0
  aether env refresh org.example:my-slice@prod

Nothing moves before the refresh. The artifact has to be there, and is kept for it.

See also: aether artifact list, aether env status")]
pub struct SetCurrent {
    /// Which slice: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// The version that it is to have
    #[arg(value_name = "VERSION")]
    to_version: Version,
}

impl SetCurrent {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::SetCurrentRequest {
            slice: self.slice.to_string(),
            version: self.to_version.to_string(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let slice =
            client.write(message, async |c, request| slices(c).set_current(request).await).await?;
        if !slice.note.is_empty() {
            say(&slice.note);
        }
        global.output().show(&slice, |slice| render::env::status(std::slice::from_ref(slice)))
    }
}
