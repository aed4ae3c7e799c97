//! What is laid over an artifact when it runs: files and environment, pushed for
//! a slice name and numbered. An update moves to one of them as it moves to a
//! version.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::coordinates::SliceName;
use crate::ids::ConfigNo;
use crate::words::counted;

/// Most files of one configuration: each is written for every instance.
pub const CONFIG_FILES_MAX: usize = 32;
/// Longest file of a configuration, in bytes. Larger things are artifacts.
pub const CONFIG_FILE_BYTES_MAX: usize = 64 * 1024;
/// Longest path of such a file, in bytes.
pub const CONFIG_PATH_BYTES_MAX: usize = 256;
/// Most environment entries of one configuration.
pub const CONFIG_ENV_MAX: usize = 128;
/// Bytes of all paths, files and environment entries of one configuration. It is
/// in the log, in memory and on the way to every node that runs the slice.
pub const CONFIGURATION_BYTES_MAX: usize = 256 * 1024;
/// Configurations kept of a slice name beyond those that a revision refers to.
pub const CONFIGURATIONS_KEPT: usize = 10;
/// What all configurations of all slice names may count together, see
/// [`Configuration::weight`]: a quarter of a GiB, which every voter has in memory
/// and every snapshot holds.
pub const CONFIGURATIONS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a configuration counts beside its texts: its key, its record, who pushed it.
const RECORD_BYTES: u64 = 512;

/// Files and environment that are laid over an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Text by path, relative to the instance's directory. Where the artifact's
    /// manifest lists the path in `run.config_files`, the same names are
    /// substituted in it as in the artifact's own file, whose place it takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Arc<str>>,
    /// Environment of the process, on top of the manifest's `run.env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Configuration {
    /// Checks its texts and its size.
    ///
    /// # Errors
    /// The first thing that cannot work, in words that follow "a configuration".
    pub fn check(&self) -> Result<(), String> {
        if self.files.len() > CONFIG_FILES_MAX {
            return Err(format!("has {} files, of at most {CONFIG_FILES_MAX}", self.files.len()));
        }
        if self.env.len() > CONFIG_ENV_MAX {
            let count = self.env.len();
            return Err(format!("has {count} environment entries, of at most {CONFIG_ENV_MAX}"));
        }
        self.check_files()?;
        for (name, value) in &self.env {
            let short: String = name.chars().take(80).collect();
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!(
                    "has an environment entry '{short}' whose name is empty or holds '=', or that \
                     holds a NUL byte"
                ));
            }
        }
        let bytes = self.text_bytes();
        if bytes > CONFIGURATION_BYTES_MAX {
            return Err(format!("is {bytes} bytes long, of at most {CONFIGURATION_BYTES_MAX}"));
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), String> {
        for (path, text) in &self.files {
            let short: String = path.chars().take(80).collect();
            if !is_inside(path) {
                return Err(format!(
                    "has a file '{short}' whose path is empty, absolute, longer than \
                     {CONFIG_PATH_BYTES_MAX} bytes, or leaves the instance's directory"
                ));
            }
            if text.len() > CONFIG_FILE_BYTES_MAX {
                let bytes = text.len();
                return Err(format!(
                    "has a file '{short}' of {bytes} bytes, of at most {CONFIG_FILE_BYTES_MAX}"
                ));
            }
            if text.contains('\0') {
                return Err(format!("has a file '{short}' with a NUL byte, which is no text"));
            }
            let mut ends = path.match_indices('/').map(|(at, _)| &path[..at]);
            if let Some(parent) = ends.find(|parent| self.files.contains_key(*parent)) {
                return Err(format!("has '{parent}' both as a file and as a directory"));
            }
        }
        Ok(())
    }

    fn text_bytes(&self) -> usize {
        let files = self.files.iter().map(|(path, text)| path.len() + text.len());
        let env = self.env.iter().map(|(name, value)| name.len() + value.len());
        files.chain(env).sum()
    }

    /// What it counts towards [`CONFIGURATIONS_BYTES_MAX`].
    pub fn weight(&self) -> u64 {
        RECORD_BYTES + self.text_bytes() as u64
    }

    /// sha256 of its JSON text, in lower-case hexadecimal digits: equal for equal
    /// content, whoever pushed it.
    ///
    /// # Panics
    /// Never: it has text keys only.
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("it has text keys only");
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, env) = (self.files.len(), self.env.len());
        write!(f, "{}, {}", counted(files, "file"), counted(env, "variable"))
    }
}

