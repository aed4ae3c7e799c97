//! Cumulative figures of the first attempts at one instance.
//!
//! Every recorded call is in exactly one latency bucket, so the number of
//! requests is the sum of the buckets and the figures of one reading always
//! agree with each other. Nothing is ever reset: the control plane takes
//! differences.

use std::sync::OnceLock;

use aether_core::latency::{BUCKETS, PARTS, bucket_of};

use crate::doors::counter::{Counter, Lane};
use crate::doors::lane;

/// Buckets that are made at a time: those of one power of two.
const OCTAVE: usize = PARTS as usize;
const OCTAVES: usize = BUCKETS.div_ceil(OCTAVE);

/// In cache lines of its own: others write to their neighbours.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Octave([Counter; OCTAVE]);

/// What one thread has recorded.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Figures {
    errors: Counter,
    latency_sum_us: Counter,
    /// Made when they are first needed. Latencies of one instance lie within a
    /// few powers of two.
    octaves: [OnceLock<Box<Octave>>; OCTAVES],
}

impl Figures {
    /// Those of the octaves that there are, with where they begin.
    fn octaves(&self) -> impl Iterator<Item = (usize, &Octave)> {
        let all = self.octaves.iter().enumerate();
        all.filter_map(|(at, octave)| Some((at * OCTAVE, &**octave.get()?)))
    }

    fn count(&self) -> u64 {
        self.octaves().flat_map(|(_, octave)| &octave.0).map(Counter::get).sum()
    }
}

/// Of each thread that has recorded a call: most instances of a large fleet get
/// none from a given thread.
#[derive(Debug)]
pub(crate) struct Meter(Box<[OnceLock<Box<Figures>>]>);

impl Default for Meter {
    fn default() -> Self {
        Self((0..lane::count()).map(|_| OnceLock::new()).collect())
    }
}

/// The figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) latency_sum_us: u64,
    /// (bucket, count), without the empty ones.
    pub(crate) buckets: Vec<(u32, u64)>,
}

impl Meter {
    #[inline]
    fn of(&self, lane: Lane) -> &Figures {
        self.0[lane.index].get_or_init(Box::default)
    }

    fn all(&self) -> impl Iterator<Item = &Figures> {
        self.0.iter().filter_map(|figures| Some(&**figures.get()?))
    }

    /// Counts one call and what came of it.
    #[inline]
    pub(crate) fn record(&self, latency_us: u64, is_error: bool) {
        let lane = lane::current();
        let figures = self.of(lane);
        // As much as the last bucket says: a sum that wraps would be none.
        let latency_us = latency_us.min(u32::MAX.into());
        let bucket = bucket_of(latency_us);
        let octave = figures.octaves[bucket / OCTAVE].get_or_init(Box::default);
        octave.0[bucket % OCTAVE].add(lane, 1);
        figures.latency_sum_us.add(lane, latency_us);
        if is_error {
            // After the request: a reading never has more errors than those.
            figures.errors.add(lane, 1);
        }
    }

    /// A call that was recorded as a success turned out to be a failure.
    pub(crate) fn turn_into_error(&self) {
        let lane = lane::current();
        self.of(lane).errors.add(lane, 1);
    }

    fn errors(&self) -> u64 {
        self.all().map(|figures| figures.errors.get()).sum()
    }

    /// (requests, errors); cheaper than a whole reading.
    pub(crate) fn totals(&self) -> (u64, u64) {
        // All errors before any request.
        let errors = self.errors();
        (self.all().map(Figures::count).sum(), errors)
    }

    /// All figures.
    pub(crate) fn read(&self) -> Reading {
        let errors = self.errors();
        let mut counts = [0; OCTAVES * OCTAVE];
        for (first, octave) in self.all().flat_map(Figures::octaves) {
            for (sum, bucket) in counts[first..].iter_mut().zip(&octave.0) {
                *sum += bucket.get();
            }
        }
        let counts = (0..).zip(counts);
        let buckets: Vec<(u32, u64)> = counts.filter(|(_, count)| *count > 0).collect();
        Reading {
            requests: buckets.iter().map(|(_, count)| count).sum(),
            errors,
            latency_sum_us: self.all().map(|figures| figures.latency_sum_us.get()).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_reading_holds_what_was_recorded() {
        let meter = Meter::default();
        assert_eq!(meter.read(), Reading::default());
        meter.record(5, false);
        meter.record(5, true);
        meter.record(1_000, false);
        meter.turn_into_error();
        let reading = meter.read();
        assert_eq!((reading.requests, reading.errors), meter.totals());
        assert_eq!((reading.requests, reading.errors, reading.latency_sum_us), (3, 2, 1_010));
        assert_eq!(reading.buckets, vec![(5, 2), (bucket_of(1_000) as u32, 1)]);
    }

    #[test]
    fn what_threads_record_adds_up_and_no_reading_has_more_errors_than_requests() {
        const THREADS: u64 = 20;
        const CALLS: u64 = 2_000;
        let (meter, over) = (Meter::default(), AtomicBool::new(false));
        let latency = |thread, call| thread * 100 + call % 7;
        let record = |thread| (0..CALLS).for_each(|call| meter.record(latency(thread, call), true));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (requests, errors) = meter.totals();
                    assert!(errors <= requests, "{errors} of {requests}");
                }
            });
            let record = &record;
            let threads = (0..THREADS).map(|thread| scope.spawn(move || record(thread)));
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            over.store(true, Ordering::Relaxed);
        });
        let expected: u64 =
            (0..THREADS).map(|t| (0..CALLS).map(|call| t * 100 + call % 7).sum::<u64>()).sum();
        let reading = meter.read();
        assert_eq!((reading.requests, reading.errors), (THREADS * CALLS, THREADS * CALLS));
        assert_eq!(reading.latency_sum_us, expected);
    }
}
