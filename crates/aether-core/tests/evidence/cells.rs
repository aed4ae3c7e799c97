//! Cells of the table in `docs/evidence.md`: thousands of runs of one traffic
//! each, judged every second by the judge and by both baselines.

use aether_core::evidence::{Evidence, Judge, Present, Verdict, WARM_UP_MS, is_warm};
use aether_core::records::Thresholds;
use aether_core::weights::Weights;

use crate::baselines::{MannWhitney, Threshold};
use crate::traffic::{Run, Traffic};

/// Runs of a cell.
const RUNS: u64 = 2_000;
/// Threads that share them.
const THREADS: u64 = 2;

/// When each judge first said what, in seconds since the epoch began.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    roll_back: Option<u64>,
    promote: Option<u64>,
    threshold: Option<u64>,
    mann_whitney: Option<u64>,
}

impl Outcome {
    /// Promoted and not rolled back before.
    fn is_promoted(&self) -> bool {
        self.promote.is_some_and(|at| self.roll_back.is_none_or(|back| at < back))
    }
}

/// What a run is for: false alarms are looked for to the end, also after a
/// promotion; a decision on a bad version is over when it is made.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    End,
    Decision,
}

fn run(traffic: Traffic, seconds: u64, seed: u64, until: Until, baselines: bool) -> Outcome {
    let mut source = Run::new(traffic, seed);
    let judge = Judge::new(&Thresholds::default());
    let (mut evidence, mut outcome) = (Evidence::default(), Outcome::default());
    let weights = Weights::new(traffic.weights.0, traffic.weights.1).unwrap();
    evidence.open(1, weights, 0, None);
    let mut threshold = Threshold::new(traffic.errors);
    let mut mann_whitney = MannWhitney::default();
    let mut decided = false;
    for second in 0..seconds {
        let counted = source.second();
        if !is_warm(0, WARM_UP_MS, second * 1_000) {
            continue;
        }
        let at = second + 1;
        evidence.fold(1, counted.tallies);
        if outcome.roll_back.is_none() && !decided {
            match judge.decide(&evidence, &Present::default()).verdict {
                Verdict::RollBack => outcome.roll_back = Some(at),
                Verdict::Promote => outcome.promote = outcome.promote.or(Some(at)),
                _ => {}
            }
            decided = until == Until::Decision
                && (outcome.roll_back.is_some() || outcome.promote.is_some());
        }
        if baselines {
            if outcome.threshold.is_none() && threshold.rolls_back(&counted) {
                outcome.threshold = Some(at);
            }
            if outcome.mann_whitney.is_none() && mann_whitney.rolls_back(&counted.tallies) {
                outcome.mann_whitney = Some(at);
            }
        }
        let judged = decided || outcome.roll_back.is_some();
        let compared = outcome.threshold.is_some() && outcome.mann_whitney.is_some();
        if judged && (compared || !baselines) {
            break;
        }
    }
    outcome
}

fn runs(traffic: Traffic, seconds: u64, until: Until, baselines: bool) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|part| {
                scope.spawn(move || {
                    let seeds = (0..RUNS).filter(|seed| seed % THREADS == part);
                    seeds.map(|seed| run(traffic, seconds, seed, until, baselines)).collect()
                })
            })
            .collect();
        let joined = parts.into_iter().map(|part| part.join().unwrap());
        joined.flat_map(|outcomes: Vec<Outcome>| outcomes).collect()
    })
}

fn share(outcomes: &[Outcome], is: impl Fn(&Outcome) -> bool) -> f64 {
    outcomes.iter().filter(|outcome| is(outcome)).count() as f64 / outcomes.len() as f64
}

/// The median over all runs; `None` if more than half never came to it.
fn median(outcomes: &[Outcome], of: impl Fn(&Outcome) -> Option<u64>) -> Option<u64> {
    let mut times: Vec<u64> = outcomes.iter().map(|o| of(o).unwrap_or(u64::MAX)).collect();
    times.sort_unstable();
    Some(times[times.len() / 2]).filter(|time| *time < u64::MAX)
}

#[test]
fn versions_that_are_alike_are_hardly_ever_rolled_back() {
    let cells = [
        Traffic::alike(2.0, (1, 19), 0.01),
        Traffic::alike(20.0, (1, 1), 0.005),
        Traffic { bursts: true, ..Traffic::alike(20.0, (1, 9), 0.01) },
    ];
    for traffic in cells {
        // The control: a test that is made for one look is wrong more often on the
        // same data, though it looks once a minute only.
        let has_control = traffic.weights == (1, 1);
        let outcomes = runs(traffic, 600, Until::End, has_control);
        let false_rollbacks = share(&outcomes, |o| o.roll_back.is_some());
        assert!(false_rollbacks <= 0.01, "{false_rollbacks} of {traffic:?}");
        let control = share(&outcomes, |o| o.mann_whitney.is_some());
        assert!(!has_control || control > 0.02, "{control} of {traffic:?}: too easy a data set");
    }
}