/// Whether a path names something inside the directory it is relative to, in one
/// spelling.
fn is_inside(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= CONFIG_PATH_BYTES_MAX
        && !path.chars().any(char::is_control)
        && path.split('/').all(is_name)
}

/// `config-revision/{slice}/{no}`: a configuration of a slice name, immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRevisionRecord {
    /// The slice.
    pub slice: SliceName,
    /// Number within the slice.
    pub no: ConfigNo,
    /// What it holds.
    pub content: Arc<Configuration>,
    /// Digest of the content.
    pub digest: String,
    /// Who pushed it.
    pub actor: String,
    /// Log index that made it.
    pub created: u64,
    /// Wall clock of the leader then, milliseconds, for display.
    pub wall_ms: u64,
}

/// Which configuration an update moves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "which", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum ConfigPick {
    /// The one that was pushed last when the entry is applied. With braces: serde
    /// reads past unknown fields of a variant that has none.
    Latest {},
    /// This one.
    Number {
        /// Its number.
        no: ConfigNo,
    },
}

/// In what a new revision is to differ from the current one beside its version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Remake {
    /// Its configuration; that of the current revision if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigPick>,
    /// It is a new revision though nothing else differs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

impl Remake {
    /// Whether nothing was asked for, as by builds that cannot.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Configuration {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).into()));
        Configuration { files: files.collect(), env: BTreeMap::new() }
    }

    #[test]
    fn a_path_stays_inside_and_has_one_spelling() {
        let long = "x".repeat(CONFIG_PATH_BYTES_MAX + 1);
        for path in ["", "/a", "..", "a/../b", "a/", "a//b", ".", "./a", "a\0", "a\nb", &long] {
            let problem = files(&[(path, "")]).check().unwrap_err();
            assert!(problem.contains("path is empty, absolute"), "{path:?}: {problem}");
        }
        for path in ["a", ".env", "etc/app.conf", "a b/ä", "...", &long[1..]] {
            assert_eq!(files(&[(path, "")]).check(), Ok(()), "{path:?}");
        }
        let both = files(&[("a", ""), ("a-b", ""), ("a/b/c", "")]).check().unwrap_err();
        assert_eq!(both, "has 'a' both as a file and as a directory");
    }

    #[test]
    fn every_bound_is_the_last_that_is_taken() {
        let text = "x".repeat(CONFIG_FILE_BYTES_MAX);
        assert_eq!(files(&[("a", &text)]).check(), Ok(()));
        assert!(files(&[("a", &format!("{text}x"))]).check().unwrap_err().contains("65537"));
        assert!(files(&[("a", "\0")]).check().unwrap_err().contains("NUL"));
        // Four of the longest, less their paths.
        let shorter = &text[1..];
        let mut whole = files(&[("a", shorter), ("b", shorter), ("c", shorter), ("d", shorter)]);
        assert_eq!(whole.check(), Ok(()));
        whole.env.insert("A".to_owned(), String::new());
        assert!(whole.check().unwrap_err().contains("262145 bytes"));
        let numbered = |n: usize| (0..n).map(|k| format!("f{k}")).collect::<Vec<_>>();
        let many = |n: usize| Configuration {
            files: numbered(n).into_iter().map(|name| (name, "".into())).collect(),
            env: BTreeMap::new(),
        };
        assert_eq!(many(CONFIG_FILES_MAX).check(), Ok(()));
        assert!(many(CONFIG_FILES_MAX + 1).check().is_err());
        let env = |n: usize| Configuration {
            files: BTreeMap::new(),
            env: numbered(n).into_iter().map(|name| (name, String::new())).collect(),
        };
        assert_eq!(env(CONFIG_ENV_MAX).check(), Ok(()));
        assert!(env(CONFIG_ENV_MAX + 1).check().is_err());
        for (name, value) in [("", ""), ("A=B", ""), ("A\0", ""), ("A", "\0")] {
            let env = [(name.to_owned(), value.to_owned())].into();
            let configuration = Configuration { files: BTreeMap::new(), env };
            assert!(configuration.check().is_err(), "{name:?}");
        }
    }

    #[test]
    fn equal_content_has_an_equal_digest_and_other_content_another() {
        assert_eq!(files(&[("a", "1")]).digest(), files(&[("a", "1")]).digest());
        assert_ne!(files(&[("a", "1")]).digest(), files(&[("a", "2")]).digest());
        assert_ne!(files(&[("a", "1")]).digest(), files(&[("b", "1")]).digest());
        assert_eq!(files(&[("a", "1")]).to_string(), "1 file, 0 variables");
    }
}
