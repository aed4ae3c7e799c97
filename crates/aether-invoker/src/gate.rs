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

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aether_core::schedule::Side;

/// Set in the ticket word when the door is closed. Tickets stay below it for
/// ever: at 10^9 picks per second it is 292 years away.
const CLOSED: u64 = 1 << 63;

/// Settled picks are counted in this many lanes, so that threads do not share a
/// cache line for them. More threads than lanes share, which is only slower.
const LANES: usize = 8;

/// A value alone in its cache line (two, for adjacent-line prefetching).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// The lane of the calling thread.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    LANE.with(|lane| *lane)
}

fn index(side: Side) -> usize {
    match side {
        Side::New => 0,
        Side::Old => 1,
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    first: u64,
    next: Padded<AtomicU64>,
    settled: [Padded<[AtomicU64; 2]>; LANES],
}

impl Gate {
    /// An open door whose first ticket is `first`.
    pub(crate) fn open(first: u64) -> Self {
        assert!(first < CLOSED);
        Self { first, next: Padded(AtomicU64::new(first)), settled: Default::default() }
    }

    /// Sets the first ticket of a door that nobody else has seen yet.
    pub(crate) fn set_first(&mut self, first: u64) {
        assert!(first < CLOSED);
        self.first = first;
        *self.next.0.get_mut() = first;
    }

    /// Takes the next ticket, or finds the door closed. Who has a ticket must
    /// call [`settle`](Self::settle), without a panic or a wait in between.
    #[inline]
    pub(crate) fn enter(&self) -> Option<u64> {
        let ticket = self.next.0.fetch_add(1, Ordering::AcqRel);
        (ticket < CLOSED).then_some(ticket)
    }

    /// Says that the ticket's call is announced at an endpoint of `side`.
    #[inline]
    pub(crate) fn settle(&self, side: Side) {
        // Release: whoever sees this count also sees the announcement.
        self.settled[lane()].0[index(side)].fetch_add(1, Ordering::Release);
    }

    /// Closes the door and gives the number of the first ticket that was not
    /// handed out. Only the first closing tells the truth.
    pub(crate) fn close(&self) -> u64 {
        let next = self.next.0.fetch_or(CLOSED, Ordering::AcqRel);
        assert!(next < CLOSED, "a gate is closed once, by the one writer");
        next
    }

    /// Settled picks (new, old).
    pub(crate) fn settled(&self) -> (u64, u64) {
        self.settled.iter().fold((0, 0), |(new, old), lane| {
            let count = |side: usize| lane.0[side].load(Ordering::Acquire);
            (new + count(0), old + count(1))
        })
    }

    /// Whether all picks below `next`, where the door was closed, have settled.
    pub(crate) fn is_settled(&self, next: u64) -> bool {
        let (new, old) = self.settled();
        new + old == next - self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_hands_out_nothing_and_waits_for_those_inside() {
        let gate = Gate::open(7);
        assert_eq!(gate.enter(), Some(7));
        assert_eq!(gate.enter(), Some(8));
        gate.settle(Side::New);
        let next = gate.close();
        assert_eq!(next, 9);
        assert_eq!(gate.enter(), None);
        assert!(!gate.is_settled(next));
        gate.settle(Side::Old);
        assert!(gate.is_settled(next));
        assert_eq!(gate.settled(), (1, 1));
    }
}
