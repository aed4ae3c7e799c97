//! Cumulative figures of the first attempts at one instance.
//!
//! Every recorded call is in exactly one latency bucket, so the number of
//! requests is the sum of the buckets and the figures of one reading always
//! agree with each other. Nothing is ever reset: the control plane takes
//! differences.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_core::latency::{BUCKETS, bucket_of};

#[derive(Debug, Default)]
pub(crate) struct Meter {
    errors: AtomicU64,
    latency_sum_us: AtomicU64,
    /// Made at the first call: most instances of a large fleet get none from
    /// a given invoker, and the buckets take 4 KiB.
    buckets: OnceLock<Box<[AtomicU64]>>,
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
    /// Counts one call and what came of it.
    pub(crate) fn record(&self, latency: Duration, is_error: bool) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let buckets =
            self.buckets.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
        buckets[bucket_of(latency_us)].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(latency_us, Ordering::Relaxed);
        if is_error {
            // Release: a reading never has more errors than requests.
            self.errors.fetch_add(1, Ordering::Release);
        }
    }

    /// A call that was recorded as a success turned out to be a failure.
    pub(crate) fn turn_into_error(&self) {
        self.errors.fetch_add(1, Ordering::Release);
    }

    /// (requests, errors); cheaper than a whole reading.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let errors = self.errors.load(Ordering::Acquire);
        let requests = self
            .buckets
            .get()
            .map_or(0, |buckets| buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum());
        (requests, errors)
    }

    /// All figures.
    pub(crate) fn read(&self) -> Reading {
        let errors = self.errors.load(Ordering::Acquire);
        let buckets: Vec<(u32, u64)> = self.buckets.get().map_or_else(Vec::new, |buckets| {
            let count = |(index, bucket): (usize, &AtomicU64)| {
                (index as u32, bucket.load(Ordering::Relaxed))
            };
            buckets.iter().enumerate().map(count).filter(|(_, count)| *count > 0).collect()
        });
        Reading {
            requests: buckets.iter().map(|(_, count)| count).sum(),
            errors,
            latency_sum_us: self.latency_sum_us.load(Ordering::Relaxed),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_holds_what_was_recorded() {
        let meter = Meter::default();
        assert_eq!(meter.read(), Reading::default());
        meter.record(Duration::from_micros(5), false);
        meter.record(Duration::from_micros(5), true);
        meter.record(Duration::from_millis(1), false);
        meter.turn_into_error();
        let reading = meter.read();
        assert_eq!((reading.requests, reading.errors), meter.totals());
        assert_eq!((reading.requests, reading.errors, reading.latency_sum_us), (3, 2, 1_010));
        assert_eq!(reading.buckets, vec![(5, 2), (bucket_of(1_000) as u32, 1)]);
    }
}
