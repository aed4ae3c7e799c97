//! What the thresholds say of a version's traffic. Figures come from whoever
//! counted; this module only judges.

use std::collections::BTreeMap;

use crate::evidence::{INSTANCES_MIN, Side};
use crate::ids::InstanceId;
use crate::latency;
use crate::records::{Counts, Measure, Thresholds};

/// Requests of one version over a span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// First attempts.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Sum of their latencies, microseconds.
    pub latency_sum_us: u64,
    /// Counts by bucket of [`crate::latency`], sparse and ordered.
    pub buckets: std::collections::BTreeMap<usize, u64>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: &Self) {
        // Whoever counted may have told nonsense: sums stop at the largest number.
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.latency_sum_us = self.latency_sum_us.saturating_add(other.latency_sum_us);
        for (bucket, count) in &other.buckets {
            let sum = self.buckets.entry(*bucket).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// What was added since `earlier`, a tally of the same cumulative source.
    /// A source that started anew counts from zero.
    pub fn since(&self, earlier: &Self) -> Self {
        if self.requests < earlier.requests || self.errors < earlier.errors {
            return self.clone();
        }
        let buckets = self.buckets.iter().filter_map(|(bucket, count)| {
            let before = earlier.buckets.get(bucket).copied().unwrap_or(0);
            Some((*bucket, count.saturating_sub(before))).filter(|(_, count)| *count > 0)
        });
        Self {
            requests: self.requests - earlier.requests,
            errors: self.errors - earlier.errors,
            latency_sum_us: self.latency_sum_us.saturating_sub(earlier.latency_sum_us),
            buckets: buckets.collect(),
        }
    }

    /// The error rate in millionths; 0 without requests.
    pub fn error_rate_ppm(&self) -> u32 {
        if self.requests == 0 {
            return 0;
        }
        let ppm = u128::from(self.errors) * 1_000_000 / u128::from(self.requests);
        u32::try_from(ppm).unwrap_or(u32::MAX)
    }

    /// The 99th percentile of the latency in microseconds.
    pub fn p99_us(&self) -> Option<u64> {
        latency::quantile_us(self.buckets.iter().map(|(b, c)| (*b, *c)), 990_000)
    }
}

/// What the thresholds say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Too few requests to say anything, or to tell an instance from its version; never
    /// taken for healthy.
    Insufficient,
    /// Within the thresholds.
    Healthy,
    /// Beyond one of them.
    Exceeded {
        /// Which figure, and which threshold.
        detail: String,
    },
    /// Beyond one of them by one instance alone: without it the version is within them.
    OneInstance {
        /// Which.
        instance: InstanceId,
        /// Which figure of the version, which threshold, and what the instance has of
        /// it.
        detail: String,
    },
}

/// How many times the rate of its peers an instance has to have before a threshold
/// that the version exceeds is laid to it: hosts differ, and with few requests one of
/// them has the one error that there was. The same as the comparison's
/// (`evidence::instances`).
const PEERS_RATIO: u128 = 3;

/// How many requests of one instance have to fail, or to take too long, before it is told
/// from its version by few. Where a version fails everywhere, so many in a row are of one
/// of three instances by chance in one case of nine.
const ODD_EVENTS_MIN: u64 = 3;

/// A figure that thresholds bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Share of requests that failed, in millionths.
    ErrorRatePpm,
    /// 99th percentile of the latency, microseconds.
    P99Us,
}

/// A figure beyond its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub figure: Figure,
    /// Its value.
    pub value: u64,
    /// The threshold, in the same unit.
    pub threshold: u64,
}

impl Exceeded {
    fn detail(&self, requests: u64) -> String {
        let percent = |ppm: u64| ppm as f64 / 10_000.0;
        let (value, threshold) = (self.value, self.threshold);
        match self.figure {
            Figure::ErrorRatePpm => format!(
                "error rate {:.2} % over {requests} requests, threshold {} %",
                percent(value),
                percent(threshold)
            ),
            Figure::P99Us => format!(
                "p99 latency {} ms over {requests} requests, threshold {} ms",
                value / 1000,
                threshold / 1000
            ),
        }
    }
}

