//! The client's configuration file: named contexts, and which one is current.
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! addr = ["10.0.0.1:8090", "10.0.0.2:8090"]
//! timeout = "5s"
//! actor = "alice"
//! output = "json"
//! ```
//!
//! Every key is optional, an unknown one is an error that points at its line.
//! What holds for a verb is decided in `settings`, not here.

mod edit;

pub use edit::Key;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aether_core::duration::Millis;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::client::Address;
use super::exit::Failure;
use super::options;
use super::output::Format;

/// Longest file that is read. A thousand contexts take less.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest name of a context: it is typed, and stands in a column.
const NAME_CHARS_MAX: usize = 64;

/// An environment variable's value, if it is set and not empty.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Name of a context: letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ContextName(String);

impl FromStr for ContextName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && text.chars().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!(
            "'{shown}' is not the name of a context: 1 to {NAME_CHARS_MAX} letters, digits, '-', \
             '_' or '.'"
        ))
    }
}

impl Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContextName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// What one context says; what it does not say is left to the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Client addresses of nodes.
    #[serde(default, deserialize_with = "addresses")]
    pub addr: Option<Vec<Address>>,
    /// How long a request may take.
    #[serde(default, deserialize_with = "optional")]
    pub timeout: Option<Millis>,
    /// Who asks.
    #[serde(default, deserialize_with = "actor")]
    pub actor: Option<String>,
    /// How results are printed.
    #[serde(default, deserialize_with = "optional")]
    pub output: Option<Format>,
}

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The context that holds where none is named.
    pub current: Option<ContextName>,
    /// All contexts.
    #[serde(default)]
    pub contexts: BTreeMap<ContextName, Context>,
}

/// A file that was read, or that is not there yet.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    text: String,
    /// What is written in it.
    pub contents: Contents,
}

/// Where the file is: `$AETHER_CONFIG`, or `aether/config.toml` below
/// `$XDG_CONFIG_HOME` or `~/.config`. `None` without any of them.
pub fn path(environment: Environment<'_>) -> Option<PathBuf> {
    if let Some(path) = environment("AETHER_CONFIG") {
        return Some(path.into());
    }
    // The specification has relative ones ignored.
    let base = environment("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".config")))?;
    Some(base.join("aether/config.toml"))
}

impl Config {
    /// Reads the file. One that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read, or something in it makes no sense.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
        let text = match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(cannot(error)),
        };
        Self::read(path, text).map_err(Failure::usage)
    }

    fn read(path: &Path, text: String) -> Result<Self, String> {
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{}: longer than {FILE_BYTES_MAX} bytes", path.display()));
        }
        let contents = toml::from_str(&text)
            .map_err(|error| format!("{}: {}", path.display(), error.to_string().trim_end()))?;
        Ok(Self { path: path.to_owned(), text, contents })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A context that must be there.
    ///
    /// # Errors
    /// It is not, and which are.
    pub fn context(&self, name: &ContextName) -> Result<&Context, String> {
        self.contents.contexts.get(name).ok_or_else(|| {
            format!(
                "there is no context '{name}' in {}; 'aether context list' shows what there is, \
                 and 'aether context set {name} --addr HOST:PORT' makes it",
                self.path.display()
            )
        })
    }

    /// What to warn of: whoever can write the file chooses the cluster.
    pub fn warning(&self) -> Option<String> {
        const WRITABLE_BY_ALL: u32 = 0o002;
        let metadata = fs::metadata(&self.path).ok().filter(fs::Metadata::is_file)?;
        (metadata.permissions().mode() & WRITABLE_BY_ALL != 0).then(|| {
            let path = self.path.display();
            format!(
                "{path} can be written by everybody, who so chooses your cluster; 'chmod o-w {path}'"
            )
        })
    }
}

/// Reads a value from its text, so that a bad one is shown with its line.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    parsed(deserializer).map(Some)
}

fn actor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    options::actor(&name).map(Some).map_err(de::Error::custom)
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Address>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.is_empty() {
        return Err(de::Error::custom("names no node; leave it out for the default"));
    }
    let addresses: Result<Vec<Address>, _> = texts.iter().map(|text| text.parse()).collect();
    addresses.map(Some).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        Config::read(Path::new("/etc/c.toml"), text.to_owned())
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let find = |variables: &[(&str, &str)]| {
            path(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        let everything = [("AETHER_CONFIG", "/a"), ("XDG_CONFIG_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(find(&everything), Some("/a".into()));
        assert_eq!(find(&everything[1..]), Some("/b/aether/config.toml".into()));
        assert_eq!(find(&everything[2..]), Some("/c/.config/aether/config.toml".into()));
        let relative = [("XDG_CONFIG_HOME", "b"), ("HOME", "/c")];
        assert_eq!(find(&relative), Some("/c/.config/aether/config.toml".into()));
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn all_of_a_context_is_read() {
        let config = read(
            "current = 'prod'\n[contexts.prod]\naddr = ['a:1', 'b:2']\ntimeout = '5s'\n\
             actor = 'me'\noutput = 'yaml'\n[contexts.dev]\n",
        )
        .unwrap();
        let prod = config.context(&"prod".parse().unwrap()).unwrap();
        assert_eq!(prod.addr.as_ref().unwrap().len(), 2);
        assert_eq!(prod.timeout, Some(Millis(5_000)));
        assert_eq!(prod.actor.as_deref(), Some("me"));
        assert_eq!(prod.output, Some(Format::Yaml));
        assert_eq!(config.context(&"dev".parse().unwrap()), Ok(&Context::default()));
        assert!(config.context(&"other".parse().unwrap()).unwrap_err().contains("context list"));
    }

    #[test]
    fn what_makes_no_sense_is_shown_with_its_line() {
        for (text, line, says) in [
            ("curent = 'a'", 1, "unknown field `curent`"),
            ("\n[contexts.a]\nadress = ['a:1']", 3, "unknown field `adress`"),
            ("[contexts.a]\naddr = ['a:1', 'a:70000']", 2, "'a:70000' is not the address"),
            ("[contexts.a]\naddr = []", 2, "names no node"),
            ("[contexts.a]\naddr = 'a:1'", 2, "expected a sequence"),
            ("[contexts.a]\ntimeout = '5'", 2, "with a unit"),
            ("[contexts.a]\noutput = 'xml'", 2, "'xml'"),
            ("[contexts.a]\nactor = ''", 2, "printable"),
            ("[contexts.'a b']\n", 1, "'a b' is not the name of a context"),
            ("current = ", 1, ""),
        ] {
            let problem = read(text).unwrap_err();
            let at = format!("at line {line}, column");
            assert!(problem.starts_with("/etc/c.toml: "), "{problem}");
            assert!(problem.contains(&at) && problem.contains(says), "{text}: {problem}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_write_is_warned_of() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("config.toml");
        assert!(Config::load(&path).unwrap().warning().is_none(), "it is not there");
        fs::write(&path, "").unwrap();
        for (mode, warned) in [(0o600, false), (0o664, false), (0o666, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let warning = Config::load(&path).unwrap().warning();
            assert_eq!(warning.is_some(), warned, "{mode:o}: {warning:?}");
        }
    }
}
