//! `aether update start`

use aether_core::records::UpdateState;
use clap::Args;

use super::options::What;
use super::{show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::follow::{Verdict, wait_for};
use crate::cli::options::Wait;
use crate::cli::output::say;

/// Start an update: deploys the new version with 0% traffic
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update start org.example:my-slice 2.0.0
  aether update start org.example:my-slice 2.0.0 -n 3 --cleanup GRACE_PERIOD --wait
  aether update start org.example:payment-service 2.0.0 --max-error-rate 0.001 \\
      --max-latency-ms 200 --manual-approval
  aether update start org.example:my-slice 2.0.0 --auto --on-step-failure rollback
  aether update start org.example:my-slice 2.0.0 --steps '1:19 5m, 1:9 pause, 1:1, 1:0'
  aether update start org.example:my-slice 2.0.0 --strategy blue-green --verify 1m
  aether update start org.example:my-slice 2.0.0 --auto \\
      --gate 'before prometheus http://127.0.0.1:9090 \"sum(rate(errors[1m]))\" \"< 0.05\" every 30s' \\
      --gate 'after step 2 webhook http://127.0.0.1:9000/judge'
  aether update start org.example:my-slice 1.0.0 --config latest --strategy rolling
  aether update start org.example:my-slice 1.0.0 --restart --strategy rolling

See also: aether update routing, aether update explain, aether update rollback")]
pub struct Start {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    wait: Wait,
}

impl Start {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = self.what.message(client.request_id(), client.actor());
        let mut update =
            client.write(message, async |c, request| updates(c).start(request).await).await?;
        let id = update.update_id.clone();
        if self.wait.wait {
            say(&format!("update {id} started"));
            update = wait_for(&client, &id, &self.wait, judge).await?;
        }
        show(global.output(), &update)?;
        if !self.wait.wait {
            say(&format!("next: 'aether update watch {id}'"));
        }
        Ok(())
    }
}

/// DEPLOYED, or whatever somebody made of it since, is what a start waits for.
fn judge(state: UpdateState) -> Verdict {
    match state {
        UpdateState::Pending | UpdateState::Deploying => Verdict::Waiting,
        UpdateState::Deployed
        | UpdateState::Routing
        | UpdateState::Completing
        | UpdateState::Completed => Verdict::Done,
        UpdateState::RollingBack | UpdateState::RolledBack | UpdateState::Failed => Verdict::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_waits_for_deployed_and_no_longer() {
        assert_eq!(judge(UpdateState::Deploying), Verdict::Waiting);
        assert_eq!(judge(UpdateState::Deployed), Verdict::Done);
        assert_eq!(judge(UpdateState::RollingBack), Verdict::Missed);
    }
}
