//! `aether update rollback`

use aether_core::records::UpdateState;
use aether_proto::v1;
use clap::Args;

use super::{Which, show_after, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;
use crate::cli::follow::Verdict;
use crate::cli::options::Wait;

/// Take every request back to the old version, and remove the new one
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update rollback current
  aether update rollback current --now     whatever the old version's capacity is
  aether update rollback u1f --wait        until the new version is removed

Calls go back at once; the new version is drained and then removed.

See also: aether update status, aether update explain")]
pub struct Rollback {
    #[command(flatten)]
    which: Which,
    /// Route to the old version at once, whatever its capacity
    #[arg(long)]
    now: bool,
    /// Do not wait for sessions and nodes that cannot be reached
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    sure: Sure,
}

impl Rollback {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if let Some(question) = self.question() {
            self.sure.confirm(&question).await?;
        }
        let message = v1::RollbackRequest {
            update_id: self.which.id(),
            now: self.now,
            force: self.force,
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).rollback(request).await).await?;
        show_after(global, &client, update, &self.wait, judge).await
    }
}

impl Rollback {
    fn question(&self) -> Option<String> {
        let id = self.which.id();
        match (self.now, self.force) {
            (true, _) => Some(format!(
                "Route every call of update {id} to the old version at once, whatever its capacity?"
            )),
            (false, true) => {
                Some(format!("Roll update {id} back without waiting for those out of reach?"))
            }
            (false, false) => None,
        }
    }
}

fn judge(state: UpdateState) -> Verdict {
    match state {
        UpdateState::RolledBack => Verdict::Done,
        state if state.is_terminal() => Verdict::Missed,
        _ => Verdict::Waiting,
    }
}
