//! `cargo xtask bench`: measurements beside others, in the release profile.

use anyhow::{Result, bail};

use crate::{root, test};

/// Builds and runs one of them.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((first, rest)) = arguments.split_first() else { bail!("bench what? There is: peers") };
    if first != "peers" {
        bail!("there is no benchmark '{first}'; there is: peers");
    }
    test::install_package("etcd", "etcd-server");
    let packages = ["--package", "aether", "--package", "aether-benches"];
    crate::run("cargo", &[&["build", "--release"], &packages[..]].concat())?;
    let program = root().join("target/release/peers");
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    crate::run(program.to_str().unwrap_or("peers"), &rest)
}
