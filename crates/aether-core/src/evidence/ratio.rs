//! E-process over ratios of two rates: given that an event happened, was it the
//! new version's?
//!
//! Let a request go to the new version with probability `s`, and let the chance
//! of an event be `q` at the old and `ratio * q` at the new one. Then an event is
//! new's with probability `s*ratio / (s*ratio + 1 - s)`, whatever `q` is, and `q`
//! may change with every request: a burst that hits both sides says nothing. This
//! is Lindon and Malek's test of Bernoulli processes whose rates change alike
//! ("Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022). Of `all`
//! events, `new` of them new's, a rival ratio `r` against a bound `b` has the
//! likelihood ratio, with `weight(x) = 1 - s + x*s`,
//!
//! ```text
//! (r/b)^new * (weight(b) / weight(r))^all
//! ```
//!
//! Each event of new multiplies it by `g*w`, each of old by `w`, where `g = r/b`
//! and `w = weight(b)/weight(r)`. One request changes its expectation by the
//! factor `1 + s*p*(g*w - 1) + (1 - s)*q*(w - 1)` if new's chance of an event is
//! `p`. For `p = b*q` this is `1 + q*(w*weight(r) - weight(b)) = 1`, and it is
//! less for a `p` on the bound's side of it. So it is a supermartingale, with
//! other chances at every request. A schedule that splits `n` requests exactly
//! instead of by chance gives `(1 + p*(g*w - 1))^(s*n) * (1 + q*(w - 1))^((1-s)*n)`,
//! which is at most the exponential of the same sum, 1 again. Products of
//! different splits are supermartingales too.

use super::mixture::{Mixture, Part, ln_add};

/// Rivals of "at most the bound", as multiples of it, equally weighted: from the
/// smallest regression worth finding to an outage. A true ratio between two of
/// them is found nearly as fast.
const ABOVE: [f64; 6] = [1.3, 1.8, 3.0, 5.0, 10.0, 30.0];

/// Rivals of "at least the bound", as multiples of it. The second is where
/// versions that are alike lie for a bound of twice as many.
const BELOW: [f64; 4] = [0.7, 0.5, 0.3, 0.1];

/// What one epoch has to say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stratum {
    /// The how manieth epoch, from 1.
    pub number: u32,
    /// Events of the new side.
    pub new: f64,
    /// Events of both sides.
    pub all: f64,
    /// Smallest share of requests that may have gone to the new side.
    pub share_least: f64,
    /// The largest.
    pub share_most: f64,
}

/// Natural logarithm of the likelihood ratio of one epoch.
fn ln_ratio(new: f64, all: f64, share: f64, bound: f64, rival: f64) -> f64 {
    let weight = |ratio: f64| (1.0 - share) + ratio * share;
    new * (rival / bound).ln() + all * (weight(bound) / weight(rival)).ln()
}

/// Evidence against "new's rate is at most `bound` times old's".
///
/// The likelihood ratio falls with the share, so that the largest share makes it
/// a lower bound of what the true one would give.
///
/// Besides the rivals it mixes over *when* the difference began: with the first
/// epoch, or with a later one, `1/(n(n+1))` for the n-th. A version that behaved
/// at 5 % and not at 50 % is not credited for its past then. The weights sum to
/// 1, and what has not begun counts with an e-value of 1.
pub(super) fn above(strata: &[Stratum], bound: f64) -> Mixture {
    let last = strata.iter().map(|s| s.number).max().unwrap_or(0);
    let parts = ABOVE.map(|multiple| {
        let rival = bound * multiple;
        let (mut since, mut begins) = (0.0, f64::NEG_INFINITY);
        for s in strata.iter().rev() {
            since += ln_ratio(s.new, s.all, s.share_most, bound, rival);
            let number = f64::from(s.number);
            begins = ln_add(begins, since - (number * (number + 1.0)).ln());
        }
        Part { rival, ln: begins - (ABOVE.len() as f64).ln() }
    });
    Mixture { parts: parts.to_vec(), idle: 1.0 / (f64::from(last) + 1.0) }
}

