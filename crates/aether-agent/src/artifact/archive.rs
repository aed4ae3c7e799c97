//! Reads an archive (tar.gz) entry by entry and refuses whatever could leave
//! its tree, surprise a reader, or fill the disk.
//!
//! The tar crate is used in raw mode: its own handling of extension headers
//! would read them whole into memory, and would let a PAX record change the
//! size of an entry, so that two parsers see two different archives. Here
//! extension headers are bounded, and one that disagrees is refused.
//!
//! This module writes nothing; a [`Sink`] gets what was accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aether_core::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
use flate2::read::GzDecoder;
use tar::{Archive, EntryType, PaxExtensions};
use thiserror::Error;

use super::look::{Looks, hidden, spelled};

/// Name of the manifest inside an archive.
pub(crate) const MANIFEST_NAME: &str = "slice.toml";

/// Longest extension header (a long name, PAX records). Names are limited
/// further below; the rest is room for time stamps and attributes.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// Most warnings kept of one archive: they are for people.
const WARNINGS_MAX: usize = 20;

/// What an archive may cost at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries, links and directories included, also those that are only named
    /// in the paths of others.
    pub entries_max: u32,
    /// Bytes of the unpacked tar stream, headers included.
    pub unpacked_bytes_max: u64,
    /// Bytes of one path.
    pub path_bytes_max: usize,
}

impl Default for Limits {
    /// 100,000 entries, 4 GiB, paths of 1,024 bytes: above what services ship,
    /// below what harms a node.
    fn default() -> Self {
        Self { entries_max: 100_000, unpacked_bytes_max: 4 << 30, path_bytes_max: 1_024 }
    }
}