/// Every figure of a window that is beyond its threshold; none where there are
/// too few requests to say anything.
pub fn exceeded(window: &Tally, thresholds: &Thresholds) -> Vec<Exceeded> {
    let mut found = Vec::new();
    if window.requests == 0 || window.requests < thresholds.requests_min {
        return found;
    }
    // Compared without division, so that a rate just at the threshold passes.
    let errors = u128::from(window.errors) * 1_000_000;
    if errors > u128::from(window.requests) * u128::from(thresholds.error_rate_ppm) {
        found.push(Exceeded {
            figure: Figure::ErrorRatePpm,
            value: window.error_rate_ppm().into(),
            threshold: thresholds.error_rate_ppm.into(),
        });
    }
    let threshold = u64::from(thresholds.p99_ms) * 1000;
    if let Some(value) = window.p99_us().filter(|p99| *p99 > threshold) {
        found.push(Exceeded { figure: Figure::P99Us, value, threshold });
    }
    found
}

/// Judges a window of traffic.
pub fn judge(window: &Tally, thresholds: &Thresholds) -> Verdict {
    // A verdict from no request at all would be one on nothing.
    if window.requests < thresholds.requests_min.max(1) {
        return Verdict::Insufficient;
    }
    let details: Vec<String> =
        exceeded(window, thresholds).iter().map(|e| e.detail(window.requests)).collect();
    if details.is_empty() {
        return Verdict::Healthy;
    }
    Verdict::Exceeded { detail: details.join("; ") }
}

/// Judges all that was counted, without a window. The p99 latency is beyond its
/// threshold when more than one in a hundred took longer, of which `late` did.
pub fn judge_counts(counts: &Side, late: u64, thresholds: &Thresholds) -> Verdict {
    if counts.requests < thresholds.requests_min.max(1) {
        return Verdict::Insufficient;
    }
    let (requests, errors) = (u128::from(counts.requests), u128::from(counts.errors));
    let percent = |part: u64| part as f64 * 100.0 / counts.requests as f64;
    let mut details = Vec::new();
    if errors * 1_000_000 > requests * u128::from(thresholds.error_rate_ppm) {
        details.push(format!(
            "error rate {:.2} % over {requests} requests, threshold {} %",
            percent(counts.errors),
            f64::from(thresholds.error_rate_ppm) / 10_000.0
        ));
    }
    if u128::from(late) * 100 > requests {
        details.push(format!(
            "{:.2} % of {requests} requests took longer than {} ms, and at most 1 % may",
            percent(late),
            thresholds.p99_ms
        ));
    }
    if details.is_empty() {
        return Verdict::Healthy;
    }
    Verdict::Exceeded { detail: details.join("; ") }
}

/// Judges a window of traffic of which it is known, as far as it is, which instance
/// served it. Where a step `waits` until its own calls have shown enough, these decide
/// about a version that one instance of it hides: they grow in number, and those of a
/// window do not.
pub fn judge_window(
    window: &Tally,
    instances: impl FnOnce() -> BTreeMap<InstanceId, Tally>,
    thresholds: &Thresholds,
    waits: bool,
) -> Verdict {
    let counts =
        |tally: &Tally| Counts::of(tally, Measure { p99_ms: thresholds.p99_ms, reference: None });
    let verdict = judge(window, thresholds);
    let instances = || instances().into_iter().map(|(id, tally)| (id, counts(&tally))).collect();
    unless_one_instance(verdict, counts(window), instances, thresholds, waits)
}

/// Judges all that was counted, of which it is known, as far as it is, which
/// instance served it. Where somebody `waits` until more is counted, it may be too
/// early to tell an instance from its version.
pub fn judge_counts_by_instance(
    counts: Counts,
    instances: impl FnOnce() -> BTreeMap<InstanceId, Counts>,
    thresholds: &Thresholds,
    waits: bool,
) -> Verdict {
    let verdict = judge_counts(&counts.side, counts.late, thresholds);
    unless_one_instance(verdict, counts, instances, thresholds, waits)
}

