//! `aether config history`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use crate::cli::deploy::slices;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// List the configurations of a slice, and which revisions have them
///
/// The latest ten are kept, and all that a revision has which is kept itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether config history org.example:my-slice

See also: aether config show, aether config push")]
pub struct History {
    /// Whose: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// Answer from the node's own copy, without asking the leader
    #[arg(long)]
    stale: bool,
}

impl History {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::ListConfigsRequest { slice: self.slice.to_string(), stale: self.stale };
        let list =
            client.read(message, async |c, request| slices(c).list_configs(request).await).await?;
        say_if_old(list.as_of.as_ref());
        global.output().show(&list, render::config::list)
    }
}
