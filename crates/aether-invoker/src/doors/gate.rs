//! The door through which picks enter one routing table, and by which the
//! writer knows that all who entered are accounted for.
//!
//! A pick enters by taking a ticket, then announces itself at the endpoint that
//! the ticket leads to, then *settles*. The writer closes the door with one
//! atomic operation on the same word that hands out the tickets. So each pick
//! either entered before, and the writer waits until it has settled and its
//! announcement can be seen, or it finds the door closed, has touched nothing,
//! and takes the next table. Once `settled == entered`, no call can start by
//! the old table any more, and every call that did start is counted at its
//! endpoint.
//!
//! The alternative of rechecking a generation after the announcement is as
//! safe, but a pick that has to retry loses its ticket, and the split of a
//! route is then inexact at its end. Here no ticket is ever lost; the count of
//! settled picks *is* the tally of the route, so the safety costs nothing.
//!
//! The price: between entering and settling a pick must neither panic nor wait,
//! for the writer waits for it. It holds a few instructions of our own.

use aether_core::schedule::Side;

use super::counter::{Counter, Lane, Lanes, Padded};
use super::sync::{AtomicU64, Ordering};

/// Set in the word that hands out tickets when the door is closed. Tickets stay
/// below it for ever: at 10^9 picks per second it is 292 years away.
const CLOSED: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// What the first ticket is called.
    first: u64,
    /// Tickets handed out.
    entered: Padded<AtomicU64>,
    settled: Lanes<[Counter; 2]>,
}

impl Gate {
    /// An open door whose first ticket is 0.
    pub(crate) fn open(lanes: usize) -> Self {
        Self { first: 0, entered: Padded::default(), settled: Lanes::new(lanes) }
    }

    /// Names the first ticket of a door that nobody else has seen yet.
    pub(crate) fn set_first(&mut self, first: u64) {
        self.first = first;
    }

    /// Takes the next ticket, or finds the door closed. Who has a ticket must
    /// call [`settle`](Self::settle), without a panic or a wait in between.
    #[inline]
    pub(crate) fn enter(&self) -> Option<u64> {
        let entered = self.entered.0.fetch_add(1, Ordering::AcqRel);
        (entered < CLOSED).then(|| self.first.wrapping_add(entered))
    }

    /// Says that the ticket's call is announced at an endpoint of `side`. Whoever
    /// sees this count also sees the announcement.
    #[inline]
    pub(crate) fn settle(&self, lane: Lane, side: Side) {
        self.settled.of(lane)[side.index()].add(lane, 1);
    }

    /// Closes the door and gives the number of the first ticket that was not
    /// handed out. Only the first closing tells the truth.
    pub(crate) fn close(&self) -> u64 {
        let entered = self.entered.0.fetch_or(CLOSED, Ordering::AcqRel);
        assert!(entered < CLOSED, "a gate is closed once, by the one writer");
        self.first.wrapping_add(entered)
    }

    /// Settled picks (new, old).
    pub(crate) fn settled(&self) -> (u64, u64) {
        let sum = |side: usize| self.settled.iter().map(|lane| lane[side].get()).sum();
        (sum(0), sum(1))
    }

    /// Whether all picks below `next`, where the door was closed, have settled.
    pub(crate) fn is_settled(&self, next: u64) -> bool {
        let (new, old) = self.settled();
        new + old == next.wrapping_sub(self.first)
    }
}
