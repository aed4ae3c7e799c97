//! What agent and shim tell each other: the specification of an instance, and
//! the state that the shim keeps of it. Both are JSON files.
//!
//! A shim lives longer than the agent that started it, so the two may be of
//! different releases, either of them the newer one: a node is upgraded, or set
//! back, while its instances run. Hence fields are only ever added, each with a
//! default; what is written is frozen (`tests/frozen`); and the agent reads past
//! what only a newer release knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use aether_core::duration::Millis;
use aether_core::ids::InstanceId;
use aether_core::manifest::{Liveness, Manifest, Probe, Readiness, StopSignal};
use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serialize};

use super::LogLimits;
use crate::artifact::Digest;
use crate::directive::is_none;
use crate::procfs::Process;
use crate::restart::RestartPolicy;

/// Where the files of one instance are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// What the shim is to run, written by the agent.
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }
    /// What the shim sees, written by the shim.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }
    /// Whether the slice was last seen ready, written by the agent.
    pub fn readiness(&self) -> PathBuf {
        self.dir.join("readiness.json")
    }
    /// Which reload the slice was told of, written by the agent.
    pub fn reload(&self) -> PathBuf {
        self.dir.join("reload.json")
    }
    /// Why the slice's program could not be started, written by the process
    /// that was to become it.
    pub fn enter_failure(&self) -> PathBuf {
        self.dir.join("enter.err")
    }
    /// Locked for as long as the shim lives.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("shim.lock")
    }
    /// The shim's own standard error.
    pub fn shim_errors(&self) -> PathBuf {
        self.dir.join("shim.err")
    }
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }
    /// Working directory of the slice: `${INSTANCE_DIR}`.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }
}

/// Everything the shim needs, and what an agent needs to take it over, which
/// reads it as [`Adopted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShimSpec {
    pub instance: InstanceId,
    /// For people.
    pub slice: String,
    pub artifact: String,
    pub digest: String,
    pub manifest: Manifest,
    /// Program and arguments, substituted.
    pub command: Vec<String>,
    /// The complete environment, substituted.
    pub env: BTreeMap<String, String>,
    /// The command of the readiness probe, substituted.
    #[serde(default)]
    pub ready_exec: Option<Vec<String>>,
    /// The command of the liveness probe, substituted.
    #[serde(default)]
    pub live_exec: Option<Vec<String>>,
    pub work_dir: PathBuf,
    /// Where the slice has to listen.
    pub listen: SocketAddr,
    pub restart: RestartPolicy,
    pub logs: LogLimits,
    /// How often it was started again before this shim.
    pub restarts: u32,
    /// How often it ended in a row before this shim.
    pub ends_in_a_row: u32,
    /// The reload whose files were laid for its start; 0 for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub reload: u64,
    /// Digest of the configuration that was laid for its start, empty for none; absent
    /// where an earlier release laid it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
}

impl ShimSpec {
    pub fn grace(&self) -> Duration {
        self.manifest.run.grace.duration()
    }

    pub fn stop_signal(&self) -> Signal {
        match self.manifest.run.stop_signal {
            StopSignal::Term => Signal::SIGTERM,
            StopSignal::Int => Signal::SIGINT,
            StopSignal::Quit => Signal::SIGQUIT,
            StopSignal::Hup => Signal::SIGHUP,
            StopSignal::Usr1 => Signal::SIGUSR1,
            StopSignal::Usr2 => Signal::SIGUSR2,
        }
    }
}

