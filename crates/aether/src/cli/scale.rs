//! `aether scale`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use super::deploy::slices;
use super::exit::Failure;
use super::{Global, render};

/// Change the number of instances of a slice
#[derive(Debug, Args)]
pub struct Scale {
    /// What to scale: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// Number of instances
    #[arg(long, short, visible_short_alias = 'n', value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
}

impl Scale {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::ScaleRequest {
            slice: self.slice.to_string(),
            instances: self.instances,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let slice =
            client.write(message, async |c, request| slices(c).scale(request).await).await?;
        global.output().show(&slice, render::slice::whole)
    }
}
