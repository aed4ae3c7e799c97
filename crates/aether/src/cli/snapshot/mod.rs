//! `aether snapshot …`: backups of the replicated state, and a cluster from one.

mod content;
mod inspect;
mod restore;
mod save;

use clap::Subcommand;

use super::exit::Failure;
use super::{Global, asking};

/// What no backup holds, and what to do about it.
const ARCHIVES: &str = "archives of artifacts are not in it: keep a copy of a voter's \
                        'artifacts' directory beside it, or push them again";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Save(save::Save),
    Inspect(inspect::Inspect),
    Restore(restore::Restore),
}

impl Command {
    /// Whether it speaks with a cluster.
    pub fn asks_a_cluster(&self) -> bool {
        matches!(self, Self::Save(_))
    }

    /// Carries the verb out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Save(verb) => asking(verb.run(global)),
            Self::Inspect(verb) => verb.run(global),
            Self::Restore(verb) => verb.run(global),
        }
    }
}
