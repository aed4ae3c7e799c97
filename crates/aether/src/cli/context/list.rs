//! `aether context list`

use clap::Args;
use serde_json::{Value, json};

use super::{config, said, value};
use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::render::{or_dash, table};

/// List the contexts; the current one has a star
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether context set, aether context use")]
pub struct List {}

impl List {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let config = config(global)?;
        let contexts = &config.contents.contexts;
        let output = global.plain_output();
        if output.is_for_programs() {
            let all: Vec<Value> =
                contexts.iter().map(|(name, context)| value(&config, name, context)).collect();
            return output.value(&json!({"contexts": all, "file": config.path()}));
        }
        let rows = contexts.iter().map(|(name, context)| {
            let star = if config.contents.current.as_ref() == Some(name) { "*" } else { "" };
            let said = said(context).into_iter().map(|(_, text)| or_dash(&text));
            [star.to_owned(), name.to_string()].into_iter().chain(said).collect()
        });
        let header = ["", "CONTEXT", "ADDR", "TIMEOUT", "ACTOR", "OUTPUT"];
        output.text(&table(&header, rows.collect()))
    }
}
