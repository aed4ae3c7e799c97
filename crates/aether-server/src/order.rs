//! Which of two reports of one client is the later one.
//!
//! Reports reach the leader on several ways, and a node that was stopped for a
//! while may bring an old one last. So it is their number that counts, and not
//! when they arrive.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

/// Place of a report among all of its client; a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Of the client's process: for sessions the log index at which it was
    /// opened, for agents the wall clock of their start.
    pub life: u64,
    /// Of the stream among those of the process.
    pub attach: u64,
    /// Of what was heard on the stream.
    pub seq: u64,
}

/// A report's place, and when it was heard.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// Its place.
    pub order: Order,
    /// When the client said it. Never too early, but too late by the time for
    /// which it was under way.
    pub at: Instant,
}

impl Heard {
    /// Something heard on a stream just now; `seq` counts from 0.
    pub fn now(life: u64, attach: u64) -> Self {
        Self { order: Order { life, attach, seq: 0 }, at: Instant::now() }
    }

    /// The next thing is heard on the same stream.
    pub fn again(&mut self) {
        self.order.seq += 1;
        self.at = Instant::now();
    }

    /// What is known of a client of which this is known already, when `got`
    /// comes in. `None` if that is void.
    ///
    /// A lower order is void while the client that is known goes on speaking.
    /// Once that one has been silent for a lease, the order itself is in doubt:
    /// a clock that was set back, or a client that does not count.
    pub fn then(&self, got: Self, lease: Duration) -> Option<Self> {
        match got.order.cmp(&self.order) {
            Ordering::Greater => Some(got),
            // The same once more: what took longer to arrive only looks later.
            Ordering::Equal => Some(Self { at: self.at.min(got.at), ..got }),
            Ordering::Less => {
                let heals = self.at.elapsed() > lease && got.at.elapsed() <= lease;
                heals.then_some(got)
            }
        }
    }

    /// Whether a stream may take the place of the one on which this was heard.
    pub fn yields_to(&self, life: u64, attach: u64, lease: Duration) -> bool {
        (life, attach) >= (self.order.life, self.order.attach) || self.at.elapsed() > lease
    }
}
