//! `aether update replay`

use aether_proto::v1;
use clap::Args;

use super::{Which, updates};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Decide again what was decided about an update, from what was seen then
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update replay u1f                       which decisions, and whether they are the same
  aether update replay u1f --detailed-exitcode   for scripts, such as after an upgrade

What was seen is kept of the latest 32 updates; the node that answers decides again with its
own release.

See also: aether update history, aether update explain")]
pub struct Replay {
    #[command(flatten)]
    which: Which,
    /// Exit with 10 when a decision is another one now, and 0 only when none is
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Replay {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UpdateRef { update_id: self.which.id(), ..Default::default() };
        let replay =
            client.read(message, async |c, request| updates(c).replay(request).await).await?;
        say_if_old(replay.as_of.as_ref());
        global.output().show(&replay, render::replay::whole)?;
        match replay.differ {
            0 => Ok(()),
            _ if self.detailed_exitcode => Err(Failure::new(Exit::Changes, "")),
            _ => Ok(()),
        }
    }
}
