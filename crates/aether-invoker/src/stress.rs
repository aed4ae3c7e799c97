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
use aether_proto::v1;
use proptest::prelude::*;
use tokio::sync::Notify;

use crate::applier::Applier;
use crate::caller::Caller;
use crate::config::{Config, SessionKind};
use crate::endpoint::{Endpoint, Member, VersionInfo};
use crate::hold::Patience;
use crate::invoker::Invoker;
use crate::pick::Outcome;
use crate::slice::{Members, Plan, SliceHandle, SliceState};

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
    member: Member,
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
        let member = Member::new(Arc::clone(&endpoint));
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

pub(crate) fn members(instances: &[Arc<Instance>]) -> Arc<Members> {
    let members: Vec<Member> = instances.iter().map(|instance| instance.member.clone()).collect();
    Arc::new(members.into())
}

/// By what threads pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Handle,
    Caller,
    IndependentCaller,
}

/// What the writer does before it asks whether an endpoint is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    WaitsUntilSettled,
    /// The naive protocol.
    Trusts,
}

struct Outcomes {
    picks: u64,
    swaps: u64,
    /// Calls that started on an instance that had been claimed idle.
    misrouted: u64,
}

/// A handle to a slice that no session serves: tables come from the test.
fn handle(seed: u64) -> SliceHandle {
    let node = ([127, 0, 0, 1], 1).into();
    let config = Config::new("stress", SessionKind::Invoker, vec![node]);
    let state = SliceState::new("org.example:a".parse().unwrap(), seed);
    SliceHandle { invoker: Invoker::unconnected(config), state: Arc::new(state) }
}

/// Picks until told to stop, with calls to instances that are marked as stopped. Gives
/// (picks, misrouted).
fn call(handle: &SliceHandle, by: By, all: &[Arc<Instance>], over: &AtomicBool) -> (u64, u64) {
    PAUSES.set(true);
    let is_stopped = |port: u16| all[usize::from(port - 1_000)].stopped.load(Ordering::SeqCst);
    let caller = match by {
        By::Handle => None,
        By::Caller => Some(handle.caller()),
        By::IndependentCaller => Some(handle.independent_caller()),
    };
    let (mut picks, mut misrouted) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..16 {
            let was_stopped = match &caller {
                None => {
                    let pick = handle.pick().expect("seven instances are always there");
                    let was_stopped = is_stopped(pick.address().port());
                    pick.finish(Outcome::Success);
                    was_stopped
                }
                Some(caller) => {
                    let pick = caller.pick_untimed().expect("seven instances are always there");
                    is_stopped(pick.address().port())
                }
            };
            picks += 1;
            misrouted += u64::from(was_stopped);
        }
    }
    (picks, misrouted)
}

