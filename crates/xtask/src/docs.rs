//! `cargo xtask docs`: the documents that are made from the code. A test of the
//! command line fails when they are out of date.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

/// The reference of the command line.
const CLI: &str = "docs/reference/cli.md";

/// Builds the program and writes down what it says of itself.
pub fn run() -> Result<()> {
    crate::run("cargo", &["build", "--package", "aether", "--bin", "aether"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let program = target.join("debug/aether");
    let printed = Command::new(&program)
        .arg("reference")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !printed.status.success() {
        bail!("'{} reference' failed: {}", program.display(), printed.status);
    }
    let path = root().join(CLI);
    let known = std::fs::read(&path).unwrap_or_default();
    if known == printed.stdout {
        eprintln!("{CLI} was up to date");
        return Ok(());
    }
    std::fs::write(&path, printed.stdout).with_context(|| format!("cannot write {CLI}"))?;
    eprintln!("wrote {CLI}");
    Ok(())
}