/// Why an archive was not accepted.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// Not a gzipped tar, truncated, or damaged.
    #[error(
        "the archive cannot be read: {0}; make it with 'aether artifact push DIR' or 'tar czf'"
    )]
    Unreadable(io::Error),
    /// What was accepted could not be written.
    #[error("{path} cannot be unpacked: {source}")]
    Write {
        /// The entry or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One entry is refused, and with it the archive.
    #[error("entry '{entry}' {problem}; remove it and pack the artifact again")]
    Entry {
        /// Path of the entry as far as it can be shown.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More entries than allowed, or more directories around them.
    #[error("the archive has more than {0} entries")]
    TooMany(u32),
    /// Unpacks to more bytes than allowed.
    #[error("the archive unpacks to more than {0} bytes")]
    TooLarge(u64),
    /// There is no `slice.toml` at the top.
    #[error("the archive has no slice.toml at its top; add one that says how to run the artifact")]
    NoManifest,
    /// The `slice.toml` cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// What an accepted archive holds.
#[derive(Debug)]
pub struct Contents {
    /// Its `slice.toml`.
    pub manifest: Manifest,
    /// Number of entries.
    pub entries: u32,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Odd things that were let through, such as names that differ only in
    /// case; at most 20.
    pub warnings: Vec<String>,
}

/// Checks a whole archive without unpacking it.
///
/// # Errors
/// As unpacking it would.
pub fn inspect(archive: impl Read, limits: &Limits) -> Result<Contents, ArchiveError> {
    struct Nowhere;
    impl Sink for Nowhere {
        fn take(&mut self, _path: &Path, item: Item<'_>) -> io::Result<()> {
            match item {
                Item::File { data, .. } => io::copy(data, &mut io::sink()).map(drop),
                _ => Ok(()),
            }
        }
    }
    walk(archive, limits, &mut Nowhere)
}

/// One accepted entry.
pub(crate) enum Item<'a> {
    /// A directory; may come after entries inside of it, and only once.
    Directory,
    /// A regular file.
    File { executable: bool, data: &'a mut dyn Read },
    /// A symbolic link whose target, read as text, stays inside the tree.
    Symlink { target: &'a Path },
    /// Another name of a file that came before.
    Hardlink { target: &'a Path },
}

/// Takes accepted entries, in the order of the archive. Parents of an entry
/// are directories, named before or not, and never links.
pub(crate) trait Sink {
    fn take(&mut self, path: &Path, item: Item<'_>) -> io::Result<()>;
}

/// Feeds every entry to `sink`, or says why the archive is refused.
pub(crate) fn walk(
    archive: impl Read,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<Contents, ArchiveError> {
    let capped = Capped { inner: GzDecoder::new(archive), left: limits.unpacked_bytes_max };
    let unreadable = |error| unreadable(error, limits);
    let mut tar = Archive::new(capped);
    let mut walker = Walker { limits, sink, tree: Tree::default(), manifest: None, file_bytes: 0 };
    let mut names = Names::default();
    let mut entries = 0;
    for entry in tar.entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        entries += 1;
        if entries > limits.entries_max {
            return Err(ArchiveError::TooMany(limits.entries_max));
        }
        let kind = entry.header().entry_type();
        if is_extension(kind) {
            names.read(kind, &mut entry).map_err(|problem| match problem {
                Problem::Io(error) => unreadable(error),
                Problem::Refused(problem) => refused(kind_name(kind), problem),
            })?;
        } else {
            walker.entry(&mut entry, std::mem::take(&mut names))?;
        }
        // Each directory that is only known as a parent costs what an entry does.
        if walker.tree.kinds.len() as u64 > u64::from(limits.entries_max) {
            return Err(ArchiveError::TooMany(limits.entries_max));
        }
    }
    check_end(&mut tar.into_inner(), limits)?;
    let manifest = walker.manifest.ok_or(ArchiveError::NoManifest)?;
    let (file_bytes, warnings) = (walker.file_bytes, walker.tree.warnings);
    Ok(Contents { manifest, entries, file_bytes, warnings })
}

/// Reads what comes after the last entry: zeros, and the checksum over all.
fn check_end(rest: &mut impl Read, limits: &Limits) -> Result<(), ArchiveError> {
    let mut block = [0; 4_096];
    loop {
        match rest.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(read) if block[..read].iter().all(|byte| *byte == 0) => {}
            // Other programs would read on, and find another archive.
            Ok(_) => {
                let problem = "more content after the end of the archive";
                let error = io::Error::new(io::ErrorKind::InvalidData, problem);
                return Err(ArchiveError::Unreadable(error));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error, limits)),
        }
    }
}

struct Walker<'a> {
    limits: &'a Limits,
    sink: &'a mut dyn Sink,
    tree: Tree,
    manifest: Option<Manifest>,
    file_bytes: u64,
}

impl Walker<'_> {
    /// One entry that isn't an extension header, with what those before it said.
    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        names: Names,
    ) -> Result<(), ArchiveError> {
        let kind = entry.header().entry_type();
        let raw = names.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let shown: String = String::from_utf8_lossy(&raw).chars().take(200).collect();
        let shown = spelled(&shown);
        let refuse = |problem: String| refused(&shown, problem);
        let path = relative_path(&raw, self.limits.path_bytes_max).map_err(refuse)?;
        if path.as_os_str().is_empty() {
            return match kind {
                EntryType::Directory => Ok(()), // `./`, as `tar czf x.tgz .` writes it.
                _ => Err(refuse("has no name".to_owned())),
            };
        }
        let size = entry.header().entry_size().map_err(ArchiveError::Unreadable)?;
        if names.size.is_some_and(|other| other != size) {
            return Err(refuse("has two different sizes, in its header and a PAX record".into()));
        }
        if kind == EntryType::Regular || kind == EntryType::Continuous {
            self.tree.add(&path, Kind::File).map_err(refuse)?;
            return self.file(entry, &path, size);
        }
        if size != 0 {
            return Err(refuse("has content although it is no file".to_owned()));
        }
        if kind == EntryType::Directory {
            self.tree.add(&path, Kind::Directory).map_err(refuse)?;
            return take(self.sink, &path, Item::Directory, self.limits);
        }
        if kind != EntryType::Symlink && kind != EntryType::Link {
            return Err(refuse(format!("is a {}, which is refused", kind_name(kind))));
        }
        let target = names
            .link
            .or_else(|| entry.header().link_name_bytes().map(|name| name.into_owned()))
            .ok_or_else(|| refuse("is a link without a target".to_owned()))?;
        let target = self.link(kind, &path, &target).map_err(refuse)?;
        let item = match kind {
            EntryType::Symlink => Item::Symlink { target: &target },
            _ => Item::Hardlink { target: &target },
        };
        take(self.sink, &path, item, self.limits)
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
        size: u64,
    ) -> Result<(), ArchiveError> {
        self.file_bytes += size;
        let mode = entry.header().mode().map_err(ArchiveError::Unreadable)?;
        if mode & 0o7000 != 0 {
            let path = path.display();
            self.tree.warn(format!("'{path}': setuid, setgid and sticky bits are dropped"));
        }
        let mut data = Exact { inner: entry, left: size };
        if path != Path::new(MANIFEST_NAME) {
            let item = Item::File { executable: mode & 0o111 != 0, data: &mut data };
            return take(self.sink, path, item, self.limits);
        }
        if size > MANIFEST_BYTES_MAX as u64 {
            return Err(ManifestError::TooLong(usize::try_from(size).unwrap_or(usize::MAX)).into());
        }
        let mut text = String::new();
        data.read_to_string(&mut text).map_err(|error| unreadable(error, self.limits))?;
        self.manifest = Some(Manifest::parse(&text)?);
        let item = Item::File { executable: false, data: &mut text.as_bytes() };
        take(self.sink, path, item, self.limits)
    }

    /// Checks a link, and gives its target: of a symbolic link as it stands, of
    /// a hard link the path that was checked.
    fn link(&mut self, kind: EntryType, path: &Path, target: &[u8]) -> Result<PathBuf, String> {
        if kind == EntryType::Symlink {
            check_symlink(path, target, self.limits.path_bytes_max)?;
            self.tree.add(path, Kind::Link)?;
            return Ok(PathBuf::from(String::from_utf8_lossy(target).into_owned()));
        }
        let target = relative_path(target, self.limits.path_bytes_max)
            .map_err(|problem| format!("is a hard link whose target {problem}"))?;
        if self.tree.kinds.get(&target) != Some(&Kind::File) {
            return Err("is a hard link to no earlier file of the archive".to_owned());
        }
        self.tree.add(path, Kind::File)?;
        Ok(target)
    }
}

