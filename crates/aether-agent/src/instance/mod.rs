//! One instance: a task that gets it started, watches it, and stops it.
//!
//! The task acts on what it was told last and on what it finds; what is to be
//! told is decided elsewhere. It never assumes that it is the first agent to
//! see the instance: it looks first.

mod attend;
mod end;
mod found;
mod launch;
mod link;
mod live;
mod note;
mod reload;

pub(crate) use end::{Ended, end, kill};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aether_core::ids::InstanceId;
use aether_core::records::{Desired, Reason};
use tokio::sync::watch;

use crate::board::Board;
use crate::config::Config;
use crate::directive::Work;
use crate::observe::{Stage, View, lost_reason, observe};
use crate::ports::Ports;
use crate::prepare::Preparer;
use crate::shim::spec::Layout;

use found::{Found, Past};
use reload::Laying;

/// What all instances of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub config: Config,
    pub ports: Ports,
    pub preparer: Preparer,
    pub board: Board,
}

impl Shared {
    pub fn layout(&self, id: &InstanceId) -> Layout {
        Layout::new(self.config.data_dir.join("instances").join(id.as_str()))
    }
}

/// What an instance is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub desired: Desired,
    /// What to run; absent for one that nobody assigned (any more).
    pub work: Option<Result<Arc<Work>, String>>,
    /// Which reload brings a running process there, whether or not that can be read; 0
    /// for none.
    pub reload: u64,
}

/// One instance of this node.
pub(crate) struct Instance {
    id: InstanceId,
    shared: Arc<Shared>,
    layout: Layout,
    told: watch::Receiver<Told>,
    /// Where the process listens, once it has a port.
    listen: Option<SocketAddr>,
    restarts: u32,
    /// Why it had to be killed, if it had.
    killed: Option<Reason>,
    /// Since when its living shim gives no answer.
    mute_since: Option<tokio::time::Instant>,
    /// Whether it was logged that its living shim cannot be understood.
    is_unread_logged: bool,
    /// Files that are still being laid for a shim that is not attended any more.
    laying: Option<Laying>,
}

impl Instance {
    pub fn new(id: InstanceId, shared: Arc<Shared>, told: watch::Receiver<Told>) -> Self {
        let layout = shared.layout(&id);
        Self {
            id,
            shared,
            layout,
            told,
            listen: None,
            restarts: 0,
            killed: None,
            mute_since: None,
            is_unread_logged: false,
            laying: None,
        }
    }

    /// Looks, acts, and looks again, until the instance is stopped.
    pub async fn run(mut self) {
        loop {
            match found::look(&self.layout).await {
                Found::Stopped(past) => {
                    self.remember(&past);
                    break;
                }
                Found::Alive => self.attend().await,
                Found::Gone(past) => {
                    self.remember(&past);
                    found::clean_up(&self.id, &past).await;
                    if self.start(past).await == Started::NotWanted {
                        break;
                    }
                }
            }
        }
        // What is said to be gone writes no more.
        if self.laying.is_some() {
            let _ = Laying::ended(&mut self.laying).await;
        }
        if let Some(listen) = self.listen {
            let shared = self.shared.clone();
            // It is synced to the disk, for which the runtime's threads don't wait.
            let released = tokio::task::spawn_blocking(move || shared.ports.release(listen.port()));
            if let Ok(Err(error)) = released.await {
                tracing::warn!(instance = %self.id, %error, "a port's last use is not noted");
            }
        }
        self.note(Stage::Stopped(self.killed.as_ref()));
    }

    fn remember(&mut self, past: &Past) {
        self.restarts = past.restarts;
        self.killed = past.killed.as_deref().map(|how| Reason::new(Reason::KILLED, how));
        self.listen = past.listen.or(self.listen);
    }

    /// Starts the instance as soon as it is to run.
    async fn start(&mut self, past: Past) -> Started {
        let lost = match (&past.state, &past.shim_error) {
            (None, None) => None,
            (_, Some(error)) => Some(Reason::new("shim_failed", error.clone())),
            (Some(_), None) => Some(lost_reason()),
        };
        if let Some(reason) = &lost {
            self.note(Stage::Lost(reason));
            let wait = self.shared.config.restart.wait(past.ends_in_a_row);
            if self.unless_stopped(tokio::time::sleep(wait)).await.is_none() {
                return Started::NotWanted;
            }
        }
        if let Some(laying) = self.laying.take() {
            let mut laying = Some(laying);
            // Else it could lay them over those of the next start.
            let ended = self.unless_stopped(Laying::ended(&mut laying)).await;
            if ended.is_none() {
                self.laying = laying;
                return Started::NotWanted;
            }
        }
        let mut failures = 0;
        loop {
            let Some(work) = self.wanted_work().await else {
                return Started::NotWanted;
            };
            self.note(Stage::Preparing(None));
            let shared = self.shared.clone();
            let id = self.id.clone();
            let preparing = shared.preparer.prepare(&id, &work);
            let Some(prepared) = self.unless_stopped(preparing).await else {
                return Started::NotWanted;
            };
            let failed = match prepared {
                Err(reason) => Some((true, reason)),
                Ok(dir) => {
                    self.note(Stage::Launching(None));
                    self.launch(&work, dir, &past).await.err().map(|reason| (false, reason))
                }
            };
            let Some((preparing, reason)) = failed else {
                return Started::Launched;
            };
            tracing::warn!(instance = %self.id, code = reason.code, reason.message, "not started");
            let reason = Some(&reason);
            self.note(if preparing { Stage::Preparing(reason) } else { Stage::Launching(reason) });
            failures += 1;
            let wait = shared.config.restart.wait(failures);
            if self.unless_stopped(tokio::time::sleep(wait)).await.is_none() {
                return Started::NotWanted;
            }
        }
    }

    /// Waits until the instance is to run, and gives what. `None`: it is to stop.
    async fn wanted_work(&mut self) -> Option<Arc<Work>> {
        loop {
            let told = self.told.borrow_and_update().clone();
            match (told.desired, told.work) {
                (Desired::Stop, _) => return None,
                (Desired::Run, Some(Ok(work))) => return Some(work),
                (Desired::Run, Some(Err(problem))) => {
                    self.note(Stage::Idle(Some(&Reason::new("bad_assignment", problem))));
                }
                // One that is being drained and is gone needs no new start.
                (Desired::Drain, _) | (Desired::Run, None) => self.note(Stage::Idle(None)),
            }
            self.told_anew().await;
        }
    }

    /// Carries on with `work` unless the instance is told to stop.
    async fn unless_stopped<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = async {
                while self.told.borrow_and_update().desired != Desired::Stop {
                    self.told_anew().await;
                }
            } => None,
        }
    }

    /// Waits until the instance is told something. When nobody is left to tell
    /// it, the agent is being shut down, and nothing may happen any more.
    async fn told_anew(&mut self) {
        if self.told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn note(&self, stage: Stage<'_>) {
        let listen = self.listen;
        let endpoint = listen.map(|listen| match listen.ip().is_unspecified() {
            true => SocketAddr::new(self.shared.config.advertise.ip(), listen.port()),
            false => listen,
        });
        self.shared.board.note(observe(&View {
            instance: &self.id,
            told: self.told.borrow().desired,
            stage,
            listen: listen.map(reachable),
            endpoint,
            restarts: self.restarts,
        }));
    }
}

/// Where something that listens here is reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port())
        }
        _ => listen,
    }
}

/// Whether an instance was started.
#[derive(Debug, PartialEq, Eq)]
enum Started {
    /// Its shim runs.
    Launched,
    /// It is to stop.
    NotWanted,
}
