//! Data on stdout, talk on stderr. Neither panics when nobody reads.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use aether_proto::json::to_json;
use aether_proto::v1;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;
use super::render;
use super::render::paint::paint;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one value, or one a line where there are many
    Json,
    /// For programs and people: one document, or many with '---' before each
    Yaml,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(80).collect();
        <Self as ValueEnum>::from_str(text, true)
            .map_err(|_| format!("'{shown}' is none of table, json and yaml"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Yaml => "yaml",
        })
    }
}

/// Stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
    painted: bool,
}

impl Output {
    /// Stdout in a format, without colour.
    pub fn new(format: Format) -> Self {
        Self { format, painted: false }
    }

    /// The same, with or without colour in what is for people.
    pub fn painted(self, painted: bool) -> Self {
        Self { painted, ..self }
    }

    /// Whether something for programs was asked for.
    pub fn is_for_programs(self) -> bool {
        self.format != Format::Table
    }

    /// Prints a message as JSON or YAML, or as `table` shows it.
    pub fn show<T: Serialize>(
        self,
        message: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&self.coloured(table(message))),
            _ => self.value(&to_json(message)),
        }
    }

    /// Prints one message of many: JSON takes one line each, YAML a document.
    pub fn show_one_of_many<T: Serialize>(
        self,
        message: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&self.coloured(table(message))),
            _ => self.value_of_many(&to_json(message)),
        }
    }

    /// Prints one value of many: JSON takes one line each, YAML a document.
    pub fn value_of_many(self, value: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.text(&format!("---\n{}", yaml(value)?)),
            Format::Json | Format::Table => self.text(&value.to_string()),
        }
    }

    /// Prints a value as YAML where that was asked for, and as JSON otherwise,
    /// because it is the data itself.
    pub fn value(self, value: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.text(&yaml(value)?),
            Format::Json | Format::Table => self.text(&format!("{value:#}")),
        }
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

    fn coloured(self, text: String) -> String {
        if self.painted { paint(&text) } else { text }
    }
}

/// YAML that readers of 1.1 and of 1.2 understand alike: what one of them would
/// take for a number, a time or a truth value is quoted, such as the ratio 1:3.
fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::failed(format!("cannot write this as YAML: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_quotes_what_its_readers_would_misread() {
        let value = json!({
            "routing": "1:3",
            "version": "1.0.0",
            "sha256": "12345678e9",
            "note": "no",
            "message": "a: b # c",
            "count": 3,
            "share": 0.25,
            "on": true,
            "list": ["x", {"y": []}],
            "text": "one\ntwo",
        });
        insta::assert_snapshot!(yaml(&value).unwrap());
    }
}
