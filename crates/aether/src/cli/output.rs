//! Data on stdout, talk on stderr. Neither panics when nobody reads.

use std::io::{self, Write};

use aether_proto::json::to_json;
use aether_proto::v1;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;
use super::render;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Stdout in a format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether JSON was asked for.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints a message as JSON, or as `table` shows it.
    pub fn show<T: Serialize>(
        self,
        message: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.text(&format!("{:#}", to_json(message))),
            Format::Table => self.text(&table(message)),
        }
    }

    /// Prints one message of many: JSON takes one line each.
    pub fn show_one_of_many<T: Serialize>(
        self,
        message: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.text(&to_json(message).to_string()),
            Format::Table => self.text(&table(message)),
        }
    }

    /// Prints JSON in either format, because it is the data itself.
    pub fn json(self, value: &Value) -> Result<(), Failure> {
        self.text(&format!("{value:#}"))
    }

    /// Prints a text, with a line end if it has none.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
        Ok(())
    }
}

/// Says on stderr that an answer may be old, for verbs whose stdout has no place
/// for that.
pub fn say_if_old(as_of: Option<&v1::AsOf>) {
    let fresh = as_of.map(render::update::as_of).unwrap_or_default();
    if !fresh.is_empty() {
        say(&format!("as of {fresh}"));
    }
}

/// Says something to the person, on stderr. Nobody there is no failure.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
