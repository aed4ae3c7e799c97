//! The verdict, and the levels of error behind it.

use super::comparison::{Bounds, Comparison, compare};
use super::epochs::Evidence;
use super::instances::{self, InstanceTallies, Outlier};
use super::tallies::{Event, Tallies};
use crate::ids::InstanceId;
use crate::records::Thresholds;

/// What is tolerated of one kind of event, and what is harmful. In whole
/// numbers, so that it can be a setting of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest ratio of new's rate to old's that is no regression, thousandths.
    pub tolerated_permille: u32,
    /// Smallest ratio that is harmful, thousandths.
    pub harmful_permille: u32,
    /// Rate of the new side below which no ratio is harmful, in millionths. 0, or
    /// a million and more: there is no such rate, and only the ratio counts.
    pub rate_max_ppm: u32,
}

/// Compares a new version with the old one.
///
/// Of updates that change nothing at most [`Self::false_rollback_ppm`] are ever
/// rolled back, however long and often one looks; of harmful ones at most
/// [`Self::false_promotion_ppm`] are ever promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judge {
    /// For requests that fail.
    pub errors: Limits,
    /// For requests slower than the old version's quantile.
    pub slow: Limits,
    /// Chance of rolling back what is within the tolerated ratios, in millionths:
    /// one half for errors, one for latency.
    pub false_rollback_ppm: u32,
    /// Chance of promoting what is harmful in errors or in latency, in
    /// millionths. Both have to be cleared, so that each test has all of it.
    pub false_promotion_ppm: u32,
    /// Chance of naming an instance that is like its peers, in millionths.
    pub false_outlier_ppm: u32,
    /// Fewest requests of the new side in the present epoch for a promotion. The
    /// error levels don't need it; it is for what those before it can't know,
    /// such as what only a larger share brings out.
    pub requests_min: u64,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new(&Thresholds::default())
    }
}

impl Judge {
    /// The default levels, with the threshold on the error rate as the absolute
    /// bound, and its fewest requests.
    ///
    /// Errors: 1.1 times as many are tolerated, because two deployments of one
    /// version are never quite alike and traffic without end would tell; twice as
    /// many are harmful. Slow requests: 1.5 times as many as beyond the old
    /// version's p99 are tolerated, which is a p99 about a tenth higher where the
    /// tail is exponential; three times as many are harmful, a third higher.
    /// Three times the one percent beyond a p99 is also the absolute bound there.
    pub fn new(thresholds: &Thresholds) -> Self {
        let rate_max_ppm = thresholds.error_rate_ppm;
        Self {
            errors: Limits { tolerated_permille: 1_100, harmful_permille: 2_000, rate_max_ppm },
            slow: Limits {
                tolerated_permille: 1_500,
                harmful_permille: 3_000,
                rate_max_ppm: 30_000,
            },
            false_rollback_ppm: 10_000,
            false_promotion_ppm: 10_000,
            false_outlier_ppm: 10_000,
            requests_min: thresholds.requests_min,
        }
    }

    fn bounds(&self, event: Event) -> Bounds {
        let limits = match event {
            Event::Error => self.errors,
            Event::Slow => self.slow,
        };
        // A ratio of 0 would be undercut by nothing.
        let ratio = |permille: u32| f64::from(permille.max(1)) / 1_000.0;
        Bounds {
            tolerated: ratio(limits.tolerated_permille),
            harmful: ratio(limits.harmful_permille),
            rate_max: f64::from(limits.rate_max_ppm) / 1e6,
            regression_ln: needed_ln(self.false_rollback_ppm, Event::ALL.len()),
            clearance_ln: needed_ln(self.false_promotion_ppm, 1),
        }
    }
}

/// Natural logarithm of the evidence that a chance of being wrong asks for, if
/// `tests` share it. A chance of 0 would never decide and one above a half
/// always; both are taken for the nearest that means something.
fn needed_ln(ppm: u32, tests: usize) -> f64 {
    let alpha = f64::from(ppm.clamp(1, 500_000)) / 1e6;
    (tests as f64 / alpha).ln()
}

/// What is known of now, beside the evidence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Present {
    /// Requests of a span just passed. They only tell the pace.
    pub recent: Tallies,
    /// How long that span was, milliseconds; 0 if the pace isn't known.
    pub recent_ms: u64,
    /// How long there is until the deadline, milliseconds; `None` without one.
    pub remaining_ms: Option<u64>,
}

