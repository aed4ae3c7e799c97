//! Lanes: each thread counts in a place of its own, so that no two write to
//! one cache line and counting needs no locked instruction.
//!
//! A thread takes a lane when it first counts, and gives it back when it ends.
//! Threads beyond the number of lanes share one, in which counting is a locked
//! instruction as usual: slower, and as exact.

use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{LazyLock, Mutex};
use std::thread;

use super::counter::Lane;

/// Lanes for each processor: a runtime's workers, and those of another or of
/// blocking tasks.
const PER_PROCESSOR: usize = 2;
/// Bounds of the number of lanes that a thread can own.
const OWNED_MIN: usize = 8;
const OWNED_MAX: usize = 128;

/// Lanes that threads can own.
static OWNED: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors * PER_PROCESSOR).clamp(OWNED_MIN, OWNED_MAX)
});

/// Those that no thread owns now.
static FREE: LazyLock<Mutex<Vec<usize>>> =
    LazyLock::new(|| Mutex::new((1..=*OWNED).rev().collect()));

const UNKNOWN: usize = usize::MAX;

/// The ownership of a lane, or the use of the shared one. It ends with the thread, or
/// later with whatever that thread still keeps it for.
#[derive(Debug)]
pub(crate) struct Lease(usize);

impl Lease {
    fn take() -> Self {
        let mut free = FREE.lock().expect("no code panics while it holds the free lanes");
        Self(free.pop().unwrap_or(Lane::SHARED))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Whatever this thread still counts while it ends goes to the shared one.
        INDEX.set(Lane::SHARED);
        if self.0 != Lane::SHARED {
            let mut free = FREE.lock().expect("no code panics while it holds the free lanes");
            free.push(self.0);
        }
    }
}

thread_local! {
    /// Without a destructor, and so cheaper to look at than the lease.
    static INDEX: Cell<usize> = const { Cell::new(UNKNOWN) };
    static LEASE: Rc<Lease> = Rc::new(Lease::take());
}

/// How many there are, with the shared one.
pub(crate) fn count() -> usize {
    *OWNED + 1
}

/// That of the calling thread.
#[inline]
pub(crate) fn current() -> Lane {
    let index = INDEX.get();
    let index = if index == UNKNOWN { first() } else { index };
    Lane { index, of_this_thread: PhantomData }
}

/// The lane of the calling thread for who counts in it later on, and its lease.
pub(crate) fn leased() -> (Lane, Rc<Lease>) {
    let lease = LEASE.try_with(Rc::clone).unwrap_or_else(|_| Rc::new(Lease(Lane::SHARED)));
    (Lane { index: lease.0, of_this_thread: PhantomData }, lease)
}

#[cold]
fn first() -> usize {
    let index = LEASE.try_with(|lease| lease.0).unwrap_or(Lane::SHARED);
    INDEX.set(index);
    index
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Whatever other tests do in threads of theirs meanwhile.
    #[test]
    fn no_lane_has_two_owners_and_those_of_ended_threads_are_taken_again() {
        for _ in 0..3 {
            let threads = count() + 3;
            let all_have_one = Barrier::new(threads);
            let mut lanes: Vec<usize> = thread::scope(|scope| {
                let one = || {
                    let lane = current().index;
                    all_have_one.wait();
                    assert_eq!(current().index, lane);
                    lane
                };
                let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            lanes.sort_unstable();
            let shared = lanes.iter().filter(|lane| **lane == Lane::SHARED).count();
            assert!(shared >= threads - *OWNED && shared < threads, "{lanes:?}");
            lanes.retain(|lane| *lane != Lane::SHARED);
            assert!(lanes.windows(2).all(|pair| pair[0] < pair[1]), "{lanes:?}");
            assert!(lanes.iter().all(|lane| *lane < count()));
        }
    }
}
