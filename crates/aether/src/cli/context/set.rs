//! `aether context set`

use clap::Args;

use super::config;
use crate::cli::Global;
use crate::cli::config::{Context, ContextName, Key};
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Make a context, or change what it says
///
/// What it says is given by the global options --addr, --timeout, --actor and
/// --output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether context set prod --addr 10.0.0.1:8090,10.0.0.2:8090 --timeout 5s
  aether context set prod --unset timeout
  aether context use prod

See also: aether context list, aether context use")]
pub struct Set {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ContextName,
    /// Settings to take out, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KEY")]
    unset: Vec<Key>,
}

impl Set {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let flags = global.flags()?;
        if flags == Context::default() && self.unset.is_empty() {
            return Err(Failure::usage(
                "nothing to set: give --addr, --timeout, --actor, --output or --unset",
            ));
        }
        let config = config(global)?;
        let config = config.set(&self.name, &flags, &self.unset)?;
        say(&format!("context '{}' is set in {}", self.name, config.path().display()));
        if config.contents.current.is_none() {
            say(&format!("next: 'aether context use {}'", self.name));
        }
        Ok(())
    }
}
