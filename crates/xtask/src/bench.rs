//! `cargo xtask bench`: measurements beside others, of what is deployed: the
//! profile `dist`.

use anyhow::{Context, Result, bail};

use crate::{root, test};

/// What there is.
const PROGRAMS: [&str; 4] = ["peers", "state", "snapshot", "growth"];

/// The part of `peers` that is a package on its own: what it is measured beside takes as long
/// to build as all of the rest.
const PICKS: &str = "picks";

/// The part of `peers` that is measured beside other proxies.
const INGRESS: &str = "ingress";

/// Programs of it, and their packages of Debian's.
const PROXIES: [(&str, &str); 3] =
    [("haproxy", "haproxy"), ("nginx", "nginx-light"), ("h2load", "nghttp2-client")];

/// Builds and runs one of them.
pub fn run(arguments: &[String]) -> Result<()> {
    let Some((first, rest)) = arguments.split_first() else {
        bail!("bench what? There are: {}", PROGRAMS.join(", "));
    };
    if !PROGRAMS.contains(&first.as_str()) {
        bail!("there is no benchmark '{first}'; there are: {}", PROGRAMS.join(", "));
    }
    if first == "peers" {
        return peers(rest);
    }
    build(first)?;
    run_built(first, rest)
}

/// All parts without any.
fn peers(arguments: &[String]) -> Result<()> {
    let part = arguments.first().map_or("", String::as_str);
    if part == PICKS || part.is_empty() {
        picks(arguments.get(1..).unwrap_or_default())?;
    }
    if part == PICKS {
        return Ok(());
    }
    if part != INGRESS && !test::install_package("etcd", "etcd-server") {
        bail!("etcd is not installed; Debian's package is etcd-server");
    }
    let needs_proxies = part == INGRESS || part.is_empty();
    if let Some((program, package)) = PROXIES
        .iter()
        .find(|(program, package)| needs_proxies && !test::install_package(program, package))
    {
        bail!("{program} is not installed; Debian's package is {package}");
    }
    build("peers")?;
    if part != INGRESS {
        run_built("peers", arguments)?;
    }
    if needs_proxies {
        let envoy = test::install_envoy()?.display().to_string();
        let own = [INGRESS, "--envoy", &envoy].map(str::to_owned);
        let rest = arguments.get(1..).unwrap_or_default();
        run_built("peers", &[&own[..], rest].concat())?;
    }
    Ok(())
}

/// That program, and Aether's.
fn build(program: &str) -> Result<()> {
    let packages = ["--package", "aether", "--package", "aether-benches"];
    let programs = ["--bin", "aether", "--bin", program];
    crate::run("cargo", &[&["build", "--profile", "dist"], &packages[..], &programs].concat())
}

fn run_built(name: &str, arguments: &[String]) -> Result<()> {
    let program = root().join("target/dist").join(name);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    crate::run(program.to_str().unwrap_or(name), &arguments)
}

fn picks(arguments: &[String]) -> Result<()> {
    // A library that Pingora compresses with is built by the one; the other counts
    // instructions.
    for program in ["cmake", "valgrind"] {
        if !test::install_package(program, program) {
            bail!("{program} is not installed; Debian's package is {program}");
        }
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
