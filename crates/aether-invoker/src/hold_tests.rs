//! Holds of one slice, without a session.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use aether_core::schedule::Side;
use aether_core::table::SliceTable;
use tokio::sync::mpsc;

use crate::hold::{NoPick, WAITING_MAX};
use crate::pick::Pick;
use crate::slice::{Plan, SliceState};
use crate::stress::{Instance, instances, members, table};

/// Longer than any test runs.
const LONG_MS: u64 = 1_000_000;

struct Scene {
    slice: Arc<SliceState>,
    new: Vec<Arc<Instance>>,
    old: Vec<Arc<Instance>>,
}

impl Scene {
    /// All calls go to the old version.
    fn new() -> Self {
        let (new, old) = (instances(2, 2), instances(1, 3));
        let slice = Arc::new(SliceState::new("org.example:a".parse().unwrap(), 0));
        let scene = Self { slice, new, old };
        scene.swap(1, "0:1", 0);
        scene
    }

    fn swap(&self, route: u64, weights: &str, hold_ms: u64) -> Arc<Plan> {
        let table =
            SliceTable { hold_ms, ..(*table(route, weights, &self.new, &self.old)).clone() };
        self.slice.swap(Some(Arc::new(table)), members(&self.new), members(&self.old))
    }

    /// A call that waits, and the side that it goes to in the end.
    fn call(&self) -> tokio::task::JoinHandle<Side> {
        let slice = Arc::clone(&self.slice);
        tokio::spawn(async move { side(&slice.pick_when_open().await) })
    }

    async fn until_waiting(&self, count: usize) {
        while self.slice.waiting().count() != count {
            tokio::task::yield_now().await;
        }
    }
}

