//! What sessions counted, summed by version: totals, and the last seconds.
//!
//! Sessions send cumulative figures. The first that a leader sees of a session
//! is its baseline: it adds to the totals but not to the window, because
//! nobody knows when it was counted. A counter that appears later began at
//! zero, and all of it is of the window.

use std::collections::{BTreeMap, VecDeque};

use aether_core::coordinates::SliceName;
use aether_core::health::Tally;
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::latency;
use aether_core::records::{Counts, INSTANCES_TOLD_MAX, Measure};
use aether_proto::v1;

/// A version of a slice.
pub type Version = (SliceName, RevisionNo);

/// Length of the window that the thresholds look at.
pub const WINDOW_MS: u64 = 10_000;
/// Width of one part of the window.
const PART_MS: u64 = 1_000;
/// Versions whose figures are kept: the latest of a thousand slices' updates.
const VERSIONS_MAX: usize = 4_096;
/// Counters that are told apart, over all versions: more than a hundred
/// sessions with a thousand instances each. At half a kilobyte to one each they
/// take some hundred megabytes.
const COUNTERS_MAX: usize = 131_072;
/// Counters left when some are settled, so that this is rare.
const COUNTERS_KEPT: usize = COUNTERS_MAX / 4 * 3;

/// What one session last told of one instance.
struct Counter {
    /// Cumulative.
    tally: Tally,
    /// Number of the change, among all of all counters.
    touched: u64,
}

/// What a session has counted of a version.
#[derive(Debug, Clone, Default)]
pub struct Told<'a> {
    /// All of it.
    pub all: Counts,
    /// By instance.
    pub instances: BTreeMap<&'a str, Counts>,
}

/// What was added to a version within a part of the window.
#[derive(Default)]
struct Part {
    sum: Tally,
    /// By instance, of the first [`INSTANCES_TOLD_MAX`].
    instances: BTreeMap<String, Tally>,
}

impl Part {
    fn add(&mut self, instance: &str, added: &Tally) {
        self.sum.add(added);
        if let Some(known) = self.instances.get_mut(instance) {
            known.add(added);
        } else if self.instances.len() < INSTANCES_TOLD_MAX {
            self.instances.insert(instance.to_owned(), added.clone());
        }
    }
}

#[derive(Default)]
struct Figures {
    /// Of sessions that are gone, and of counters that were silent for longest
    /// when there were too many. One of these that is told of again counts
    /// twice in the totals; it does not count in the window.
    settled: Tally,
    /// The same by instance, of the latest [`SETTLED_MAX`].
    settled_by_instance: BTreeMap<String, Tally>,
    /// By session and instance.
    latest: BTreeMap<(String, String), Counter>,
    /// What was added, by the log time at which it arrived.
    window: VecDeque<(u64, Part)>,
    touched_ms: u64,
}

/// Figures of every version that got calls under this leader.
#[derive(Default)]
pub struct Telemetry {
    versions: BTreeMap<Version, Figures>,
    /// Counters in all of them.
    counters: usize,
    /// Changes of counters, ever.
    touches: u64,
    /// Counters were forgotten because there were too many: one that is not
    /// known may be old.
    forgot: bool,
}

fn tally(wire: &v1::EndpointTelemetry) -> Tally {
    let pairs = wire.bucket_index.iter().zip(&wire.bucket_count);
    let buckets = pairs
        .filter(|(bucket, count)| (**bucket as usize) < latency::BUCKETS && **count > 0)
        .map(|(bucket, count)| (*bucket as usize, *count));
    Tally {
        requests: wire.requests,
        errors: wire.errors,
        latency_sum_us: wire.latency_sum_us,
        buckets: buckets.collect(),
    }
}

/// Instances of one version whose settled figures are told apart: the largest
/// target that is measured, at a kilobyte each.
const SETTLED_MAX: usize = 10_000;

impl Figures {
    fn settle(&mut self, instance: &str, tally: &Tally) {
        self.settled.add(tally);
        let known = self.settled_by_instance.contains_key(instance);
        if known || self.settled_by_instance.len() < SETTLED_MAX {
            self.settled_by_instance.entry(instance.to_owned()).or_default().add(tally);
        }
    }
}

