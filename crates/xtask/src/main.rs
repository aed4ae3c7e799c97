//! `cargo xtask …`: what is done to this repository.
//!
//! `test` is what CI runs. `lint` checks the rules that no compiler knows, `fuzz`
//! is a long run of the fuzz targets, `faults` are long runs of the tests that
//! break things, `sim` runs the update engine in virtual time, `docs` writes what
//! is made from the code, and `bench` measures beside others.

mod bench;
mod docs;
mod faults;
mod fuzz;
mod lint;
mod sim;
mod test;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask <command>

  test [FILTER…]   format, lint, clippy, all tests; FILTER goes to the test runner
  lint             the rules of this repository only
  fuzz [--cases N] [--seed N] [FILTER…]
                   the fuzz targets alone, with many cases, and how often each was run
  faults [linearizable|leases|power|kills|syncs|sim] [--seed N] [--seeds N]
                   clusters under faults for minutes; the environment chooses seed and
                   length (tests/e2e/linearizable.rs, durability.rs); sim is the simulation
                   of replicas, for a number of seeds
  sim [--seeds N] [--hours H] [--first SEED] | --seed SEED [--plant BUG] [--trace] | --planted
                   the update engine under simulation, over all cores; one seed again; or
                   how soon bugs that are put in on purpose are found
  docs             writes docs/reference/cli.md anew, from the program's own help
  figures          measures what the README and docs/performance.md state
  bench peers [PART…] [--rounds N] …
                   the replicated store beside etcd; installs etcd-server if it can
  bench peers picks [speed|exact|calls] [--rounds N] [--millis N]
                   the invoker's pick beside other load balancers, and whole calls of gRPC
                   beside tonic's own; installs cmake and valgrind if it can
  bench peers ingress [speed|idle|change] [--quick] …
                   the ingress beside HAProxy, nginx and Envoy, which it installs if it can;
                   without any PART all three
  bench state      what a large replicated state costs
  bench snapshot   what its snapshot costs on the way to a file and to a node
  bench growth     whether voters grow over a day of writes, as fast as they take them
  soak             the long run of the main job: 200,000 requests through one update
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("test") => test::run(&arguments[1..]),
        Some("lint") => lint::run(),
        Some("fuzz") => fuzz::run(&arguments[1..]),
        Some("faults") => faults::run(&arguments[1..]),
        Some("sim") => sim::sim(&arguments[1..]),
        Some("docs") => docs::run(),
        Some("soak") => test::soak(),
        Some("bench") => bench::run(&arguments[1..]),
        Some("figures") => test::figures(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).map(PathBuf::from).unwrap_or(own)
}

/// Runs a command in the workspace's folder and shows it.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    eprintln!("$ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("'{program} {}' failed: {status}", arguments.join(" "));
    }
    Ok(())
}
