//! Has the process of an instance read its files again: they are laid, then it is
//! signalled, and when it has passed a probe since, that is told.
//!
//! The agent sends the signal itself, and not by way of the shim: so one that was
//! started by a release that knew nothing of reloads does as well. It is sent at least
//! once: whoever comes after an agent that was killed in between sends it again. And it
//! is sent only to a process that catches it, or waits for it: any other it would end.
//!
//! Files are laid beside everything else that an instance does, for a disk may take its
//! time: one after the other, and before any signal it is looked at what is told by then.

use std::sync::Arc;
use std::time::Duration;

use aether_core::manifest::ReloadSignal;
use aether_core::records::{Desired, Reason};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Instance;
use super::attend::Attended;
use super::note::{self, Kept, Laid, Runs, Settled};
use crate::directive::Work;
use crate::prepare;
use crate::procfs::{Process, Takes};
use crate::shim::spec::{Adopted, Layout, Phase};

/// How long a process may take to catch its signal before that is a failure: it may
/// just have been started. And how long files may not be laid: a disk may have been full.
const DEAF_MAX: Duration = Duration::from_secs(5);

/// Time between two looks whether it does.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a signal must be blocked to count as waited for: other libraries than glibc
/// block all for the moment in which they start a thread. Many times such a moment.
const BLOCKED_MIN: Duration = Duration::from_millis(100);

/// Time until what failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Files that are being laid: of which reload and configuration, and what came of it.
pub(super) struct Laying {
    reload: u64,
    config: String,
    task: JoinHandle<Result<(), Reason>>,
}

impl Laying {
    /// Waits until they are laid, or cannot be.
    pub async fn ended(laying: &mut Option<Self>) -> Result<(), Reason> {
        let Some(laying) = laying else { return std::future::pending().await };
        let failed = |error: tokio::task::JoinError| failure(error.to_string());
        (&mut laying.task).await.map_err(failed)?
    }
}

/// What is to be reloaded, and how far that is.
struct Attempt {
    reload: u64,
    config: String,
    /// When its files were laid by this agent.
    laid: Option<Instant>,
    /// Since when they cannot be laid.
    failing_since: Option<Instant>,
}

impl Attempt {
    fn is_of(&self, reload: u64, config: &str) -> bool {
        (self.reload, &*self.config) == (reload, config)
    }
}

/// What is known of the reloads of an instance.
pub(super) struct Reloading {
    /// The last one whose files its process has, or was told to read, as those are laid.
    /// Absent while another one is under way, or nobody knows.
    settled: Option<Settled>,
    /// It has passed a probe since.
    answered: bool,
    attempt: Option<Attempt>,
    /// Files that are being laid, not necessarily of the attempt.
    pub laying: Option<Laying>,
    /// When to try again.
    pub retry_at: Option<Instant>,
    /// When the process was first ready, if this agent saw it.
    ready_since: Option<Instant>,
    /// Since when each look found the signal blocked.
    blocked_since: Option<Instant>,
    /// Why it does not come to be done.
    problem: Option<Reason>,
}

/// What is to be done now.
enum Next {
    Nothing,
    Reload(Arc<Work>),
    /// It is told of a reload that cannot be read.
    Unread(String),
}

impl Reloading {
    pub fn of(spec: &Adopted, layout: &Layout, laying: Option<Laying>) -> Self {
        let settled = match Kept::read(layout) {
            // Nobody knows whether a signal was sent that is not noted: it is sent again.
            Some(kept) => kept.settled(),
            None => Some(note::began(spec)),
        };
        let (attempt, retry_at, ready_since, problem) = (None, None, None, None);
        let (answered, blocked_since) = (false, None);
        Self { settled, answered, attempt, laying, retry_at, ready_since, blocked_since, problem }
    }

    /// Another process runs. It was started with the files that are laid, or is about to
    /// be told.
    pub fn start_anew(&mut self) {
        (self.answered, self.ready_since, self.blocked_since) = (false, None, None);
        (self.retry_at, self.problem) = (None, None);
    }

    /// The process is ready for the first time: from now on it is to catch its signal.
    pub fn start_ready(&mut self) {
        (self.ready_since, self.retry_at) = (Some(Instant::now()), None);
    }

    /// A probe that began after the last signal was answered.
    pub fn probed(&mut self, passed: bool) {
        self.answered |= passed;
    }

    /// What is said of it.
    pub fn said(&self) -> (Option<u64>, Option<Reason>) {
        let done = self.settled.as_ref().map(|(reload, _)| *reload);
        (done.filter(|done| *done > 0 && self.answered), self.problem.clone())
    }

