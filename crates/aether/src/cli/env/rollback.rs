//! `aether env rollback`

use aether_core::coordinates::SliceName;
use aether_core::records::UpdateState;
use aether_proto::v1;
use clap::Args;

use super::deployed;
use crate::cli::Global;
use crate::cli::exit::{Exit, Failure};
use crate::cli::follow::Verdict;
use crate::cli::options::Wait;
use crate::cli::output::say;
use crate::cli::update::{show_after, updates};

/// Take every call back to the set that was active before
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether env rollback org.example:my-slice@prod --wait

During a refresh it rolls the update back; after it, while the old set is kept warm, every
call goes back to that set at once. What the slice is set to stays as it is.

See also: aether update rollback, aether update undo")]
pub struct Rollback {
    /// Which slice: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    #[command(flatten)]
    wait: Wait,
}

impl Rollback {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let slice = deployed(&client, &self.slice).await?;
        let (request_id, actor) = (client.request_id(), client.actor());
        if let Some(update_id) = slice.live_update.clone() {
            let message =
                v1::RollbackRequest { update_id, request_id, actor, ..Default::default() };
            let update = client
                .write(message, async |c, request| updates(c).rollback(request).await)
                .await?;
            return show_after(global, &client, update, &self.wait, rolled_back).await;
        }
        let Some(update_id) = slice.retained_update.clone() else {
            let message = format!(
                "no update of {} is live and no set of it is kept warm; 'aether env set-current {} \
                 VERSION' and a refresh go back to any version",
                self.slice, self.slice
            );
            return Err(Failure::new(Exit::Refused, message));
        };
        let message = v1::UndoRequest {
            update_id,
            routing: "1:0".to_owned(),
            request_id,
            actor,
            ..Default::default()
        };
        let undo = client.write(message, async |c, request| updates(c).undo(request).await).await?;
        say(&format!("every call goes to {}", undo.new_version));
        // An undo is a person's: nobody else completes it.
        let message = v1::CompleteRequest {
            update_id: undo.update_id.clone(),
            request_id: client.request_id(),
            actor: client.actor(),
            ..Default::default()
        };
        let update =
            client.write(message, async |c, request| updates(c).complete(request).await).await?;
        show_after(global, &client, update, &self.wait, completed).await
    }
}

fn rolled_back(state: UpdateState) -> Verdict {
    match state {
        UpdateState::RolledBack | UpdateState::Failed => Verdict::Done,
        state if state.is_terminal() => Verdict::Missed,
        _ => Verdict::Waiting,
    }
}

fn completed(state: UpdateState) -> Verdict {
    match state {
        UpdateState::Completed => Verdict::Done,
        state if state.is_terminal() => Verdict::Missed,
        _ => Verdict::Waiting,
    }
}
