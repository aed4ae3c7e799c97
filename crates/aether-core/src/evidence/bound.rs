//! E-process of the new version's own rate against an absolute bound, for
//! services on which next to nothing fails: where there are no events, no ratio
//! can be told, and a thousand good requests still say something.
//!
//! Wald's likelihood ratio of Bernoulli trials, mixed over rivals below the
//! bound: with `events` of `requests`, a rival rate `r` against a bound `b` has
//! `(r/b)^events * ((1-r)/(1-b))^(requests-events)`, a supermartingale for every
//! rate at or above `b`.

use super::mixture::{Mixture, Part};

/// Rivals of "at least the bound", as multiples of it, equally weighted.
const BELOW: [f64; 4] = [0.6, 0.3, 0.1, 0.01];

fn ln_ratio(events: f64, requests: f64, bound: f64, rival: f64) -> f64 {
    let good = (requests - events).max(0.0);
    events * (rival / bound).ln() + good * ((1.0 - rival) / (1.0 - bound)).ln()
}

/// Evidence against "new's rate is at least `bound`"; `None` for a bound that
/// is none: 0, which every rate reaches, or 1 and more.
pub(super) fn below(events: f64, requests: f64, bound: f64) -> Option<Mixture> {
    if !(bound > 0.0 && bound < 1.0) {
        return None;
    }
    let parts = BELOW.map(|multiple| {
        let rival = bound * multiple;
        let ln = ln_ratio(events, requests, bound, rival) - (BELOW.len() as f64).ln();
        Part { rival, ln }
    });
    Some(Mixture { parts: parts.to_vec(), idle: 0.0 })
}

/// What a rival gains on the bound in a second of `requests` requests of the new
/// side of which a share of `rate` are events.
pub(super) fn gain(requests: f64, rate: f64, bound: f64, rival: f64) -> f64 {
    ln_ratio(requests * rate, requests, bound, rival)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_good_requests_tell_one_percent_from_none() {
        let ln = |events, requests| below(events, requests, 0.01).unwrap().ln();
        assert!(ln(0.0, 1_000.0) > 200f64.ln());
        assert!(ln(0.0, 300.0) < 100f64.ln(), "300 don't");
        assert!(ln(10.0, 1_000.0) < 0.0, "at the bound it says nothing");
    }

    #[test]
    fn the_expectation_is_one_at_the_bound() {
        let (bound, requests) = (0.02f64, 150);
        let mut chance = (1.0 - bound).powi(requests);
        let mut sum = 0.0;
        for events in 0..=requests {
            let mixture = below(f64::from(events), f64::from(requests), bound).unwrap();
            sum += chance * mixture.ln().exp();
            chance *= f64::from(requests - events) / f64::from(events + 1) * bound / (1.0 - bound);
        }
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn a_bound_of_all_or_nothing_is_none() {
        assert!(below(0.0, 1e6, 0.0).is_none() && below(0.0, 1e6, 1.0).is_none());
        assert!(below(0.0, 1e6, f64::NAN).is_none());
    }
}
