//! The agent of a node: puts its parts together, starts and ends them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aether_core::ids::InstanceId;
use rand::RngExt;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::artifact::{ArtifactStore, StoreError};
use crate::attach::Attachment;
use crate::board::Board;
use crate::collect;
use crate::config::Config;
use crate::directive::{DirectiveError, Keeper};
use crate::fetch::Fetcher;
use crate::fsio;
use crate::instance::{Ended, Shared, end, kill};
use crate::logs::LogsService;
use crate::ports::{PortError, Ports};
use crate::prepare::Preparer;
use crate::reconcile::Reconciler;
use crate::shim::spec::Layout;

/// How long an agent that ends waits for the control plane to take a report. A
/// failover fits in; without a quorum the end must not wait for ever.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// Time between the moment at which instances have left the tables and their
/// stop signal. Holders of tables need a few milliseconds, and those that take
/// longer find a closed port and call another instance.
const SETTLE: Duration = Duration::from_millis(250);

/// Why an agent could not start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Another one runs there.
    #[error("another agent uses the data directory {0}; stop it, or choose another directory")]
    Locked(PathBuf),
    /// A setting that cannot work.
    #[error("agent setting {setting}: {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The data directory cannot be used.
    #[error("{path}: {source}; check the rights of the data directory")]
    Io {
        /// What was being used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The artifact store cannot be opened.
    #[error(transparent)]
    Store(StoreError),
    /// The last directive cannot be read.
    #[error(transparent)]
    Directive(#[from] DirectiveError),
}

/// Whoever has the store open has the directory.
impl From<StoreError> for AgentError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::InUse(path) => Self::Locked(path),
            error => Self::Store(error),
        }
    }
}

impl From<PortError> for AgentError {
    fn from(error: PortError) -> Self {
        Self::Setting { setting: "ports", problem: error.to_string() }
    }
}

/// A running agent. Dropped, it ends at once; its instances live on.
#[derive(Debug)]
pub struct Agent {
    store: Arc<ArtifactStore>,
    shared: Arc<Shared>,
    /// Follows directives, with a task for every instance.
    reconciling: JoinSet<()>,
    /// Speaks with the control plane.
    attaching: JoinSet<()>,
    /// Held for the life of the agent.
    _lock: File,
}

