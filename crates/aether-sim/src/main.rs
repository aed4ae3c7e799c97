//! `cargo xtask sim`: long runs of the simulator, one seed again, and how soon
//! planted bugs are found.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use aether_sim::campaign;
use aether_sim::planted::Planted;
use aether_sim::scenario::Scenario;
use anyhow::{Context, Result, bail};

/// Seeds of a run that nobody gave a length.
const SEEDS: u64 = 1_000;

/// Campaigns of which the median is shown for each planted bug.
const ROUNDS: u64 = 5;
/// Seeds after which a planted bug counts as not found.
const FIND_MAX: u64 = 300;

#[derive(Default)]
struct Options {
    seeds: Option<u64>,
    hours: Option<f64>,
    seed: Option<u64>,
    first: u64,
    plant: Option<Planted>,
    planted: bool,
    trace: bool,
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seeds" => options.seeds = Some(value()?.parse()?),
            "--hours" => options.hours = Some(value()?.parse()?),
            "--seed" => options.seed = Some(value()?.parse()?),
            "--first" => options.first = value()?.parse()?,
            "--plant" => {
                options.plant = Some(value()?.parse().map_err(|e: String| anyhow::anyhow!(e))?);
            }
            "--planted" => options.planted = true,
            "--trace" => options.trace = true,
            other => bail!("there is no option '{other}'"),
        }
    }
    Ok(options)
}

fn main() -> Result<ExitCode> {
    let options = options()?;
    if let (Some(seed), true) = (options.seed, options.trace) {
        let outcome = aether_sim::run::run(&Scenario::of(seed), options.plant, true);
        outcome.lines.iter().for_each(|line| println!("{line}"));
    }
    if let Some(seed) = options.seed {
        return Ok(one(seed, options.plant));
    }
    match options.planted {
        true => Ok(planted(options.first)),
        false => Ok(many(&options)),
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
    let within = options.hours.map(|hours| Duration::from_secs_f64(hours * 3_600.0));
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
