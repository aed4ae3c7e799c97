//! When misbehaviour begins: at the start, or once a file exists. So a version
//! can be good up to any state of its update, and bad from that moment on in
//! all of its instances, whatever the machine's speed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::Instant;

/// Time between two looks for the file: soon enough for whoever makes it, and
/// nothing beside the calls.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The moment, shared by all that misbehaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Onset(Arc<SetOnce<Instant>>);

impl Onset {
    /// At once, unless a file is to be waited for that is not there yet.
    pub fn new(file: Option<&Path>) -> Self {
        let onset = Self::default();
        if file.is_none_or(Path::exists) {
            onset.begin();
        }
        onset
    }

    /// Since when; `None` while all is well.
    #[inline]
    pub fn since(&self) -> Option<Instant> {
        self.0.get().copied()
    }

    /// Waits for it.
    pub async fn begun(&self) -> Instant {
        *self.0.wait().await
    }

    /// Looks for the file until it is there.
    pub async fn look_for(&self, file: &Path) {
        while self.since().is_none() {
            if file.exists() {
                eprintln!("{} exists: misbehaving from now on", file.display());
                self.begin();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn begin(&self) {
        let _ = self.0.set(Instant::now()); // Only the first moment counts.
    }
}
