//! `cargo xtask bench`: measurements beside others, of what is deployed: the
//! profile `dist`.

use anyhow::{Context, Result, bail};

use crate::{root, test};

/// What there is.
const PROGRAMS: [&str; 4] = ["peers", "state", "snapshot", "growth"];

/// The part of `peers` that is a package on its own: what it is measured beside takes as long
/// to build as all of the rest.
const PICKS: &str = "picks";

/// Builds and runs one of them.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((first, rest)) = arguments.split_first() else {
        bail!("bench what? There are: {}", PROGRAMS.join(", "));
    };
    if !PROGRAMS.contains(&first.as_str()) {
        bail!("there is no benchmark '{first}'; there are: {}", PROGRAMS.join(", "));
    }
    let asks_for_picks = rest.first().is_some_and(|part| part == PICKS);
    if first == "peers" && (asks_for_picks || rest.is_empty()) {
        picks(rest.get(1..).unwrap_or_default())?;
        if asks_for_picks {
            return Ok(());
        }
    }
    if first == "peers" && !test::install_package("etcd", "etcd-server") {
        bail!("etcd is not installed; Debian's package is etcd-server");
    }
    let packages = ["--package", "aether", "--package", "aether-benches"];
    crate::run("cargo", &[&["build", "--profile", "dist"], &packages[..]].concat())?;
    let program = root().join("target/dist").join(first);
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    crate::run(program.to_str().unwrap_or(first), &rest)
}

fn picks(arguments: &[String]) -> Result<()> {
    // A library that Pingora compresses with is built by it.
    if !test::install_package("cmake", "cmake") {
        bail!("cmake is not installed; Debian's package is cmake");
    }
    let manifest = root().join("benches/picks/Cargo.toml");
    let manifest = manifest.to_str().context("a path of text")?;
    let target = root().join("target/picks");
    let target = target.to_str().context("a path of text")?;
    let own = ["run", "--profile", "dist", "--manifest-path", manifest, "--target-dir", target];
    let arguments = arguments.iter().map(String::as_str);
    let all: Vec<&str> = own.into_iter().chain(["--"]).chain(arguments).collect();
    crate::run("cargo", &all)
}
