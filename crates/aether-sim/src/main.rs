//! `cargo xtask sim`: long runs of the simulator, one seed again, and how soon
//! planted bugs are found.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use aether_sim::campaign;
use aether_sim::planted::Planted;
use aether_sim::scenario::Scenario;
use anyhow::{Context, Result, bail, ensure};

/// Seeds of a run that nobody gave a length.
const SEEDS: u64 = 1_000;

/// Campaigns of which the median is shown for each planted bug.
const ROUNDS: u64 = 5;
/// Seeds after which a planted bug counts as not found.
const FIND_MAX: u64 = 300;

#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    hours: Option<Duration>,
    seed: Option<u64>,
    first: u64,
    plant: Option<Planted>,
    planted: bool,
    trace: bool,
}

const USAGE: &str = "\
The update engine under simulation.

  [--seeds N] [--hours H] [--first SEED] [--plant BUG]
      so many seeds (1,000), or for so long, over all cores, from SEED (0) on
  --seed SEED [--plant BUG] [--trace]
      one seed again; with --trace all that happened in it
  --planted [--first SEED]
      each bug that can be planted, and the median of the seeds until it is found";

/// What to do, or nothing where help is asked for.
fn options() -> Result<Option<Options>> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        let whole = |text: String| {
            text.parse::<u64>().with_context(|| format!("{argument}: '{text}' is no whole number"))
        };
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--seeds" => options.seeds = Some(whole(value()?)?),
            "--hours" => options.hours = Some(hours(&value()?)?),
            "--seed" => options.seed = Some(whole(value()?)?),
            "--first" => options.first = whole(value()?)?,
            "--plant" => {
                options.plant = Some(value()?.parse().map_err(|e: String| anyhow::anyhow!(e))?);
            }
            "--planted" => options.planted = true,
            "--trace" => options.trace = true,
            other => bail!("there is no option '{other}'"),
        }
    }
    ensure!(options.seeds != Some(0), "--seeds 0 would simulate nothing");
    ensure!(!options.trace || options.seed.is_some(), "--trace needs --seed");
    Ok(Some(options))
}

fn hours(text: &str) -> Result<Duration> {
    let hours: f64 = text.parse().with_context(|| format!("--hours: '{text}' is no number"))?;
    ensure!(hours > 0.0, "--hours {text} would simulate nothing");
    Duration::try_from_secs_f64(hours * 3_600.0).with_context(|| format!("--hours {text}"))
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("aether-sim: {error:#}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let (Some(seed), true) = (options.seed, options.trace) {
        let outcome = aether_sim::run::run(&Scenario::of(seed), options.plant, true);
        outcome.lines.iter().for_each(|line| println!("{line}"));
    }
    match options {
        Options { seed: Some(seed), plant, .. } => one(seed, plant),
        Options { planted: true, first, .. } => planted(first),
        options => many(&options),
    }
}

fn one(seed: u64, plant: Option<Planted>) -> ExitCode {
    match campaign::explain(seed, plant) {
        Some(text) => {
            print!("{text}");
            ExitCode::FAILURE
        }
        None => {
            let outcome = aether_sim::run::seed(seed, plant);
            println!(
                "seed {seed}: all invariants hold; {} updates, {} entries, {} steps, {} s of \
                 virtual time, trace {:016x}",
                outcome.updates,
                outcome.entries,
                outcome.steps,
                outcome.virtual_ms / 1_000,
                outcome.trace
            );
            ExitCode::SUCCESS
        }
    }
}

fn many(options: &Options) -> ExitCode {
    let within = options.hours;
    let seeds = options.seeds.unwrap_or(if within.is_some() { u64::MAX } else { SEEDS });
    let began = Instant::now();
    let totals = campaign::run(options.first, seeds, within, options.plant);
    println!(
        "{} seeds, {} updates, {} entries, {} steps, {:.1} h of virtual time in {:.1} s: {} violations",
        totals.seeds,
        totals.updates,
        totals.entries,
        totals.steps,
        totals.virtual_ms as f64 / 3_600_000.0,
        began.elapsed().as_secs_f64(),
        totals.failed.len()
    );
    let Some(first) = totals.failed.first() else { return ExitCode::SUCCESS };
    for seed in &totals.failed {
        if let Some(violation) = aether_sim::run::seed(*seed, options.plant).violation {
            println!("seed {seed}: {}: {}", violation.invariant, violation.detail);
        }
    }
    print!("{}", campaign::explain(*first, options.plant).unwrap_or_default());
    ExitCode::FAILURE
}

fn planted(first: u64) -> ExitCode {
    let mut all_found = true;
    println!("{:<32} {:>7} {:>6}  found by", "planted bug", "median", "worst");
    for bug in Planted::ALL {
        let mut found = Vec::new();
        let mut by = std::collections::BTreeSet::new();
        for round in 0..ROUNDS {
            match campaign::seeds_to_find(*bug, first + round * FIND_MAX, FIND_MAX) {
                Some((seeds, outcome)) => {
                    found.push(seeds);
                    by.extend(outcome.violation.map(|violation| violation.invariant));
                }
                None => found.push(u64::MAX),
            }
        }
        found.sort_unstable();
        let said = |n: u64| if n == u64::MAX { "-".to_owned() } else { n.to_string() };
        let (median, worst) = (found[found.len() / 2], found[found.len() - 1]);
        all_found &= median != u64::MAX;
        let by: Vec<&str> = by.into_iter().collect();
        println!("{:<32} {:>7} {:>6}  {}", bug.as_str(), said(median), said(worst), by.join(", "));
    }
    if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
