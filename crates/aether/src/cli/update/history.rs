//! `aether update history`

use aether_proto::v1;
use clap::Args;

use super::{Which, updates};
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Show every change of an update: when, who, why, and where in the log
#[derive(Debug, Args)]
#[command(after_help = "See also: aether update status, aether update list --all")]
pub struct History {
    #[command(flatten)]
    which: Which,
}

impl History {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef { update_id: self.which.id(), ..Default::default() };
        let history =
            client.read(message, async |c, request| updates(c).history(request).await).await?;
        say_if_old(history.as_of.as_ref());
        global.output().show(&history, render::history::whole)
    }
}
