//! `aether config …`: what is laid over the artifacts of slices.
//!
//! Not the client's own configuration file, which is `config.rs`.

mod history;
mod push;
mod show;

use clap::Subcommand;

use super::exit::Failure;
use super::{Global, asking};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Push(push::Push),
    Show(show::Show),
    History(history::History),
}

impl Command {
    /// Carries the verb out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Push(verb) => asking(verb.run(global)),
            Self::Show(verb) => asking(verb.run(global)),
            Self::History(verb) => asking(verb.run(global)),
        }
    }
}
