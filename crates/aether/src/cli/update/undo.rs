//! `aether update undo`

use aether_core::duration::Millis;
use aether_core::ids::UpdateId;
use aether_core::weights::Weights;
use aether_proto::v1;
use clap::Args;

use super::options::{Cleanup, wire_name};
use super::{show, updates};
use crate::cli::Global;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Go back to the version that a completed update keeps warm: every call at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update undo u1f                   every call to the version that was kept
  aether update undo current -r 1:3        25 % to it, the rest stays where it is
  aether update undo u1f -r 0:1            begin without moving a call

It works while the old version is kept: see --cleanup of 'aether update start'.

See also: aether update cleanup, aether update rollback")]
pub struct Undo {
    /// Id of the completed update, a unique prefix of it, or 'current' for the only one that
    /// keeps its old version
    #[arg(value_name = "UPDATE-ID")]
    id: UpdateId,
    /// The ratio kept:present to begin with; 0:1 leaves the traffic as it is
    #[arg(
        long = "ratio",
        short,
        visible_alias = "routing",
        value_name = "KEPT:PRESENT",
        default_value = "1:0"
    )]
    ratio: Weights,
    /// Though the kept instances that are ready are too few for the ratio
    #[arg(long)]
    force: bool,
    /// What happens to the version that is left, on completion [default: IMMEDIATE]
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY")]
    cleanup: Option<Cleanup>,
    /// How long GRACE_PERIOD keeps it [default: 5m]
    #[arg(long, value_name = "DURATION")]
    grace: Option<Millis>,
    #[command(flatten)]
    sure: Sure,
}

impl Undo {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        if self.force {
            let question = format!(
                "Undo update {} although the version it keeps may be too small for its calls?",
                self.id
            );
            self.sure.confirm(&question).await?;
        }
        let message = v1::UndoRequest {
            update_id: self.id.to_string(),
            routing: self.ratio.to_string(),
            force: self.force,
            cleanup_policy: wire_name(self.cleanup),
            grace_ms: self.grace.map(|span| span.0),
            if_modified: None,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).undo(request).await).await?;
        show(global.output(), &update)?;
        let id = &update.update_id;
        match update.routing.as_str() {
            "1:0" => say(&format!("next: 'aether update complete {id}'")),
            _ => say(&format!("next: 'aether update routing {id} -r 1:0'")),
        }
        Ok(())
    }
}