    /// Whether the instance has what it is told. Reload 0 is any that led there: the
    /// control plane may have begun anew from a backup that knows of none.
    fn has(&self, work: &Work) -> bool {
        let told = work.config_digest.as_deref().unwrap_or_default();
        self.settled.as_ref().is_some_and(|(reload, config)| {
            let is_it = work.reload == 0 || work.reload == *reload;
            is_it && config.as_ref().is_none_or(|config| config == told)
        })
    }

    /// Whether a signal would be taken, by what the last looks have found.
    fn hears(&mut self, takes: Takes) -> bool {
        if takes != Takes::Blocked {
            self.blocked_since = None;
            return takes == Takes::Caught;
        }
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        since.elapsed() >= BLOCKED_MIN
    }

    fn rest(&mut self) {
        self.blocked_since = None;
        (self.attempt, self.retry_at, self.problem) = (None, None, None);
    }

    /// Goes on with the attempt at this one, or begins it.
    fn attempt(&mut self, work: &Work) {
        let config = work.config_digest.as_deref().unwrap_or_default();
        if !self.attempt.as_ref().is_some_and(|attempt| attempt.is_of(work.reload, config)) {
            self.rest();
            self.settled = None;
            let (reload, config) = (work.reload, config.to_owned());
            self.attempt = Some(Attempt { reload, config, laid: None, failing_since: None });
        }
    }

    fn fails(&mut self, problem: impl Into<String>, again: Duration) {
        self.problem = Some(failure(problem));
        self.retry_at = Some(Instant::now() + again);
    }

    /// Files were laid, or not; by now they may be of another reload than is told.
    pub fn take_laid(&mut self, result: Result<(), Reason>) {
        let Some(laying) = self.laying.take() else { return };
        let Some(attempt) = &mut self.attempt else { return };
        if !attempt.is_of(laying.reload, &laying.config) {
            return;
        }
        let now = Instant::now();
        let Err(reason) = result else {
            (attempt.laid, attempt.failing_since, self.problem) = (Some(now), None, None);
            return;
        };
        let since = *attempt.failing_since.get_or_insert(now);
        self.retry_at = Some(now + RETRY_INTERVAL);
        if since.elapsed() >= DEAF_MAX {
            self.problem = Some(failure(reason.message));
        }
    }
}

fn failure(problem: impl Into<String>) -> Reason {
    Reason::new(Reason::RELOAD_FAILED, problem)
}

fn number(signal: ReloadSignal) -> Signal {
    match signal {
        ReloadSignal::Hup => Signal::SIGHUP,
        ReloadSignal::Usr1 => Signal::SIGUSR1,
        ReloadSignal::Usr2 => Signal::SIGUSR2,
        ReloadSignal::Winch => Signal::SIGWINCH,
    }
}

/// Why a process is not sent a signal.
fn deafness(signal: Signal, takes: Takes) -> String {
    let how = match (takes, signal) {
        (Takes::Ignored, _) => format!("ignores {signal}, which would change nothing"),
        // signal(7): of those that manifests name it alone does nothing by itself.
        (_, Signal::SIGWINCH) => format!("does not catch {signal}, which would change nothing"),
        _ => format!("does not catch {signal}, which would end it"),
    };
    format!("its process {how}; it goes on with the configuration that it has")
}

impl Instance {
    /// What the process is to read again, if it is told to and has not done so.
    fn next_reload(&self, now: &Attended) -> Next {
        let told = self.told.borrow();
        if told.desired == Desired::Stop || now.hung_at.is_some() {
            return Next::Nothing;
        }
        match &told.work {
            Some(Ok(work)) if now.reloading.has(work) => Next::Nothing,
            // Nobody asked for one that is impossible.
            Some(Ok(work)) if work.reload == 0 && work.manifest.run.reload_signal.is_none() => {
                Next::Nothing
            }
            Some(Ok(work)) => Next::Reload(work.clone()),
            Some(Err(problem)) if told.reload != 0 => match &now.reloading.settled {
                Some((reload, _)) if *reload == told.reload => Next::Nothing,
                _ => Next::Unread(problem.clone()),
            },
            _ => Next::Nothing,
        }
    }

    /// Goes on with what is to be reloaded, if it is time for it. Waits for nothing.
    pub(super) fn reload(&mut self, now: &mut Attended) {
        let work = match self.next_reload(now) {
            Next::Reload(work) => work,
            Next::Nothing => return now.reloading.rest(),
            Next::Unread(problem) => {
                now.reloading.rest();
                let problem = format!("what it is to reload cannot be read: {problem}");
                now.reloading.problem = Some(failure(problem));
                return;
            }
        };
        now.reloading.attempt(&work);
        let is_early = now.reloading.retry_at.is_some_and(|at| at > Instant::now());
        if is_early || now.reloading.laying.is_some() {
            return;
        }
        now.reloading.retry_at = None;
        let Some(signal) = work.manifest.run.reload_signal.map(number) else {
            now.reloading.fails("its manifest names no run.reload_signal", DEAF_MAX);
            return;
        };
        let Some(since) = now.reloading.attempt.as_ref().and_then(|attempt| attempt.laid) else {
            now.reloading.laying = Some(self.lay(&work, now));
            return;
        };
        // The next one starts with what is laid.
        if let Some(process) = now.state.child.filter(|_| now.state.phase == Phase::Running) {
            self.tell(now, process, &work, signal, since);
        }
    }