/// Polled once, it waits.
fn waits(call: Pin<&mut impl Future>) -> bool {
    call.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

fn side(pick: &Option<Pick>) -> Side {
    pick.as_ref().expect("both versions have instances").side()
}

#[tokio::test]
async fn calls_wait_for_the_next_table_and_go_by_it() {
    let scene = Scene::new();
    let retired = scene.swap(2, "0:1", LONG_MS);
    assert!(retired.is_settled(), "nobody picks by the table before");
    assert!(matches!(scene.slice.pick(), Err(NoPick::Held(_))));
    let calls: Vec<_> = (0..50).map(|_| scene.call()).collect();
    scene.until_waiting(50).await;
    // Another table of the same route is no end of it.
    scene.swap(2, "0:1", LONG_MS);
    tokio::task::yield_now().await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    scene.swap(3, "1:0", 0);
    for call in calls {
        assert_eq!(call.await.unwrap(), Side::New);
    }
    assert_eq!((scene.slice.late(), scene.slice.waiting().count()), (None, 0));
}

#[tokio::test]
async fn a_hold_that_comes_to_nothing_has_them_go_on_as_before() {
    let scene = Scene::new();
    scene.swap(2, "0:1", LONG_MS);
    let call = scene.call();
    scene.until_waiting(1).await;
    scene.swap(3, "0:1", 0);
    assert_eq!(call.await.unwrap(), Side::Old);
    assert_eq!(scene.slice.late(), None);
}

#[tokio::test]
async fn past_its_time_calls_go_on_by_the_table_that_is_there_and_are_counted() {
    let scene = Scene::new();
    scene.swap(2, "0:1", 20);
    let began = tokio::time::Instant::now();
    assert_eq!(scene.call().await.unwrap(), Side::Old);
    assert!(began.elapsed() >= Duration::from_millis(19), "{:?}", began.elapsed());
    assert_eq!(scene.slice.late(), Some((2, 1)));
    // The time of a hold does not begin anew with another table of the same route.
    scene.swap(2, "0:1", LONG_MS);
    assert_eq!(scene.slice.pick().unwrap().side(), Side::Old);
    assert_eq!(scene.slice.late(), Some((2, 2)));
    // It is remembered over the switch, until the next hold.
    scene.swap(3, "1:0", 0);
    assert_eq!(scene.slice.pick().unwrap().side(), Side::New);
    assert_eq!(scene.slice.late(), Some((2, 2)));
    scene.swap(4, "1:0", LONG_MS);
    assert_eq!(scene.slice.late(), None);
}

#[tokio::test]
async fn beyond_the_bound_a_call_goes_on_and_is_counted_instead_of_lost() {
    let scene = Scene::new();
    scene.swap(2, "0:1", LONG_MS);
    let mut waiting: Vec<_> =
        (0..WAITING_MAX).map(|_| Box::pin(scene.slice.pick_when_open())).collect();
    for call in &mut waiting {
        assert!(waits(call.as_mut()));
    }
    assert_eq!(side(&scene.slice.pick_when_open().await), Side::Old);
    assert_eq!(scene.slice.late(), Some((2, 1)));
    // One that is given up leaves its place to another.
    drop(waiting.pop());
    let mut another = Box::pin(scene.slice.pick_when_open());
    assert!(waits(another.as_mut()));
    scene.swap(3, "1:0", 0);
    for call in waiting {
        assert_eq!(side(&call.await), Side::New);
    }
    assert_eq!(scene.slice.late(), Some((2, 1)));
}

#[tokio::test]
async fn who_came_first_goes_first() {
    let scene = Scene::new();
    scene.swap(2, "0:1", LONG_MS);
    let (to, mut went) = mpsc::unbounded_channel();
    for number in 0..100 {
        let (slice, to) = (Arc::clone(&scene.slice), to.clone());
        tokio::spawn(async move {
            let pick = slice.pick_when_open().await;
            to.send((number, side(&pick))).unwrap();
        });
        scene.until_waiting(number + 1).await;
    }
    scene.swap(3, "1:0", 0);
    for number in 0..100 {
        assert_eq!(went.recv().await, Some((number, Side::New)));
    }
}

#[tokio::test]
async fn a_retry_waits_too_and_a_table_without_instances_holds_nobody() {
    let scene = Scene::new();
    let tried = [scene.old[0].endpoint.instance.clone()];
    scene.swap(2, "0:1", LONG_MS);
    let mut retry = Box::pin(scene.slice.pick_other(Side::Old, &tried));
    assert!(waits(retry.as_mut()));
    scene.swap(3, "1:0", 0);
    assert_eq!(side(&retry.await), Side::New);
    let empty = SliceTable { hold_ms: LONG_MS, ..(*table(4, "0:1", &[], &[])).clone() };
    scene.slice.swap(Some(Arc::new(empty)), Arc::default(), Arc::default());
    assert!(matches!(scene.slice.pick(), Err(NoPick::Nothing)));
    assert!(scene.slice.pick_when_open().await.is_none());
}

/// Threads call as fast as they can while one switches back and forth behind a hold:
/// no call hangs, and none goes to a side that the route has left before it began.
#[test]
fn no_wake_up_is_lost_and_no_call_begins_at_the_side_that_was_left() {
    let scene = Scene::new();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    // Routes up to here are settled everywhere: odd ones go to the new side.
    let settled = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let slice = Arc::clone(&scene.slice);
            let (settled, over) = (Arc::clone(&settled), Arc::clone(&over));
            runtime.spawn(async move {
                let mut calls = 0u64;
                while !over.load(Ordering::Relaxed) {
                    let before = settled.load(Ordering::SeqCst);
                    let pick = slice.pick_when_open().await.unwrap();
                    assert!(pick.route_revision() >= before, "a table that was left");
                    calls += 1;
                    drop(pick);
                    tokio::task::yield_now().await;
                }
                calls
            })
        })
        .collect();
    for switch in 1..2_000u64 {
        let (from, to) = if switch % 2 == 0 { ("1:0", "0:1") } else { ("0:1", "1:0") };
        let retired = scene.swap(2 * switch, from, LONG_MS);
        while !retired.is_settled() {
            std::thread::yield_now();
        }
        // No call began by the hold itself.
        let held = scene.swap(2 * switch + 1, to, 0);
        assert_eq!(held.tally().map(|tally| tally.new + tally.old), Some(0));
        settled.store(2 * switch + 1, Ordering::SeqCst);
    }
    over.store(true, Ordering::Relaxed);
    let calls: u64 = runtime.block_on(async {
        let mut calls = 0;
        for caller in callers {
            let ended = tokio::time::timeout(Duration::from_secs(60), caller);
            calls += ended.await.expect("a call hangs").unwrap();
        }
        calls
    });
    assert!(calls > 0);
    assert_eq!(scene.slice.late(), None);
}

/// The time of a hold ends just as the switch arrives, before it, or after it: whatever
/// began by the table that held calls is counted once that table is settled.
#[test]
fn a_hold_that_ends_just_as_the_switch_comes_counts_each_call_that_it_let_go() {
    let scene = Scene::new();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..8 {
        let (slice, over) = (Arc::clone(&scene.slice), Arc::clone(&over));
        runtime.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                drop(slice.pick_when_open().await.unwrap());
                tokio::task::yield_now().await;
            }
        });
    }
    let mut late_in_all = 0;
    for switch in 1..300u64 {
        let (from, to) = if switch % 2 == 0 { ("1:0", "0:1") } else { ("0:1", "1:0") };
        scene.swap(2 * switch, from, 1);
        let began = tokio::time::Instant::now();
        // Around the end of the hold; in some cases certainly beyond it.
        let comes = Duration::from_micros(940 + switch % 16 * 8);
        while began.elapsed() < comes || (switch % 16 == 0 && scene.slice.late().is_none()) {
            std::thread::yield_now();
        }
        let held = scene.swap(2 * switch + 1, to, 0);
        while !held.is_settled() {
            std::thread::yield_now();
        }
        let began_by_it = held.tally().map_or(0, |tally| tally.new + tally.old);
        let told = scene.slice.late();
        assert_eq!(told.map_or(0, |(_, calls)| calls), began_by_it, "{told:?}");
        assert!(told.is_none_or(|(route, _)| route == 2 * switch), "{told:?}");
        late_in_all += began_by_it;
    }
    over.store(true, Ordering::Relaxed);
    assert!(late_in_all > 0);
}
