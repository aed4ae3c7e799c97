//! Many seeds over all cores: what they add up to, and the first that fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::planted::Planted;
use crate::run::{self, Outcome};
use crate::scenario::Scenario;
use crate::shrink::shrink;

/// What many runs add up to.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// Updates that were started.
    pub updates: u64,
    /// Entries that were committed.
    pub entries: u64,
    /// Events that happened.
    pub steps: u64,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// Seeds for which an invariant did not hold, in order.
    pub failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.updates += outcome.updates;
        self.entries += outcome.entries;
        self.steps += outcome.steps;
        self.virtual_ms += outcome.virtual_ms;
        if outcome.violation.is_some() {
            self.failed.push(seed);
        }
    }
}

/// Failing seeds after which a campaign ends: more of them say no more.
const FAILED_MAX: usize = 20;

/// Runs `seeds` seeds from `first` on, or fewer if `within` is over, on as many
/// threads as there are cores.
pub fn run(first: u64, seeds: u64, within: Option<Duration>, planted: Option<Planted>) -> Totals {
    let next = AtomicU64::new(first);
    let totals = Mutex::new(Totals::default());
    let began = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = within.is_some_and(|within| began.elapsed() > within);
            if seed >= first.saturating_add(seeds) || is_over {
                return;
            }
            let outcome = run::seed(seed, planted);
            let mut totals = totals.lock().expect("nothing panics while it holds this lock");
            totals.add(seed, &outcome);
            if totals.failed.len() >= FAILED_MAX {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut totals = totals.into_inner().expect("nothing panicked while it held this lock");
    totals.failed.sort_unstable();
    totals
}

/// Seeds until a planted bug is found, from `first` on, at most `most`.
pub fn seeds_to_find(bug: Planted, first: u64, most: u64) -> Option<(u64, Outcome)> {
    (0..most).find_map(|tried| {
        let outcome = run::seed(first + tried, Some(bug));
        outcome.violation.is_some().then_some((tried + 1, outcome))
    })
}

/// Runs a seed again, shrinks it if it fails, and says all of it.
pub fn explain(seed: u64, planted: Option<Planted>) -> Option<String> {
    let scenario = Scenario::of(seed);
    let failed = run::run(&scenario, planted, false);
    failed.violation.as_ref()?;
    let (small, _) = shrink(&scenario, failed, planted);
    let last = run::run(&small, planted, true);
    let violation = last.violation.as_ref()?;
    let mut text = format!(
        "seed {seed}: invariant '{}' does not hold: {}\n  at {} ms, log index {}\n",
        violation.invariant, violation.detail, violation.at_ms, violation.index
    );
    text += &format!("scenario, {:?}:\n", small.settings);
    for (at_ms, incident) in &small.incidents {
        text += &format!("  {:>9.3} s  {incident:?}\n", *at_ms as f64 / 1_000.0);
    }
    text += "the last of what happened:\n";
    let from = last.lines.len().saturating_sub(LINES_SHOWN);
    last.lines[from..].iter().for_each(|line| text += &format!("  {line}\n"));
    let planted = planted.map_or(String::new(), |bug| format!(" --plant {}", bug.as_str()));
    text += &format!("repeat it with: cargo xtask sim --seed {seed}{planted}\n");
    Some(text)
}

/// Lines of a failing run that are shown.
const LINES_SHOWN: usize = 60;
