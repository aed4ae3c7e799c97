//! How far long work is, on stderr. On a terminal a line that is overwritten;
//! elsewhere only what is said of changes.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::say;
use super::terminal;

/// How often the line moves although nothing changed, to show that it lives.
const TICK: Duration = Duration::from_millis(200);

/// The line of work whose end is not known.
const WAITING: &str = "{spinner} {msg} ({elapsed})";

/// The line of bytes that are sent.
const BYTES: &str =
    "{spinner} {msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";

/// The line, until it is dropped. Clones are the same line.
#[derive(Clone)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// For work whose end is not known.
    pub fn waiting() -> Self {
        Self::with(WAITING, None)
    }

    /// For so many bytes that are sent.
    pub fn bytes(total: u64) -> Self {
        Self::with(BYTES, Some(total))
    }

    fn with(template: &str, length: Option<u64>) -> Self {
        if !terminal::shows_progress() {
            return Self(None);
        }
        let style = ProgressStyle::with_template(template)
            .expect("our templates are correct")
            .progress_chars("=> ");
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::new_spinner(),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(style);
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// What is under way.
    pub fn now(&self, text: impl Into<String>) {
        if let Some(bar) = &self.0 {
            bar.set_message(text.into());
        }
    }

    /// How many bytes are done.
    pub fn done(&self, bytes: u64) {
        if let Some(bar) = &self.0 {
            bar.set_position(bytes);
        }
    }

    /// Says something that stays, above the line.
    pub fn say(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Takes the line away when what it tells of is over, however it ended.
pub struct Shown<'a>(pub &'a Progress);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_correct() {
        for template in [WAITING, BYTES] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
