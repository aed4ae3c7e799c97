//! The door for threads that split their calls by themselves.
//!
//! It serves what the [gate](super::gate) serves, for picks that share no word
//! with other threads: a pick says in its own lane that it is inside, passes a
//! light fence and looks whether the door is closed. The writer closes the door
//! and passes a heavy fence. Of the two, at least one sees the other: either the
//! pick finds the door closed, has touched nothing and takes the next table, or
//! the writer finds it inside and waits until it has settled.

use aether_core::schedule::Side;

use super::counter::{Counter, Lane, Lanes};
use super::sync::{AtomicU64, LightFence, Ordering};

#[derive(Debug, Default)]
struct Booth {
    /// Picks between entering and settling.
    inside: Counter,
    settled: [Counter; 2],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Booths {
    closed: AtomicU64,
    booths: Lanes<Booth>,
}

impl Booths {
    /// An open door.
    pub(crate) fn open(lanes: usize) -> Self {
        Self { closed: AtomicU64::new(0), booths: Lanes::new(lanes) }
    }

    /// Enters, or finds the door closed. Who has entered must call
    /// [`settle`](Self::settle), without a panic or a wait in between.
    #[inline(always)]
    pub(crate) fn enter(&self, lane: Lane, fence: LightFence) -> bool {
        let inside = &self.booths.of(lane).inside;
        inside.add(lane, 1);
        fence.pass();
        let is_open = self.closed.load(Ordering::Acquire) == 0;
        if !is_open {
            inside.take(lane, 1);
        }
        is_open
    }

    /// Says that the call is announced at an endpoint of `side`.
    #[inline(always)]
    pub(crate) fn settle(&self, lane: Lane, side: Side) {
        let booth = self.booths.of(lane);
        booth.settled[side.index()].add(lane, 1);
        // Whoever sees nobody inside also sees the announcement.
        booth.inside.take(lane, 1);
    }

    /// Closes the door. The writer passes a heavy fence before it looks who is inside.
    pub(crate) fn close(&self) {
        self.closed.store(1, Ordering::Release);
    }

    /// Settled picks (new, old).
    pub(crate) fn settled(&self) -> (u64, u64) {
        let sum = |side: usize| self.booths.iter().map(|booth| booth.settled[side].get()).sum();
        (sum(0), sum(1))
    }

    /// Whether nobody is inside, which stays so after the door was closed. A lane that
    /// was seen empty has at most picks that will find it closed.
    pub(crate) fn is_settled(&self) -> bool {
        self.booths.iter().all(|booth| booth.inside.get() == 0)
    }
}
