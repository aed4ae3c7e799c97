//! Bugs that are put in on purpose have to be found, and what fails has to be
//! shrunk to what it takes.

use std::sync::Mutex;
use std::thread;

use aether_sim::campaign;
use aether_sim::planted::Planted;
use aether_sim::run;
use aether_sim::scenario::Scenario;
use aether_sim::shrink::shrink;

/// Seeds within which each is found: several times the median of the shyest, see
/// `cargo xtask sim --planted`.
const FOUND_WITHIN: u64 = 150;

#[test]
fn every_planted_bug_is_found() {
    assert!(Planted::ALL.len() >= 20);
    let left = Mutex::new(Planted::ALL.to_vec());
    let missed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(bug) = { left.lock().unwrap().pop() } {
                    if campaign::seeds_to_find(bug, 0, FOUND_WITHIN).is_none() {
                        missed.lock().unwrap().push(bug.as_str());
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found in {FOUND_WITHIN} seeds: {missed:?}");
}

#[test]
fn a_failing_run_shrinks_and_says_how_to_repeat_it() {
    let bug = Planted::NobodyIsBusy;
    let (seeds, failed) = campaign::seeds_to_find(bug, 0, FOUND_WITHIN).unwrap();
    let seed = seeds - 1;
    let scenario = Scenario::of(seed);
    let invariant = failed.violation.as_ref().unwrap().invariant;
    let (small, outcome) = shrink(&scenario, failed, Some(bug));
    assert!(small.incidents.len() < scenario.incidents.len() / 2, "{:#?}", small.incidents);
    assert_eq!(outcome.violation.unwrap().invariant, invariant);
    let again = run::run(&small, Some(bug), false);
    assert_eq!(again.violation.unwrap().invariant, invariant);
    let text = campaign::explain(seed, Some(bug)).unwrap();
    let repeat = format!("cargo xtask sim --seed {seed} --plant nobody-is-busy");
    assert!(text.contains(&repeat), "{text}");
}