/// Evidence against "new's rate is at least `bound` times old's". The smallest
/// share makes it a lower bound.
pub(super) fn below(strata: &[Stratum], bound: f64) -> Mixture {
    let parts = BELOW.map(|multiple| {
        let rival = bound * multiple;
        let sum: f64 =
            strata.iter().map(|s| ln_ratio(s.new, s.all, s.share_least, bound, rival)).sum();
        Part { rival, ln: sum - (BELOW.len() as f64).ln() }
    });
    Mixture { parts: parts.to_vec(), idle: 0.0 }
}

/// What a rival gains on a bound in a second in which `events` happen, if new's
/// rate is `ratio` times old's.
pub(super) fn gain(events: f64, share: f64, ratio: f64, bound: f64, rival: f64) -> f64 {
    let of_new = share * ratio / (share * ratio + (1.0 - share));
    ln_ratio(events * of_new, events, share, bound, rival)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stratum(number: u32, new: f64, all: f64, share: f64) -> Stratum {
        Stratum { number, new, all, share_least: share, share_most: share }
    }

    /// Expectation of an e-process after `events` events, given the true ratio:
    /// by going through all numbers that may be new's.
    fn expectation(events: u32, share: f64, ratio: f64, of: impl Fn(f64, f64) -> f64) -> f64 {
        let p = share * ratio / (share * ratio + 1.0 - share);
        let mut chance = (1.0 - p).powi(events as i32);
        let mut sum = 0.0;
        for new in 0..=events {
            sum += chance * of(f64::from(new), f64::from(events)).exp();
            chance *= f64::from(events - new) / f64::from(new + 1) * p / (1.0 - p);
        }
        sum
    }

    #[test]
    fn the_expectation_is_one_at_the_bound_and_less_within_it() {
        for share in [0.05, 0.1, 0.5, 0.9] {
            let harm = |new, all| above(&[stratum(1, new, all, share)], 1.1).ln();
            let clear = |new, all| below(&[stratum(1, new, all, share)], 2.0).ln();
            for events in [1, 10, 60] {
                assert!((expectation(events, share, 1.1, harm) - 1.0).abs() < 1e-6);
                assert!(expectation(events, share, 1.0, harm) < 1.0);
                assert!((expectation(events, share, 2.0, clear) - 1.0).abs() < 1e-6);
                assert!(expectation(events, share, 2.5, clear) < 1.0);
            }
            assert!(expectation(60, share, 5.0, harm) > 2.0, "grows beyond the bound");
        }
    }

    #[test]
    fn the_end_of_a_range_of_shares_is_below_every_share_within() {
        let range = Stratum { share_least: 0.05, share_most: 0.5, ..stratum(1, 9.0, 30.0, 0.0) };
        for share in [0.05, 0.2, 0.5] {
            let exact = [Stratum { share_least: share, share_most: share, ..range }];
            assert!(above(&[range], 1.1).ln() <= above(&exact, 1.1).ln() + 1e-9);
            assert!(below(&[range], 2.0).ln() <= below(&exact, 2.0).ln() + 1e-9);
        }
    }

    #[test]
    fn a_difference_that_begins_late_is_found_in_spite_of_a_good_past() {
        let past = stratum(1, 50.0, 1_000.0, 0.05);
        let late = stratum(2, 75.0, 100.0, 0.5);
        assert!(above(&[past], 1.1).ln() < 0.0);
        assert!(above(&[past, late], 1.1).ln() > 200f64.ln());
        // Without the mixture over begins, the past would hold it back for long.
        let together =
            ln_ratio(50.0, 1_000.0, 0.05, 1.1, 3.3) + ln_ratio(75.0, 100.0, 0.5, 1.1, 3.3);
        assert!(together < 0.0, "{together}");
    }

    #[test]
    fn nothing_counted_says_nothing() {
        assert!(above(&[], 1.1).ln().abs() < 1e-9);
        assert!(above(&[stratum(1, 0.0, 0.0, 0.5)], 1.1).ln().abs() < 1e-9);
        assert!(below(&[], 2.0).ln().abs() < 1e-9);
        // All requests to one side: there is nothing to compare.
        assert!(above(&[stratum(1, 40.0, 40.0, 1.0)], 1.1).ln().abs() < 1e-9);
    }
}
