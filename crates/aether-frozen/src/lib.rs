//! Holds tests to bytes that a release has written or sent. A dev-dependency
//! only.
//!
//! Such bytes are committed, in `tests/frozen` of the crate whose format they
//! are. They are not snapshots of what the code does today, to be accepted when
//! it does something else: whoever runs the release has them on disks and on the
//! wire. So no command changes what is there. With `AETHER_FROZEN=write` a test
//! writes a file that is missing, and adds to a listing what is new.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable with which tests write what is new.
const VARIABLE: &str = "AETHER_FROZEN";

/// A committed file.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
    /// What whoever breaks it is told to do.
    rule: &'static str,
    writes: bool,
}

impl Frozen {
    /// The file `name` in `tests/frozen` of the crate with this manifest
    /// directory. `rule` says what to do in the place of a change.
    pub fn new(manifest_dir: &str, name: &str, rule: &'static str) -> Self {
        let path = Path::new(manifest_dir).join("tests/frozen").join(name);
        Self { path, rule, writes: std::env::var(VARIABLE).is_ok_and(|value| value == "write") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    ///
    /// # Panics
    /// When there is none.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
    }

    /// What it holds, as text.
    ///
    /// # Panics
    /// When there is none, or it is no text.
    pub fn text(&self) -> String {
        String::from_utf8(self.bytes()).expect("a text")
    }

    /// Requires that it holds exactly these bytes.
    ///
    /// # Panics
    /// When it does not, with the first difference and the rule.
    pub fn holds(&self, now: &[u8]) {
        if !self.path.exists() {
            assert!(
                self.writes,
                "{} is missing: with {VARIABLE}=write this test writes it",
                self.path.display()
            );
            return self.write(now);
        }
        let frozen = self.bytes();
        if frozen != now {
            let (line, was, is) = first_difference(&frozen, now);
            self.broken(&format!("differs in line {line}\n  frozen: {was}\n  now:    {is}"));
        }
    }

    /// Requires that every line of it is still among these, and that these are
    /// all in it.
    ///
    /// # Panics
    /// When a line is gone or changed, with the rule; and when one is new, unless
    /// the test was told to write it.
    pub fn lists(&self, now: &BTreeSet<String>) {
        let text = if self.path.exists() { self.text() } else { String::new() };
        let frozen: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        let gone: Vec<&str> = frozen.difference(now).map(String::as_str).collect();
        let new: Vec<&str> = now.difference(&frozen).map(String::as_str).collect();
        if !gone.is_empty() {
            let (gone, new) = (gone.join("\n  "), new.join("\n  "));
            self.broken(&format!("has lines that hold no more:\n  {gone}\nnew are:\n  {new}"));
        }
        if !new.is_empty() {
            assert!(
                self.writes,
                "{} lacks:\n  {}\nAn addition is allowed. {}\nWith {VARIABLE}=write this test adds \
                 the lines.",
                self.path.display(),
                new.join("\n  "),
                self.rule
            );
            let all: Vec<&str> = now.iter().map(String::as_str).collect();
            self.write((all.join("\n") + "\n").as_bytes());
        }
    }

    /// Says that the rule was broken, and how.
    ///
    /// # Panics
    /// Always.
    pub fn broken(&self, how: &str) -> ! {
        panic!("{} {how}\n{}", self.path.display(), self.rule)
    }

    fn write(&self, bytes: &[u8]) {
        let folder = self.path.parent().expect("it is in a folder");
        fs::create_dir_all(folder).and_then(|()| fs::write(&self.path, bytes)).expect("written");
    }
}

/// Number and text of the first line in which two contents differ.
fn first_difference(was: &[u8], is: &[u8]) -> (usize, String, String) {
    let [was, is] = [was, is].map(|bytes| bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>());
    let same = was.iter().zip(&is).take_while(|(was, is)| was == is).count();
    let shown = |lines: &[&[u8]]| match lines.get(same) {
        Some(line) => line.escape_ascii().to_string(),
        None => "(nothing)".to_owned(),
    };
    (same + 1, shown(&was), shown(&is))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn said(body: impl FnOnce()) -> String {
        let panicked = catch_unwind(AssertUnwindSafe(body)).expect_err("it must be refused");
        *panicked.downcast::<String>().expect("a formatted message")
    }

    fn lines(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn what_is_there_is_never_written_and_what_is_new_only_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, writes| {
            let new = Frozen::new(dir.path().to_str().unwrap(), name, "Take a new number.");
            Frozen { writes, ..new }
        };
        assert!(said(|| file("a", false).holds(b"x\ny\n")).contains("is missing"));
        file("a", true).holds(b"x\ny\n");
        file("a", false).holds(b"x\ny\n");
        let refused = said(|| file("a", true).holds(b"x\nz\n"));
        assert!(refused.ends_with("Take a new number."), "{refused}");
        assert!(refused.contains("line 2\n  frozen: y\n  now:    z\n"), "{refused}");
        assert!(said(|| file("a", true).holds(b"x\ny\nz")).contains("now:    z"));
        assert_eq!(file("a", true).bytes(), b"x\ny\n");

        assert!(said(|| file("b", false).lists(&lines(&["k"]))).contains("lacks:\n  k"));
        file("b", true).lists(&lines(&["k"]));
        file("b", true).lists(&lines(&["k", "a"]));
        file("b", false).lists(&lines(&["a", "k"]));
        let refused = said(|| file("b", true).lists(&lines(&["a", "l"])));
        assert!(refused.contains("no more:\n  k\nnew are:\n  l\nTake a new"), "{refused}");
        assert_eq!(file("b", true).text(), "a\nk\n");
    }
}
