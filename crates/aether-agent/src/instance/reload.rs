//! Has the process of an instance read its files again: they are laid, then it is
//! signalled, and when it has passed a probe since, that is told.
//!
//! The agent sends the signal itself, and not by way of the shim: so one that was
//! started by a release that knew nothing of reloads does as well. It is sent at least
//! once: whoever comes after an agent that was killed in between sends it again. And it
//! is sent only to a process that catches it, or waits for it: any other it would end.

use std::fs;
use std::time::Duration;

use aether_core::manifest::ReloadSignal;
use aether_core::records::{Desired, Reason};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Instance;
use super::attend::Attended;
use crate::directive::Work;
use crate::fsio::{Survives, write_atomic};
use crate::prepare;
use crate::procfs::{Process, Takes};
use crate::shim::spec::{Adopted, Layout, Phase};

/// How long a process may take to catch its signal before that is a failure: it may
/// just have been started.
const DEAF_MAX: Duration = Duration::from_secs(5);

/// Time between two looks whether it does.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Time until what failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The last reload of an instance, for the next agent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Who was signalled, or is about to be.
    process: Process,
    /// Which reload it was.
    reload: u64,
    /// Digest of the configuration that was laid for it; empty for none.
    config: String,
    /// The signal was sent.
    done: bool,
}

impl Kept {
    fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&fs::read(layout.reload()).ok()?).ok()
    }

    fn write(&self, layout: &Layout) -> std::io::Result<()> {
        // With the machine the process goes too, and is started with its files.
        write_atomic(&layout.reload(), &serde_json::to_vec(self)?, Survives::Process)
    }
}

/// What is known of the reloads of an instance.
pub(super) struct Reloading {
    /// The last one whose files its process has, or was told to read; 0 for none.
    done: u64,
    /// It has passed a probe since.
    answered: bool,
    /// The one whose files were laid by this agent, and when.
    laid: Option<(u64, Instant)>,
    /// When to try again.
    pub retry_at: Option<Instant>,
    /// Why it does not come to be done.
    problem: Option<Reason>,
    /// What the process began with, if its specification says so.
    began_with: Option<String>,
}

impl Reloading {
    pub fn of(spec: &Adopted, layout: &Layout) -> Self {
        let done = match Kept::read(layout) {
            Some(kept) if kept.done => kept.reload,
            // Nobody knows whether the signal was sent: it is sent again.
            Some(_) => 0,
            None => spec.reload,
        };
        let (laid, retry_at, problem) = (None, None, None);
        let began_with = spec.config_digest.clone();
        Self { done, answered: false, laid, retry_at, problem, began_with }
    }

    /// Another process runs. It was started with the files that are laid, or is about to
    /// be told.
    pub fn start_anew(&mut self) {
        self.answered = false;
    }

    /// A probe that began after the last signal was answered.
    pub fn probed(&mut self, passed: bool) {
        self.answered |= passed;
    }

    /// What is said of it.
    pub fn said(&self) -> (Option<u64>, Option<Reason>) {
        let done = (self.done > 0 && self.answered).then_some(self.done);
        (done, self.problem.clone())
    }

    fn fails(&mut self, problem: impl Into<String>, again: Duration) {
        self.problem = Some(Reason::new(Reason::RELOAD_FAILED, problem));
        self.retry_at = Some(Instant::now() + again);
    }
}

fn number(signal: ReloadSignal) -> Signal {
    match signal {
        ReloadSignal::Hup => Signal::SIGHUP,
        ReloadSignal::Usr1 => Signal::SIGUSR1,
        ReloadSignal::Usr2 => Signal::SIGUSR2,
        ReloadSignal::Winch => Signal::SIGWINCH,
    }
}

impl Instance {
    /// What the process is to read again, if it is told to and has not done so.
    fn to_reload(&self, now: &Attended) -> Option<std::sync::Arc<Work>> {
        let told = self.told.borrow();
        let Some(Ok(work)) = told.work.as_ref().filter(|_| told.desired != Desired::Stop) else {
            return None;
        };
        let is_news = work.reload != 0 && work.reload != now.reloading.done;
        (is_news && now.hung_at.is_none()).then(|| work.clone())
    }

