//! `aether update explain`

use aether_proto::v1;
use clap::Args;

use super::{Which, updates};
use crate::cli::exit::Failure;
use crate::cli::{Global, render};

/// Say what an update waits for, since when, until when, and what would end it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update explain current

See also: aether update status, aether update resume, aether update rollback")]
pub struct Explain {
    #[command(flatten)]
    which: Which,
}

impl Explain {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef { update_id: self.which.id(), ..Default::default() };
        let explanation =
            client.read(message, async |c, request| updates(c).explain(request).await).await?;
        global.output().show(&explanation, render::explain::whole)
    }
}
