//! Artifacts for the demo and the tests: directories with a `slice.toml`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The coordinates that the example slice is pushed under.
pub const EXAMPLE: &str = "org.example:hello";

/// Writes a directory that can be pushed as one version of the example slice,
/// which the main binary carries. `flags` change how it behaves.
///
/// # Errors
/// When the directory cannot be written.
pub fn example_slice(dir: &Path, binary: &Path, version: &str, flags: &[&str]) -> Result<PathBuf> {
    example_slice_as(dir, binary, &format!("{EXAMPLE}:{version}"), "/", flags)
}

/// Likewise under coordinates of the caller's, reached at a path of the
/// ingress.
///
/// # Errors
/// When the directory cannot be written.
pub fn example_slice_as(
    dir: &Path,
    binary: &Path,
    artifact: &str,
    path: &str,
    flags: &[&str],
) -> Result<PathBuf> {
    let quoted = |text: &str| format!("'{text}'");
    let binary = binary.display().to_string();
    let mut command = vec![quoted(&binary), quoted("example-slice")];
    command.extend(flags.iter().map(|flag| quoted(flag)));
    let manifest = format!(
        "artifact = '{artifact}'\n\n[run]\ncommand = [{}]\ngrace = '5s'\ndrain = '10s'\n\n\
         [ready]\nhttp = '/ready'\ninterval = '200ms'\n\n[[ingress]]\npath = '{path}'\n",
        command.join(", ")
    );
    write(dir, artifact, &[("slice.toml", &manifest)])
}

/// Writes a directory with these files below `dir`.
///
/// # Errors
/// When it cannot be written.
pub fn write(dir: &Path, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let path = dir.join("artifacts").join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    for (file, text) in files {
        let file = path.join(file);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(path)
}
