//! `aether env …`: keep an environment, apart from how its updates go.
//!
//! Which version a slice is to have is said first, and brought about by a refresh;
//! what runs beside it meanwhile has a colour of its own. All but `set-current` are
//! made of the verbs of updates.

mod refresh;
mod rollback;
mod set_current;
mod status;

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Subcommand;

use super::Global;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::slices::find;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Status(status::Status),
    SetCurrent(set_current::SetCurrent),
    Refresh(refresh::Refresh),
    Rollback(rollback::Rollback),
}

impl Command {
    /// Carries the verb out.
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Status(verb) => verb.run(global).await,
            Self::SetCurrent(verb) => verb.run(global).await,
            Self::Refresh(verb) => verb.run(global).await,
            Self::Rollback(verb) => verb.run(global).await,
        }
    }
}

/// A slice that has to be there.
async fn deployed(client: &Client, slice: &SliceName) -> Result<v1::Slice, Failure> {
    find(client, slice.to_string()).await?.ok_or_else(|| {
        let message = format!("slice {slice} is not deployed; 'aether slices' lists what is");
        Failure::new(Exit::NotFound, message)
    })
}
