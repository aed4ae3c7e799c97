//! `aether update complete`

use aether_core::records::UpdateState;
use aether_proto::v1;
use clap::Args;

use super::{Which, show_after, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;
use crate::cli::follow::Verdict;
use crate::cli::options::Wait;

/// Complete an update that routes 1:0: removes the old version
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update complete current
  aether update complete u1f --wait --wait-timeout 15m

See also: aether update routing, aether update explain, aether update rollback")]
pub struct Complete {
    #[command(flatten)]
    which: Which,
    /// Wait neither for sessions and nodes that cannot be reached, nor for the
    /// new version to be ready
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    sure: Sure,
}

impl Complete {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.force {
            let question = format!(
                "Complete update {} without waiting for those out of reach or not ready? Their \
                 calls may be lost.",
                self.which.id()
            );
            self.sure.confirm(&question).await?;
        }
        let message = v1::CompleteRequest {
            update_id: self.which.id(),
            force: self.force,
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).complete(request).await).await?;
        show_after(global, &client, update, &self.wait, judge).await
    }
}

fn judge(state: UpdateState) -> Verdict {
    match state {
        UpdateState::Completed => Verdict::Done,
        state if state.is_terminal() => Verdict::Missed,
        _ => Verdict::Waiting,
    }
}
