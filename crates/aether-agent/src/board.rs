//! What this node reports: the last observation of every instance; and how
//! much of it the control plane has taken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aether_core::command::Observation;
use aether_core::ids::InstanceId;
use aether_core::records::{Observed, Reason};
use tokio::sync::watch;
use tokio::time::timeout;

/// Observations by instance; wakes whoever waits for a change.
#[derive(Debug)]
pub(crate) struct Board {
    observations: Mutex<BTreeMap<InstanceId, Observation>>,
    changed: watch::Sender<u64>,
    /// Highest receipt that came back; 0 before the first.
    taken: watch::Sender<u64>,
    leaving: AtomicBool,
}

impl Board {
    pub fn new() -> Self {
        Self {
            observations: Mutex::new(BTreeMap::new()),
            changed: watch::Sender::new(0),
            taken: watch::Sender::new(0),
            leaving: AtomicBool::new(false),
        }
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

    /// Says that the node ends, and with it every instance that has not ended
    /// yet. Whether there is one. For when nobody observes anything any more:
    /// what is noted later is taken for true.
    pub fn leave(&self) -> bool {
        let mut observations = self.lock();
        let mut some = false;
        for seen in observations.values_mut().filter(|o| o.observed != Observed::Stopped) {
            seen.observed = Observed::Stopping;
            seen.reason = Some(node_stopped());
            some = true;
        }
        drop(observations);
        self.leaving.store(true, Ordering::Release);
        self.changed.send_modify(|generation| *generation += 1);
        some
    }

    /// Notes that an instance has ended, for good or until its node returns.
    pub fn note_ended(&self, instance: &InstanceId, for_good: bool) {
        let ended = self.lock().get(instance).map(|seen| Observation {
            observed: Observed::Stopped,
            reason: (!for_good).then(node_stopped),
            ..seen.clone()
        });
        if let Some(ended) = ended {
            self.note(ended);
        }
    }

    /// Whether every report is to be confirmed, because the node ends.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The number of a report that is made now, for asking for its receipt.
    pub fn receipt(&self) -> u64 {
        *self.changed.borrow() + 1
    }

    /// The control plane has taken a report.
    pub fn set_taken(&self, receipt: u64) {
        self.taken.send_if_modified(|taken| {
            let more = receipt > *taken;
            *taken = receipt.max(*taken);
            more
        });
    }

    /// Whether the control plane has ever taken a report of this agent.
    pub fn was_taken(&self) -> bool {
        *self.taken.borrow() > 0
    }

    /// Waits until the control plane has taken what is noted now. Whether it
    /// did within `limit`. Only while leaving is every report confirmed.
    pub async fn taken(&self, limit: Duration) -> bool {
        let receipt = self.receipt();
        let mut taken = self.taken.subscribe();
        matches!(timeout(limit, taken.wait_for(|taken| *taken >= receipt)).await, Ok(Ok(_)))
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

fn node_stopped() -> Reason {
    Reason::new(Reason::NODE_STOPPED, "its node was stopped, and starts it again with itself")
}
