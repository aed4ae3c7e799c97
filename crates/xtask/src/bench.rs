//! `cargo xtask bench`: measurements beside others, of what is deployed: the
//! profile `dist`.

use anyhow::{Result, bail};

use crate::{root, test};

/// What there is.
const PROGRAMS: [&str; 4] = ["peers", "state", "snapshot", "growth"];

/// Builds and runs one of them.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((first, rest)) = arguments.split_first() else {
        bail!("bench what? There are: {}", PROGRAMS.join(", "));
    };
    if !PROGRAMS.contains(&first.as_str()) {
        bail!("there is no benchmark '{first}'; there are: {}", PROGRAMS.join(", "));
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
