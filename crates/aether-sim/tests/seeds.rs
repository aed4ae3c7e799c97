//! Many seeds: every invariant holds after every step, and everything ends.

use aether_sim::campaign;
use aether_sim::run;

/// Seeds of the usual run of all tests: they take about a minute on two cores.
const SEEDS: u64 = 1_000;

#[test]
fn invariants_hold_and_every_update_ends() {
    let totals = campaign::run(0, SEEDS, None, None);
    if let Some(seed) = totals.failed.first() {
        let why = campaign::explain(*seed, None).unwrap_or_default();
        panic!("seeds {:?} fail\n{why}", totals.failed);
    }
    assert_eq!(totals.seeds, SEEDS);
    // A simulator in which nothing happens finds nothing.
    assert!(totals.updates > 2 * SEEDS, "{totals:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 77, 1_023] {
        let (first, second) = (run::seed(seed, None), run::seed(seed, None));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!((first.steps, first.entries), (second.steps, second.entries), "seed {seed}");
    }
    assert_ne!(run::seed(3, None).trace, run::seed(4, None).trace);
}

#[test]
fn a_run_that_would_simulate_nothing_is_refused_and_says_why() {
    for (arguments, why) in [
        (&["--seeds", "0"][..], "--seeds 0 would simulate nothing"),
        (&["--seeds", "many"], "'many' is no whole number"),
        (&["--hours", "-1"], "--hours -1 would simulate nothing"),
        (&["--hours", "nan"], "--hours nan would simulate nothing"),
        (&["--hours", "1e300"], "--hours 1e300"),
        (&["--trace"], "--trace needs --seed"),
        (&["--first"], "--first needs a value"),
        (&["--plant", "nothing"], "no planted bug 'nothing'"),
        (&["--bogus"], "no option '--bogus'"),
    ] {
        let said = std::process::Command::new(env!("CARGO_BIN_EXE_aether-sim"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert_eq!((said.status.code(), text.contains(why)), (Some(2), true), "{text}");
    }
}
