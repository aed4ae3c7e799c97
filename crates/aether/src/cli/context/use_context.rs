//! `aether context use`

use clap::Args;

use super::{config, existing};
use crate::cli::Global;
use crate::cli::config::ContextName;
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Make a context the current one
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether context list, aether context set")]
pub struct Use {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ContextName,
}

impl Use {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let config = config(global)?;
        existing(&config, &self.name)?;
        let config = config.make_current(&self.name)?;
        say(&format!("'{}' is the current context in {}", self.name, config.path().display()));
        Ok(())
    }
}
