//! The doors under a model checker ([loom](https://docs.rs/loom)), which runs the
//! files themselves in every order of their steps and with every value that the
//! memory model lets a load see, up to a number of preemptions. The controls leave
//! out one step of the protocol each, and must be caught.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same files, with the atomics of the model checker"
)]

use std::marker::PhantomData;

use aether_core::schedule::Side;
use loom::sync::Arc;
use loom::thread;

use booths::Booths;
use calls::Calls;
use counter::Lane;
use gate::Gate;
use sync::{AtomicU64, LightFence, Ordering, heavy_fence};

mod sync {
    pub(super) use loom::sync::atomic::fence;
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};

    /// As where the kernel does not help: that what it does helps is its promise.
    #[derive(Clone, Copy)]
    pub(crate) struct LightFence {
        /// Whether a heavy one is passed on the other side.
        pub(super) has_other: bool,
    }

    impl LightFence {
        pub(crate) fn pass(self) {
            if self.has_other {
                fence(Ordering::SeqCst);
            }
        }
    }

    pub(crate) fn heavy_fence() {
        fence(Ordering::SeqCst);
    }
}

#[path = "booths.rs"]
mod booths;
#[path = "calls.rs"]
mod calls;
#[path = "counter.rs"]
mod counter;
#[path = "gate.rs"]
mod gate;

/// The shared lane, and one for each of two threads.
const LANES: usize = 3;
const PREEMPTIONS_MAX: usize = 3;

/// A step of the protocol that is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    Settling,
    HeavyFence,
    /// Nothing is left out, but the writer was told of nobody in a booth.
    Anybody,
    /// The same, and the fence before it looks whether it was told.
    Telling,
}

/// A table with one endpoint.
struct Plan {
    gate: Gate,
    booths: Booths,
    calls: Calls,
}

struct World {
    /// The table that leaves and the one that comes.
    plans: [Plan; 2],
    current: AtomicU64,
    /// Whether the instance of the table that leaves was stopped.
    stopped: AtomicU64,
    /// Ends that said that somebody waits to hear it.
    said: AtomicU64,
    /// Threads that take to the booths.
    independent: AtomicU64,
}

impl World {
    fn new() -> Arc<Self> {
        let plan = || Plan {
            gate: Gate::open(LANES),
            booths: Booths::open(LANES),
            calls: Calls::new(LANES),
        };
        let mut plans = [plan(), plan()];
        plans[0].gate.set_first(5);
        let [current, stopped, said, independent] = [(); 4].map(|()| AtomicU64::new(0));
        Arc::new(Self { plans, current, stopped, said, independent })
    }

    /// Enters the current table, or the next where that is closed, which the product
    /// waits for; gives which it was.
    fn enter(&self, enter: impl Fn(&Plan) -> bool) -> usize {
        let current = self.current.load(Ordering::Acquire) as usize;
        if enter(&self.plans[current]) {
            return current;
        }
        assert!(enter(&self.plans[1]), "nobody closes the table that comes");
        1
    }

    /// What a call does: it must not be made at an instance that was stopped.
    fn call(&self, plan: usize) {
        let is_stopped = plan == 0 && self.stopped.load(Ordering::Acquire) == 1;
        assert!(!is_stopped, "misrouted");
    }