fn take(
    sink: &mut dyn Sink,
    path: &Path,
    item: Item<'_>,
    limits: &Limits,
) -> Result<(), ArchiveError> {
    sink.take(path, item).map_err(|source| match source.kind() {
        // These come from the archive's side of the copy.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ArchiveError::Unreadable(source)
        }
        io::ErrorKind::FileTooLarge => unreadable(source, limits),
        _ => ArchiveError::Write { path: path.to_owned(), source },
    })
}

fn refused(entry: &str, problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Entry { entry: entry.to_owned(), problem: problem.into() }
}

fn unreadable(error: io::Error, limits: &Limits) -> ArchiveError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => ArchiveError::TooLarge(limits.unpacked_bytes_max),
        _ => ArchiveError::Unreadable(error),
    }
}

/// Ends with an error, not an end of file, after so many bytes.
struct Capped<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, "archive too large"))?;
        Ok(read)
    }
}

/// The content of an entry: an early end of the archive is an error.
struct Exact<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if read == 0 && !buffer.is_empty() && self.left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        Ok(read)
    }
}

/// What is at a path of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Named by an entry of its own.
    Directory,
    /// Only known as the parent of another entry.
    Implied,
    File,
    Link,
}

/// The tree as it grows. The destination is fresh and private, so this is all
/// that there is in it.
#[derive(Default)]
struct Tree {
    kinds: BTreeMap<PathBuf, Kind>,
    lower: BTreeSet<String>,
    looks: Looks,
    warnings: Vec<String>,
}

impl Tree {
    fn add(&mut self, path: &Path, kind: Kind) -> Result<(), String> {
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            match self.kinds.get(parent) {
                None => self.insert(parent, Kind::Implied)?,
                Some(Kind::Directory | Kind::Implied) => {}
                Some(Kind::File) => return Err("lies under a file".to_owned()),
                Some(Kind::Link) => return Err("lies under a link".to_owned()),
            }
        }
        match (self.kinds.get(path), kind) {
            (None, _) => self.insert(path, kind)?,
            (Some(Kind::Implied), Kind::Directory) => {
                self.kinds.insert(path.to_owned(), kind);
            }
            (Some(_), _) => return Err("appears twice".to_owned()),
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, kind: Kind) -> Result<(), String> {
        let earlier = self.kinds.keys().filter_map(|path| path.to_str());
        if let Some(other) = self.looks.add(&path.to_string_lossy(), earlier) {
            return Err(format!("looks like another name of the archive, '{other}'"));
        }
        if !self.lower.insert(path.to_string_lossy().to_lowercase()) {
            self.warn(format!("'{}' differs from another name only in case", path.display()));
        }
        self.kinds.insert(path.to_owned(), kind);
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        }
    }
}