/// Threads pick while tables drop and take back one instance after another.
/// A dropped instance is stopped when the writer finds it idle.
fn run(by: By, writer: Writer, threads: usize, is_enough: impl Fn(u64) -> bool) -> Outcomes {
    const INSTANCES: u64 = 8;
    let all = instances(1, INSTANCES);
    let handle = handle(0);
    let slice = &*handle.state;
    slice.swap(Some(table(1, "0:1", &[], &all)), Arc::default(), members(&all));
    let over = AtomicBool::new(false);
    let mut swaps = 0;
    let settle = |retired: &Plan| {
        while writer == Writer::WaitsUntilSettled && !retired.is_settled() {
            std::thread::yield_now();
        }
    };

    let (picks, misrouted) = std::thread::scope(|scope| {
        let caller = || call(&handle, by, &all, &over);
        let callers: Vec<_> = (0..threads).map(|_| scope.spawn(caller)).collect();
        while !is_enough(swaps) {
            let leaving = &all[(swaps / 2) as usize % all.len()];
            let rest: Vec<_> =
                all.iter().filter(|i| !Arc::ptr_eq(i, leaving)).map(Arc::clone).collect();
            let route = swaps + 2;
            let retired =
                slice.swap(Some(table(route, "0:1", &[], &rest)), Arc::default(), members(&rest));
            settle(&retired);
            leaving.endpoint.leave();
            if leaving.endpoint.in_flight() == 0 {
                leaving.stopped.store(true, Ordering::SeqCst);
            }
            // Time for a straggler to be caught.
            (0..4).for_each(|_| std::thread::yield_now());
            leaving.stopped.store(false, Ordering::SeqCst);
            leaving.endpoint.come_back();
            settle(&slice.swap(
                Some(table(route, "0:1", &[], &all)),
                Arc::default(),
                members(&all),
            ));
            slice.tallies.retire();
            swaps += 2;
        }
        over.store(true, Ordering::Relaxed);
        let counts = callers.into_iter().map(|caller| caller.join().unwrap());
        counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    assert!(all.iter().all(|instance| instance.endpoint.in_flight() == 0));
    let tallied: u64 = slice.tallies.routes().iter().map(|tally| tally.new + tally.old).sum();
    assert!(tallied <= picks, "{tallied} of {picks}: only the last routes are remembered");
    Outcomes { picks, swaps, misrouted }
}

/// For so long.
fn lasting(time: Duration) -> impl Fn(u64) -> bool {
    let end = Instant::now() + time;
    move |_| Instant::now() >= end
}

#[test]
fn no_call_starts_on_an_instance_that_was_claimed_idle() {
    for by in [By::Handle, By::Caller, By::IndependentCaller] {
        // However long a busy machine takes for them.
        let outcomes = run(by, Writer::WaitsUntilSettled, 3, |swaps| swaps >= 400);
        println!("{by:?}: {} picks, {} swaps", outcomes.picks, outcomes.swaps);
        assert!(outcomes.picks > 0);
        assert_eq!(outcomes.misrouted, 0);
    }
}

#[test]
fn without_settling_calls_do_start_on_instances_that_were_claimed_idle() {
    for by in [By::Handle, By::Caller, By::IndependentCaller] {
        // The harness would see it: repeat until it does.
        let limit = Instant::now() + Duration::from_secs(240);
        loop {
            let outcomes = run(by, Writer::Trusts, 3, lasting(Duration::from_millis(500)));
            if outcomes.misrouted > 0 {
                println!("{by:?}: {} of {} misrouted", outcomes.misrouted, outcomes.picks);
                break;
            }
            assert!(Instant::now() < limit, "the control never failed: {by:?}");
        }
    }
}

/// `cargo nextest run --release -p aether-invoker --run-ignored only --no-capture swaps`
#[test]
#[ignore = "a long run, for a quiet machine"]
fn half_a_thousand_million_calls_over_a_hundred_thousand_swaps() {
    const PICKS: u64 = 500_000_000;
    const SWAPS: u64 = 100_000;
    for by in [By::Handle, By::Caller, By::IndependentCaller] {
        let (mut picks, mut swaps, mut misrouted) = (0, 0, 0);
        let began = Instant::now();
        while picks < PICKS || swaps < SWAPS {
            let part = run(by, Writer::WaitsUntilSettled, 2, lasting(Duration::from_secs(5)));
            picks += part.picks;
            swaps += part.swaps;
            misrouted += part.misrouted;
        }
        let took = began.elapsed().as_secs();
        println!("{by:?}: {misrouted} of {picks} calls misrouted, {swaps} swaps, {took} s");
        let control = run(by, Writer::Trusts, 2, lasting(Duration::from_secs(5)));
        let Outcomes { picks, swaps, misrouted: wrong } = control;
        println!("{by:?}, naive: {wrong} of {picks} calls misrouted, {swaps} swaps");
        assert_eq!(misrouted, 0);
        assert!(wrong > 0, "the control never failed");
    }
}

#[test]
fn an_independent_caller_splits_exactly_over_changes_and_threads_do_within_one_call_each() {
    const THREADS: usize = 4;
    let (new, old) = (instances(2, 3), instances(1, 5));
    let handle = handle(99);
    let publish = |route: u64, weights: &str| {
        let table = table(route, weights, &new, &old);
        handle.state.swap(Some(table), members(&new), members(&old));
    };
    publish(1, "1:9");
    let callers: Vec<Caller> = (0..THREADS).map(|_| handle.independent_caller()).collect();
    let (mut all, mut share) = (0u64, 0f64);
    let mut of = [(0u64, 0f64); THREADS];
    for (route, weights) in ["1:9", "3:17", "37:63", "1:999", "1:1"].into_iter().enumerate() {
        // The same weights twice: that only the endpoints change costs nothing.
        for round in 0..2 {
            publish(route as u64 * 2 + round + 2, weights);
            let weights: Weights = weights.parse().unwrap();
            let part = f64::from(weights.new_side()) / f64::from(weights.total());
            for call in 0..777 {
                // Not all are equally fast.
                let at = if call % 3 == 0 { 0 } else { call % THREADS };
                let is_new = u64::from(callers[at].pick().unwrap().side() == Side::New);
                let (new, share_of) = &mut of[at];
                (*new, *share_of) = (*new + is_new, *share_of + part);
                assert!((*new as f64 - *share_of).abs() < 1.000_001, "{at}: {new} {share_of}");
                (all, share) = (all + is_new, share + part);
                assert!((all as f64 - share).abs() < THREADS as f64, "{all} {share}");
            }
        }
    }
}

#[test]
fn tickets_and_tallies_are_exact_over_swaps_under_threads() {
    let (new, old) = (instances(2, 3), instances(1, 3));
    let handle = handle(77);
    let slice = &*handle.state;
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
        scope.spawn(|| {
            PAUSES.set(true);
            let caller = handle.caller();
            while !over.load(Ordering::Relaxed) {
                caller.pick().unwrap().finish(Outcome::Success);
                by_callers.fetch_add(1, Ordering::Relaxed);
            }
        });
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

/// `cargo nextest run --release -p aether-invoker --run-ignored only --no-capture update`
#[tokio::test]
#[ignore = "a measurement, for a quiet machine"]
async fn cost_of_a_table_update() {
    const UPDATES: u64 = 2_000;
    for count in [16, 1_000] {
        let node = ([127, 0, 0, 1], 1).into();
        let config = Config::new("stress", SessionKind::Invoker, vec![node]);
        let invoker = Invoker::unconnected(config);
        let mut applier = Applier::new(Arc::clone(invoker.shared()));
        let (new, old) = (instances(2, count), instances(1, count));
        let message = |revision: u64| {
            let weights = if revision.is_multiple_of(2) { "1:9" } else { "3:17" };
            v1::RoutingDown {
                incarnation: 1,
                revision,
                snapshot: revision == 1,
                tables: vec![(&*table(revision, weights, &new, &old)).into()],
                ..Default::default()
            }
        };
        let messages: Vec<_> = (1..=UPDATES).map(message).collect();
        let began = Instant::now();
        for message in &messages {
            applier.apply(message).await.unwrap();
        }
        let apply = began.elapsed().as_nanos() as f64 / UPDATES as f64 / 1_000.0;

        let table = |message: &v1::RoutingDown| SliceTable::try_from(&message.tables[0]).unwrap();
        let tables: Vec<_> = messages.iter().map(|message| Arc::new(table(message))).collect();
        let state = SliceState::new("org.example:a".parse().unwrap(), 0);
        let (new, old) = (members(&new), members(&old));
        let mut swap = 0.0;
        // The first round warms up.
        for _ in 0..2 {
            let began = Instant::now();
            for table in &tables {
                let (table, new, old) = (Arc::clone(table), Arc::clone(&new), Arc::clone(&old));
                let retired = state.swap(Some(table), new, old);
                assert!(retired.is_settled());
                state.tallies.retire();
            }
            swap = began.elapsed().as_nanos() as f64 / UPDATES as f64 / 1_000.0;
        }
        println!("{count} + {count}: swapped in {swap:.2} us, with reading it {apply:.2} us");
    }
}
