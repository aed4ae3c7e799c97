//! `aether update health`

use aether_proto::v1;
use clap::Args;

use super::{Which, updates};
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Show requests, errors and latencies of both versions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update health current

See also: aether update routing, aether update rollback")]
pub struct Health {
    #[command(flatten)]
    which: Which,
}

impl Health {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef { update_id: self.which.id(), ..Default::default() };
        let health =
            client.read(message, async |c, request| updates(c).health(request).await).await?;
        say_if_old(health.as_of.as_ref());
        global.output().show(&health, render::health::whole)
    }
}