/// Reads a path of the archive: relative, without `..`; `.` and a trailing
/// slash are dropped.
fn relative_path(raw: &[u8], bytes_max: usize) -> Result<PathBuf, String> {
    let text = checked_text(raw, bytes_max)?;
    if text.starts_with('/') {
        return Err("has an absolute path".to_owned());
    }
    let mut path = PathBuf::new();
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err("has a path with '..'".to_owned());
        }
        if part.len() > 255 {
            return Err("has a name longer than 255 bytes".to_owned());
        }
        path.push(part);
    }
    Ok(path)
}

/// Checks the target of the symbolic link at `link`. It may hold `..` as long
/// as it stays inside; what it resolves to is checked again after unpacking,
/// because other links on the way may change the meaning of `..`.
fn check_symlink(link: &Path, raw: &[u8], bytes_max: usize) -> Result<(), String> {
    let text =
        checked_text(raw, bytes_max).map_err(|problem| format!("is a link that {problem}"))?;
    let outside = || format!("is a link to '{text}', outside of the artifact");
    if text.is_empty() || text.starts_with('/') {
        return Err(outside());
    }
    let mut depth = link.components().count() - 1;
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        depth = match part {
            ".." => depth.checked_sub(1).ok_or_else(outside)?,
            _ => depth + 1,
        };
    }
    Ok(())
}

fn checked_text(raw: &[u8], bytes_max: usize) -> Result<&str, String> {
    if raw.len() > bytes_max {
        return Err(format!("has a path longer than {bytes_max} bytes"));
    }
    let text = std::str::from_utf8(raw).map_err(|_| "has a path that is not UTF-8".to_owned())?;
    if text.chars().any(char::is_control) {
        return Err("has a control character in its path".to_owned());
    }
    if let Some(letter) = text.chars().find(|letter| hidden(*letter)) {
        let code = u32::from(letter);
        return Err(format!("has a character in its path that cannot be seen, U+{code:04X}"));
    }
    Ok(text)
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Char | EntryType::Block => "device node",
        EntryType::Fifo => "named pipe",
        EntryType::GNUSparse => "sparse file",
        EntryType::GNULongName | EntryType::GNULongLink => "GNU long name",
        EntryType::XHeader | EntryType::XGlobalHeader => "PAX header",
        _ => "special entry",
    }
}

enum Problem {
    Io(io::Error),
    Refused(String),
}

impl From<&str> for Problem {
    fn from(text: &str) -> Self {
        Self::Refused(text.to_owned())
    }
}

/// What the extension headers before an entry say of it.
#[derive(Default)]
struct Names {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Names {
    fn read(&mut self, kind: EntryType, entry: &mut impl Read) -> Result<(), Problem> {
        let mut bytes = Vec::new();
        entry.take(EXTENSION_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Problem::Io)?;
        if bytes.len() as u64 > EXTENSION_BYTES_MAX {
            return Err("is longer than 64 KiB".into());
        }
        match kind {
            EntryType::GNULongName => set(&mut self.path, until_nul(bytes)),
            EntryType::GNULongLink => set(&mut self.link, until_nul(bytes)),
            EntryType::XHeader => self.read_pax(&bytes),
            // Written by `git archive`, for a comment. Anything that would
            // change later entries is refused.
            _ => {
                let mut all = Self::default();
                all.read_pax(&bytes)?;
                match all {
                    Self { path: None, link: None, size: None } => Ok(()),
                    _ => Err("changes all later entries".into()),
                }
            }
        }
    }

    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        for record in PaxExtensions::new(bytes) {
            let record = record.map_err(Problem::Io)?;
            match record.key_bytes() {
                b"path" => set(&mut self.path, record.value_bytes().to_vec())?,
                b"linkpath" => set(&mut self.link, record.value_bytes().to_vec())?,
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    set(&mut self.size, size.ok_or("has a size that is no number")?)?;
                }
                key if key.starts_with(b"GNU.sparse") => return Err("is of a sparse file".into()),
                _ => {} // Times, owners, attributes: not restored anyway.
            }
        }
        Ok(())
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), Problem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("says the same thing twice".into()),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Opens an archive's file and checks it whole; see [`inspect`].
pub(crate) fn inspect_file(path: &Path, limits: &Limits) -> Result<Contents, ArchiveError> {
    inspect(File::open(path).map_err(ArchiveError::Unreadable)?, limits)
}