impl Telemetry {
    /// Takes in one session's cumulative figures at log time `now_ms`. A counter
    /// that is not known yet counts in the window if it `began_at_zero` under
    /// this leader.
    pub fn absorb(
        &mut self,
        session: &str,
        wire: &v1::EndpointTelemetry,
        began_at_zero: bool,
        now_ms: u64,
    ) {
        let Ok(slice) = wire.slice.parse() else {
            return;
        };
        let figures = self.versions.entry((slice, RevisionNo(wire.revision))).or_default();
        figures.touched_ms = now_ms;
        let key = (session.to_owned(), wire.instance_id.clone());
        let latest = tally(wire);
        let known = figures.latest.get(&key).map(|counter| counter.tally.clone());
        if known.is_none() {
            self.counters += 1;
        }
        let zero = Tally::default();
        if let Some(known) = known.or((began_at_zero && !self.forgot).then_some(zero)) {
            let added = latest.since(&known);
            if latest.requests < known.requests {
                figures.settle(&wire.instance_id, &known);
            }
            let part = now_ms / PART_MS * PART_MS;
            if figures.window.back().is_none_or(|(at, _)| *at != part) {
                figures.window.push_back((part, Part::default()));
            }
            if let Some((_, sum)) = figures.window.back_mut() {
                sum.add(&wire.instance_id, &added);
            }
            let oldest = part.saturating_sub(WINDOW_MS);
            while figures.window.front().is_some_and(|(at, _)| *at < oldest) {
                figures.window.pop_front();
            }
        }
        self.touches += 1;
        figures.latest.insert(key, Counter { tally: latest, touched: self.touches });
        self.forget_oldest();
        self.settle_oldest();
    }

    /// A life of a session is over: its figures become part of the totals.
    pub fn settle(&mut self, session: &str) {
        self.settle_where(|(owner, _), _| owner == session);
    }

    fn settle_where(&mut self, is_over: impl Fn(&(String, String), &Counter) -> bool) {
        for figures in self.versions.values_mut() {
            let mut latest = std::mem::take(&mut figures.latest);
            let before = latest.len();
            latest.retain(|key, counter| {
                let over = is_over(key, counter);
                if over {
                    figures.settle(&key.1, &counter.tally);
                }
                !over
            });
            self.counters -= before - latest.len();
            figures.latest = latest;
        }
    }

    /// Settles the counters that were touched longest ago, if there are too
    /// many.
    fn settle_oldest(&mut self) {
        if self.counters <= COUNTERS_MAX {
            return;
        }
        let counters = self.versions.values().flat_map(|figures| figures.latest.values());
        let mut touched: Vec<u64> = counters.map(|counter| counter.touched).collect();
        let surplus = self.counters - COUNTERS_KEPT;
        let (_, oldest_kept, _) = touched.select_nth_unstable(surplus);
        let oldest_kept = *oldest_kept;
        self.settle_where(|_, counter| counter.touched < oldest_kept);
        self.forgot = true;
    }

    /// All calls to a version that sessions have told of.
    pub fn total(&self, version: &Version) -> Tally {
        let mut sum = Tally::default();
        if let Some(figures) = self.versions.get(version) {
            sum.add(&figures.settled);
            figures.latest.values().for_each(|counter| sum.add(&counter.tally));
        }
        sum
    }

    /// Whether counters were let go of, because there were too many.
    pub fn has_forgotten(&self) -> bool {
        self.forgot
    }

