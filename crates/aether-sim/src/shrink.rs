//! Makes a failing scenario smaller: incidents are left out, by halves and then
//! one by one, as long as the same invariant still does not hold.

use crate::planted::Planted;
use crate::run::{Outcome, run, with_only};
use crate::scenario::Scenario;

/// Runs that are spent on one failure at most: a few seconds.
const RUNS_MAX: u32 = 400;

/// The smallest failing scenario that was found, and what came of it.
pub fn shrink(
    scenario: &Scenario,
    failed: Outcome,
    planted: Option<Planted>,
) -> (Scenario, Outcome) {
    let Some(violation) = &failed.violation else { return (scenario.clone(), failed) };
    let invariant = violation.invariant;
    let mut runs = 0;
    let mut keep: Vec<usize> = (0..scenario.incidents.len()).collect();
    let mut best = failed;
    let mut part = keep.len().div_ceil(2);
    while part > 0 && runs < RUNS_MAX {
        let mut at = 0;
        let mut shrank = false;
        while at < keep.len() && runs < RUNS_MAX {
            let end = (at + part).min(keep.len());
            let fewer: Vec<usize> = [&keep[..at], &keep[end..]].concat();
            runs += 1;
            let outcome = run(&with_only(scenario, &fewer), planted, false);
            if outcome.violation.as_ref().is_some_and(|v| v.invariant == invariant) {
                (keep, best, shrank) = (fewer, outcome, true);
            } else {
                at = end;
            }
        }
        // Once more at the same size if something went: others may go now.
        if !shrank || part > 1 {
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }
    (with_only(scenario, &keep), best)
}
