//! The swap protocol under threads, with the naive protocol as the control
//! that must fail: the same picks and swaps, but a writer that claims an
//! endpoint to be idle without waiting until the retired plan has settled.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_core::ids::RevisionNo;
use aether_core::schedule::Side;
use aether_core::table::{Endpoint as Row, SliceTable, VersionSet};
use aether_core::weights::Weights;
use proptest::prelude::*;
use tokio::sync::Notify;

use crate::endpoint::{Endpoint, Member, VersionInfo};
use crate::hold::Patience;
use crate::pick::Outcome;
use crate::slice::{Plan, SliceState};

thread_local! {
    static PAUSES: Cell<bool> = const { Cell::new(false) };
}

/// Lets other threads run between a ticket and its announcement, so that the
/// window is hit in seconds and not in days. Only in threads that ask for it.
pub(crate) fn pause(ticket: u64) {
    if ticket.is_multiple_of(61) && PAUSES.get() {
        std::thread::yield_now();
    }
}

/// An endpoint, and whether its instance was stopped because it was idle.
pub(crate) struct Instance {
    pub(crate) endpoint: Arc<Endpoint>,
    member: Arc<Member>,
    stopped: AtomicBool,
}

pub(crate) fn instances(revision: u32, count: u64) -> Vec<Arc<Instance>> {
    let info = Arc::new(VersionInfo {
        slice: "org.example:a".parse().unwrap(),
        revision: RevisionNo(revision),
        version: format!("{revision}.0.0").parse().unwrap(),
    });
    let instance = |index| {
        let (name, idle) = (format!("a-{revision}-{index}"), Arc::new(Notify::new()));
        let address = ([127, 0, 0, 1], 1000 + index as u16).into();
        let endpoint = Endpoint::new(
            Arc::clone(&info),
            name.parse().unwrap(),
            address,
            Arc::default(),
            idle,
            1,
        );
        let endpoint = Arc::new(endpoint);
        let member = Arc::new(Member::new(Arc::clone(&endpoint)));
        Arc::new(Instance { endpoint, member, stopped: AtomicBool::new(false) })
    };
    (0..count).map(instance).collect()
}

fn rows(instances: &[Arc<Instance>]) -> Vec<Row> {
    let row = |instance: &Arc<Instance>| Row {
        instance: instance.endpoint.instance.clone(),
        address: instance.endpoint.address,
    };
    instances.iter().map(row).collect()
}

pub(crate) fn table(
    route: u64,
    weights: &str,
    new: &[Arc<Instance>],
    old: &[Arc<Instance>],
) -> Arc<SliceTable> {
    let set = |revision: u32, instances: &[Arc<Instance>]| {
        (!instances.is_empty()).then(|| VersionSet {
            revision: RevisionNo(revision),
            version: format!("{revision}.0.0").parse().unwrap(),
            endpoints: rows(instances),
        })
    };
    Arc::new(SliceTable {
        slice: "org.example:a".parse().unwrap(),
        table_revision: route,
        route_revision: route,
        weights: weights.parse().unwrap(),
        new: set(2, new),
        old: set(1, old),
        ingress: vec![],
        hold_ms: 0,
    })
}

pub(crate) fn members(instances: &[Arc<Instance>]) -> Vec<Arc<Member>> {
    instances.iter().map(|instance| Arc::clone(&instance.member)).collect()
}

struct Outcomes {
    picks: u64,
    swaps: u64,
    /// Calls that started on an instance that had been claimed idle.
    misrouted: u64,
}