    /// What the present life of each session has counted of a version.
    pub fn by_session(&self, version: &Version, measure: Measure) -> BTreeMap<&str, Told<'_>> {
        let mut sums: BTreeMap<&str, Told<'_>> = BTreeMap::new();
        let Some(figures) = self.versions.get(version) else { return sums };
        for ((session, instance), counter) in &figures.latest {
            let counts = Counts::of(&counter.tally, measure);
            let sum = sums.entry(session).or_default();
            sum.all.fold(counts);
            sum.instances.insert(instance, counts);
        }
        sums
    }

    /// The same by instance.
    pub fn by_instance(&self, version: &Version) -> BTreeMap<String, Tally> {
        let Some(figures) = self.versions.get(version) else { return BTreeMap::new() };
        let mut sums = figures.settled_by_instance.clone();
        for ((_, instance), counter) in &figures.latest {
            sums.entry(instance.clone()).or_default().add(&counter.tally);
        }
        sums
    }

    /// Calls to a version that were told of within the window before `now_ms`,
    /// and after `from_ms`.
    pub fn window(&self, version: &Version, from_ms: u64, now_ms: u64) -> Tally {
        let mut sum = Tally::default();
        self.parts(version, from_ms, now_ms).for_each(|part| sum.add(&part.sum));
        sum
    }

    /// The same by instance, as far as they are told apart.
    pub fn window_by_instance(
        &self,
        version: &Version,
        from_ms: u64,
        now_ms: u64,
    ) -> BTreeMap<InstanceId, Tally> {
        let mut sums = BTreeMap::new();
        for (id, tally) in self.parts(version, from_ms, now_ms).flat_map(|part| &part.instances) {
            if let Ok(id) = id.parse::<InstanceId>() {
                sums.entry(id).or_insert_with(Tally::default).add(tally);
            }
        }
        sums
    }

    fn parts(&self, version: &Version, from_ms: u64, now_ms: u64) -> impl Iterator<Item = &Part> {
        let from_ms = from_ms.max(now_ms.saturating_sub(WINDOW_MS));
        let window = self.versions.get(version).into_iter().flat_map(|figures| &figures.window);
        let within = move |(at, _): &&(u64, Part)| *at >= from_ms && *at <= now_ms;
        window.filter(within).map(|(_, part)| part)
    }

    fn forget_oldest(&mut self) {
        if self.versions.len() > VERSIONS_MAX {
            let oldest = self.versions.iter().min_by_key(|(_, f)| f.touched_ms);
            if let Some(version) = oldest.map(|(version, _)| version.clone()) {
                let gone = self.versions.remove(&version);
                self.counters -= gone.map_or(0, |figures| figures.latest.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(requests: u64, errors: u64) -> v1::EndpointTelemetry {
        v1::EndpointTelemetry {
            slice: "org.example:a".to_owned(),
            revision: 2,
            instance_id: "a-1-0".to_owned(),
            requests,
            errors,
            latency_sum_us: requests * 1000,
            bucket_index: vec![latency::bucket_of(1000) as u32, u32::MAX],
            bucket_count: vec![requests, 7],
        }
    }

    #[test]
    fn the_first_figures_are_a_baseline_and_the_window_forgets() {
        let version = ("org.example:a".parse().unwrap(), RevisionNo(2));
        let mut telemetry = Telemetry::default();
        telemetry.absorb("s", &wire(1_000, 10), false, 5_000);
        assert_eq!(telemetry.total(&version).requests, 1_000);
        assert_eq!(telemetry.window(&version, 0, 5_000).requests, 0);
        telemetry.absorb("s", &wire(1_300, 40), false, 6_200);
        let window = telemetry.window(&version, 0, 6_500);
        assert_eq!((window.requests, window.errors), (300, 30));
        assert_eq!(telemetry.window(&version, 6_100, 6_500).requests, 0, "counted before");
        assert_eq!(telemetry.window(&version, 0, 17_000).requests, 0, "too long ago");
    }

    #[test]
    fn a_session_that_is_gone_or_starts_anew_loses_nothing_of_the_totals() {
        let version = ("org.example:a".parse().unwrap(), RevisionNo(2));
        let mut telemetry = Telemetry::default();
        telemetry.absorb("s", &wire(100, 0), false, 1_000);
        telemetry.absorb("s", &wire(30, 0), false, 2_000);
        telemetry.settle("s");
        telemetry.absorb("t", &wire(7, 0), false, 3_000);
        assert_eq!(telemetry.total(&version).requests, 137);
        let other = v1::EndpointTelemetry { instance_id: "a-1-1".to_owned(), ..wire(5, 1) };
        telemetry.absorb("t", &other, false, 3_000);
        let by_instance = telemetry.by_instance(&version);
        let counts: Vec<_> = by_instance.iter().map(|(id, t)| (id.as_str(), t.requests)).collect();
        assert_eq!(counts, [("a-1-0", 137), ("a-1-1", 5)]);
    }

    #[test]
    fn too_many_counters_cost_the_totals_nothing() {
        let version = ("org.example:a".parse().unwrap(), RevisionNo(2));
        let mut telemetry = Telemetry::default();
        let mut sent = 0;
        for instance in 0..COUNTERS_MAX + 10 {
            let row = v1::EndpointTelemetry { instance_id: format!("a-{instance}"), ..wire(3, 0) };
            telemetry.absorb("s", &row, false, 1_000);
            sent += 3;
            // One of the first goes on all the time.
            if instance % 1_000 == 0 {
                let requests = 3 + instance as u64;
                telemetry.absorb("s", &wire(requests, 0), false, 1_000);
            }
        }
        let busy = 3 + (COUNTERS_MAX / 1_000 * 1_000) as u64;
        assert_eq!(telemetry.total(&version).requests, sent + busy);
        assert!(telemetry.counters <= COUNTERS_MAX, "{}", telemetry.counters);
        // What went on is still told apart from what was counted before.
        telemetry.absorb("s", &wire(busy + 5, 0), false, 1_000);
        assert_eq!(telemetry.total(&version).requests, sent + busy + 5);
        telemetry.settle("s");
        assert_eq!(telemetry.total(&version).requests, sent + busy + 5);
        assert_eq!(telemetry.counters, 0);
    }
}
