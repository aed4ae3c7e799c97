//! Calls in flight at one endpoint, counted by the lane of the thread that
//! picked it: a call may end on any thread, and takes itself away where it was
//! counted. Calls that are bound to their thread are counted apart, without a
//! locked instruction.
//!
//! After all tables that named the endpoint have [settled](super::gate), a
//! lane's number can only fall, so that lanes that were once seen at zero, one
//! after the other, are all at zero. The call that ends as the last of its lane
//! learns with the very instruction by which it ends that it has to say so. One
//! that is bound to its thread looks afterwards, and may miss a flag that is set
//! within the same nanoseconds: it is then found by whoever looks from time to time.

use super::counter::{Counter, Lane, Lanes};
use super::sync::{AtomicU64, Ordering};

/// Set in each lane while no table names the endpoint.
const LEAVING: u64 = 1 << 63;

#[derive(Debug, Default)]
struct InLane {
    free: AtomicU64,
    bound: Counter,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Calls(Lanes<InLane>);

impl Calls {
    pub(crate) fn new(lanes: usize) -> Self {
        Self(Lanes::new(lanes))
    }

    /// Counts a call. Only between entering and settling a gate, which publishes it.
    #[inline]
    pub(crate) fn begin(&self, lane: Lane) {
        self.0.of(lane).free.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call as over that began in the lane of this index. Whether somebody
    /// waits to hear it.
    #[inline]
    pub(crate) fn end(&self, began_in: usize) -> bool {
        // Release: who sees it as over sees all that it did. In one order with the
        // setting of `LEAVING`: either this sees the flag, or who set it sees this.
        self.0.at(began_in).free.fetch_sub(1, Ordering::AcqRel) == LEAVING | 1
    }

    /// As [`begin`](Self::begin), for a call that ends on the thread that it began on.
    #[inline]
    pub(crate) fn begin_bound(&self, lane: Lane) {
        self.0.of(lane).bound.add(lane, 1);
    }

    /// Counts a call as over that is bound to this thread. Whether somebody waits to
    /// hear it, as far as can be told without waiting for other processors.
    #[inline]
    pub(crate) fn end_bound(&self, lane: Lane) -> bool {
        let calls = self.0.of(lane);
        calls.bound.take(lane, 1);
        calls.free.load(Ordering::Relaxed) & LEAVING != 0 && calls.bound.get() == 0
    }

    /// No table names the endpoint any more: the last call of each lane is to say so.
    pub(crate) fn leave(&self) {
        self.0.iter().for_each(|lane| _ = lane.free.fetch_or(LEAVING, Ordering::AcqRel));
    }

    /// A table names it again.
    pub(crate) fn come_back(&self) {
        self.0.iter().for_each(|lane| _ = lane.free.fetch_and(!LEAVING, Ordering::AcqRel));
    }

    /// How many are in flight, if they are more than `max`. Looks at one lane alone while
    /// that has but its share of an eighth: other lanes are written by others.
    #[inline]
    pub(crate) fn above(&self, max: u64, index: usize) -> Option<u64> {
        let lane = self.0.at(index);
        let own = (lane.free.load(Ordering::Relaxed) & !LEAVING) + lane.bound.get();
        if own <= max / (8 * self.0.count() as u64) {
            return None;
        }
        Some(self.in_flight()).filter(|all| *all > max)
    }

    /// Calls in flight. Exact when it gives 0 after the gates of all tables that named the
    /// endpoint have settled; otherwise of the moment.
    pub(crate) fn in_flight(&self) -> u64 {
        let of = |lane: &InLane| (lane.free.load(Ordering::Acquire) & !LEAVING) + lane.bound.get();
        self.0.iter().map(of).sum()
    }
}
