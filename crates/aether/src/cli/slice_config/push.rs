//! `aether config push`

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aether_core::coordinates::SliceName;
use aether_core::records::{CONFIG_FILE_BYTES_MAX, CONFIG_FILES_MAX};
use aether_proto::v1;
use clap::Args;

use crate::cli::client::Client;
use crate::cli::deploy::slices;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::say;
use crate::cli::{Global, render};

/// Keep files and environment for a slice, under the next number
///
/// It changes nothing that runs. An update moves to it as to a version, with any
/// strategy: 'aether update start SLICE VERSION --config latest', where the version
/// may be the one that runs. What is given is all of it, unless --add is: files and
/// variables of the one before are not taken over.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether config push org.example:my-slice --file app.conf=./prod.conf --env MODE=fast
  aether config push org.example:my-slice@staging --from-dir ./config
  aether config push org.example:my-slice --add --env MODE=slow
  aether update start org.example:my-slice 1.0.0 --config latest --strategy rolling

A file lands in the directory of each instance, ${INSTANCE_DIR}, in which it is
started. One that the manifest lists in run.config_files takes the place of the
artifact's, and ${PORT} and the other names are substituted in it; any other file is
written as it is. Variables go before those of the manifest. At most 32 files of
64 KiB, 128 variables, and 256 KiB in all.

See also: aether config show, aether config history, aether update start")]
pub struct Push {
    /// Whose: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// A file: where it lands, and where it is here
    #[arg(long = "file", value_name = "PATH=LOCAL", value_parser = file)]
    files: Vec<(String, PathBuf)>,
    /// An environment variable
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// All files of a directory and those below it
    #[arg(long, value_name = "DIR")]
    from_dir: Option<PathBuf>,
    /// Take over what the latest has and is not given here
    #[arg(long)]
    add: bool,
    /// Refuse unless this is the number of the latest; 0 is for none there
    #[arg(long, value_name = "N", conflicts_with = "add")]
    if_latest: Option<u32>,
}

fn file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((path, local)) if !path.is_empty() && !local.is_empty() => {
            Ok((path.to_owned(), local.into()))
        }
        _ => Err("write PATH=LOCAL: where it lands, and where it is here".to_owned()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

impl Push {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut files = BTreeMap::new();
        if let Some(dir) = &self.from_dir {
            read_dir(dir, "", &mut files)?;
        }
        for (path, local) in &self.files {
            files.insert(path.clone(), read(local)?);
        }
        let given = files.len() + self.env.len();
        if given == 0 && self.from_dir.is_none() {
            return Err(Failure::usage(
                "nothing to push: give --file, --env or --from-dir; an empty directory makes an \
                 empty configuration",
            ));
        }
        let mut env: BTreeMap<String, String> = self.env.into_iter().collect();
        let client = global.client()?;
        let slice = self.slice.to_string();
        let mut if_latest = self.if_latest;
        if self.add {
            let latest = latest(&client, &slice).await?;
            // Nobody else's push is lost by this one.
            if_latest = Some(latest.number);
            files = latest.files.into_iter().chain(files).collect();
            env = latest.env.into_iter().chain(env).collect();
        }
        let (request_id, actor) = (client.request_id(), client.actor());
        let message = v1::PushConfigRequest { slice, files, env, if_latest, request_id, actor };
        let pushed =
            client.write(message, async |c, request| slices(c).push_config(request).await).await?;
        if !pushed.note.is_empty() {
            say(&pushed.note);
        }
        global.output().show(&pushed, render::config::outline)?;
        say(&format!(
            "next: 'aether update start {} VERSION --config {}'",
            pushed.slice, pushed.number
        ));
        Ok(())
    }
}

/// What was pushed last; an empty one of number 0 where nothing was.
async fn latest(client: &Client, slice: &str) -> Result<v1::SliceConfig, Failure> {
    let message = v1::GetConfigRequest { slice: slice.to_owned(), ..Default::default() };
    match client.read(message, async |c, request| slices(c).get_config(request).await).await {
        Err(failure) if failure.exit() == Exit::NotFound => Ok(v1::SliceConfig::default()),
        found => found,
    }
}

/// A text of somebody's. What is too long is refused by the cluster, with the bound.
fn read(path: &Path) -> Result<String, Failure> {
    let cannot =
        |error: io::Error| Failure::usage(format!("{} cannot be read: {error}", path.display()));
    let mut bytes = Vec::new();
    let most = CONFIG_FILE_BYTES_MAX as u64 + 1;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(cannot)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Cut where it is too long, and not what it is refused for.
        Err(error) if error.as_bytes().len() as u64 == most => {
            Ok(String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Err(_) => Err(Failure::usage(format!(
            "{} is no UTF-8 text; what is not belongs into the artifact",
            path.display()
        ))),
    }
}

/// The files below a directory by their paths in it. Links to files are followed, for
/// that is how mounted directories are made; directories that are links are not, for
/// they may have no end.
fn read_dir(dir: &Path, below: &str, into: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let cannot =
        |error: io::Error| Failure::usage(format!("{} cannot be read: {error}", dir.display()));
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Failure::usage(format!("{}: {name:?} is no UTF-8 name", dir.display()))
        })?;
        let path = format!("{below}{name}");
        if entry.file_type().map_err(cannot)?.is_dir() {
            read_dir(&entry.path(), &format!("{path}/"), into)?;
        } else if fs::metadata(entry.path()).map_err(cannot)?.is_file() {
            into.insert(path, read(&entry.path())?);
        }
        if into.len() > CONFIG_FILES_MAX {
            let most = CONFIG_FILES_MAX;
            let problem = format!("{} has more than {most} files", dir.display());
            return Err(Failure::usage(problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_names_both_sides() {
        assert_eq!(file("etc/a=b=c").unwrap(), ("etc/a".to_owned(), "b=c".into()));
        assert_eq!(variable("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert_eq!(variable("A=").unwrap().1, "");
        for text in ["", "a", "=b"] {
            assert!(file(text).is_err() && variable(text).is_err(), "{text:?}");
        }
        assert!(file("a=").is_err());
    }

    #[test]
    fn a_directory_gives_its_files_by_their_paths_in_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/b")).unwrap();
        for (path, text) in [("a", "1"), ("etc/x", "2"), ("etc/b/y", "3")] {
            fs::write(dir.path().join(path), text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("etc/loop")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("link")).unwrap();
        let mut files = BTreeMap::new();
        read_dir(dir.path(), "", &mut files).unwrap();
        let files: Vec<_> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        assert_eq!(files, [("a", "1"), ("etc/b/y", "3"), ("etc/x", "2"), ("link", "1")]);
        fs::write(dir.path().join("bytes"), [0xff]).unwrap();
        assert!(read_dir(dir.path(), "", &mut BTreeMap::new()).is_err());
    }
}
