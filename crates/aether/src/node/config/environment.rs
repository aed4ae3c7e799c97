//! `AETHER_NODE_…` variables laid over the file.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Table, Value};

use super::ConfigError;
use super::file::File;

/// What the variables begin with. The client's `AETHER_ADDR` does not.
const PREFIX: &str = "AETHER_NODE_";

/// Deepest key that can be named: ours are at most three deep, and whoever walks
/// through a table takes a piece of the stack for each.
const DEPTH_MAX: usize = 8;

/// Characters of a variable's name, and of what is wrong with it, that are shown.
const SHOWN_CHARS_MAX: usize = 300;

/// The variables of this process that are meant for a node.
pub fn variables() -> Result<BTreeMap<String, String>, ConfigError> {
    let ours = std::env::vars_os()
        .filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    ours.map(|(name, value)| {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => {
                Err(ConfigError::Environment { variable: name, problem: "is not UTF-8".to_owned() })
            }
        }
    })
    .collect()
}

/// Sets each variable in the table of the file, and reads it again each time,
/// so that an error names the variable that made it.
pub fn overlay(mut table: Table, variables: BTreeMap<String, String>) -> Result<File, ConfigError> {
    let mut file = File::default();
    // The short form of a table, so that either form overrides either.
    if let Some(listen @ Value::String(_)) = table.get("ingress").cloned() {
        table
            .insert("ingress".to_owned(), Table::from_iter([("listen".to_owned(), listen)]).into());
    }
    for (variable, text) in variables {
        let mut path: Vec<String> =
            variable[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        if path == ["ingress"] {
            path.push("listen".to_owned());
        }
        let error = |problem: String| ConfigError::Environment {
            variable: variable.chars().take(SHOWN_CHARS_MAX).collect(),
            problem: problem.chars().take(SHOWN_CHARS_MAX).collect(),
        };
        if path.len() > DEPTH_MAX {
            return Err(error(format!("names a key in more than {DEPTH_MAX} tables")));
        }
        (table, file) = set(&table, &path, &text).map_err(error)?;
    }
    Ok(file)
}

/// The table with one more value, which is what the text can be read as where
/// it stands: a text, any other TOML value, or a list of texts by commas.
fn set(table: &Table, path: &[String], text: &str) -> Result<(Table, File), String> {
    if path.iter().any(String::is_empty) {
        return Err("names no key".to_owned());
    }
    let typed = toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"));
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let list = items.map(|item| Value::String(item.to_owned())).collect();
    let mut problem = None;
    let readings = [Some(Value::String(text.to_owned())), typed, Some(Value::Array(list))];
    for value in readings.into_iter().flatten() {
        let mut table = table.clone();
        put(&mut table, path, value)?;
        match File::deserialize(table.clone()) {
            Ok(file) => return Ok((table, file)),
            // The first reading's problem is the one in the user's words.
            Err(error) => problem = problem.or(Some(error.message().to_owned())),
        }
    }
    Err(problem.unwrap_or_default())
}

fn put(table: &mut Table, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [] => Err("names no key".to_owned()),
        [key] => {
            table.insert(key.clone(), value);
            Ok(())
        }
        [key, rest @ ..] => {
            let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            let inner = inner.as_table_mut().ok_or_else(|| format!("'{key}' has no members"))?;
            put(inner, rest, value)
        }
    }
}