/// What an agent needs of a [`ShimSpec`] to watch the instance. The rest may be
/// what it will: the manifest of a newer release may have parts that this one
/// does not know, and would refuse to start, but the instance runs already.
/// What it does not know of a probe it cannot ask, so that is an error.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Adopted {
    manifest: AdoptedManifest,
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    ready_exec: Option<Vec<String>>,
    #[serde(default)]
    live_exec: Option<Vec<String>>,
    pub work_dir: PathBuf,
    pub listen: SocketAddr,
    pub restarts: u32,
    pub ends_in_a_row: u32,
    #[serde(default)]
    pub reload: u64,
    #[serde(default)]
    pub config_digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct AdoptedManifest {
    run: AdoptedRun,
    #[serde(default)]
    ready: Readiness,
    #[serde(default)]
    live: Option<Liveness>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct AdoptedRun {
    grace: Millis,
}

impl Adopted {
    /// Reads the specification of an instance.
    pub fn read(layout: &Layout) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(layout.spec())?)?)
    }

    /// Which archive the instance runs from, if that can be read, whatever else
    /// can.
    pub fn digest(layout: &Layout) -> Option<Digest> {
        #[derive(Deserialize)]
        struct Runs {
            digest: String,
        }
        let runs: Runs = serde_json::from_slice(&fs::read(layout.spec()).ok()?).ok()?;
        runs.digest.parse().ok()
    }

    /// When the instance counts as ready.
    pub fn readiness(&self) -> &Readiness {
        &self.manifest.ready
    }

    /// How readiness is asked.
    pub fn ready_probe(&self) -> Probe {
        match &self.ready_exec {
            Some(command) => Probe::Exec(command.clone()),
            None => self.manifest.ready.probe(),
        }
    }

    /// Whether and how liveness is asked.
    pub fn live_probe(&self) -> Option<(Liveness, Probe)> {
        let liveness = self.manifest.live.clone()?;
        let probe = match &self.live_exec {
            Some(command) => Probe::Exec(command.clone()),
            None => liveness.probe(),
        };
        Some((liveness, probe))
    }

    /// How long the slice has to end after its stop signal.
    pub fn grace(&self) -> Duration {
        self.manifest.run.grace.duration()
    }
}

/// What the shim is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The slice's process runs.
    Running,
    /// It ended, or could not be started; the shim waits before the next start.
    Waiting,
    /// Its process does not answer its liveness probe, and is being stopped to
    /// be started again.
    Restarting,
    /// It was asked to stop.
    Stopping,
    /// It and everything it started is gone; the shim ends. Final.
    Stopped,
    /// What only the shim of a newer release does. Never written.
    #[serde(skip)]
    Unknown,
}

/// How the slice's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// It exited with this status.
    Status(i32),
    /// This signal ended it.
    Signal(String),
    /// It was killed because its memory limit, in words, was reached.
    OutOfMemory(String),
    /// It was stopped because it did not answer its liveness probe; what the
    /// probe found.
    NotLive(String),
    /// It could not be started.
    NotStarted(String),
    /// Another process listens on its port.
    PortTaken(SocketAddr),
    /// Its shim was gone: killed, or the machine restarted.
    ShimLost,
    /// What only the shim of a newer release can name, as it said it. Never
    /// written.
    #[serde(skip)]
    Unknown(String),
}

/// A phase that this release does not know must not cost the rest of a state.
fn known_or_unknown<'de, D: Deserializer<'de>>(said: D) -> Result<Phase, D::Error> {
    let said = serde_json::Value::deserialize(said)?;
    Ok(Phase::deserialize(&said).unwrap_or(Phase::Unknown))
}

/// Neither must an end.
fn known_or_as_said<'de, D: Deserializer<'de>>(said: D) -> Result<Option<End>, D::Error> {
    let said = Option::<serde_json::Value>::deserialize(said)?;
    Ok(said.map(|said| End::deserialize(&said).unwrap_or_else(|_| End::Unknown(said.to_string()))))
}

/// What the shim sees; also sent on its socket, one line per change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShimState {
    /// Which run of the kernel the process ids belong to.
    pub boot_id: String,
    pub shim: Process,
    pub child: Option<Process>,
    #[serde(deserialize_with = "known_or_unknown")]
    pub phase: Phase,
    /// How often the slice ended by itself and was started again.
    pub restarts: u32,
    /// How often it ended without having been up for long in between.
    pub ends_in_a_row: u32,
    /// How it ended last.
    #[serde(default, deserialize_with = "known_or_as_said")]
    pub last_end: Option<End>,
    /// The last line it wrote to standard error before that, shortened.
    pub last_error_line: String,
    /// That it was killed because it did not stop when asked to, in words.
    #[serde(default)]
    pub killed: Option<String>,
    /// Its control groups.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Which of its limits are not enforced, and why.
    #[serde(default)]
    pub unenforced: Option<String>,
}

/// Whether something else listens where the slice is to listen.
pub(crate) fn port_is_free(ip: IpAddr, port: u16) -> bool {
    std::net::TcpListener::bind((ip, port)).is_ok()
}
