//! Packs a directory into an archive: the same tree gives the same bytes, on
//! any machine and at any time, hence the same digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aether_core::manifest::Manifest;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use thiserror::Error;

use super::archive::{ArchiveError, Limits, MANIFEST_NAME, inspect_file};
use super::digest::Digest;

/// Why a directory could not be packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// A file could not be read, or the archive not written.
    #[error("{path} cannot be packed: {source}")]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither file, directory nor link.
    #[error("{0} is neither a file, a directory nor a link; remove it from the artifact")]
    Special(PathBuf),
    /// The result would be refused by everyone who unpacks it.
    #[error(transparent)]
    Refused(#[from] ArchiveError),
}

/// A packed artifact.
#[derive(Debug)]
pub struct Packed {
    /// sha256 of the archive.
    pub digest: Digest,
    /// Size of the archive in bytes.
    pub size_bytes: u64,
    /// Its `slice.toml`.
    pub manifest: Manifest,
    /// Odd things in it; see [`super::Contents`].
    pub warnings: Vec<String>,
}

/// Packs `dir` into the archive file `to`, and checks the result as a node
/// that unpacks it would, without unpacking it.
///
/// # Errors
/// When something cannot be read, is a special file, or would be refused.
pub fn pack_to_file(dir: &Path, to: &Path) -> Result<Packed, PackError> {
    let cannot = |source| PackError::Io { path: to.to_owned(), source };
    let mut out = File::create(to).map_err(cannot)?;
    let (digest, size_bytes) = pack(dir, &mut out)?;
    out.sync_all().map_err(cannot)?;
    let contents = inspect_file(to, &Limits::default())?;
    let (manifest, warnings) = (contents.manifest, contents.warnings);
    Ok(Packed { digest, size_bytes, manifest, warnings })
}

/// Packs `dir` into `out`; gives digest and size of what was written.
///
/// Entries are sorted by path, the manifest first, so that readers find it
/// without unpacking the rest. Times, owners and inode numbers are zero, modes
/// are 0755 for what anyone may execute and 0644 otherwise.
///
/// # Errors
/// When something cannot be read, or is a special file.
pub fn pack(dir: &Path, out: impl Write) -> Result<(Digest, u64), PackError> {
    let mut found = BTreeMap::new();
    collect(dir, Path::new(""), &mut found)?;
    let hashing = Hashing { out, hasher: Sha256::new(), bytes: 0 };
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(hashing, Compression::new(6));
    let mut tar = Builder::new(gzip);
    let manifest = found.remove_entry(MANIFEST_NAME.as_bytes());
    for (_, path) in manifest.into_iter().chain(found) {
        let at = dir.join(&path);
        append(&mut tar, &at, &path).map_err(|source| PackError::Io { path: at, source })?;
    }
    let written = tar.into_inner().and_then(|gzip| gzip.finish());
    let written = written.map_err(|source| PackError::Io { path: dir.to_owned(), source })?;
    Ok((Digest::finish(written.hasher), written.bytes))
}

/// Finds every path under `dir/under`, by its bytes.
fn collect(
    dir: &Path,
    under: &Path,
    found: &mut BTreeMap<Vec<u8>, PathBuf>,
) -> Result<(), PackError> {
    let at = dir.join(under);
    let cannot = |source| PackError::Io { path: at.clone(), source };
    for entry in fs::read_dir(&at).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let path = under.join(entry.file_name());
        let kind = entry.file_type().map_err(cannot)?;
        if !(kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            return Err(PackError::Special(entry.path()));
        }
        if kind.is_dir() {
            collect(dir, &path, found)?;
        }
        found.insert(path.as_os_str().as_bytes().to_vec(), path);
    }
    Ok(())
}

fn append<W: Write>(tar: &mut Builder<W>, at: &Path, path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(at)?;
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        return tar.append_link(&mut header, path, fs::read_link(at)?);
    }
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        return tar.append_data(&mut header, path, io::empty());
    }
    header.set_entry_type(EntryType::Regular);
    header.set_mode(if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    header.set_size(meta.len());
    // A file that grows or shrinks meanwhile must not break the entries after it.
    let mut content = File::open(at)?.take(meta.len());
    tar.append_data(&mut header, path, &mut content)?;
    match content.limit() {
        0 => Ok(()),
        _ => Err(io::Error::other("the file shrank while it was packed")),
    }
}

/// Passes bytes on and keeps their digest.
struct Hashing<W> {
    out: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::artifact::unpack;

    fn tree(dir: &Path, names: &[&str]) {
        fs::create_dir_all(dir.join("bin")).unwrap();
        for name in names {
            fs::write(dir.join(name), name).unwrap();
        }
        let manifest = "artifact='org.example:a:1.0.0'\n[run]\ncommand=['bin/a']\n";
        fs::write(dir.join("slice.toml"), manifest).unwrap();
        fs::set_permissions(dir.join("bin/a"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("a", dir.join("bin/b")).unwrap();
    }

    #[test]
    fn equal_trees_give_equal_bytes_and_are_restored() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("bin/{}", "x".repeat(200));
        tree(&dir.path().join("one"), &["bin/a", "z", &long]);
        tree(&dir.path().join("two"), &[&long, "z", "bin/a"]);
        let packed = |name: &str| {
            let file = dir.path().join(format!("{name}.tar.gz"));
            (pack_to_file(&dir.path().join(name), &file).unwrap(), fs::read(file).unwrap())
        };
        let (one, bytes) = packed("one");
        assert_eq!(bytes, packed("two").1);
        assert_eq!((one.digest, one.size_bytes), (Digest::of(&bytes), bytes.len() as u64));
        assert_eq!(one.manifest.artifact.to_string(), "org.example:a:1.0.0");

        let out = dir.path().join("out");
        unpack(&bytes[..], &out, &Limits::default()).unwrap();
        assert_eq!(fs::read_to_string(out.join("bin/b")).unwrap(), "bin/a");
        assert_eq!(fs::read_to_string(out.join(&long)).unwrap(), long);
        assert_eq!(fs::metadata(out.join("bin/a")).unwrap().permissions().mode() & 0o777, 0o555);
        assert_eq!(fs::metadata(out.join("z")).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn a_directory_without_a_manifest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let error = pack_to_file(&dir.path().join("d"), &dir.path().join("x")).unwrap_err();
        assert!(error.to_string().contains("slice.toml"), "{error}");
    }
}