#[test]
fn regressions_are_found_in_time_and_not_promoted() {
    let cells = [
        (Traffic { worse: 5.0, ..Traffic::alike(2.0, (1, 19), 0.01) }, 14 * 60),
        (Traffic { worse: 5.0, ..Traffic::alike(2.0, (1, 1), 0.005) }, 14 * 60),
        (Traffic { worse: 2.0, ..Traffic::alike(200.0, (1, 9), 0.01) }, 4 * 60),
        (Traffic { worse: 2.0, ..Traffic::alike(200.0, (1, 1), 0.005) }, 4 * 60),
        (Traffic { slower: 2.0, ..Traffic::alike(20.0, (1, 9), 0.01) }, 4 * 60),
    ];
    for (traffic, bound) in cells {
        let outcomes = runs(traffic, 3_600, Until::Decision, false);
        let found = median(&outcomes, |o| o.roll_back).expect("most are found");
        let promoted = share(&outcomes, Outcome::is_promoted);
        assert!(found <= bound, "median {found} s of {traffic:?}");
        assert!(promoted <= 0.01, "{promoted} promoted of {traffic:?}");
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn time(seconds: Option<u64>) -> String {
    match seconds {
        None => "never".to_owned(),
        Some(seconds) if seconds < 120 => format!("{seconds} s"),
        Some(seconds) => format!("{:.1} min", seconds as f64 / 60.0),
    }
}

fn name(traffic: Traffic) -> String {
    let Traffic { canary, weights, errors, bursts, .. } = traffic;
    let burst = if bursts { ", bursts" } else { "" };
    format!("{canary}/s, {}:{}, {} %{burst}", weights.0, weights.1, errors * 100.0)
}

#[test]
#[ignore = "takes minutes: prints a table of docs/evidence.md"]
fn table_of_versions_that_are_alike() {
    println!("| alike | judge rolls back | judge promotes, median | threshold | Mann-Whitney |");
    println!("|---|---|---|---|---|");
    let mut cells: Vec<Traffic> = Vec::new();
    for canary in [2.0, 20.0, 200.0] {
        for errors in [0.001, 0.005, 0.01, 0.05] {
            for weights in [(1, 19), (1, 1)] {
                cells.push(Traffic::alike(canary, weights, errors));
            }
        }
        cells.push(Traffic { bursts: true, ..Traffic::alike(canary, (1, 9), 0.01) });
    }
    for traffic in cells {
        let outcomes = runs(traffic, 3_600, Until::End, true);
        println!(
            "| {} | {} | {} of {} | {} | {} |",
            name(traffic),
            percent(share(&outcomes, |o| o.roll_back.is_some())),
            time(median(&outcomes, |o| o.promote)),
            percent(share(&outcomes, |o| o.promote.is_some())),
            percent(share(&outcomes, |o| o.threshold.is_some())),
            percent(share(&outcomes, |o| o.mann_whitney.is_some())),
        );
    }
}

#[test]
#[ignore = "takes minutes: prints a table of docs/evidence.md"]
fn table_of_versions_that_are_worse() {
    println!("| worse | found, median | within 1 h | promoted | threshold | Mann-Whitney |");
    println!("|---|---|---|---|---|---|");
    let splits = [(1, 19), (1, 1)];
    let mut cells = Vec::new();
    for (canary, worse) in [(2.0, 5.0), (2.0, 2.0), (20.0, 5.0), (20.0, 2.0), (200.0, 2.0)] {
        for (errors, weights) in [0.005, 0.01].into_iter().flat_map(|e| splits.map(|w| (e, w))) {
            cells.push(Traffic { worse, ..Traffic::alike(canary, weights, errors) });
        }
    }
    for (canary, slower) in [(2.0, 2.0), (20.0, 2.0), (200.0, 1.25)] {
        cells.extend(splits.map(|weights| {
            let alike = Traffic::alike(canary, weights, 0.01);
            Traffic { slower, ..alike }
        }));
    }
    for traffic in cells {
        let outcomes = runs(traffic, 3_600, Until::Decision, true);
        let what = match traffic.slower > 1.0 {
            true => format!("{}x latency", traffic.slower),
            false => format!("{}x errors", traffic.worse),
        };
        let baseline = |of: fn(&Outcome) -> Option<u64>| {
            format!(
                "{} ({})",
                time(median(&outcomes, of)),
                percent(share(&outcomes, |o| of(o).is_some()))
            )
        };
        println!(
            "| {what}, {} | {} | {} | {} | {} | {} |",
            name(traffic),
            time(median(&outcomes, |o| o.roll_back)),
            percent(share(&outcomes, |o| o.roll_back.is_some())),
            percent(share(&outcomes, Outcome::is_promoted)),
            baseline(|o| o.threshold),
            baseline(|o| o.mann_whitney),
        );
    }
}
