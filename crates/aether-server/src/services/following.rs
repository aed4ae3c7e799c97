//! What the streams have in common that tell a reader what changes: how many
//! there may be, that a reader who does not read is let go, and that a node
//! which hears nothing any more says so instead of keeping silent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;

use super::streams::Down;
use crate::control::Control;
use crate::deadline::Deadline;
use crate::status;

/// Messages queued towards one reader. What comes after them waits where it is.
pub const QUEUED_MAX: usize = 16;

/// Streams of this kind at one node. A person or a dashboard has one or two, and a
/// fleet of services that share a setting one each.
const STREAMS_MAX: usize = 1_024;

/// How long a reader may leave its queue full before it counts as stuck.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// How often a stream without news shows that it lives. Well below the minute
/// after which proxies usually close what is silent.
const PULSE: Duration = Duration::from_secs(5);

/// How long no leader may be reached before readers are sent to another node:
/// several elections, so that a failover does not break their streams.
const CUT_OFF_MAX: Duration = Duration::from_secs(10);

/// Why a stream ends before its time.
pub enum End {
    /// Nobody reads any more.
    Left,
    /// What the reader is told.
    Because(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Because(status)
    }
}

/// What a stream's task returns to [`super::streams::answer`].
pub fn ended(result: Result<(), End>) -> Result<(), Status> {
    match result {
        Ok(()) | Err(End::Left) => Ok(()),
        Err(End::Because(status)) => Err(status),
    }
}

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

/// Brings a message to a reader.
///
/// # Errors
/// It left, or does not read.
pub async fn deliver<T>(to: &Down<T>, message: T) -> Result<(), End> {
    deliver_within(UNREAD_MAX, to, message).await
}

async fn deliver_within<T>(unread_max: Duration, to: &Down<T>, message: T) -> Result<(), End> {
    // Of a thousand readers that get the same news, hardly one has to be waited for.
    let message = match to.try_send(Ok(message)) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Closed(_)) => return Err(End::Left),
        Err(TrySendError::Full(message)) => message,
    };
    match tokio::time::timeout(unread_max, to.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Left),
        Err(_) => Err(End::Because(too_slow(format!("nothing was read for {unread_max:?}")))),
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
    use tokio::sync::mpsc;
    use tonic::Code;

    #[test]
    fn places_are_counted_and_come_back() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..STREAMS_MAX).map(|_| places.take().unwrap()).collect();
        assert_eq!(places.take().unwrap_err().code(), Code::ResourceExhausted);
        taken.pop();
        assert!(places.take().is_ok());
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_is_let_go() {
        let (to, from) = mpsc::channel(1);
        let soon = Duration::from_millis(50);
        assert!(deliver(&to, 1).await.is_ok());
        let Err(End::Because(status)) = deliver_within(soon, &to, 2).await else {
            panic!("there was no room");
        };
        assert_eq!(status.code(), Code::ResourceExhausted);
        drop(from);
        assert!(matches!(deliver(&to, 3).await, Err(End::Left)));
    }
}
