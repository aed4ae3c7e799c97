//! The tree of an unpacked archive on the disk: put in place in one step, and
//! held against what it was then before anything new is started from it.
//!
//! What is compared is what the file system notes of each entry: its inode,
//! size, mode and times. The time of an inode's last change cannot be set, so
//! this notices whatever wrote to the tree, without reading it whole. It is no
//! guard against someone with the agent's rights, who may change the note too.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::artifact::{Limits, unpack};
use crate::fsio::{self, Survives};

/// Unpacks into `fresh` and puts that in place of `dir`, unless `dir` is whole.
/// It is when it was finished since the machine started (unpacked files are not
/// synced, so a power cut may have emptied some) and was not touched since.
pub(crate) fn unpack_once(archive: File, dir: &Path, fresh: &Path) -> Result<PathBuf, String> {
    let mark = mark_of(dir);
    let boot_id = fsio::boot_id();
    let noted = fs::read_to_string(&mark).ok();
    if let Some(then) = noted.as_deref().and_then(|noted| noted.strip_prefix(&*boot_id)) {
        match note(dir) {
            Ok(now) if now == then => return Ok(dir.to_owned()),
            Ok(now) => {
                let changed = difference(then, &now);
                tracing::warn!(dir = %dir.display(), changed, "{CHANGED}");
            }
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "{CHANGED}"),
        }
    }
    let unpacked = unpack(archive, fresh, &Limits::default()).map_err(|error| error.to_string());
    let result = unpacked.and_then(|contents| {
        for warning in &contents.warnings {
            tracing::warn!(archive = %dir.display(), warning);
        }
        put_in_place(fresh, dir)
            .and_then(|()| note(dir))
            .and_then(|now| {
                fsio::write_atomic(&mark, (boot_id + &now).as_bytes(), Survives::Process)
            })
            .map_err(|error| format!("{}: {error}", dir.display()))
    });
    if result.is_err() {
        let _ = clear(fresh); // Else removed at the next start.
    }
    result.map(|()| dir.to_owned())
}

const CHANGED: &str = "an unpacked artifact was changed on the disk since it was unpacked; \
                       nothing is started from it, and it is unpacked afresh";

/// Removes an unpacked tree, fine if it isn't there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    // The mark first: a tree without it is not whole.
    let _ = fs::remove_file(mark_of(dir));
    clear(dir)
}

fn mark_of(unpacked: &Path) -> PathBuf {
    unpacked.with_extension("whole")
}

