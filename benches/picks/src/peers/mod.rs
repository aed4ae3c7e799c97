//! Those that are measured. Each picks for the next call, from any thread.

mod earliest_deadline;
mod p2c;
mod pingora;
mod smooth;
mod stride;

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::aether;
use crate::fleet::Fleet;
use crate::node::Node;

/// Picks on one thread. Says whether the endpoint is of the new version.
pub type Picker<'a> = Box<dyn FnMut() -> bool + 'a>;

/// One way to pick.
pub struct Peer {
    /// For people.
    pub name: &'static str,
    /// Whether it follows a ratio at all.
    pub has_ratio: bool,
    /// Whether it counts calls in flight, reads the clock twice and records how long a call
    /// took.
    pub accounts: bool,
    /// Makes what one thread picks by.
    make: Box<dyn Fn() -> Picker<'static> + Send + Sync>,
}

impl Peer {
    /// One that only picks.
    pub fn picking(
        name: &'static str,
        has_ratio: bool,
        make: impl Fn() -> Picker<'static> + Send + Sync + 'static,
    ) -> Self {
        Self { name, has_ratio, accounts: false, make: Box::new(make) }
    }

    /// One that does all that a call needs besides, too.
    pub fn accounting(
        name: &'static str,
        make: impl Fn() -> Picker<'static> + Send + Sync + 'static,
    ) -> Self {
        Self { name, has_ratio: false, accounts: true, make: Box::new(make) }
    }

    /// What one more thread picks by.
    pub fn picker(&self) -> Picker<'static> {
        (self.make)()
    }
}

/// The measure of all: an atomic addition that all threads make at one place.
fn atomic_add() -> Peer {
    let sum: &'static AtomicU64 = Box::leak(Box::default());
    Peer::picking("one atomic add", false, move || {
        Box::new(move || sum.fetch_add(1, Ordering::Relaxed) == u64::MAX)
    })
}

/// Those that only pick, for one fleet. The first is the measure of all.
pub fn picking(node: &Node, fleet: Fleet) -> Result<Vec<Peer>> {
    let mut all = vec![atomic_add()];
    all.extend(aether::picking(node, fleet)?);
    all.extend([
        stride::peer(fleet),
        earliest_deadline::peer(fleet),
        smooth::peer(fleet),
        pingora::peer(fleet)?,
        p2c::peer(fleet),
    ]);
    Ok(all)
}

/// Those that keep accounts.
pub fn accounting(node: &Node, fleet: Fleet) -> Result<Vec<Peer>> {
    let mut all = aether::accounting(node, fleet)?;
    all.extend([pingora::accounting(fleet)?, p2c::accounting(fleet)?]);
    Ok(all)
}