    /// One call through the gate.
    fn pick(&self, lane: Lane) {
        let plan = self.enter(|plan| plan.gate.enter().is_some());
        let Plan { gate, calls, .. } = &self.plans[plan];
        calls.begin(lane);
        gate.settle(lane, Side::New);
        self.call(plan);
        if calls.end(lane.index) {
            self.said.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One call through a booth.
    fn pick_apart(&self, lane: Lane, has_other: bool) {
        let plan = self.enter(|plan| plan.booths.enter(lane, LightFence { has_other }));
        let Plan { booths, calls, .. } = &self.plans[plan];
        calls.begin_bound(lane);
        booths.settle(lane, Side::Old);
        self.call(plan);
        calls.end_bound(lane);
    }

    /// The first of a thread: the writer is told that there are some before the tables
    /// are looked at.
    fn pick_first(&self, lane: Lane) {
        self.independent.fetch_add(1, Ordering::SeqCst);
        sync::fence(Ordering::SeqCst);
        self.pick_apart(lane, false);
    }

    /// Replaces the table, looks once whether that has settled, and stops the instance
    /// if it is idle then. Whether somebody is waited for who is to say so.
    fn swap(&self, without: Without) -> bool {
        let [old, _] = &self.plans;
        let next = old.gate.close();
        old.booths.close();
        self.current.store(1, Ordering::Release);
        match without {
            Without::HeavyFence => {}
            // Where nobody is told of, the heavy fence is spared.
            Without::Telling | Without::Anybody => {
                if without == Without::Anybody {
                    sync::fence(Ordering::SeqCst);
                }
                if self.independent.load(Ordering::SeqCst) > 0 {
                    return false;
                }
            }
            Without::Nothing | Without::Settling => heavy_fence(),
        }
        let is_settled = old.gate.is_settled(next) && old.booths.is_settled();
        if !is_settled && without != Without::Settling {
            return false;
        }
        old.calls.leave();
        let is_busy = old.calls.in_flight() > 0;
        if !is_busy {
            self.stopped.store(1, Ordering::Release);
        }
        is_busy
    }
}

fn lane(index: usize) -> Lane {
    Lane { index, of_this_thread: PhantomData }
}

/// Two threads of one call each, and a swap.
fn check(without: Without, first: fn(&World), second: fn(&World)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let world = World::new();
        let callers = [first, second].map(|caller| {
            let world = Arc::clone(&world);
            thread::spawn(move || caller(&world))
        });
        let waits = world.swap(without);
        callers.into_iter().for_each(|caller| caller.join().unwrap());

        // All calls are over, and each was counted once by the door that it took.
        assert_eq!(world.plans.iter().map(|plan| plan.calls.in_flight()).sum::<u64>(), 0);
        let settled = |(new, old): (u64, u64)| new + old;
        let counted = |plan: &Plan| settled(plan.gate.settled()) + settled(plan.booths.settled());
        assert_eq!(world.plans.iter().map(counted).sum::<u64>(), 2);
        // Who waits for the last call of a lane hears of it, if it is not bound.
        let by_gate_only = world.plans.iter().all(|plan| settled(plan.booths.settled()) == 0);
        assert!(!waits || !by_gate_only || world.said.load(Ordering::Relaxed) > 0, "untold");
        assert!(world.plans.iter().all(|plan| plan.booths.is_settled()), "somebody is inside");
    });
}

#[test]
fn no_call_by_the_gate_reaches_an_instance_that_was_found_idle() {
    check(Without::Nothing, |world| world.pick(lane(1)), |world| world.pick(lane(2)));
}

#[test]
fn nor_one_by_a_booth() {
    check(
        Without::Nothing,
        |world| world.pick_apart(lane(1), true),
        |world| world.pick_apart(lane(2), true),
    );
}

#[test]
fn nor_one_by_either_while_others_go_by_the_other() {
    check(Without::Nothing, |world| world.pick(lane(1)), |world| world.pick_apart(lane(2), true));
}

#[test]
fn nor_one_of_threads_that_share_a_lane() {
    check(Without::Nothing, |world| world.pick(lane(0)), |world| world.pick(lane(0)));
    check(
        Without::Nothing,
        |world| world.pick_apart(lane(0), true),
        |world| world.pick_apart(lane(0), true),
    );
}

#[test]
#[should_panic(expected = "misrouted")]
fn the_gate_without_settling_is_caught() {
    check(Without::Settling, |world| world.pick(lane(1)), |world| world.pick(lane(2)));
}

#[test]
#[should_panic(expected = "misrouted")]
fn booths_without_settling_are_caught() {
    check(Without::Settling, |world| world.pick_apart(lane(1), true), |world| world.pick(lane(2)));
}

#[test]
#[should_panic(expected = "misrouted")]
fn booths_without_the_heavy_fence_are_caught() {
    check(
        Without::HeavyFence,
        |world| world.pick_apart(lane(1), true),
        |world| world.pick(lane(2)),
    );
}

#[test]
fn nor_the_first_of_a_thread_that_takes_to_the_booths() {
    check(Without::Anybody, |world| world.pick_first(lane(1)), |world| world.pick(lane(2)));
}

#[test]
#[should_panic(expected = "misrouted")]
fn not_telling_the_writer_in_time_is_caught() {
    check(Without::Telling, |world| world.pick_first(lane(1)), |world| world.pick(lane(2)));
}