/// Moves `fresh` to where `dir` may be. Instances that were started from that
/// go on, and find the same names at every moment.
fn put_in_place(fresh: &Path, dir: &Path) -> io::Result<()> {
    let _ = fs::remove_file(mark_of(dir));
    match renameat2(AT_FDCWD, fresh, AT_FDCWD, dir, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => clear(fresh),
        Err(Errno::ENOENT) => fs::rename(fresh, dir),
        // A file system that cannot.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            clear(dir)?;
            fs::rename(fresh, dir)
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes whatever is there, and follows no link.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fsio::remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A line for each entry below `dir`: its path in quotes, and what would change
/// with it. Of a directory only that it is one: who adds something to it, adds
/// an entry.
fn note(dir: &Path) -> io::Result<String> {
    if !fs::symlink_metadata(dir)?.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory any more"));
    }
    let mut lines = BTreeSet::new();
    let mut left = vec![PathBuf::new()];
    while let Some(under) = left.pop() {
        for entry in fs::read_dir(dir.join(&under))? {
            let entry = entry?;
            let path = under.join(entry.file_name());
            let about = entry.metadata()?; // Of a link its own.
            let mut line = format!("{path:?} {:o}", about.mode());
            if about.is_dir() {
                left.push(path);
            } else {
                let (mtime, ctime) = (about.mtime_nsec(), about.ctime_nsec());
                let (ino, size) = (about.ino(), about.size());
                let (mtime_s, ctime_s) = (about.mtime(), about.ctime());
                write!(line, " {ino} {size} {mtime_s}.{mtime} {ctime_s}.{ctime}")
                    .expect("a text takes everything");
            }
            lines.insert(line);
        }
    }
    Ok(lines.into_iter().fold(String::new(), |all, line| all + "\n" + &line))
}

/// The first path that two notes say different things of.
fn difference(then: &str, now: &str) -> String {
    let lines = |note: &str| note.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (then, now) = (lines(then), lines(now));
    let first = then.symmetric_difference(&now).next();
    let path = first.and_then(|line| Some(&line[..=line.rfind('"')?]));
    path.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::artifact::pack;

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = dir.path().join("source");
            fs::create_dir_all(source.join("bin")).unwrap();
            let manifest = "artifact='org.example:a:1.0.0'\n[run]\ncommand=['bin/a']\n";
            fs::write(source.join("slice.toml"), manifest).unwrap();
            fs::write(source.join("bin/a"), "true").unwrap();
            symlink("a", source.join("bin/b")).unwrap();
            pack(&source, File::create(dir.path().join("archive")).unwrap()).unwrap();
            Self { dir }
        }

        /// The inode of a file, after unpacking if it has to be.
        fn unpacked(&self) -> u64 {
            let archive = File::open(self.dir.path().join("archive")).unwrap();
            let dir = self.tree();
            unpack_once(archive, &dir, &self.dir.path().join("fresh")).unwrap();
            assert!(!self.dir.path().join("fresh").exists());
            assert_eq!(fs::read_to_string(dir.join("bin/b")).unwrap(), "true");
            assert_eq!(fs::read_dir(dir.join("bin")).unwrap().count(), 2);
            fs::metadata(dir.join("slice.toml")).unwrap().ino()
        }

        fn tree(&self) -> PathBuf {
            self.dir.path().join("tree")
        }
    }

    #[test]
    fn a_tree_that_was_touched_is_unpacked_afresh_and_another_is_not() {
        type Change = fn(&Path);
        let overwrite: Change = |tree| {
            let file = tree.join("bin/a");
            let before = fs::metadata(&file).unwrap();
            let times = before.modified().unwrap();
            // The clock of the file system may take some milliseconds for a step.
            let scratch = tree.with_extension("scratch");
            let at = |about: fs::Metadata| (about.ctime(), about.ctime_nsec());
            while {
                fs::write(&scratch, "").unwrap();
                at(fs::metadata(&scratch).unwrap()) <= at(before.clone())
            } {}
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(&file, "evil").unwrap();
            // As long as before, and as old by what can be set.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
            File::open(&file).unwrap().set_modified(times).unwrap();
        };
        let changes: [(&str, Change); 8] = [
            ("overwritten", overwrite),
            ("replaced", |tree| {
                fs::write(tree.join("new"), "true").unwrap();
                fs::rename(tree.join("new"), tree.join("bin/a")).unwrap();
            }),
            ("removed", |tree| fs::remove_file(tree.join("bin/a")).unwrap()),
            ("added", |tree| fs::write(tree.join("bin/more"), "").unwrap()),
            ("made writable", |tree| {
                let mode = fs::Permissions::from_mode(0o644);
                fs::set_permissions(tree.join("bin/a"), mode).unwrap();
            }),
            ("led elsewhere", |tree| {
                fs::remove_file(tree.join("bin/b")).unwrap();
                symlink("../slice.toml", tree.join("bin/b")).unwrap();
            }),
            ("another directory", |tree| {
                fs::rename(tree, tree.with_extension("moved")).unwrap();
                symlink(tree.with_extension("moved"), tree).unwrap();
            }),
            ("a file", |tree| {
                fs::remove_dir_all(tree).unwrap();
                fs::write(tree, "").unwrap();
            }),
        ];
        for (what, change) in changes {
            let place = Place::new();
            let first = place.unpacked();
            assert_eq!(place.unpacked(), first, "nothing was changed");
            change(&place.tree());
            let second = place.unpacked();
            assert_ne!(second, first, "{what}: it is a fresh one");
            assert_eq!(place.unpacked(), second, "{what}: and stays");
        }
    }

    #[test]
    fn what_was_changed_is_named() {
        let place = Place::new();
        place.unpacked();
        let then = note(&place.tree()).unwrap();
        fs::write(place.tree().join("bin/new \"one\""), "").unwrap();
        let now = note(&place.tree()).unwrap();
        assert_eq!(difference(&then, &now), "\"bin/new \\\"one\\\"\"");
    }

    #[test]
    fn a_tree_of_another_run_of_the_machine_is_not_trusted() {
        let place = Place::new();
        let first = place.unpacked();
        let mark = mark_of(&place.tree());
        let noted = fs::read_to_string(&mark).unwrap();
        fs::write(&mark, noted.replacen(&fsio::boot_id(), "another", 1)).unwrap();
        assert_ne!(place.unpacked(), first);
        remove(&place.tree()).unwrap();
        assert!(!mark.exists() && !place.tree().exists());
        remove(&place.tree()).unwrap();
    }

    /// What the file system says of an entry, in the places of the note.
    fn told(text: &str, about: &fs::Metadata) -> String {
        let times = [(about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec())];
        let [modified, changed] = times.map(|(seconds, rest)| format!("{seconds}.{rest}"));
        text.replace("INODE", &about.ino().to_string())
            .replace("MODIFIED", &modified)
            .replace("CHANGED", &changed)
    }

    #[test]
    fn the_mark_of_a_whole_tree_is_written_and_read_as_it_was() {
        let place = Place::new();
        let inode = place.unpacked();
        let file = crate::frozen::kept("unpacked.whole");
        let mark = mark_of(&place.tree());
        assert_eq!(mark.file_name().unwrap(), "tree.whole");
        let lines = fs::read_to_string(&mark).unwrap();
        let mut general = lines.replacen(&fsio::boot_id(), "BOOT", 1);
        for name in ["bin/a", "bin/b", "slice.toml"] {
            let about = fs::symlink_metadata(place.tree().join(name)).unwrap();
            let said = told("INODE SIZE MODIFIED CHANGED", &about);
            let said = said.replace("SIZE", &about.size().to_string());
            general = general.replace(&said, &format!("INODE {} MODIFIED CHANGED", about.size()));
        }
        let bin = fs::metadata(place.tree().join("bin")).unwrap();
        let mode = |text: &str| text.replace("\"bin\" MODE", &format!("\"bin\" {:o}", bin.mode()));
        general = general.replace(&mode("\"bin\" MODE"), "\"bin\" MODE");
        file.holds(general.as_bytes());

        // One of the first release: the tree is taken for what it is.
        let mut written = Vec::new();
        for line in mode(&file.text()).replacen("BOOT", &fsio::boot_id(), 1).lines() {
            let name = line.split('"').nth(1);
            written.push(match name {
                Some(name) => told(line, &place.tree().join(name).symlink_metadata().unwrap()),
                None => line.to_owned(),
            });
        }
        fs::write(&mark, written.join("\n")).unwrap();
        if place.unpacked() != inode {
            file.broken("is not taken for the mark of a whole tree any more");
        }
    }
}