impl Present {
    /// Requests in a second, new and old.
    fn per_second(&self) -> (f64, f64) {
        if self.recent_ms == 0 {
            return (0.0, 0.0);
        }
        let of = |requests: u64| requests as f64 * 1_000.0 / self.recent_ms as f64;
        (of(self.recent.new.requests), of(self.recent.old.requests))
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not harmful, in errors and in latency: the next step may be taken.
    Promote,
    /// Worse than tolerated.
    RollBack,
    /// Not enough evidence for either. Never to be taken for healthy.
    Continue,
    /// The same, and the time is over.
    Inconclusive,
    /// One instance is to blame: replace it, neither promote nor roll back.
    InstanceOutlier {
        /// Which.
        instance: InstanceId,
    },
}

/// A verdict, with what led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// What the version deserves, judged without the outlier; the same as the
    /// verdict where there is none.
    pub version: Verdict,
    /// Errors of both sides, without the outlier's.
    pub errors: Comparison,
    /// Slow requests of both sides, without the outlier's.
    pub slow: Comparison,
    /// The instance that is to blame.
    pub outlier: Option<Outlier>,
    /// About how long until a promotion at the present traffic if the versions
    /// are alike, milliseconds; 0 if the evidence is there. `None`: at this
    /// traffic there won't be one.
    pub promote_if_alike_ms: Option<u64>,
    /// About how long until a rollback if errors or latency are harmful. `None`:
    /// at this traffic, or without any event so far, it can't be told.
    pub roll_back_if_harmful_ms: Option<u64>,
    /// Requests of the new side under the present weights, without the outlier's.
    pub epoch_requests: u64,
    /// How many of them a promotion takes.
    pub epoch_requests_min: u64,
}

impl Judge {
    /// Judges a version where nothing is known of its instances.
    pub fn decide(&self, evidence: &Evidence, present: &Present) -> Decision {
        self.decide_by_instance(evidence, &InstanceTallies::new(), present)
    }

    /// Judges a version and looks for an instance that is to blame instead. With
    /// fewer than [`super::INSTANCES_MIN`] of them that serve it can't be told,
    /// and the version is judged as it is.
    pub fn decide_by_instance(
        &self,
        evidence: &Evidence,
        instances: &InstanceTallies,
        present: &Present,
    ) -> Decision {
        let needed = needed_ln(self.false_outlier_ppm, Event::ALL.len());
        let outlier = instances::outlier(instances, needed);
        let left_out = outlier.as_ref().and_then(|found| instances.get(&found.instance));
        let [errors, slow] = Event::ALL.map(|event| {
            let bounds = self.bounds(event);
            let mut compared = compare(evidence, event, &bounds, left_out, present.per_second());
            // What one instance alone accounts for is not the version's yet. Where nothing is
            // suspicious with all of them, nothing is without one.
            if left_out.is_none() && compared.is_suspicious() {
                let robust = instances::without_the_worst_ln(evidence, instances, event, &bounds);
                compared.regression.ln = compared.regression.ln.min(robust);
            }
            compared
        });
        let in_epoch = evidence.epochs().last_key_value().map_or(0, |(index, epoch)| {
            let own = left_out.and_then(|by| by.get(index)).copied().unwrap_or_default();
            epoch.tallies.new.without(own).requests
        });
        let version = self.verdict(&errors, &slow, in_epoch, present);
        let verdict = match &outlier {
            Some(found) if version != Verdict::RollBack => {
                Verdict::InstanceOutlier { instance: found.instance.clone() }
            }
            _ => version.clone(),
        };
        let promote_if_alike_ms = self.until_promotion(&errors, &slow, in_epoch, present);
        let harmful = [errors.roll_back_if_harmful_ms, slow.roll_back_if_harmful_ms];
        let roll_back_if_harmful_ms = harmful.into_iter().flatten().min();
        Decision {
            verdict,
            version,
            errors,
            slow,
            outlier,
            promote_if_alike_ms,
            roll_back_if_harmful_ms,
            epoch_requests: in_epoch,
            epoch_requests_min: self.requests_min.max(1),
        }
    }

    /// A rollback comes before all: of two versions that are worse than tolerated
    /// and less than harmful, both may be evident.
    fn verdict(
        &self,
        errors: &Comparison,
        slow: &Comparison,
        in_epoch: u64,
        present: &Present,
    ) -> Verdict {
        if errors.regression.is_reached() || slow.regression.is_reached() {
            return Verdict::RollBack;
        }
        let suspicious = errors.is_suspicious() || slow.is_suspicious();
        let cleared = errors.clearance.is_reached() && slow.clearance.is_reached();
        // A verdict from no request at all would be one on nothing.
        if cleared && !suspicious && in_epoch >= self.requests_min.max(1) {
            return Verdict::Promote;
        }
        match present.remaining_ms {
            Some(0) => Verdict::Inconclusive,
            _ => Verdict::Continue,
        }
    }

    /// Both have to be cleared, and the epoch needs its fewest requests.
    fn until_promotion(
        &self,
        errors: &Comparison,
        slow: &Comparison,
        in_epoch: u64,
        present: &Present,
    ) -> Option<u64> {
        let missing = self.requests_min.max(1).saturating_sub(in_epoch);
        let pace = present.per_second().0;
        let requests_ms = match missing {
            0 => 0,
            _ if pace <= 0.0 => return None,
            missing => (missing as f64 * 1_000.0 / pace).ceil() as u64,
        };
        let cleared_ms = errors.promote_if_alike_ms?.max(slow.promote_if_alike_ms?);
        Some(cleared_ms.max(requests_ms))
    }
}
