//! The one bad instance that is not the version's fault.
//!
//! Two things. A rollback has to hold without any single instance: as long as
//! leaving one out takes the evidence away, a host may be to blame. And an
//! instance whose rate is beyond several times that of its peers, by a test of
//! its own, is named, and the version is judged without it. Two bad instances
//! are the version's matter again.
//!
//! Both need [`INSTANCES_MIN`] instances with traffic. Of two nobody can say
//! which is the odd one.

use std::collections::BTreeMap;

use super::comparison::{Bounds, ByEpoch, EValue, regression_ln};
use super::epochs::Evidence;
use super::ratio::{self, Stratum};
use super::tallies::{Counted, Event, Side};
use crate::ids::InstanceId;

/// Fewest instances of the new side among which one can be the odd one.
pub const INSTANCES_MIN: usize = 3;

/// How many times the rate of its peers an instance may have without being
/// called an outlier: hosts differ, and the version runs on all of them.
const RATIO_MAX: f64 = 3.0;

/// Counts of the new side by instance and by the log index of the split, of the
/// same requests that are folded into [`Evidence`]: past the warm-up, slow by
/// the same reference. Where counts are missing, a bad host may be taken for the
/// version; the version's own evidence needs none of them.
pub type InstanceTallies = BTreeMap<InstanceId, BTreeMap<u64, Side>>;

/// An instance that does much worse than its peers of the same version.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlier {
    /// Which.
    pub instance: InstanceId,
    /// In what.
    pub event: Event,
    /// What was counted of it.
    pub own: Counted,
    /// What was counted of all its peers together.
    pub peers: Counted,
    /// Evidence that its rate is beyond three times theirs.
    pub evidence: EValue,
}

fn sum(by_epoch: &ByEpoch) -> Side {
    by_epoch.values().fold(Side::default(), |mut sum, side| {
        sum.fold(*side);
        sum
    })
}

/// Instances that have served anything; none where they are too few to compare.
fn serving(instances: &InstanceTallies) -> Vec<(&InstanceId, &ByEpoch)> {
    let serving: Vec<_> = instances.iter().filter(|(_, by)| sum(by).requests > 0).collect();
    if serving.len() < INSTANCES_MIN { Vec::new() } else { serving }
}

/// The most evident outlier, if there is one. `needed_ln` is the natural
/// logarithm of 1/α for all instances together; each gets an equal part of α.
pub(super) fn outlier(instances: &InstanceTallies, needed_ln: f64) -> Option<Outlier> {
    let serving = serving(instances);
    let needed_ln = needed_ln + (serving.len().max(1) as f64).ln();
    let mut totals = ByEpoch::new();
    for (index, side) in serving.iter().flat_map(|(_, by)| by.iter()) {
        totals.entry(*index).or_default().fold(*side);
    }
    let total = sum(&totals);
    let found = Event::ALL.into_iter().flat_map(|event| {
        let totals = &totals;
        serving.iter().filter_map(move |(instance, by)| {
            let own = sum(by);
            let peers = total.without(own);
            // Most are not even beyond it in sum, and are not looked at twice.
            let is_beyond = rate(own.counted(event)) > RATIO_MAX * rate(peers.counted(event));
            is_beyond.then(|| Outlier {
                instance: (*instance).clone(),
                event,
                own: own.counted(event),
                peers: peers.counted(event),
                evidence: EValue { ln: beside_peers_ln(by, totals, event), needed_ln },
            })
        })
    });
    found
        .filter(|outlier| outlier.evidence.is_reached())
        .max_by(|a, b| a.evidence.ln.total_cmp(&b.evidence.ln))
}

fn rate(counted: Counted) -> f64 {
    counted.events as f64 / (counted.requests as f64).max(1.0)
}

/// Evidence that an instance's rate is beyond [`RATIO_MAX`] times its peers'.
fn beside_peers_ln(own: &ByEpoch, totals: &ByEpoch, event: Event) -> f64 {
    let numbered = totals.iter().zip(1u32..);
    let strata: Vec<Stratum> = numbered
        .map(|((index, total), number)| {
            let side = own.get(index).copied().unwrap_or_default();
            let peers = total.without(side).counted(event);
            let own = side.counted(event);
            let (new, all) = (own.events as f64, own.events as f64 + peers.events as f64);
            let requests = own.requests as f64 + peers.requests as f64;
            let share = own.requests as f64 / requests.max(1.0);
            Stratum { number, new, all, share_least: share, share_most: share }
        })
        .collect();
    ratio::above(&strata, RATIO_MAX).ln()
}

/// The evidence of a regression that is left without the instance to which it
/// owes most; infinite where there are too few to leave one out.
pub(super) fn without_the_worst_ln(
    evidence: &Evidence,
    instances: &InstanceTallies,
    event: Event,
    bounds: &Bounds,
) -> f64 {
    let without = serving(instances).into_iter();
    without
        .map(|(_, by)| regression_ln(evidence, event, bounds, Some(by)))
        .fold(f64::INFINITY, f64::min)
}
