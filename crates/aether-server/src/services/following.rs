//! What the streams have in common that tell a reader what changes: how many
//! there may be, and that a node which hears nothing any more says so instead
//! of keeping silent. How they are sent is in `reading`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;

use crate::control::Control;
use crate::deadline::Deadline;
use crate::status;

/// Streams of this kind at one node. A person or a dashboard has one or two, and a
/// fleet of services that share a setting one each.
const STREAMS_MAX: usize = 1_024;

/// How often a stream without news shows that it lives. Well below the minute
/// after which proxies usually close what is silent.
const PULSE: Duration = Duration::from_secs(5);

/// How long no leader may be reached before readers are sent to another node:
/// several elections, so that a failover does not break their streams.
const CUT_OFF_MAX: Duration = Duration::from_secs(10);

/// The places for streams.
#[derive(Clone)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

impl Places {
    /// A place, to be held while the stream lasts.
    ///
    /// # Errors
    /// All are taken.
    pub fn take(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.0).try_acquire_owned();
        place.map_err(|_| {
            status::exhausted(format!(
                "{STREAMS_MAX} readers follow this node already; end one, or ask another node"
            ))
        })
    }
}

/// A reader did not keep up.
pub fn too_slow(problem: String) -> Status {
    status::exhausted(format!("{problem}; read faster, or ask for less"))
}

/// Says when a reader has to be shown that the stream lives.
pub struct Pulse {
    control: Control,
    ticks: Interval,
    silent_since: Option<Instant>,
    cut_off_max: Duration,
}

impl Pulse {
    /// From now on.
    pub fn new(control: Control) -> Self {
        Self::every(PULSE, CUT_OFF_MAX, control)
    }

    /// With waits of the caller's.
    pub fn every(period: Duration, cut_off_max: Duration, control: Control) -> Self {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { control, ticks, silent_since: None, cut_off_max }
    }

    /// How often something has to be said.
    pub fn period(&self) -> Duration {
        self.ticks.period()
    }

    /// Waits until something has to be said, and tells whether this node knows
    /// all that was committed before. Given up for news, it has missed nothing:
    /// a node that gets news is not cut off.
    ///
    /// # Errors
    /// This node has reached no leader for too long.
    pub async fn beat(&mut self) -> Result<bool, Status> {
        self.ticks.tick().await;
        let fresh = self.control.barrier(Deadline::default()).await.is_ok();
        if fresh {
            self.silent_since = None;
        } else if self.silent_since.get_or_insert_with(Instant::now).elapsed() >= self.cut_off_max {
            return Err(status::unavailable("this node reaches no leader"));
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn places_are_counted_and_come_back() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..STREAMS_MAX).map(|_| places.take().unwrap()).collect();
        assert_eq!(places.take().unwrap_err().code(), Code::ResourceExhausted);
        taken.pop();
        assert!(places.take().is_ok());
    }
}