/// The verdict, unless it is one instance that makes the version exceed a threshold.
/// Of fewer than [`INSTANCES_MIN`] nobody can say which is the odd one.
///
/// With too few requests to the others to judge the version by them, or hardly an event of
/// its own, it is too early for a verdict, if there will be more (`waits`): whoever counts
/// from nothing on always passes through that, and would blame the version for a bad host
/// each time.
fn unless_one_instance(
    verdict: Verdict,
    all: Counts,
    instances: impl FnOnce() -> BTreeMap<InstanceId, Counts>,
    thresholds: &Thresholds,
    waits: bool,
) -> Verdict {
    let Verdict::Exceeded { detail } = verdict else { return verdict };
    let mut serving = instances();
    serving.retain(|_, counts| counts.side.requests > 0);
    if serving.len() < INSTANCES_MIN {
        return Verdict::Exceeded { detail };
    }
    let any = Thresholds { requests_min: 1, ..*thresholds };
    let found = serving.into_iter().find_map(|(instance, own)| {
        let side = all.side.without(own.side);
        let peers = Counts { side, late: all.late.saturating_sub(own.late) };
        let is_enough = peers.side.requests >= thresholds.requests_min;
        // One that has most of few calls is the version, for all that is known.
        let tells = is_enough || peers.side.requests >= own.side.requests;
        let odd = |own_events: u64, peers_events: u64| {
            let of_own = u128::from(own_events) * u128::from(peers.side.requests);
            let of_peers = u128::from(peers_events) * u128::from(own.side.requests);
            if of_own > of_peers * PEERS_RATIO { own_events } else { 0 }
        };
        let events = odd(own.side.errors, peers.side.errors).max(odd(own.late, peers.late));
        let is_it = tells && judge_counts(&peers.side, peers.late, &any) == Verdict::Healthy;
        (is_it && events > 0).then_some((instance, own, peers, is_enough, events))
    });
    let Some((instance, own, peers, is_enough, events)) = found else {
        return Verdict::Exceeded { detail };
    };
    let is_repeated = events >= ODD_EVENTS_MIN;
    if waits && !(is_enough && is_repeated) {
        return Verdict::Insufficient;
    }
    if !is_enough && !is_repeated {
        return Verdict::Exceeded { detail };
    }
    let otherwise = match is_enough {
        true => "without it the version is healthy".to_owned(),
        false => format!(
            "the {} others are within the thresholds and too few to judge the version by",
            peers.side.requests
        ),
    };
    let Counts { side: Side { requests, errors, .. }, late } = own;
    let detail = format!(
        "{detail}; of {requests} requests to instance {instance} {errors} failed and {late} took \
         too long, and {otherwise}"
    );
    Verdict::OneInstance { instance, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(requests: u64, errors: u64, latency_ms: u64) -> Tally {
        let bucket = latency::bucket_of(latency_ms * 1000);
        Tally {
            requests,
            errors,
            latency_sum_us: requests * latency_ms * 1000,
            buckets: [(bucket, requests)].into(),
        }
    }

    #[test]
    fn few_requests_are_never_healthy_and_the_threshold_itself_passes() {
        let thresholds = Thresholds::default();
        assert_eq!(judge(&tally(99, 99, 1), &thresholds), Verdict::Insufficient);
        assert_eq!(judge(&tally(100, 1, 1), &thresholds), Verdict::Healthy);
        let Verdict::Exceeded { detail } = judge(&tally(100, 2, 1), &thresholds) else {
            panic!("2 % must exceed 1 %")
        };
        assert!(detail.contains("2.00 %") && detail.contains("threshold 1 %"), "{detail}");
        let Verdict::Exceeded { detail } = judge(&tally(100, 0, 600), &thresholds) else {
            panic!("600 ms must exceed 500 ms")
        };
        assert!(detail.starts_with("p99"), "{detail}");
    }

    #[test]
    fn cumulative_sources_give_deltas_and_may_start_anew() {
        let (first, second) = (tally(100, 5, 10), tally(250, 7, 10));
        let delta = second.since(&first);
        assert_eq!((delta.requests, delta.errors), (150, 2));
        assert_eq!(delta.buckets.values().sum::<u64>(), 150);
        assert_eq!(first.since(&second), first);
    }

    fn by_instance(counts: &[(u64, u64, u64)]) -> Verdict {
        let mut all = Counts::default();
        let mut instances = BTreeMap::new();
        for (n, (requests, errors, late)) in counts.iter().enumerate() {
            let side = Side { requests: *requests, errors: *errors, ..Side::default() };
            let counts = Counts { side, late: *late };
            all.fold(counts);
            instances.insert(format!("a-1-{n}").parse().unwrap(), counts);
        }
        judge_counts_by_instance(all, || instances, &Thresholds::default(), true)
    }

    #[test]
    fn a_bad_host_is_named_and_a_bad_version_is_not_taken_for_one() {
        let blamed = |verdict: Verdict| match verdict {
            Verdict::OneInstance { instance, detail } => (instance.to_string(), detail),
            other => panic!("{other:?}"),
        };
        let (who, detail) = blamed(by_instance(&[(100, 0, 0), (100, 40, 0), (100, 1, 0)]));
        assert_eq!(who, "a-1-1");
        assert!(detail.contains("error rate 13.67 %") && detail.contains("40 failed"), "{detail}");
        let (who, _) = blamed(by_instance(&[(100, 0, 0), (100, 0, 1), (100, 0, 9)]));
        assert_eq!(who, "a-1-2");
        let is_exceeded = |verdict| matches!(verdict, Verdict::Exceeded { .. });
        assert!(is_exceeded(by_instance(&[(100, 9, 0), (100, 9, 0), (100, 1, 0)])), "two of three");
        assert!(is_exceeded(by_instance(&[(100, 0, 0), (100, 40, 0)])), "nobody knows which");
        assert!(is_exceeded(by_instance(&[(100, 2, 0), (100, 3, 0), (100, 1, 0)])), "much alike");
        assert_eq!(by_instance(&[(100, 1, 0), (100, 0, 0), (100, 1, 0)]), Verdict::Healthy);
    }

    /// Whoever counts from nothing on has the least number of requests in all long before
    /// it has it without the bad host.
    #[test]
    fn a_bad_host_is_not_the_versions_at_any_number_of_requests() {
        for served in 1..200 {
            let verdict = by_instance(&[(served, 0, 0), (served, served / 2, 0), (served, 0, 0)]);
            let is_version = matches!(verdict, Verdict::Exceeded { .. });
            assert!(!is_version, "{served}: {verdict:?}");
            assert_eq!(served >= 50, matches!(verdict, Verdict::OneInstance { .. }), "{served}");
        }
        let few = by_instance(&[(40, 0, 0), (40, 9, 0), (40, 0, 0)]);
        assert_eq!(few, Verdict::Insufficient);
        // The others are gone, and what is left is all that the version is.
        let alone = by_instance(&[(10, 0, 0), (400, 90, 0), (10, 0, 0)]);
        assert!(matches!(alone, Verdict::Exceeded { .. }), "{alone:?}");
        // By many others it can be told, however much more than they the one has served.
        let busy = by_instance(&[(2_500, 0, 0), (6_000, 180, 0), (2_500, 0, 0)]);
        assert!(matches!(busy, Verdict::OneInstance { .. }), "{busy:?}");
        let once = by_instance(&[(60, 0, 0), (60, 2, 0), (60, 0, 0)]);
        assert_eq!(once, Verdict::Insufficient, "who waits will know more");
    }

    #[test]
    fn where_no_more_is_counted_a_bad_host_is_named_at_once() {
        let served = |errors| Tally { errors, ..tally(40, 0, 1) };
        let instances: BTreeMap<InstanceId, Tally> = [("a-1-0", 0), ("a-1-1", 9), ("a-1-2", 0)]
            .map(|(id, errors)| (id.parse().unwrap(), served(errors)))
            .into();
        let mut all = Tally::default();
        instances.values().for_each(|tally| all.add(tally));
        let judged =
            |waits| judge_window(&all, || instances.clone(), &Thresholds::default(), waits);
        assert_eq!(judged(true), Verdict::Insufficient);
        let Verdict::OneInstance { instance, detail } = judged(false) else { panic!() };
        assert_eq!(instance.as_str(), "a-1-1");
        assert!(detail.contains("the 80 others are within the thresholds"), "{detail}");
    }
}
