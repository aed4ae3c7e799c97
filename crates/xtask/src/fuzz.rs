//! `cargo xtask fuzz`: a long run of the fuzz targets alone, and how often each
//! was run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::root;

/// Cases of a target of usual cost unless asked otherwise: forty times those of
/// the normal suite, which takes some minutes.
const CASES: u32 = 10_000;

/// What a line begins with that says how often a target was run; the targets
/// print it (`crates/aether-fuzz`).
const COUNT_PREFIX: &str = "fuzzed ";

/// Executions of one target, and the milliseconds they took.
type Counts = BTreeMap<String, (u64, u64)>;

/// Runs the targets with `--cases N` cases, and with `--seed N` the same inputs
/// as another run; anything else filters them by name.
pub fn run(arguments: &[String]) -> Result<()> {
    let mut arguments = arguments.iter();
    let (mut cases, mut seed, mut filters) = (CASES.to_string(), None, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut value = || {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse::<u64>().with_context(|| format!("{argument} {text} is no number"))?;
            Ok::<_, anyhow::Error>(text.clone())
        };
        match argument.as_str() {
            "--cases" => cases = value()?,
            "--seed" => seed = Some(value()?),
            other if other.starts_with('-') => bail!("{other} is unknown; see 'cargo xtask'"),
            filter => filters.push(filter.to_owned()),
        }
    }
    let mut command = Command::new("cargo");
    command
        .args(["nextest", "run", "--workspace", "--profile", "fuzz", "--no-fail-fast"])
        .args(["--success-output", "immediate", "--filterset", "test(/(^|::)fuzz::/)"])
        .args(filters)
        .env("AETHER_FUZZ_CASES", &cases)
        .current_dir(root())
        .stderr(Stdio::piped());
    if let Some(seed) = seed {
        command.env("AETHER_FUZZ_SEED", seed);
    }
    eprintln!("$ AETHER_FUZZ_CASES={cases} {command:?}");
    let mut running = command.spawn().context("cannot run cargo nextest")?;
    let stderr = running.stderr.take().context("its messages cannot be read")?;
    let mut counts = Counts::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("its messages cannot be read")?;
        if !count(&line, &mut counts) {
            eprintln!("{line}");
        }
    }
    let status = running.wait()?;
    println!("{}", table(&counts));
    if !status.success() {
        bail!("some targets failed; above are their smallest inputs and seeds");
    }
    Ok(())
}

/// Takes in a line that says how often a target was run; whether it is one.
fn count(line: &str, counts: &mut Counts) -> bool {
    let words: Vec<&str> = match line.trim().strip_prefix(COUNT_PREFIX) {
        Some(said) => said.split(' ').collect(),
        None => return false,
    };
    let &[target, cases, ms] = &words[..] else { return false };
    let (Ok(cases), Ok(ms)) = (cases.parse::<u64>(), ms.parse::<u64>()) else { return false };
    let (all, took) = counts.entry(target.to_owned()).or_default();
    (*all, *took) = (*all + cases, *took + ms);
    true
}

fn table(counts: &Counts) -> String {
    let rows = counts.iter().map(|(target, (cases, ms))| format!("{cases:>12} {ms:>9}  {target}"));
    let all: u64 = counts.values().map(|(cases, _)| cases).sum();
    let ms: u64 = counts.values().map(|(_, ms)| ms).sum();
    let last = format!("{all:>12} {ms:>9}  {} targets", counts.len());
    let head = format!("{:>12} {:>9}  TARGET", "EXECUTIONS", "MS");
    std::iter::once(head).chain(rows).chain([last]).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_of_a_target_are_summed() {
        let mut counts = Counts::new();
        assert!(count("    fuzzed a::fuzz::b 256 10", &mut counts));
        assert!(count("fuzzed a::fuzz::b 1000 5", &mut counts));
        assert!(count("fuzzed a::fuzz::c 1 0", &mut counts));
        for other in ["", "fuzzed", "fuzzed a b c", "test a::fuzz::b ... ok"] {
            assert!(!count(other, &mut counts), "{other}");
        }
        assert_eq!(counts["a::fuzz::b"], (1256, 15));
        assert!(table(&counts).ends_with("1257        15  2 targets"), "{}", table(&counts));
    }
}
