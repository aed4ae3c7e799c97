//! Counters in [lanes](super::lane): one writer each, but for the lane that is
//! shared.

use std::marker::PhantomData;

use super::sync::{AtomicU64, Ordering};

/// Where a thread counts. Bound to it: a lane has one writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) index: usize,
    pub(crate) of_this_thread: PhantomData<*const ()>,
}

impl Lane {
    /// Index of the one without an owner.
    pub(crate) const SHARED: usize = 0;

    /// The one without an owner: counting there is right on any thread.
    pub(crate) fn shared() -> Self {
        Self { index: Self::SHARED, of_this_thread: PhantomData }
    }
}

/// A value alone in its cache line (two, for adjacent-line prefetching).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// One for each lane.
#[derive(Debug)]
pub(crate) struct Lanes<T>(Box<[Padded<T>]>);

impl<T: Default> Lanes<T> {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Padded::default()).collect())
    }
}

impl<T> Lanes<T> {
    #[inline]
    pub(crate) fn of(&self, lane: Lane) -> &T {
        &self.0[lane.index].0
    }

    #[inline]
    pub(crate) fn at(&self, index: usize) -> &T {
        &self.0[index].0
    }

    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

/// A number in one lane.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds. Whoever [reads](Self::get) the sum sees all that this thread did before.
    #[inline]
    pub(crate) fn add(&self, lane: Lane, more: u64) {
        if lane.index == Lane::SHARED {
            self.0.fetch_add(more, Ordering::Release);
        } else {
            // Nobody else writes here.
            let before = self.0.load(Ordering::Relaxed);
            self.0.store(before.wrapping_add(more), Ordering::Release);
        }
    }

    /// Takes away what was added in the same lane before; otherwise as [`add`](Self::add).
    #[inline]
    pub(crate) fn take(&self, lane: Lane, less: u64) {
        self.add(lane, less.wrapping_neg());
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
