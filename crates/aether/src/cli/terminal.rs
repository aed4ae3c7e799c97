//! The terminal: whether there is one, and whether it gets colour.

use std::io::{self, IsTerminal};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;

/// When states have a colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless the environment says otherwise
    #[default]
    Auto,
    /// Also in a pipe or file
    Always,
    /// Nowhere
    Never,
}

impl Colour {
    /// What the arguments say before they are parsed, for help and usage errors.
    pub fn of_arguments(args: &[std::ffi::OsString]) -> Self {
        let texts = args.iter().filter_map(|arg| arg.to_str());
        let following = args.iter().skip(1).map(|arg| arg.to_str());
        let mut found = Self::Auto;
        for (arg, next) in texts.zip(following.chain([None])) {
            let said = match arg.strip_prefix("--color=") {
                Some(value) => Some(value),
                None if arg == "--color" => next,
                None => None,
            };
            found = said.and_then(|text| Self::from_str(text, true).ok()).unwrap_or(found);
        }
        found
    }

    /// Whether it holds for what is printed on stdout.
    pub fn on_stdout(self) -> bool {
        self.on(|| AutoStream::choice(&io::stdout()))
    }

    /// Whether it holds for what is said on stderr.
    pub fn on_stderr(self) -> bool {
        self.on(|| AutoStream::choice(&io::stderr()))
    }

    /// The library knows the conventions: NO_COLOR, CLICOLOR, CLICOLOR_FORCE
    /// and TERM.
    fn on(self, automatic: impl FnOnce() -> ColorChoice) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => automatic() != ColorChoice::Never,
        }
    }
}

/// Whether a person can be asked: there is a terminal to ask on and to read from.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether progress can be shown by overwriting a line.
pub fn shows_progress() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_found_before_the_arguments_are_parsed() {
        let find = |line: &str| {
            let args: Vec<_> = line.split_whitespace().map(Into::into).collect();
            Colour::of_arguments(&args)
        };
        assert_eq!(find("aether status"), Colour::Auto);
        assert_eq!(find("aether --color never status"), Colour::Never);
        assert_eq!(find("aether status --color=always"), Colour::Always);
        assert_eq!(find("aether status --color"), Colour::Auto);
        assert_eq!(find("aether status --color red"), Colour::Auto);
    }
}
