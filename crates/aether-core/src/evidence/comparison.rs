//! One kind of event compared between the sides, over all epochs: evidence of a
//! regression, evidence that there is no harmful one, and how long each would
//! still take.

use std::collections::BTreeMap;

use super::bound;
use super::epochs::{Epoch, Evidence};
use super::mixture::{Mixture, ln_add};
use super::ratio::{self, Stratum};
use super::tallies::{Counted, Event, Side, Tallies};
use crate::weights::Weights;

/// From which evidence of a regression on nothing is promoted, and an absolute
/// bound counts for nothing: a tenth of the ways to be wrong. Withholding a
/// promotion cannot make a false one, so that any number is valid here; a lower
/// one lets a single unlucky error hold up a service that has none otherwise.
pub(super) const SUSPICION_LN: f64 = std::f64::consts::LN_10;

/// What an e-process shows, and what it takes. `value() : 1` are the odds at
/// which somebody who bet against the null hypothesis would now stand (Shafer
/// 2021); 1 at the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EValue {
    /// Natural logarithm of the evidence.
    pub ln: f64,
    /// Natural logarithm of what decides: of 1/α.
    pub needed_ln: f64,
}

impl EValue {
    /// Whether it decides.
    pub fn is_reached(self) -> bool {
        self.ln >= self.needed_ln
    }

    /// The evidence, finite however large it is.
    pub fn value(self) -> f64 {
        self.ln.min(700.0).exp()
    }

    /// What decides.
    pub fn needed(self) -> f64 {
        self.needed_ln.min(700.0).exp()
    }

    /// How far it has come, on the scale on which evidence grows steadily: 0 at
    /// the beginning or below, 1 where it decides.
    pub fn progress(self) -> f64 {
        if self.is_reached() {
            return 1.0;
        }
        (self.ln / self.needed_ln).clamp(0.0, 1.0)
    }
}

/// One kind of event, both sides. What a display of the evidence so far needs:
/// counts, both e-values, and the time that each still needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// What was compared.
    pub event: Event,
    /// What was counted of the new side.
    pub new: Counted,
    /// What was counted of the old side.
    pub old: Counted,
    /// Evidence that new's rate is above what is tolerated of it.
    pub regression: EValue,
    /// Evidence that new's rate is below what would be harmful.
    pub clearance: EValue,
    /// About how long until the clearance decides if the versions are alike, at
    /// the present traffic, in milliseconds. `None`: there is no traffic that
    /// could tell, or it isn't known.
    pub promote_if_alike_ms: Option<u64>,
    /// About how long until the regression decides if new's rate is the harmful
    /// one. `None` also where nothing has failed yet, because harm is a multiple
    /// of that.
    pub roll_back_if_harmful_ms: Option<u64>,
}

impl Comparison {
    /// Whether there is so much evidence of a regression that nothing should be
    /// promoted, though not enough to roll back.
    pub fn is_suspicious(&self) -> bool {
        self.regression.ln >= SUSPICION_LN
    }
}

/// What the judge holds against one kind of event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Largest tolerated ratio of new's rate to old's.
    pub tolerated: f64,
    /// Smallest harmful ratio.
    pub harmful: f64,
    /// Rate of the new side that is harmful in itself.
    pub rate_max: f64,
    /// Natural logarithm of 1/α of the regression.
    pub regression_ln: f64,
    /// The same of the clearance.
    pub clearance_ln: f64,
}

/// Counts of one instance of the new side by epoch.
pub(super) type ByEpoch = BTreeMap<u64, Side>;

/// New's share that weights stand for.
fn share_of(weights: Weights) -> f64 {
    f64::from(weights.new_side()) / f64::from(weights.total())
}

/// One epoch without one instance of the new side. Its share is that of the
/// weights or that of the requests, whichever speaks against a decision: a side
/// may have got less than its weight for want of ready instances.
fn stratum(epoch: &Epoch, event: Event, left_out: Side) -> Stratum {
    let Tallies { new, old } = epoch.tallies;
    let whole = new.counted(event).requests as f64;
    let (new, old) = (new.without(left_out).counted(event), old.counted(event));
    let all = whole + old.requests as f64;
    let seen = (all > 0.0).then(|| whole / all);
    // What is left of the new side's share without the instance.
    let kept = if whole > 0.0 { new.requests as f64 / whole } else { 1.0 };
    let without = |share: f64| match share * kept + (1.0 - share) {
        rest if rest > 0.0 => share * kept / rest,
        _ => 1.0,
    };
    let (least, most) = (share_of(epoch.weights_least), share_of(epoch.weights_most));
    Stratum {
        number: epoch.number,
        new: new.events as f64,
        all: new.events as f64 + old.events as f64,
        share_least: without(seen.map_or(least, |seen| seen.min(least))),
        share_most: without(seen.map_or(most, |seen| seen.max(most))),
    }
}

