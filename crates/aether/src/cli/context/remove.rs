//! `aether context remove`

use clap::Args;

use super::{config, existing};
use crate::cli::Global;
use crate::cli::config::ContextName;
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Remove a context
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether context list")]
pub struct Remove {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ContextName,
}

impl Remove {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let config = config(global)?;
        existing(&config, &self.name)?;
        let was_current = config.contents.current.as_ref() == Some(&self.name);
        let config = config.remove(&self.name)?;
        say(&format!("context '{}' is removed from {}", self.name, config.path().display()));
        if was_current {
            say("no context is current now");
        }
        Ok(())
    }
}