impl Agent {
    /// Starts an agent with a store of its own.
    ///
    /// # Errors
    /// When the data directory is in use, unusable or damaged, or a setting
    /// cannot work.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        let store = ArtifactStore::open_dir_in_turn(&config.data_dir).await?;
        Self::start_with(config, store).await
    }

    /// Starts an agent on a store that others of this process use too. The
    /// store must be that of `config.data_dir`.
    ///
    /// Returns when the instances of an earlier agent were found again; from
    /// then on the agent attaches to the control plane, for as long as it lives.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        mut config: Config,
        store: Arc<ArtifactStore>,
    ) -> Result<Self, AgentError> {
        check(&config)?;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::Io { path, source }
        };
        let instances_dir = config.data_dir.join("instances");
        fsio::create_private_dir(&instances_dir).map_err(io(&instances_dir))?;
        // Slices get absolute paths: their working directory is another one.
        let data_dir = config.data_dir.canonicalize().map_err(io(&config.data_dir))?;
        config.data_dir.clone_from(&data_dir);
        let lock = fsio::try_lock(&data_dir.join("agent.lock")).map_err(io(&data_dir))?;
        let lock = lock.ok_or_else(|| AgentError::Locked(data_dir.clone()))?;

        let start = rand::rng().random_range(config.ports.clone());
        let (ports, rest) = (config.ports.clone(), config.port_reuse_after);
        let ports = Ports::open(&data_dir, ports, rest, config.bind_ip, start)?;
        let fetcher = Fetcher::new(store.clone(), config.advertise, config.control_plane.clone());
        let preparer = Preparer::open(&data_dir, store.clone(), fetcher).map_err(io(&data_dir))?;
        let keeper = Keeper::open(&data_dir)?;
        let shared = Arc::new(Shared { config, ports, preparer, board: Board::new() });

        let dir = data_dir.join("instances");
        let reconciler = Reconciler::start(shared.clone(), keeper, &dir).await.map_err(io(&dir))?;
        shared.preparer.remove_unclaimed();
        let (directives, accepted) = mpsc::channel(4); // Complete sets: few are ever waiting.
        let listed = watch::Sender::new(None);
        let archives = listed.subscribe();
        let attachment = Attachment::new(shared.clone(), store.clone(), directives, listed);
        let (mut reconciling, mut attaching) = (JoinSet::new(), JoinSet::new());
        reconciling.spawn(reconciler.run(accepted));
        if let Some(limits) = shared.config.cache {
            reconciling.spawn(collect::run(shared.clone(), store.clone(), limits, archives));
        }
        attaching.spawn(attachment.run());
        Ok(Self { store, shared, reconciling, attaching, _lock: lock })
    }

    /// Stops the agent. Its instances go on, and the next agent on this data
    /// directory finds them again.
    pub async fn shutdown(mut self) {
        self.attaching.shutdown().await;
        self.reconciling.shutdown().await;
    }

    /// Takes every instance out of the routing tables, before the node ends
    /// with its instances: they run on, are reported as stopping, and follow no
    /// directive any more. Returns when nobody calls them any more, or after
    /// two seconds when the control plane cannot be told.
    pub async fn leave(&mut self) {
        self.reconciling.shutdown().await;
        let board = &self.shared.board;
        if board.is_leaving() || !board.leave() {
            return;
        }
        match board.taken(TAKEN_MAX).await {
            true => tokio::time::sleep(SETTLE).await,
            false => tracing::warn!(
                "the control plane did not hear in time that the instances stop; calls may fail"
            ),
        }
    }

    /// [Leaves](Self::leave), stops every instance with its stop signal and
    /// grace, reports that, and ends. For a node that is put away as a whole;
    /// the next agent starts the instances anew.
    pub async fn shutdown_with_instances(mut self) {
        self.leave().await;
        let mut ends = JoinSet::new();
        let instances = instances(&self.shared.config.data_dir);
        let none = instances.is_empty();
        for (id, layout) in instances {
            ends.spawn(async move {
                let ended = end(&id, &layout).await;
                (id, ended)
            });
        }
        for (id, ended) in ends.join_all().await {
            if ended != Ended::Not {
                self.shared.board.note_ended(&id, ended == Ended::ForGood);
            }
        }
        if !none && !self.shared.board.taken(TAKEN_MAX).await {
            tracing::warn!("the control plane did not hear in time that the instances stopped");
        }
        self.attaching.shutdown().await;
    }

    /// Tells whether the control plane has ever taken a report of this agent:
    /// until then it may know other things of the node's instances than hold.
    pub fn was_heard(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.board.was_taken()
    }

    /// The gRPC service that reads the logs of this node's instances.
    pub fn logs_service(
        &self,
    ) -> aether_proto::v1::agent_logs_server::AgentLogsServer<LogsService> {
        let config = &self.shared.config;
        LogsService::server(&config.data_dir, config.node.as_str())
    }

    /// The archives that this node holds.
    pub fn artifacts(&self) -> Arc<ArtifactStore> {
        self.store.clone()
    }
}

/// Kills every instance of a node whose agent is gone, and all that they
/// started, at once. To the next agent they have crashed.
pub async fn kill_instances(data_dir: &Path) {
    let mut kills = JoinSet::new();
    for (id, layout) in instances(data_dir) {
        kills.spawn(async move { kill(&id, &layout).await });
    }
    kills.join_all().await;
}

/// The instances that have files in an agent's directory.
fn instances(data_dir: &Path) -> Vec<(InstanceId, Layout)> {
    let entries = data_dir.join("instances").read_dir().into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, Layout::new(entry.path())))
        })
        .collect()
}

fn check(config: &Config) -> Result<(), AgentError> {
    let bad =
        |setting, problem: &str| Err(AgentError::Setting { setting, problem: problem.into() });
    if config.ports.is_empty() || *config.ports.start() == 0 {
        return bad("ports", "the range must hold at least one port above 0");
    }
    if config.control_plane.is_empty() {
        return bad("control_plane", "at least one address of a voter is needed");
    }
    if config.shim.is_empty() {
        return bad("shim", "the command that runs the shim is missing");
    }
    Ok(())
}
