//! Log-linear latency buckets, shared by those who record and those who judge.
//!
//! Microseconds below 16 have a bucket each; above, every power of two is cut
//! into 16 equal parts, so that a bucket's bound is at most 1/16 (6.25 %) above
//! any value in it. This is the layout of HdrHistogram (Gil Tene) at 4 bits.

/// Linear parts per power of two.
pub const PARTS: u64 = 16;
/// Bits of [`PARTS`].
const PART_BITS: u32 = 4;

/// Number of buckets: values up to 2^32 µs (71 minutes); longer ones share the
/// last bucket.
pub const BUCKETS: usize = (PARTS + (32 - PART_BITS as u64) * PARTS) as usize;

/// The bucket of a latency in microseconds.
#[inline]
pub fn bucket_of(latency_us: u64) -> usize {
    let value = latency_us.min((1 << 32) - 1);
    if value < PARTS {
        return value as usize;
    }
    let exponent = 63 - value.leading_zeros();
    let part = (value >> (exponent - PART_BITS)) - PARTS;
    (PARTS + u64::from(exponent - PART_BITS) * PARTS + part) as usize
}

/// The largest latency in microseconds that falls into a bucket.
///
/// # Panics
/// If `bucket` is not below [`BUCKETS`].
pub fn upper_bound_us(bucket: usize) -> u64 {
    assert!(bucket < BUCKETS, "bucket {bucket} out of range");
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let shift = (bucket - PARTS) / PARTS;
    let part = (bucket - PARTS) % PARTS;
    ((PARTS + part + 1) << shift) - 1
}

/// The smallest bucket bound (µs) below or at which at least `quantile_ppm`
/// millionths of the counts lie; `None` without counts.
pub fn quantile_us(
    counts: impl Iterator<Item = (usize, u64)> + Clone,
    quantile_ppm: u64,
) -> Option<u64> {
    let total: u128 = counts.clone().map(|(_, count)| u128::from(count)).sum();
    if total == 0 {
        return None;
    }
    let rank = (total * u128::from(quantile_ppm)).div_ceil(1_000_000).max(1);
    let mut seen = 0u128;
    for (bucket, count) in counts {
        seen += u128::from(count);
        if seen >= rank {
            return Some(upper_bound_us(bucket));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_a_sixteenth_of_its_bucket_bound() {
        let mut value = 0u64;
        while value < 1 << 32 {
            let bound = upper_bound_us(bucket_of(value));
            assert!(bound >= value && bound - value <= value / 16 + 1, "{value} -> {bound}");
            value += 1 + value / 97;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|b| upper_bound_us(b) > upper_bound_us(b - 1)));
    }

    #[test]
    fn quantiles_take_the_exact_rank() {
        let counts = [(1usize, 99u64), (5, 1)];
        assert_eq!(quantile_us(counts.into_iter(), 990_000), Some(1));
        assert_eq!(quantile_us(counts.into_iter(), 990_001), Some(5));
        assert_eq!(quantile_us(std::iter::empty(), 990_000), None);
    }
}
