//! Changes the configuration file: what it says besides, comments included,
//! stays as it is, and whoever reads meanwhile sees either the old file or the
//! new one.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{Config, Context, ContextName};
use crate::cli::exit::Failure;

/// Which settings of a context are taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Key {
    /// Client addresses of nodes
    Addr,
    /// How long a request may take
    Timeout,
    /// Who asks
    Actor,
    /// How results are printed
    Output,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Addr => "addr",
            Self::Timeout => "timeout",
            Self::Actor => "actor",
            Self::Output => "output",
        }
    }
}

impl Config {
    /// Makes a context current.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn make_current(self, name: &ContextName) -> Result<Self, Failure> {
        self.change(|document| {
            document["current"] = value(name.to_string());
            Ok(())
        })
    }

    /// Adds to a context what `with` says, and takes `without` out of it. A
    /// context that is not there is made.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(self, name: &ContextName, with: &Context, without: &[Key]) -> Result<Self, Failure> {
        self.change(|document| {
            let contexts = document.entry("contexts").or_insert_with(|| {
                let mut table = Table::new();
                // Without a header of its own: only [contexts.NAME] is written.
                table.set_implicit(true);
                Item::Table(table)
            });
            let contexts = contexts.as_table_mut().ok_or("write contexts as [contexts.NAME]")?;
            let name = name.to_string();
            let context = contexts.entry(&name).or_insert_with(|| Item::Table(Table::new()));
            if let Some(addresses) = &with.addr {
                let addresses: Array = addresses.iter().map(ToString::to_string).collect();
                context["addr"] = value(addresses);
            }
            if let Some(timeout) = with.timeout {
                context["timeout"] = value(timeout.to_string());
            }
            if let Some(actor) = &with.actor {
                context["actor"] = value(actor);
            }
            if let Some(output) = with.output {
                context["output"] = value(output.to_string());
            }
            if let Some(context) = context.as_table_like_mut() {
                without.iter().for_each(|key| drop(context.remove(key.name())));
            }
            Ok(())
        })
    }

    /// Takes a context out; if it is the current one, none is afterwards.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove(self, name: &ContextName) -> Result<Self, Failure> {
        let was_current = self.contents.current.as_ref() == Some(name);
        self.change(|document| {
            if let Some(contexts) = document.get_mut("contexts").and_then(Item::as_table_like_mut) {
                contexts.remove(&name.to_string());
            }
            if was_current {
                document.remove("current");
            }
            Ok(())
        })
    }

    fn change(
        self,
        edit: impl FnOnce(&mut DocumentMut) -> Result<(), &'static str>,
    ) -> Result<Self, Failure> {
        let cannot = |problem: String| Failure::failed(format!("cannot change {problem}"));
        let mut document: DocumentMut = self
            .text
            .parse()
            .map_err(|error| cannot(format!("{}: {error}", self.path.display())))?;
        edit(&mut document)
            .map_err(|problem| cannot(format!("{}: {problem}", self.path.display())))?;
        // What was written must be readable, or nothing is.
        let changed = Self::read(&self.path, document.to_string()).map_err(cannot)?;
        write(&self.path, &changed.text)
            .map_err(|error| cannot(format!("{}: {error}", self.path.display())))?;
        Ok(changed)
    }
}

/// Replaces a file in one step, its permissions kept; a link is followed.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    if let Ok(metadata) = fs::metadata(&path) {
        file.as_file().set_permissions(metadata.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn name(text: &str) -> ContextName {
        text.parse().unwrap()
    }

    fn context() -> Context {
        Context {
            addr: Some(vec!["a:1".parse().unwrap(), "b:2".parse().unwrap()]),
            timeout: Some("90s".parse().unwrap()),
            ..Context::default()
        }
    }

    #[test]
    fn the_first_context_makes_the_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("deep/er/config.toml");
        let config = Config::load(&path).unwrap().set(&name("prod"), &context(), &[]).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "[contexts.prod]\naddr = [\"a:1\", \"b:2\"]\ntimeout = \"1m 30s\"\n"
        );
        config.make_current(&name("prod")).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.contents.current, Some(name("prod")));
        assert_eq!(config.contents.contexts[&name("prod")], context());
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    #[test]
    fn comments_order_and_permissions_stay() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("config.toml");
        let text = "# Mine.\ncurrent = 'b' # mostly\n\n[contexts.b]\nactor = 'x' # me\n\n\
                    # The other.\n[contexts.a]\naddr = ['h:1']\n";
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let with = Context { actor: Some("y".into()), ..Context::default() };
        let config = Config::load(&path).unwrap();
        let config = config.set(&name("a"), &with, &[Key::Addr]).unwrap();
        let expected = text.replace("addr = ['h:1']", "actor = \"y\"");
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let config = config.remove(&name("b")).unwrap();
        assert_eq!(config.contents.current, None, "the current one is gone");
        assert!(fs::read_to_string(&path).unwrap().contains("# The other.\n[contexts.a]"));
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::TempDir::new().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        Config::load(&link).unwrap().set(&name("a"), &context(), &[]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("[contexts.a]"));
    }
}
