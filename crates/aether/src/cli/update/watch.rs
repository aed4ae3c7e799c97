//! `aether update watch`

use std::ops::ControlFlow;

use aether_core::records::UpdateState;
use clap::Args;
use tokio::time::Instant;

use super::Which;
use crate::cli::exit::Failure;
use crate::cli::follow::{follow, state_of, went_elsewhere};
use crate::cli::interrupt::while_read;
use crate::cli::{Global, render};

/// Print an update's changes until it has ended
///
/// Exits with 0 when it ended COMPLETED or ROLLED_BACK, with 1 when FAILED.
/// With '-o json', each change is one line; with '-o yaml', one document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update watch current
  aether update watch u1f -o json | jq .state

See also: aether update status, aether update explain")]
pub struct Watch {
    #[command(flatten)]
    which: Which,
}

impl Watch {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let output = global.output();
        let began = Instant::now();
        let mut news = render::change::News::default();
        let id = self.which.id();
        let following = follow(&client, &id, |update| {
            if news.is_new(update) {
                let watched_ms = began.elapsed().as_millis() as u64;
                output.show_one_of_many(update, |u| render::change::change(u, watched_ms))?;
            }
            Ok(ControlFlow::Continue(()))
        });
        let ended = while_read(following).await?;
        match state_of(&ended) {
            Some(UpdateState::Completed | UpdateState::RolledBack) => Ok(()),
            _ => Err(went_elsewhere(&ended)),
        }
    }
}
