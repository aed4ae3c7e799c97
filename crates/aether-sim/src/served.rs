//! What a caller got of a version, in all and of each instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use aether_core::coordinates::SliceName;
use aether_core::health::Tally;
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::latency;

/// By version. Reports share it with the caller until that counts on.
pub type Counted = BTreeMap<(SliceName, RevisionNo), Arc<Served>>;

/// First attempts that have their outcome.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// All of them.
    pub all: Tally,
    /// By the instance that was called.
    pub instances: BTreeMap<InstanceId, Tally>,
}

impl Served {
    /// One more.
    pub fn count(&mut self, instance: &InstanceId, is_error: bool, latency_ms: u64) {
        let latency_us = latency_ms * 1_000;
        let one = Tally {
            requests: 1,
            errors: u64::from(is_error),
            latency_sum_us: latency_us,
            buckets: [(latency::bucket_of(latency_us), 1)].into(),
        };
        self.all.add(&one);
        self.instances.entry(instance.clone()).or_default().add(&one);
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let of_each = |(instance, tally): (&InstanceId, &Tally)| {
            let before = earlier.instances.get(instance);
            let added = before.map_or_else(|| tally.clone(), |before| tally.since(before));
            (added.requests > 0).then(|| (instance.clone(), added))
        };
        let instances = self.instances.iter().filter_map(of_each).collect();
        Self { all: self.all.since(&earlier.all), instances }
    }

    /// Adds what another process got.
    pub fn add(&mut self, other: &Self) {
        self.all.add(&other.all);
        for (instance, tally) in &other.instances {
            self.instances.entry(instance.clone()).or_default().add(tally);
        }
    }
}
