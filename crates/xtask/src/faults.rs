//! `cargo xtask faults`: long runs of the end-to-end tests that break things on
//! purpose.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::root;

/// One of the long runs.
struct Run {
    name: &'static str,
    /// The test that it is a long run of.
    test: &'static str,
    /// What makes it long, unless the environment says otherwise.
    settings: &'static [(&'static str, &'static str)],
    /// The variable that repeats a run.
    seed: &'static str,
}

const RUNS: &[Run] = &[
    Run {
        name: "linearizable",
        test: "linearizable::every_answer_",
        settings: &[
            ("AETHER_LINEARIZABLE_OPERATIONS", "100000"),
            ("AETHER_LINEARIZABLE_SECONDS", "180"),
            ("AETHER_LINEARIZABLE_HOLD_MS", "5000"),
        ],
        seed: "AETHER_LINEARIZABLE_SEED",
    },
    Run {
        name: "power",
        test: "durability::power_cut::a_power_cut_loses_",
        settings: &[("AETHER_POWER_ROUNDS", "25")],
        seed: "AETHER_DURABILITY_SEED",
    },
    Run {
        name: "kills",
        test: "durability::killed::",
        settings: &[("AETHER_KILL_ROUNDS", "200")],
        seed: "AETHER_DURABILITY_SEED",
    },
    Run {
        name: "syncs",
        test: "durability::syncs::",
        settings: &[("AETHER_SYNC_ROUNDS", "40")],
        seed: "AETHER_DURABILITY_SEED",
    },
];

/// Runs those that are named, or all.
pub fn run(names: &[String]) -> Result<()> {
    let known: Vec<&str> = RUNS.iter().map(|run| run.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no run '{unknown}', only: {}", known.join(", "));
    }
    let is_wanted = |run: &&Run| names.is_empty() || names.iter().any(|name| name == run.name);
    for run in RUNS.iter().filter(is_wanted) {
        long(run)?;
    }
    Ok(())
}

fn long(run: &Run) -> Result<()> {
    let mut command = Command::new("cargo");
    command
        .args(["nextest", "run", "--workspace", "--profile", "faults"])
        .args(["--success-output", "immediate"])
        .args(["--filterset", &format!("package(aether-tests) and test(/^{}/)", run.test)])
        .current_dir(root());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = (run.seed, now.to_string());
    let settings = run.settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
    for (name, value) in settings.chain([seed]) {
        let value = std::env::var(name).unwrap_or(value);
        eprint!("{name}={value} ");
        command.env(name, value);
    }
    eprintln!("{command:?}");
    let status = command.status()?;
    if !status.success() {
        bail!("{} failed: {status}; its output has the seed that repeats it", run.name);
    }
    Ok(())
}
