//! What the fuzz targets of all crates have in common: how often a target is
//! run, what a failure says, and the inputs that parsers like least.
//!
//! A target is a test in a module named `fuzz`, beside the parser it is for. It
//! hands a [`Strategy`] and a property to [`check`]. By default it runs a few
//! hundred inputs, so that all targets together take less than a minute;
//! [`CASES_VARIABLE`] raises that for a long run (`cargo xtask fuzz`).
//!
//! What is deliberately absent: coverage. Inputs come from valid ones by small
//! changes, which reach behind a parser's first check without a compiler's help.

mod bytes;
mod text;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

pub use bytes::{Mutation, Shown, bytes, mutated, mutations};
pub use proptest;
pub use text::{NASTY, near, text};

/// Cases of a target of usual cost, unless set.
pub const CASES: u32 = 256;

/// Environment variable that sets how often a target of usual cost is run.
/// Targets that cost more or less are run in proportion.
pub const CASES_VARIABLE: &str = "AETHER_FUZZ_CASES";

/// Environment variable that makes a run repeat another one.
pub const SEED_VARIABLE: &str = "AETHER_FUZZ_SEED";

/// What a line begins with that says how often a target was run.
pub const COUNT_PREFIX: &str = "fuzzed ";

/// Shrinking ends after so many attempts: a target may take milliseconds.
const SHRINK_ATTEMPTS_MAX: u32 = 4_096;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let number = text.parse().ok();
    assert!(number.is_some(), "{name} is '{text}', which is no number");
    number
}

/// How often a target is run that is run `usual` times by default.
fn scaled(usual: u32, cases: Option<u32>) -> u32 {
    let Some(cases) = cases else { return usual };
    let scaled = u64::from(usual) * u64::from(cases) / u64::from(CASES);
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}

/// The seed of a target in the normal suite, which says the same of the same
/// tree whenever it is run; a long run looks elsewhere each time. FNV-1a, for no
/// other reason than that it is short.
fn seed_of(target: &str) -> u64 {
    target.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Runs `property` on `usual` inputs ([`CASES`] is a good number), or as many as
/// the environment says. The property panics where it does not hold.
///
/// # Panics
/// When the property does, with the smallest input that was found, and the seed
/// that finds it again.
pub fn check<S: Strategy, P: Fn(S::Value)>(usual: u32, inputs: S, property: P) {
    let target = std::any::type_name::<P>().replace("::{{closure}}", "");
    let wanted = variable(CASES_VARIABLE);
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| match wanted {
        Some(_) => RandomState::new().build_hasher().finish(),
        None => seed_of(&target),
    });
    let cases = scaled(usual, wanted);
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: SHRINK_ATTEMPTS_MAX,
        ..Config::default()
    };
    let began = Instant::now();
    let found = TestRunner::new(config).run(&inputs, |input| {
        property(input);
        Ok(())
    });
    match found {
        Ok(()) => println!("{COUNT_PREFIX}{target} {cases} {}", began.elapsed().as_millis()),
        Err(TestError::Fail(reason, input)) => panic!(
            "{target} fails: {reason}\nsmallest input: {input:?}\n\
             again with {SEED_VARIABLE}={seed} {CASES_VARIABLE}={}",
            variable(CASES_VARIABLE).unwrap_or(CASES)
        ),
        Err(TestError::Abort(reason)) => panic!("{target} cannot be run: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failure_names_the_target_the_smallest_input_and_the_seed() {
        let failing = || check(10_000, 0u32..1_000_000, |n| assert!(n < 1_000, "too large"));
        let panic = catch_unwind(failing).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("a_failure_names"), "{text}");
        assert!(text.contains("smallest input: 1000\n"), "{text}");
        assert!(text.contains("AETHER_FUZZ_SEED="), "{text}");
    }

    #[test]
    fn a_target_is_run_as_often_as_it_says() {
        let run = Cell::new(0);
        check(CASES, any::<u8>(), |_| run.set(run.get() + 1));
        assert_eq!(run.get(), scaled(CASES, variable(CASES_VARIABLE)));
        assert_eq!(scaled(16, Some(2_560)), 160);
        assert_eq!(scaled(1, Some(1)), 1, "never not at all");
        assert_eq!(scaled(CASES, Some(u32::MAX)), u32::MAX);
    }

    #[test]
    fn changes_reach_every_part_of_an_input() {
        let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let valid = b"0123456789".to_vec();
        check(2_000, mutated(vec![valid.clone()]), |changed| {
            let differs = changed.iter().zip(&valid).position(|(a, b)| a != b);
            seen.borrow_mut().extend(differs);
            seen.borrow_mut().extend((changed.len() != valid.len()).then_some(100));
        });
        assert_eq!(
            seen.borrow().iter().copied().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100]
        );
        let ignored = catch_unwind(AssertUnwindSafe(|| {
            check(2_000, text(), |text| assert!(!text.contains("../")));
        }));
        assert!(ignored.is_err(), "paths that leave a directory are among the texts");
    }
}
