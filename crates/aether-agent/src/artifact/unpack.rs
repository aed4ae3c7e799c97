//! Writes an accepted archive to a fresh directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::archive::{ArchiveError, Contents, Item, Limits, Sink, walk};

/// Unpacks an archive into `dir`, which must not exist yet.
///
/// Files get the modes 0444 or 0555: instances share the tree, so none may
/// change it. Owners, times, setuid bits and attributes are not restored. No
/// link is followed while writing, and every link must resolve to something
/// inside of the tree in the end.
///
/// # Errors
/// When the archive is refused or cannot be written. Then `dir` holds a part
/// of it, for the caller to remove.
pub fn unpack(archive: impl Read, dir: &Path, limits: &Limits) -> Result<Contents, ArchiveError> {
    let cannot = |source| ArchiveError::Write { path: dir.to_owned(), source };
    fs::create_dir(dir).map_err(cannot)?;
    let dir = dir.canonicalize().map_err(cannot)?;
    let mut writer = Writer { dir: &dir, links: Vec::new() };
    let contents = walk(archive, limits, &mut writer)?;
    for link in &writer.links {
        check_resolved(&dir, link)?;
    }
    Ok(contents)
}

fn check_resolved(dir: &Path, link: &Path) -> Result<(), ArchiveError> {
    let problem = match dir.join(link).canonicalize() {
        Ok(target) if target.starts_with(dir) => return Ok(()),
        Ok(target) => format!("is a link that leaves the artifact for '{}'", target.display()),
        Err(error) => format!("is a link to nothing ({error})"),
    };
    Err(ArchiveError::Entry { entry: link.display().to_string(), problem })
}

struct Writer<'a> {
    dir: &'a Path,
    links: Vec<PathBuf>,
}

impl Sink for Writer<'_> {
    fn take(&mut self, path: &Path, item: Item<'_>) -> io::Result<()> {
        let at = self.dir.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        match item {
            Item::Directory => fs::create_dir_all(&at),
            Item::File { executable, data } => {
                let mode = if executable { 0o555 } else { 0o444 };
                let mut file =
                    OpenOptions::new().write(true).create_new(true).mode(mode).open(&at)?;
                io::copy(data, &mut file).map(drop)
            }
            Item::Symlink { target } => {
                self.links.push(path.to_owned());
                symlink(target, &at)
            }
            Item::Hardlink { target } => fs::hard_link(self.dir.join(target), &at),
        }
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
pub(super) mod tests;