/// All epochs, without one instance of the new side.
fn strata(evidence: &Evidence, event: Event, left_out: Option<&ByEpoch>) -> Vec<Stratum> {
    let of = |index: &u64| left_out.and_then(|by| by.get(index)).copied().unwrap_or_default();
    evidence.epochs().iter().map(|(index, epoch)| stratum(epoch, event, of(index))).collect()
}

/// Natural logarithm of the evidence of a regression without one instance.
pub(super) fn regression_ln(
    evidence: &Evidence,
    event: Event,
    bounds: &Bounds,
    left_out: Option<&ByEpoch>,
) -> f64 {
    ratio::above(&strata(evidence, event, left_out), bounds.tolerated).ln()
}

/// Compares the sides in one kind of event, without one instance of the new
/// side. `per_second` are the requests of the new and of the old side in a
/// second of the present traffic.
pub(super) fn compare(
    evidence: &Evidence,
    event: Event,
    bounds: &Bounds,
    left_out: Option<&ByEpoch>,
    per_second: (f64, f64),
) -> Comparison {
    let strata = strata(evidence, event, left_out);
    let mut total = evidence.total();
    for side in left_out.into_iter().flat_map(BTreeMap::values) {
        total.new = total.new.without(*side);
    }
    let (new, old) = (total.new.counted(event), total.old.counted(event));

    let above = ratio::above(&strata, bounds.tolerated);
    let regression = EValue { ln: above.ln(), needed_ln: bounds.regression_ln };
    let below = ratio::below(&strata, bounds.harmful);
    let absolute = bound::below(new.events as f64, new.requests as f64, bounds.rate_max);
    let traffic = Traffic::new(per_second, new, old);
    let (clearance_ln, promote_if_alike_ms) =
        clearance(below, absolute, regression.ln >= SUSPICION_LN, bounds, &traffic);
    let clearance = EValue { ln: clearance_ln, needed_ln: bounds.clearance_ln };
    let roll_back_if_harmful_ms = above.reaches_ms(bounds.regression_ln, |rival| {
        traffic.ratio_gain(bounds.harmful, bounds.tolerated, rival)
    });
    Comparison {
        event,
        new,
        old,
        regression,
        clearance,
        promote_if_alike_ms,
        roll_back_if_harmful_ms,
    }
}

/// Evidence that new is not harmful, and when it decides if the versions are
/// alike. Harmful is what is both a multiple of old's rate and beyond the
/// absolute bound; against "both" the mean of what speaks against either is an
/// e-process (Vovk and Wang 2021). Under suspicion the absolute half counts for
/// nothing: a version that clearly got worse is not promoted because it is still
/// below a threshold.
fn clearance(
    below: Mixture,
    absolute: Option<Mixture>,
    suspicious: bool,
    bounds: &Bounds,
    traffic: &Traffic,
) -> (f64, Option<u64>) {
    let ratio_gain = |rival| traffic.ratio_gain(1.0, bounds.harmful, rival);
    let Some(absolute) = absolute else {
        return (below.ln(), below.reaches_ms(bounds.clearance_ln, ratio_gain));
    };
    let below = below.weighted(0.5);
    let by_ratio = below.reaches_ms(bounds.clearance_ln, ratio_gain);
    if suspicious {
        return (below.ln(), by_ratio);
    }
    let absolute = absolute.weighted(0.5);
    let by_bound = absolute
        .reaches_ms(bounds.clearance_ln, |rival| traffic.bound_gain(bounds.rate_max, rival));
    let ln = ln_add(below.ln(), absolute.ln());
    let time = if ln >= bounds.clearance_ln {
        Some(0)
    } else {
        by_ratio.into_iter().chain(by_bound).min()
    };
    (ln, time)
}

/// The present traffic, and how many of its requests would be events.
struct Traffic {
    new: f64,
    old: f64,
    /// The old side's rate of events as far as it is known.
    rate: f64,
}

impl Traffic {
    fn new((new, old): (f64, f64), counted_new: Counted, counted_old: Counted) -> Self {
        // An old side without events says little about its rate; together with
        // the new side's they are the rate of two versions that are alike.
        let (requests, events) = match counted_old.events {
            0 => (counted_new.requests as f64 + counted_old.requests as f64, counted_new.events),
            events => (counted_old.requests as f64, events),
        };
        Self { new, old, rate: if requests > 0.0 { events as f64 / requests } else { 0.0 } }
    }

    fn ratio_gain(&self, ratio: f64, bound: f64, rival: f64) -> f64 {
        let requests = self.new + self.old;
        if requests <= 0.0 {
            return 0.0;
        }
        let events = self.rate * (ratio * self.new + self.old);
        ratio::gain(events, self.new / requests, ratio, bound, rival)
    }

    fn bound_gain(&self, bound: f64, rival: f64) -> f64 {
        bound::gain(self.new, self.rate.min(1.0), bound, rival)
    }
}
