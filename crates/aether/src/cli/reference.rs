//! Hidden `aether reference`: the command line as Markdown, from which
//! docs/reference/cli.md is made by `cargo xtask docs`.

use std::fmt::Write;

use clap::{Arg, ArgAction, Args, Command, CommandFactory};

use super::exit::Failure;
use super::{Cli, Global};

/// What precedes the verbs.
const HEAD: &str = "\
# The command line

Made by `cargo xtask docs` from the program itself; a test fails when it is out of date.
";

/// Print this command line's reference as Markdown
#[derive(Debug, Args)]
pub struct Reference {}

impl Reference {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        global.plain_output().text(&markdown())
    }
}

/// All visible verbs with their options.
fn markdown() -> String {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut text = HEAD.to_owned();
    verb(&command, &mut text);
    text
}

fn verb(command: &Command, text: &mut String) {
    let _ = writeln!(text, "\n## {}\n", path(command));
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        let about = escaped(&about.to_string());
        let paragraphs: Vec<String> = about.split("\n\n").map(ended).collect();
        let _ = writeln!(text, "{}\n", paragraphs.join("\n\n"));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let _ = writeln!(text, "```text\n{usage}\n```");
    let root = command.get_name() == "aether";
    let shown = |arg: &&Arg| !arg.is_hide_set() && (root || !arg.is_global_set());
    let own = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
    let (arguments, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().filter(shown).filter(own).partition(|arg| arg.is_positional());
    list(if root { "Global options" } else { "Options" }, &arguments, &options, text);
    let verbs: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    if !verbs.is_empty() {
        let _ = writeln!(text, "\nVerbs:\n");
    }
    for inner in &verbs {
        let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
        let name = path(inner);
        let _ = writeln!(text, "- [{name}](#{}): {}", name.replace(' ', "-"), escaped(&about));
    }
    if let Some(after) = command.get_after_help() {
        let _ = writeln!(text, "\n```text\n{after}\n```");
    }
    verbs.into_iter().for_each(|inner| verb(inner, text));
}

/// What is typed to get there, such as `aether update start`.
fn path(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

fn list(title: &str, arguments: &[&Arg], options: &[&Arg], text: &mut String) {
    for (title, args) in [("Arguments", arguments), (title, options)] {
        if args.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}:\n");
        for arg in args {
            let help = arg.get_long_help().or(arg.get_help());
            let help = help.map(ToString::to_string).unwrap_or_default().replace('\n', " ");
            let _ =
                writeln!(text, "- `{}`: {}{}", spelling(arg), ended(&escaped(&help)), more(arg));
        }
    }
}

/// How an argument is written, with its other names.
fn spelling(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default();
    let value = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if arg.is_positional() {
        return if arg.is_required_set() { format!("<{value}>") } else { format!("[{value}]") };
    }
    let mut shorts: Vec<char> = arg.get_short().into_iter().collect();
    shorts.extend(arg.get_visible_short_aliases().unwrap_or_default());
    let mut longs: Vec<&str> = arg.get_long().into_iter().collect();
    longs.extend(arg.get_visible_aliases().unwrap_or_default());
    let names = shorts.iter().map(|short| format!("-{short}"));
    let names: Vec<String> = names.chain(longs.iter().map(|long| format!("--{long}"))).collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let names = names.join(", ");
    let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    match (takes_value, optional) {
        (true, false) => format!("{names} <{value}>"),
        (true, true) => format!("{names} [<{value}>]"),
        (false, _) => names,
    }
}

/// Values that may be given, and the one that is taken if none is.
fn more(arg: &Arg) -> String {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let values = if takes_value { arg.get_possible_values() } else { Vec::new() };
    let mut more = String::new();
    let shown: Vec<String> = values
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !shown.is_empty() {
        let _ = write!(more, " One of {}.", shown.join(", "));
    }
    let defaults = arg.get_default_values();
    if takes_value && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
        let _ = write!(more, " Default: `{}`.", defaults.join(","));
    }
    more
}

/// With a full stop, unless it has an end.
fn ended(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) || text.is_empty() {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

/// Without what Markdown would take for a link or a tag.
fn escaped(text: &str) -> String {
    text.replace('[', "\\[").replace('<', "\\<").replace('*', "\\*")
}
