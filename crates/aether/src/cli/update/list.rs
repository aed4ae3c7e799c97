//! `aether update list`

use aether_proto::v1;
use clap::Args;

use super::updates;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// List active updates
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update list
  aether update list --all -o json

See also: aether update status")]
pub struct List {
    /// Also those that have ended and are still kept
    #[arg(long)]
    all: bool,
    /// Answer from the node's own copy, which may be old, without the leader
    #[arg(long)]
    stale: bool,
}

impl List {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message =
            v1::ListUpdatesRequest { all: self.all, stale: self.stale, ..Default::default() };
        let response =
            client.read_all(message, async |c, request| updates(c).list(request).await).await?;
        say_if_old(response.as_of.as_ref());
        global.output().show(&response, |response| render::update::list(&response.updates))
    }
}
