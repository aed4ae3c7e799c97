//! Calls in flight at one endpoint, counted by the lane of the thread that
//! picked it: a call may end on any thread, and takes itself away where it was
//! counted.
//!
//! After all tables that named the endpoint have [settled](crate::gate), a
//! lane's number can only fall, so that lanes that were once seen at zero, one
//! after the other, are all at zero. The call that ends as the last of its lane
//! learns with the very instruction by which it ends that it has to say so.

use super::counter::{Lane, Lanes};
use super::sync::{AtomicU64, Ordering};

/// Set in each lane while no table names the endpoint.
const LEAVING: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(crate) struct Calls(Lanes<AtomicU64>);

impl Calls {
    pub(crate) fn new(lanes: usize) -> Self {
        Self(Lanes::new(lanes))
    }

    /// Counts a call. Only between entering and settling a gate, which publishes it.
    #[inline]
    pub(crate) fn begin(&self, lane: Lane) {
        self.0.of(lane).fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call as over that began in the lane of this index. Whether somebody
    /// waits to hear it.
    #[inline]
    pub(crate) fn end(&self, began_in: usize) -> bool {
        // Release: who sees it as over sees all that it did. In one order with the
        // setting of `LEAVING`: either this sees the flag, or who set it sees this.
        self.0.at(began_in).fetch_sub(1, Ordering::AcqRel) == LEAVING | 1
    }

    /// No table names the endpoint any more: the last call of each lane is to say so.
    pub(crate) fn leave(&self) {
        self.0.iter().for_each(|lane| _ = lane.fetch_or(LEAVING, Ordering::AcqRel));
    }

    /// A table names it again.
    pub(crate) fn come_back(&self) {
        self.0.iter().for_each(|lane| _ = lane.fetch_and(!LEAVING, Ordering::AcqRel));
    }

    /// Calls in flight. Exact when it gives 0 after the gates of all tables that named the
    /// endpoint have settled; otherwise of the moment.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.iter().map(|lane| lane.load(Ordering::Acquire) & !LEAVING).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane;

    #[test]
    fn only_the_last_call_of_a_leaving_endpoint_says_so() {
        let (calls, lane) = (Calls::new(lane::count()), lane::current());
        (0..3).for_each(|_| calls.begin(lane));
        assert!(!calls.end(lane.index));
        calls.leave();
        assert_eq!(calls.in_flight(), 2);
        assert!(!calls.end(lane.index));
        assert!(calls.end(lane.index));
        assert_eq!(calls.in_flight(), 0);
        calls.come_back();
        calls.begin(lane);
        assert!(!calls.end(lane.index));
    }
}
