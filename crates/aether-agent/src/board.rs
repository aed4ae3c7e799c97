//! What this node reports: the last observation of every instance.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aether_core::command::Observation;
use aether_core::ids::InstanceId;
use aether_core::records::Observed;
use tokio::sync::watch;

/// Observations by instance; wakes whoever waits for a change.
#[derive(Debug)]
pub(crate) struct Board {
    observations: Mutex<BTreeMap<InstanceId, Observation>>,
    changed: watch::Sender<u64>,
}

impl Board {
    pub fn new() -> Self {
        Self { observations: Mutex::new(BTreeMap::new()), changed: watch::Sender::new(0) }
    }

    /// Notes an observation; one that says nothing new wakes nobody.
    pub fn note(&self, observation: Observation) {
        let mut observations = self.lock();
        if observations.get(&observation.instance) == Some(&observation) {
            return;
        }
        tracing::debug!(
            instance = %observation.instance,
            observed = ?observation.observed,
            reason = observation.reason.as_ref().map_or("", |reason| &reason.code),
            "instance changed"
        );
        observations.insert(observation.instance.clone(), observation);
        drop(observations);
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Stops reporting an instance.
    pub fn remove(&self, instance: &InstanceId) {
        if self.lock().remove(instance).is_some() {
            self.changed.send_modify(|generation| *generation += 1);
        }
    }

    /// All observations, by instance.
    pub fn all(&self) -> Vec<Observation> {
        self.lock().values().cloned().collect()
    }

    /// Whether something was observed of the instance yet.
    pub fn has(&self, instance: &InstanceId) -> bool {
        self.lock().contains_key(instance)
    }

    /// Whether the instance is gone for good.
    pub fn is_stopped(&self, instance: &InstanceId) -> bool {
        self.lock().get(instance).is_some_and(|seen| seen.observed == Observed::Stopped)
    }

    /// Changes with every change of an observation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Observation>> {
        self.observations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
