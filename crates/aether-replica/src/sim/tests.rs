//! `AETHER_SIM_SEEDS` runs, from `AETHER_SIM_SEED` on; `cargo xtask faults sim` is
//! the long run. Into the folder `AETHER_SIM_TRACE`, if it is set, each run writes
//! all that happens in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Bug;
use super::run::{Failure, Report, Settings, faults, in_new_world};
use super::scenes::{
    deaf_leader, found_by_the_next_life, hand_over_that_is_lost, hand_over_within_a_lease,
    late_answers, newcomer_of_a_lost_leader, removal_that_is_lost, restart_within_a_lease,
    suspended_within_a_lease, sync_under_way_when_all_is_healed, voices,
};

/// Runs of the normal suite.
const SEEDS: u64 = 24;
/// Seeds that are run twice.
const SAME: u64 = 6;
/// Runs within which a planted bug has to be found.
const SEEDS_OF_BUG_MAX: u64 = 40;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn report(seed: u64, failure: &Failure) -> String {
    format!(
        "{}\n\n{}\n\nseed {seed}: {}\nTo repeat it: cargo xtask faults sim --seed {seed} --seeds 1",
        failure.what, failure.events, failure.what
    )
}

#[test]
fn whatever_goes_wrong_answers_and_states_fit_together() {
    let first = setting("AETHER_SIM_SEED").unwrap_or(1);
    let count = setting("AETHER_SIM_SEEDS").unwrap_or(SEEDS);
    // The normal suite has other tests beside this one.
    let threads = match count > SEEDS {
        true => std::thread::available_parallelism().map_or(1, usize::from),
        false => 1,
    };
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let all = Mutex::new(Report::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            match in_new_world(Settings { seed, bug: None }, faults) {
                Ok(done) => all.lock().unwrap().add(&done),
                Err(failure) => {
                    println!("{}\n", report(seed, &failure));
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    println!("seeds {first} to {}: {:?}", first + count - 1, all.lock().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "of {count} seeds these failed: {failed:?}; see above");
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in 1..=SAME {
        let run = || match in_new_world(Settings { seed, bug: None }, faults) {
            Ok(done) => done,
            Err(failure) => panic!("{}", report(seed, &failure)),
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

/// The first seed at which a planted bug is found, and what it looks like.
fn found(bug: Bug) -> String {
    for seed in 1..=SEEDS_OF_BUG_MAX {
        if let Err(failure) = in_new_world(Settings { seed, bug: Some(bug) }, faults) {
            println!("{bug:?} is found at seed {seed}: {}", failure.what);
            return failure.what;
        }
    }
    panic!("{bug:?} is not found within {SEEDS_OF_BUG_MAX} seeds");
}

#[test]
fn reads_without_a_confirmed_leader_are_found() {
    let what = found(Bug::UnconfirmedReads);
    assert!(what.contains("linearizable") || what.contains("order of the log"), "{what}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found(Bug::EarlyAcknowledgement);
}

#[test]
fn a_log_that_is_not_synced_when_it_is_opened_is_found() {
    goes_well(found_by_the_next_life);
    let bug = Some(Bug::FoundIsNotSynced);
    let failure = in_new_world(Settings { seed: 1, bug }, found_by_the_next_life).unwrap_err();
    assert!(failure.what.contains("applies another entry"), "{}", failure.what);
}

#[test]
fn repetitions_that_are_done_again_are_found() {
    let what = found(Bug::NoDeduplication);
    assert!(what.contains("was done at"), "{what}");
}

#[test]
fn a_not_done_that_is_not_sure_is_found() {
    let what = found(Bug::UnknownIsNotDone);
    assert!(what.contains("and not done"), "{what}");
}

#[test]
fn a_leader_that_hears_nobody_makes_room_and_the_simulation_would_know() {
    goes_well(deaf_leader);
    let bug = Some(Bug::NeverSilent);
    assert!(in_new_world(Settings { seed: 1, bug }, deaf_leader).is_err());
}

/// Seeds of a scene that is set up to the last step.
const SEEDS_OF_SCENE: u64 = 10;

/// A scene goes well, and not with this bug.
fn found_in_scene(bug: Bug, scene: fn(Settings) -> Result<(), String>) {
    goes_well(scene);
    let failures =
        (1..=SEEDS_OF_SCENE).map(|seed| in_new_world(Settings { seed, bug: Some(bug) }, scene));
    let failures: Vec<_> = failures.filter_map(Result::err).collect();
    let stale = failures.iter().filter(|failure| failure.what.contains("was written elsewhere"));
    assert!(stale.count() > 0, "{bug:?} is not found, but {failures:?}");
}

#[test]
fn a_leader_that_was_replaced_confirms_no_read_by_answers_that_were_late() {
    found_in_scene(Bug::RoundsOfOpenraft, late_answers);
}

#[test]
fn a_voter_that_asks_counts_for_the_leader_that_it_has_voted_for() {
    goes_well(voices);
}

#[test]
fn a_voter_keeps_its_promise_when_it_starts_again() {
    found_in_scene(Bug::ForgottenPromise, restart_within_a_lease);
}

#[test]
fn a_leader_that_hands_over_has_no_lease() {
    found_in_scene(Bug::UnnoticedHandOver, hand_over_within_a_lease);
}

#[test]
fn reads_do_not_keep_a_leader_in_office_that_has_handed_over() {
    goes_well(hand_over_that_is_lost);
    let bug = Some(Bug::UnnoticedHandOver);
    let failure = in_new_world(Settings { seed: 1, bug }, hand_over_that_is_lost).unwrap_err();
    assert!(failure.what.contains("leader after a hand-over"), "{}", failure.what);
}

#[test]
fn a_leader_that_was_suspended_has_no_lease() {
    found_in_scene(Bug::UnnoticedSuspension, suspended_within_a_lease);
}

/// Runs a scene that has to go well at some seeds.
fn goes_well(scene: fn(Settings) -> Result<(), String>) {
    for seed in 1..=SEEDS_OF_SCENE {
        let done = in_new_world(Settings { seed, bug: None }, scene);
        done.unwrap_or_else(|failure| panic!("{}", report(seed, &failure)));
    }
}

#[test]
fn a_replacement_that_a_lost_leader_began_is_begun_again() {
    goes_well(newcomer_of_a_lost_leader);
}

#[test]
fn a_removal_that_is_not_committed_ends_nobody() {
    goes_well(removal_that_is_lost);
}

#[test]
fn no_fault_goes_on_when_all_is_healed() {
    goes_well(sync_under_way_when_all_is_healed);
}
