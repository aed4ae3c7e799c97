//! The agent of a node: puts its parts together, starts and ends them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::artifact::{ArtifactStore, StoreError};
use crate::attach::Attachment;
use crate::board::Board;
use crate::config::Config;
use crate::directive::{DirectiveError, Keeper};
use crate::fetch::Fetcher;
use crate::fsio;
use crate::instance::{Shared, end};
use crate::logs::LogsService;
use crate::ports::{PortError, Ports};
use crate::prepare::Preparer;
use crate::reconcile::Reconciler;
use crate::shim::spec::Layout;

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
    Store(#[from] StoreError),
    /// The last directive cannot be read.
    #[error(transparent)]
    Directive(#[from] DirectiveError),
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
    data_dir: PathBuf,
    node: String,
    tasks: JoinSet<()>,
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
        let store = ArtifactStore::open_dir(&config.data_dir)?;
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
        let node = config.node.to_string();
        let shared = Arc::new(Shared { config, ports, preparer, board: Board::new() });

        let dir = data_dir.join("instances");
        let reconciler = Reconciler::start(shared.clone(), keeper, &dir).await.map_err(io(&dir))?;
        shared.preparer.remove_unclaimed();
        let (directives, accepted) = mpsc::channel(4); // Complete sets: few are ever waiting.
        let attachment = Attachment::new(shared, store.clone(), directives);
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.run(accepted));
        tasks.spawn(attachment.run());
        Ok(Self { store, data_dir, node, tasks, _lock: lock })
    }

    /// Stops the agent. Its instances go on, and the next agent on this data
    /// directory finds them again.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }

    /// Stops the agent and then every instance, each with its stop signal and
    /// grace. For a node that is put away as a whole; the next agent starts the
    /// instances anew.
    pub async fn shutdown_with_instances(mut self) {
        self.tasks.shutdown().await;
        let Ok(entries) = fs::read_dir(self.data_dir.join("instances")) else {
            return;
        };
        let mut stops = JoinSet::new();
        for entry in entries.flatten() {
            stops.spawn(async move { end(&Layout::new(entry.path())).await });
        }
        stops.join_all().await;
    }

    /// The gRPC service that reads the logs of this node's instances.
    pub fn logs_service(
        &self,
    ) -> aether_proto::v1::agent_logs_server::AgentLogsServer<LogsService> {
        LogsService::server(&self.data_dir, &self.node)
    }

    /// The archives that this node holds.
    pub fn artifacts(&self) -> Arc<ArtifactStore> {
        self.store.clone()
    }
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