    /// One attempt at what is to be reloaded, if it is time for it.
    pub(super) async fn reload(&mut self, now: &mut Attended) {
        let Some(work) = self.to_reload(now) else {
            (now.reloading.retry_at, now.reloading.problem) = (None, None);
            return;
        };
        let laid = now.reloading.laid.filter(|(reload, _)| *reload == work.reload);
        let is_early = now.reloading.retry_at.is_some_and(|at| at > Instant::now());
        if is_early && laid.is_some() {
            return;
        }
        now.reloading.retry_at = None;
        let Some(signal) = work.manifest.run.reload_signal else {
            now.reloading.fails("its manifest names no run.reload_signal", DEAF_MAX);
            return;
        };
        let since = match laid {
            Some((_, since)) => since,
            None => {
                if let Err(reason) = self.lay(&work, now.spec.listen).await {
                    tracing::warn!(instance = %self.id, reason.message, "its files are not laid");
                    now.reloading.fails(reason.message, RETRY_INTERVAL);
                    // So that it is tried again only then.
                    return;
                }
                let since = Instant::now();
                now.reloading.laid = Some((work.reload, since));
                since
            }
        };
        // The next one starts with what is laid.
        let Some(process) = now.state.child.filter(|_| now.state.phase == Phase::Running) else {
            return;
        };
        let config = work.config_digest.clone().unwrap_or_default();
        if self.has_read(process, now) != Some(config.clone()) {
            match process.takes(number(signal)) {
                Takes::Caught => {}
                Takes::Gone => {
                    now.reloading.retry_at = Some(Instant::now() + LOOK_INTERVAL);
                    return;
                }
                Takes::Deaf if since.max(now.process_since).elapsed() < DEAF_MAX => {
                    now.reloading.retry_at = Some(Instant::now() + LOOK_INTERVAL);
                    return;
                }
                Takes::Deaf => {
                    let problem = format!(
                        "its process does not catch {signal}, which would end it; it goes on with \
                         the configuration that it has"
                    );
                    now.reloading.fails(problem, RETRY_INTERVAL);
                    return;
                }
            }
            let kept = Kept { process, reload: work.reload, config: config.clone(), done: false };
            if let Err(error) = kept.write(&self.layout) {
                now.reloading.fails(format!("it cannot be kept: {error}"), RETRY_INTERVAL);
                return;
            }
            tracing::info!(instance = %self.id, %signal, reload = work.reload, "told to reload");
            process.signal(number(signal));
        }
        let kept = Kept { process, reload: work.reload, config, done: true };
        if let Err(error) = kept.write(&self.layout) {
            // Of the next agent it gets one more.
            tracing::warn!(instance = %self.id, %error, "that it was told to reload is not kept");
        }
        let reloading = &mut now.reloading;
        (reloading.done, reloading.answered, reloading.problem) = (work.reload, false, None);
        // One that began before says nothing of the process as it is now.
        now.probing = None;
        now.probe_at = Instant::now();
    }

    /// Digest of the configuration that a process has read, if that is known.
    fn has_read(&self, process: Process, now: &Attended) -> Option<String> {
        match Kept::read(&self.layout) {
            Some(kept) => (kept.done && kept.process == process).then_some(kept.config),
            // A later one of this shim may have begun with what was laid since.
            None if now.state.restarts != now.spec.restarts => None,
            None => now.reloading.began_with.clone(),
        }
    }

    async fn lay(
        &self,
        work: &std::sync::Arc<Work>,
        listen: std::net::SocketAddr,
    ) -> Result<(), Reason> {
        let (id, work, layout) = (self.id.clone(), work.clone(), self.layout.clone());
        let shared = self.shared.clone();
        let laying = tokio::task::spawn_blocking(move || {
            let digest = work
                .digest()
                .map_err(|error| Reason::new(Reason::RELOAD_FAILED, error.to_string()))?;
            prepare::relay(&id, &work, listen, &shared.preparer.dir_of(&digest), &layout)
        });
        let failed =
            |error: tokio::task::JoinError| Reason::new(Reason::RELOAD_FAILED, error.to_string());
        laying.await.map_err(failed)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::{kept, reads};

    #[test]
    fn what_is_kept_of_a_reload_is_written_and_read_as_it_was() {
        let process = Process { pid: i32::MAX, start_ticks: u64::MAX };
        let config = "0".repeat(64);
        let reload = Kept { process, reload: u64::MAX, config, done: true };
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        reload.write(&layout).unwrap();
        kept("reload.json").holds(&fs::read(layout.reload()).unwrap());
        reads(&kept("reload.json"), &reload);
        assert_eq!(layout.reload().file_name().unwrap(), "reload.json");
        let newer = r#"{"process":{"pid":2147483647,"start_ticks":18446744073709551615,"of":1},
            "reload":7,"config":"","done":false,"newer":{}}"#;
        let read = serde_json::from_str::<Kept>(newer).unwrap();
        assert_eq!(read, Kept { process, reload: 7, config: String::new(), done: false });
    }
}
