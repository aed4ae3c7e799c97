//! Calls that wait because their slice is about to switch.
//!
//! A table may say that no call is to begin by it for a while. Calls then wait for
//! the next table. The wait is bounded twice: by a time of this process's own clock,
//! so that callers never depend on a control plane that is away, and by the number of
//! calls that wait. Beyond either, a call goes on by the table that is there and is
//! counted as late, because somewhere else calls may have begun to go to the other
//! version. No call is lost by a hold.
//!
//! Nothing here is touched while no table holds calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Most calls of one slice that wait. At 20,000 calls a second these come within
/// twice the longest hold that is asked for; each takes about a kilobyte.
pub(crate) const WAITING_MAX: usize = 10_000;

/// Longest time for which a table is obeyed, whatever it says. Tests on a slow machine
/// need holds that do not end by themselves.
const HOLD_MAX: Duration = Duration::from_secs(if cfg!(test) { 1_000 } else { 1 });

/// One hold: that of a route revision, over all tables of it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) route_revision: u64,
    until: Instant,
    late: AtomicU64,
}

impl Hold {
    /// Begins now.
    pub(crate) fn starting(route_revision: u64, hold_ms: u64) -> Self {
        let until = Instant::now() + Duration::from_millis(hold_ms).min(HOLD_MAX);
        Self { route_revision, until, late: AtomicU64::new(0) }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// A call begins though it was to be held. Said before the call settles, so that
    /// whoever finds the table settled also finds it counted.
    pub(crate) fn note_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that began though they were to be held.
    pub(crate) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}

/// Why there is no pick.
#[derive(Debug)]
pub(crate) enum NoPick {
    /// The table leads to no instance.
    Nothing,
    /// Calls are held.
    Held(Arc<Hold>),
}

/// Whether a pick waits out a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as the hold lasts.
    WhileHeld,
    /// There are too many that wait already.
    None,
}

/// Calls of one slice that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    count: AtomicUsize,
    opened: Notify,
}

/// A place among those that wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waiting {
    /// A table was replaced: whoever waits looks again, the first to wait first.
    pub(crate) fn wake(&self) {
        self.opened.notify_waiters();
    }

    fn enter(&self) -> Option<Place<'_>> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.count);
        (before < WAITING_MAX).then_some(place)
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// What `take` gives once it is not held any more: at the latest when the time of
    /// the hold is over. `None` if there is nothing to be had.
    pub(crate) async fn until_open<T>(
        &self,
        mut take: impl FnMut(Patience) -> Result<T, NoPick>,
    ) -> Option<T> {
        let Some(_place) = self.enter() else { return take(Patience::None).ok() };
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            // From here on no swap is missed, so that the look comes after.
            opened.as_mut().enable();
            let hold = match take(Patience::WhileHeld) {
                Ok(taken) => return Some(taken),
                Err(NoPick::Nothing) => return None,
                Err(NoPick::Held(hold)) => hold,
            };
            // Over by time or by a table: the next look tells.
            let _ = tokio::time::timeout_at(hold.until, opened).await;
        }
    }
}