/// Threads pick while tables drop and take back one instance after another.
/// A dropped instance is stopped when the writer finds it idle.
fn run(waits_until_settled: bool, for_time: Duration) -> Outcomes {
    const INSTANCES: u64 = 8;
    let all = instances(1, INSTANCES);
    let slice = SliceState::new("org.example:a".parse().unwrap(), 0);
    slice.swap(Some(table(1, "0:1", &[], &all)), vec![], members(&all));
    let (over, picks, misrouted) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut swaps = 0;
    let settle = |retired: &Plan| {
        while waits_until_settled && !retired.is_settled() {
            std::thread::yield_now();
        }
    };

    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                PAUSES.set(true);
                while !over.load(Ordering::Relaxed) {
                    let pick = slice.pick().expect("seven instances are always there");
                    let index: usize =
                        pick.instance().as_str().rsplit('-').next().unwrap().parse().unwrap();
                    if all[index].stopped.load(Ordering::SeqCst) {
                        misrouted.fetch_add(1, Ordering::Relaxed);
                    }
                    pick.finish(Outcome::Success);
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + for_time;
        for round in 0.. {
            if Instant::now() >= end {
                break;
            }
            let leaving = &all[round as usize % all.len()];
            let rest: Vec<_> =
                all.iter().filter(|i| !Arc::ptr_eq(i, leaving)).map(Arc::clone).collect();
            let retired =
                slice.swap(Some(table(round + 2, "0:1", &[], &rest)), vec![], members(&rest));
            settle(&retired);
            leaving.endpoint.leave();
            if leaving.endpoint.in_flight() == 0 {
                leaving.stopped.store(true, Ordering::SeqCst);
            }
            // Time for a straggler to be caught.
            (0..4).for_each(|_| std::thread::yield_now());
            leaving.stopped.store(false, Ordering::SeqCst);
            leaving.endpoint.come_back();
            settle(&slice.swap(Some(table(round + 2, "0:1", &[], &all)), vec![], members(&all)));
            slice.tallies.retire();
            swaps += 2;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(all.iter().all(|instance| instance.endpoint.in_flight() == 0));
    Outcomes { picks: picks.into_inner(), swaps, misrouted: misrouted.into_inner() }
}

#[test]
fn no_call_starts_on_an_instance_that_was_claimed_idle() {
    let outcomes = run(true, Duration::from_secs(2));
    println!("{} picks, {} swaps", outcomes.picks, outcomes.swaps);
    assert!(outcomes.picks > 1_000 && outcomes.swaps > 100);
    assert_eq!(outcomes.misrouted, 0);
}

#[test]
fn without_settling_calls_do_start_on_instances_that_were_claimed_idle() {
    // The harness would see it: repeat until it does.
    let limit = Instant::now() + Duration::from_secs(60);
    while Instant::now() < limit {
        let outcomes = run(false, Duration::from_millis(500));
        if outcomes.misrouted > 0 {
            println!("{} of {} picks misrouted", outcomes.misrouted, outcomes.picks);
            return;
        }
    }
    panic!("the control never failed: the harness could not see a broken protocol");
}

#[test]
fn tickets_and_tallies_are_exact_over_swaps_under_threads() {
    let (new, old) = (instances(2, 3), instances(1, 3));
    let slice = SliceState::new("org.example:a".parse().unwrap(), 77);
    let ratios = ["1:3", "1:1", "3:1", "1:9", "0:1", "1:0"];
    slice.swap(Some(table(1, ratios[0], &new, &old)), members(&new), members(&old));
    let over = AtomicBool::new(false);
    let by_callers = AtomicU64::new(0);
    let routes = 200u64;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                PAUSES.set(true);
                while !over.load(Ordering::Relaxed) {
                    slice.pick().unwrap().finish(Outcome::Success);
                    by_callers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for route in 2..=routes {
            let weights = ratios[(route as usize * 5 + 3) % ratios.len()];
            // Every other swap changes the endpoints only.
            let old = if route % 2 == 0 { &old[..] } else { &old[..2] };
            slice.swap(Some(table(route / 2 + 1, weights, &new, old)), members(&new), members(old));
            (0..20).for_each(|_| std::thread::yield_now());
        }
        over.store(true, Ordering::Relaxed);
    });
    let tallies = slice.tallies.routes();
    let total: u64 = tallies.iter().map(|tally| tally.new + tally.old).sum();
    assert_eq!(total, by_callers.into_inner());
    for tally in tallies {
        let (new, calls) = (i128::from(tally.new), i128::from(tally.new + tally.old));
        let weights: Weights = tally.weights;
        let deviation = new * i128::from(weights.total()) - calls * i128::from(weights.new_side());
        assert!(deviation.abs() < i128::from(weights.total()), "{tally:?}");
    }
}

proptest! {
    #[test]
    fn picks_split_exactly_and_in_turn_over_any_swaps(
        seed in any::<u64>(),
        stages in prop::collection::vec((0u64..5, 0u64..5, 1usize..4, 1usize..4, 0u64..60), 1..12),
    ) {
        let (new, old) = (instances(2, 4), instances(1, 4));
        let slice = SliceState::new("org.example:a".parse().unwrap(), seed);
        let mut deviation = 0f64;
        for (route, (w_new, w_old, n_new, n_old, calls)) in stages.into_iter().enumerate() {
            let Ok(weights) = Weights::new(w_new, w_old) else { continue };
            let (new, old) = (&new[..n_new], &old[..n_old]);
            let table = table(route as u64 + 1, &weights.to_string(), new, old);
            slice.swap(Some(table), members(new), members(old));
            let mut counts = std::collections::BTreeMap::new();
            for _ in 0..calls {
                let pick = slice.pick().unwrap();
                *counts.entry(pick.instance().clone()).or_insert(0u64) += 1;
                let is_new = f64::from(u8::from(pick.revision() == RevisionNo(2)));
                deviation += is_new - f64::from(weights.new_side()) / f64::from(weights.total());
                prop_assert!(deviation.abs() < 1.000_001, "{deviation}");
                pick.finish(Outcome::Success);
            }
            for side in [new, old] {
                let side = side.iter().map(|i| counts.get(&i.endpoint.instance).copied());
                let side: Vec<u64> = side.map(Option::unwrap_or_default).collect();
                prop_assert!(side.iter().max().unwrap() - side.iter().min().unwrap() <= 1);
            }
        }
    }
}

#[test]
fn ejection_keeps_the_ratio_and_leaves_one_instance_of_a_version() {
    let (new, old) = (instances(2, 2), instances(1, 3));
    let slice = SliceState::new("org.example:a".parse().unwrap(), 0);
    slice.swap(Some(table(1, "1:1", &new, &old)), members(&new), members(&old));
    for instance in old.iter().chain(&new[..1]) {
        slice.eject(&instance.endpoint);
    }
    let skipped = |side: &[Arc<Instance>]| side.iter().filter(|i| i.endpoint.is_ejected()).count();
    assert_eq!((skipped(&new), skipped(&old)), (1, 2));
    let picks: Vec<_> = (0..40).map(|_| slice.pick().unwrap()).collect();
    assert_eq!(picks.iter().filter(|pick| pick.revision() == RevisionNo(2)).count(), 20);
    assert!(picks.iter().all(|pick| !pick.endpoint().is_ejected()));
    // A retry goes to one that was not tried, even if it is skipped.
    let tried = [old[2].endpoint.instance.clone()];
    let other = slice.other(Side::Old, &tried, Patience::WhileHeld).unwrap();
    assert!(other.revision() == RevisionNo(1) && other.instance() != &tried[0]);
}
