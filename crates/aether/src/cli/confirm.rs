//! Asks before something that cannot be taken back, on a terminal and nowhere
//! else: a script that did not ask to be asked would wait for ever.

use std::io::{self, BufRead, Read, Write};

use clap::Args;

use super::exit::Failure;
use super::output::say;
use super::terminal;

/// Longest answer that is read; a longer one is no yes.
const ANSWER_BYTES_MAX: u64 = 256;

/// `--yes` of a verb that may ask.
#[derive(Debug, Default, Args)]
pub struct Sure {
    /// Do not ask; without a terminal nothing is ever asked
    #[arg(long, short)]
    yes: bool,
}

impl Sure {
    /// Whether there is somebody to ask, so that it is worth finding out what.
    pub fn asks(&self) -> bool {
        !self.yes && terminal::can_ask()
    }

    /// Asks, unless there is nobody to ask or `--yes` was given.
    ///
    /// # Errors
    /// The answer is not yes.
    pub async fn confirm(&self, what: &str) -> Result<(), Failure> {
        if !self.asks() {
            return Ok(());
        }
        let mut open = Open { answered: false };
        let mut stderr = io::stderr();
        let _ = write!(stderr, "{what} [y/N] ").and_then(|()| stderr.flush());
        // On a thread of its own, so that Ctrl-C is heard meanwhile.
        let answer = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut line).map(|_| line)
        });
        let answer = answer.await.ok().and_then(Result::ok).unwrap_or_default();
        open.answered = answer.ends_with('\n');
        match is_yes(&answer) {
            true => Ok(()),
            false => Err(Failure::failed("not confirmed; nothing was done")),
        }
    }
}

/// A question without an answer: whatever comes next begins a new line.
struct Open {
    answered: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.answered {
            say("");
        }
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(["y\n", "Y\n", "yes\n", " YES \n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n\n", "yy\n", "yes please\n", "j\n"].into_iter().any(is_yes));
    }
}