    /// Signals the process, unless it has the files that were laid at `since`, or is deaf.
    fn tell(
        &self,
        now: &mut Attended,
        process: Process,
        work: &Work,
        signal: Signal,
        since: Instant,
    ) {
        let takes = process.takes(signal);
        // Whatever it has read, the next one may have begun with other files.
        if takes == Takes::Gone {
            now.reloading.retry_at = Some(Instant::now() + LOOK_INTERVAL);
            return;
        }
        let config = work.config_digest.clone().unwrap_or_default();
        let laid = || Some(Laid { config: config.clone(), beside: Some(process) });
        let kept = |done| {
            let (reload, config) = (work.reload, config.clone());
            Kept { process, reload, config, done, laid: laid() }.write(&self.layout)
        };
        let before = Kept::read(&self.layout);
        let has_it = before.is_some_and(|before| before.read_by(process) == Some(&*config));
        if !has_it {
            if !now.reloading.hears(takes) {
                now.wait_for_ears(signal, takes, since);
                return;
            }
            if let Err(error) = kept(false) {
                now.reloading.fails(format!("it cannot be kept: {error}"), RETRY_INTERVAL);
                return;
            }
            tracing::info!(instance = %self.id, %signal, reload = work.reload, "told to reload");
            process.signal(signal);
        }
        if let Err(error) = kept(true) {
            // Of the next agent it gets one more.
            tracing::warn!(instance = %self.id, %error, "that it was told to reload is not kept");
        }
        now.reloading.rest();
        (now.reloading.settled, now.reloading.answered) =
            (Some((work.reload, Some(config))), false);
        // One that began before says nothing of the process as it is now.
        now.probing = None;
        now.probe_at = Instant::now();
    }

    /// Begins to lay the files, which goes on by itself.
    fn lay(&self, work: &Arc<Work>, now: &Attended) -> Laying {
        let (reload, config) = (work.reload, work.config_digest.clone().unwrap_or_default());
        let (id, work, layout) = (self.id.clone(), work.clone(), self.layout.clone());
        let (shared, listen, digest) = (self.shared.clone(), now.spec.listen, config.clone());
        let process = now.state.child;
        let runs = Runs { shim: now.state.shim, process, began: note::began(&now.spec) };
        let task = tokio::task::spawn_blocking(move || {
            let lay = || {
                let unkept = |error| failure(format!("it cannot be kept: {error}"));
                let artifact = work.digest().map_err(|error| failure(error.to_string()))?;
                let dir = shared.preparer.dir_of(&artifact);
                Kept::begin(&layout, &runs, &digest).map_err(unkept)?;
                prepare::relay(&id, &work, listen, &dir, &layout)?;
                Kept::end(&layout, &runs).map_err(unkept)
            };
            let laid = lay();
            if let Err(reason) = &laid {
                tracing::warn!(instance = %id, reason.message, "its files are not laid");
            }
            laid
        });
        Laying { reload, config, task }
    }
}

impl Attended {
    /// Its process does not take its signal: not yet, or that is a failure.
    fn wait_for_ears(&mut self, signal: Signal, takes: Takes, laid: Instant) {
        let since = laid.max(self.process_since);
        let since = self.reloading.ready_since.map_or(since, |ready| since.max(ready));
        let is_long = takes != Takes::Blocked && since.elapsed() >= DEAF_MAX;
        // Before it is ready for the first time it is on its way.
        if is_long && self.was_ready() {
            self.reloading.fails(deafness(signal, takes), RETRY_INTERVAL);
            return;
        }
        let again = if is_long { RETRY_INTERVAL } else { LOOK_INTERVAL };
        self.reloading.retry_at = Some(Instant::now() + again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_deaf_process_is_what_the_signal_would_do() {
        let said = |signal, takes| deafness(signal, takes);
        assert!(said(Signal::SIGHUP, Takes::Default).contains("catch SIGHUP, which would end it"));
        assert!(!said(Signal::SIGWINCH, Takes::Default).contains("would end it"));
        let ignored = said(Signal::SIGUSR1, Takes::Ignored);
        assert!(ignored.contains("ignores SIGUSR1, which would change nothing"), "{ignored}");
    }
}
