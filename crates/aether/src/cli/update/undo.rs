//! `aether update undo`

use aether_core::duration::Millis;
use aether_core::ids::UpdateId;
use aether_core::weights::Weights;
use aether_proto::v1;
use clap::Args;

use super::options::{Cleanup, wire_name};
use super::{show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Go back to the version that a completed update keeps warm: every call at once
#[derive(Debug, Args)]
pub struct Undo {
    /// Id of the completed update, a unique prefix of it, or 'current' for the only one that
    /// keeps its old version
    #[arg(value_name = "UPDATE-ID")]
    id: UpdateId,
    /// Ratio kept:present to begin with; 0:1 leaves the traffic as it is
    #[arg(
        long = "ratio",
        short,
        visible_alias = "routing",
        value_name = "RATIO",
        default_value = "1:0"
    )]
    ratio: Weights,
    /// Past the capacity guard
    #[arg(long)]
    force: bool,
    /// What happens to the version that is left, on completion [default: IMMEDIATE]
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY")]
    cleanup: Option<Cleanup>,
    /// How long GRACE_PERIOD keeps it [default: 5m]
    #[arg(long, value_name = "DURATION")]
    grace: Option<Millis>,
}

impl Undo {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::UndoRequest {
            update_id: self.id.to_string(),
            routing: self.ratio.to_string(),
            force: self.force,
            cleanup_policy: wire_name(self.cleanup),
            grace_ms: self.grace.map(|span| span.0),
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
