//! When the tables go to the [file](crate::cache) and come from it. A disk may be slow,
//! full or gone: what it takes part in runs on a thread of its own, and neither the
//! session nor the runtime waits for that one.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aether_proto::v1;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::cache::{self, Cached};
use crate::config::Config;
use crate::invoker::Applied;

/// How long the file is waited for.
const READ_MAX: Duration = Duration::from_secs(2);

/// Shortest time between two writings: an update changes tables all the time, and who
/// starts by the file has what it last held. Every telemetry finds it over.
const WRITTEN_EVERY: Duration = Duration::from_millis(900);

/// How often the time in the file is renewed within the age up to which it is used.
const RENEWALS: u32 = 10;

/// Runs what may hang. What it gives does not come if no thread is to be had.
pub(crate) fn aside<T: Send + 'static>(
    what: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("aether-aside".to_owned());
    // Whoever asked may have stopped waiting.
    let spawned = thread.spawn(move || drop(done.send(what())));
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread");
    }
    result
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: Option<PathBuf>,
    age_max: Duration,
    was_read: bool,
    /// The tables that the file was last to be given, and when.
    given: Option<(Applied, Instant)>,
    /// Whether it has them.
    writing: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Keeper {
    pub(crate) fn new(config: &Config) -> Self {
        let (path, age_max) = (config.cache_file.clone(), config.cache_age_max);
        Self { path, age_max, was_read: false, given: None, writing: None }
    }

    /// The tables of the last process, if it left some that are of use; asked once.
    pub(crate) async fn read(&mut self) -> Option<Cached> {
        if std::mem::replace(&mut self.was_read, true) {
            return None;
        }
        let (path, age_max) = (self.path.clone()?, self.age_max);
        let read = aside(move || cache::read(&path, age_max, SystemTime::now()));
        match timeout(READ_MAX, read).await {
            Ok(Ok(Ok(cached))) => cached,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "starting without the tables of a file");
                None
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(path = ?self.path, "the file of the tables does not answer");
                None
            }
        }
    }

    /// Whether tables of this age, which no node has confirmed since, are too old.
    pub(crate) fn is_too_old(&self, age: Duration) -> bool {
        age > self.age_max
    }

    /// Has the tables written if they changed, or if their time is to be renewed. They
    /// were confirmed this long ago.
    pub(crate) fn keep(
        &mut self,
        applied: Applied,
        confirmed: Duration,
        snapshot: impl FnOnce() -> Option<v1::RoutingDown>,
    ) {
        let Some(path) = self.path.clone() else { return };
        if let Some(writing) = &mut self.writing {
            match writing.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, ?path, "cannot keep the tables for the next start");
                }
                Ok(Ok(())) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.writing = None;
        }
        if let Some((known, at)) = self.given {
            let renewal = self.age_max / RENEWALS;
            let due = if known == applied { renewal } else { WRITTEN_EVERY.min(renewal) };
            if at.elapsed() < due {
                return;
            }
        }
        let Some(snapshot) = snapshot() else { return };
        // In any case: a disk that is full now is asked again when it is due again.
        self.given = Some((applied, Instant::now()));
        let Some(at) = SystemTime::now().checked_sub(confirmed) else { return };
        self.writing = Some(aside(move || cache::write(&path, &snapshot, at)));
    }
}
