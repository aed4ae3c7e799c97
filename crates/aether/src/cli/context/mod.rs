//! `aether context …`: which cluster the other verbs speak with.
//!
//! They read and change the configuration file and ask no cluster. They look
//! at nothing but flags and the file, so that they can mend what keeps every
//! other verb from running.

mod list;
mod remove;
mod set;
mod show;
mod use_context;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Global;
use super::config::{Config, Context, ContextName};
use super::exit::{Exit, Failure};
use super::render::fields;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::List),
    Show(show::Show),
    Use(use_context::Use),
    Set(set::Set),
    Remove(remove::Remove),
}

impl Command {
    /// Carries the verb out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::List(verb) => verb.run(global),
            Self::Show(verb) => verb.run(global),
            Self::Use(verb) => verb.run(global),
            Self::Set(verb) => verb.run(global),
            Self::Remove(verb) => verb.run(global),
        }
    }
}

/// The configuration file, which must have a place.
fn config(global: &Global) -> Result<Config, Failure> {
    global.config()?.ok_or_else(|| {
        Failure::usage("no place for contexts: set AETHER_CONFIG to a file, or HOME")
    })
}

/// A context that must be there.
fn existing<'a>(config: &'a Config, name: &ContextName) -> Result<&'a Context, Failure> {
    config.context(name).map_err(|problem| Failure::new(Exit::NotFound, problem))
}

/// Name and text of what a context says.
fn said(context: &Context) -> Vec<(&'static str, String)> {
    let addr = context.addr.iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
    vec![
        ("addr", addr.join(", ")),
        ("timeout", context.timeout.map(|span| span.to_string()).unwrap_or_default()),
        ("actor", context.actor.clone().unwrap_or_default()),
        ("output", context.output.map(|format| format.to_string()).unwrap_or_default()),
    ]
}

/// A context for people.
fn table(config: &Config, name: &ContextName, context: &Context) -> String {
    let mut all = vec![("context", name.to_string()), ("current", current(config, name).into())];
    all.extend(said(context));
    all.push(("file", config.path().display().to_string()));
    fields(&all)
}

fn current(config: &Config, name: &ContextName) -> &'static str {
    if config.contents.current.as_ref() == Some(name) { "yes" } else { "no" }
}

/// A context for programs; what it does not say is absent.
fn value(config: &Config, name: &ContextName, context: &Context) -> Value {
    let mut members = Map::new();
    members.insert("name".into(), json!(name));
    members.insert("current".into(), json!(config.contents.current.as_ref() == Some(name)));
    if let Some(addresses) = &context.addr {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        members.insert("addr".into(), json!(addresses));
    }
    let others = said(context).into_iter().skip(1).filter(|(_, text)| !text.is_empty());
    members.extend(others.map(|(name, text)| (name.to_owned(), json!(text))));
    Value::Object(members)
}
