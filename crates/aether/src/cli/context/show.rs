//! `aether context show`

use clap::Args;

use super::{config, existing, table, value};
use crate::cli::Global;
use crate::cli::config::ContextName;
use crate::cli::exit::{Exit, Failure};

/// Show one context
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether context list, aether context use")]
pub struct Show {
    /// Its name [default: that of --context, or the current one]
    #[arg(value_name = "NAME")]
    name: Option<ContextName>,
}

impl Show {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let config = config(global)?;
        let named = match self.name {
            Some(name) => Some(name),
            None => global.context()?.or_else(|| config.contents.current.clone()),
        };
        let name = named.ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!(
                    "no context is current in {}; 'aether context list' shows what there is",
                    config.path().display()
                ),
            )
        })?;
        let context = existing(&config, &name)?;
        let output = global.plain_output();
        if output.is_for_programs() {
            return output.value(&value(&config, &name, context));
        }
        output.text(&table(&config, &name, context))
    }
}
