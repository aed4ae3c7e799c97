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
    Variant { flags, ..Variant::new(artifact, path) }.write(dir, binary)
}

/// One version of the example slice, with more of its manifest to be chosen.
#[derive(Debug, Clone)]
pub struct Variant<'a> {
    /// Coordinates that it is pushed under.
    pub artifact: &'a str,
    /// Where the ingress finds it.
    pub path: &'a str,
    /// What changes how it behaves. The manifest's substitutions apply.
    pub flags: &'a [&'a str],
    /// What a shell does before it becomes the slice, such as `ulimit`.
    pub before: Option<&'a str>,
    /// How long it has to end after the signal.
    pub grace: &'a str,
    /// How long calls in flight have to end before the signal.
    pub drain: &'a str,
}

impl<'a> Variant<'a> {
    /// The usual one.
    pub fn new(artifact: &'a str, path: &'a str) -> Self {
        Self { artifact, path, flags: &[], before: None, grace: "5s", drain: "10s" }
    }

    /// Writes a directory that can be pushed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path, binary: &Path) -> Result<PathBuf> {
        let Self { artifact, path, flags, before, grace, drain } = self;
        let quoted = |text: &str| format!("'{text}'");
        let mut command = Vec::new();
        if let Some(before) = before {
            let script = format!("{before} && exec \"$0\" \"$@\"");
            command = vec![quoted("/bin/sh"), quoted("-c"), quoted(&script)];
        }
        let binary = binary.display().to_string();
        command.extend([quoted(&binary), quoted("example-slice")]);
        command.extend(flags.iter().map(|flag| quoted(flag)));
        let manifest = format!(
            "artifact = '{artifact}'\n\n[run]\ncommand = [{}]\ngrace = '{grace}'\n\
             drain = '{drain}'\n\n[ready]\nhttp = '/ready'\ninterval = '200ms'\n\n\
             [[ingress]]\npath = '{path}'\n",
            command.join(", ")
        );
        write(dir, artifact, &[("slice.toml", &manifest)])
    }
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
