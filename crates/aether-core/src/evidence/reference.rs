//! From which latency on a request counts as slow.
//!
//! The reference is the bucket that holds the old version's quantile, taken from
//! requests that were counted *before* those it is applied to. A test that
//! compares how often each side exceeds it is then valid whatever its value: an
//! estimate that is off costs power, not false alarms. It need not be near the
//! true quantile, and load that slows both sides alike cancels out.

use crate::health::Tally;
use crate::latency;

/// The quantile that is compared by default: the 99th percentile, in millionths.
pub const QUANTILE_PPM: u32 = 990_000;

/// Fewest requests of the old version for a reference. Of 300 the 99th
/// percentile is the third largest or so: a rough one, and that is enough.
pub const REFERENCE_REQUESTS_MIN: u64 = 300;

/// The bucket of [`crate::latency`] that holds a quantile of the old version's
/// latencies; `None` where they are too few. `quantile_ppm` above a million
/// counts as a million.
///
/// Choose it from what came before: the minutes before the epoch, or its
/// warm-up. It may be chosen anew at any time, for what comes after.
pub fn reference_bucket(old: &Tally, quantile_ppm: u32) -> Option<u32> {
    let counted = old.buckets.values().fold(0u64, |sum, count| sum.saturating_add(*count));
    if counted < REFERENCE_REQUESTS_MIN {
        return None;
    }
    let known = old.buckets.iter().filter(|(bucket, _)| **bucket < latency::BUCKETS);
    let counts = known.map(|(bucket, count)| (*bucket, *count));
    let bound = latency::quantile_us(counts, u64::from(quantile_ppm.min(1_000_000)))?;
    u32::try_from(latency::bucket_of(bound)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(buckets: &[(usize, u64)]) -> Tally {
        let requests = buckets.iter().map(|(_, count)| count).sum();
        Tally { requests, buckets: buckets.iter().copied().collect(), ..Tally::default() }
    }

    #[test]
    fn the_reference_is_the_bucket_of_the_quantile() {
        assert_eq!(reference_bucket(&tally(&[(40, 299)]), QUANTILE_PPM), None);
        assert_eq!(reference_bucket(&tally(&[(40, 990), (90, 10)]), QUANTILE_PPM), Some(40));
        assert_eq!(reference_bucket(&tally(&[(40, 989), (90, 11)]), QUANTILE_PPM), Some(90));
        assert_eq!(reference_bucket(&tally(&[(40, 989), (90, 11)]), 500_000), Some(40));
        assert_eq!(reference_bucket(&tally(&[(40, 989), (90, 11)]), u32::MAX), Some(90));
    }

    #[test]
    fn buckets_that_do_not_exist_give_no_reference() {
        assert_eq!(reference_bucket(&tally(&[(usize::MAX, 500)]), QUANTILE_PPM), None);
    }
}
