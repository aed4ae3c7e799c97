//! `cargo xtask faults`: long runs of the tests that break things on purpose.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::root;

/// One of the long runs.
struct Run {
    name: &'static str,
    /// The test that it is a long run of.
    test: &'static str,
    /// Where that is.
    package: &'static str,
    /// What makes it long, unless the environment says otherwise.
    settings: &'static [(&'static str, &'static str)],
    /// The variable that repeats a run.
    seed: &'static str,
}

/// With leases and without.
const LINEARIZABLE: &[(&str, &str)] = &[
    ("AETHER_LINEARIZABLE_OPERATIONS", "100000"),
    ("AETHER_LINEARIZABLE_SECONDS", "180"),
    ("AETHER_LINEARIZABLE_HOLD_MS", "5000"),
];

const RUNS: &[Run] = &[
    Run {
        name: "linearizable",
        test: "linearizable::every_answer_",
        package: "aether-tests",
        settings: LINEARIZABLE,
        seed: "AETHER_LINEARIZABLE_SEED",
    },
    Run {
        name: "leases",
        test: "linearizable::leases_",
        package: "aether-tests",
        settings: LINEARIZABLE,
        seed: "AETHER_LINEARIZABLE_SEED",
    },
    Run {
        name: "power",
        test: "durability::power_cut::a_power_cut_loses_",
        package: "aether-tests",
        settings: &[("AETHER_POWER_ROUNDS", "25")],
        seed: "AETHER_DURABILITY_SEED",
    },
    Run {
        name: "kills",
        test: "durability::killed::",
        package: "aether-tests",
        settings: &[("AETHER_KILL_ROUNDS", "200")],
        seed: "AETHER_DURABILITY_SEED",
    },
    Run {
        name: "syncs",
        test: "durability::syncs::",
        package: "aether-tests",
        settings: &[("AETHER_SYNC_ROUNDS", "40")],
        seed: "AETHER_DURABILITY_SEED",
    },
    Run {
        name: "sim",
        test: "sim::tests::whatever_goes_wrong_",
        package: "aether-replica",
        settings: &[(SIM_SEEDS, "1000")],
        seed: "AETHER_SIM_SEED",
    },
];

/// How many seeds are simulated.
const SIM_SEEDS: &str = "AETHER_SIM_SEEDS";

/// Runs those that are named, or all; `--seed N` repeats one, and `--seeds N` is
/// how many are simulated.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut names, mut given) = (Vec::new(), Given::default());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let to = match argument.as_str() {
            "--seed" => &mut given.seed,
            "--seeds" => &mut given.seeds,
            _ => {
                names.push(argument.clone());
                continue;
            }
        };
        let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
        *to = Some(text.parse().with_context(|| format!("{argument} {text} is no number"))?);
    }
    let known: Vec<&str> = RUNS.iter().map(|run| run.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no run '{unknown}', only: {}", known.join(", "));
    }
    let is_wanted = |run: &&Run| names.is_empty() || names.iter().any(|name| name == run.name);
    for run in RUNS.iter().filter(is_wanted) {
        long(run, &given)?;
    }
    Ok(())
}

/// What the command line says of settings.
#[derive(Default)]
struct Given {
    seed: Option<u64>,
    seeds: Option<u64>,
}

fn long(run: &Run, given: &Given) -> Result<()> {
    // End-to-end tests spawn the binary, which is another package's.
    let scope: &[&str] = match run.package {
        "aether-tests" => &["--workspace"],
        package => &["--package", package],
    };
    let mut command = Command::new("cargo");
    command
        .args(["nextest", "run", "--profile", "faults"])
        .args(scope)
        .args(["--success-output", "immediate"])
        .args(["--filterset", &format!("package({}) and test(/^{}/)", run.package, run.test)])
        .current_dir(root());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = (run.seed, now.to_string());
    let settings = run.settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
    for (name, default) in settings.chain([seed]) {
        let given = match name {
            SIM_SEEDS => given.seeds,
            _ if name == run.seed => given.seed,
            _ => None,
        };
        let value = given.map(|number| number.to_string());
        let value = value.or_else(|| std::env::var(name).ok()).unwrap_or(default);
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
