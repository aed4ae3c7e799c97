//! Durable file operations.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Suffix of files that are not finished; removed when the node starts.
pub(crate) const TMP_SUFFIX: &str = ".tmp";

/// Makes creations, renames and removals in `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Gives a finished and synced file its name.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Writes a small file so that either the old or the new content is there.
pub(crate) fn replace_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(TMP_SUFFIX);
    let mut file = File::create(&tmp)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename_durably(Path::new(&tmp), path)
}
