//! `aether update pause`

use aether_proto::v1;
use clap::Args;

use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Pause what goes on by itself
///
/// Traffic stays as it is, and the new version's share cannot grow, until somebody
/// resumes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update pause current
  aether update pause u1f --why 'looking at the logs of 2.0.0'

See also: aether update resume, aether update promote, aether update rollback")]
pub struct Pause {
    #[command(flatten)]
    which: Which,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
}

impl Pause {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::PauseRequest {
            update_id: self.which.id(),
            why: self.why.unwrap_or_default(),
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).pause(request).await).await?;
        show(global.output(), &update)
    }
}
