//! `cargo xtask sim`: the update engine under simulation, for long.

use anyhow::Result;

use crate::run;

/// Passes everything on to the simulator, which is built to be fast.
pub fn sim(arguments: &[String]) -> Result<()> {
    let mut all = vec!["run", "--quiet", "--release", "--package", "aether-sim", "--"];
    all.extend(arguments.iter().map(String::as_str));
    run("cargo", &all)
}
