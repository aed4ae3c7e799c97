//! The agent of a node: holds the directive against what there is, and carries
//! out what [`decide`] says. The instances themselves are tasks of their own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aether_core::ids::InstanceId;
use aether_core::records::Desired;
use rand::RngExt;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::artifact::{ArtifactStore, StoreError};
use crate::attach::Attachment;
use crate::board::Board;
use crate::config::Config;
use crate::decide::{Action, Known, decide};
use crate::directive::{Directive, DirectiveError, Keeper, Verdict};
use crate::fetch::Fetcher;
use crate::fsio;
use crate::instance::{Instance, Shared, Told, end};
use crate::logs::LogsService;
use crate::ports::{PortError, Ports};
use crate::prepare::Preparer;
use crate::shim::spec::Layout;

/// How long the instances of an earlier agent are looked for before the first
/// report. Each takes milliseconds; one that hangs must not hold up the rest.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Time until a directive that could not be kept (full disk) is tried again.
const KEEP_RETRY: Duration = Duration::from_secs(1);

/// Instances whose logs are kept after they are gone.
const KEPT_LOGS_MAX: usize = 32;

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
        Self::Setting {
            setting: "ports",
            problem: error.to_string(),
        }
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
        let data_dir = config
            .data_dir
            .canonicalize()
            .map_err(io(&config.data_dir))?;
        config.data_dir.clone_from(&data_dir);
        let lock = fsio::try_lock(&data_dir.join("agent.lock")).map_err(io(&data_dir))?;
        let lock = lock.ok_or_else(|| AgentError::Locked(data_dir.clone()))?;

        let start = rand::rng().random_range(config.ports.clone());
        let (ports, rest) = (config.ports.clone(), config.port_reuse_after);
        let ports = Ports::open(&data_dir, ports, rest, config.bind_ip, start)?;
        let fetcher = Fetcher::new(
            store.clone(),
            config.advertise,
            config.control_plane.clone(),
        );
        let preparer = Preparer::open(&data_dir, store.clone(), fetcher).map_err(io(&data_dir))?;
        let keeper = Keeper::open(&data_dir)?;
        let node = config.node.to_string();
        let shared = Arc::new(Shared {
            config,
            ports,
            preparer,
            board: Board::new(),
        });

        let mut reconciler = Reconciler {
            shared: shared.clone(),
            keeper,
            instances: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        reconciler
            .find_again(&data_dir.join("instances"))
            .map_err(io(&data_dir))?;
        reconciler.reconcile();
        reconciler.wait_until_looked_at().await;

        let (directives, accepted) = mpsc::channel(4); // Complete sets: few are ever waiting.
        let attachment = Attachment::new(shared, store.clone(), directives);
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.run(accepted));
        tasks.spawn(attachment.run());
        Ok(Self {
            store,
            data_dir,
            node,
            tasks,
            _lock: lock,
        })
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
    let bad = |setting, problem: &str| {
        Err(AgentError::Setting {
            setting,
            problem: problem.into(),
        })
    };
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

/// An instance that exists here.
struct Existing {
    told: watch::Sender<Told>,
    task: tokio::task::AbortHandle,
}

/// Makes the node follow the last accepted directive.
struct Reconciler {
    shared: Arc<Shared>,
    keeper: Keeper,
    instances: BTreeMap<InstanceId, Existing>,
    tasks: JoinSet<()>,
}

impl Reconciler {
    /// Starts a task for every instance that an earlier agent left. Until it
    /// is told otherwise it keeps what runs, and starts nothing.
    fn find_again(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            match name.to_string_lossy().parse::<InstanceId>() {
                Ok(id) => self.create(
                    id,
                    Told {
                        desired: Desired::Drain,
                        work: None,
                    },
                ),
                Err(_) => tracing::warn!(?name, "not the directory of an instance; left alone"),
            }
        }
        Ok(())
    }

    fn create(&mut self, id: InstanceId, told: Told) {
        let (told, receiver) = watch::channel(told);
        let instance = Instance::new(id.clone(), self.shared.clone(), receiver);
        let task = self.tasks.spawn(instance.run());
        self.instances.insert(id, Existing { told, task });
    }

    async fn wait_until_looked_at(&self) {
        let mut changes = self.shared.board.changes();
        let until = Instant::now() + LOOK_MAX;
        while !self.instances.keys().all(|id| self.shared.board.has(id)) {
            if tokio::time::timeout_at(until, changes.changed())
                .await
                .is_err()
            {
                tracing::warn!("some instances do not answer; reporting without them");
                return;
            }
        }
    }

    async fn run(mut self, mut offered: mpsc::Receiver<Directive>) {
        let mut changes = self.shared.board.changes();
        let mut unkept: Option<Directive> = None;
        loop {
            tokio::select! {
                directive = offered.recv() => match directive {
                    Some(directive) => unkept = self.offer(directive),
                    None => std::future::pending().await, // The agent is being shut down.
                },
                () = tokio::time::sleep(KEEP_RETRY), if unkept.is_some() => {
                    unkept = unkept.take().and_then(|directive| self.offer(directive));
                }
                _ = changes.changed() => {} // Something may have stopped.
            }
            self.reconcile();
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Gives the directive back when it could not be kept.
    fn offer(&mut self, directive: Directive) -> Option<Directive> {
        let fence = directive.fence;
        match self.keeper.offer(directive.clone()) {
            Ok(Verdict::Accepted) => tracing::debug!(?fence, "directive accepted"),
            Ok(Verdict::Known) => {}
            Ok(Verdict::Older(seen)) => {
                tracing::warn!(?fence, ?seen, "older directive refused");
            }
            Err(error) => {
                tracing::error!(%error, "directive not followed, because it cannot be kept");
                return Some(directive);
            }
        }
        None
    }

    fn reconcile(&mut self) {
        let directive = self.keeper.accepted().cloned();
        let wanted = directive.as_ref().map(|directive| {
            let assignments = directive.assignments.iter();
            assignments
                .map(|(id, assignment)| (id.clone(), assignment.desired))
                .collect()
        });
        let known = self.instances.iter().map(|(id, existing)| {
            let stopped = self.shared.board.is_stopped(id);
            (
                id.clone(),
                Known {
                    told: existing.told.borrow().desired,
                    stopped,
                },
            )
        });
        let work = |id: &InstanceId| {
            let assignment = directive.as_ref()?.assignments.get(id)?;
            Some(assignment.work.clone())
        };
        for action in decide(wanted.as_ref(), &known.collect()) {
            match action {
                Action::Create(id, desired) => {
                    tracing::info!(instance = %id, ?desired, "assigned");
                    let work = work(&id);
                    self.create(id, Told { desired, work });
                }
                Action::Tell(id, desired) => {
                    if work(&id).is_none() {
                        tracing::warn!(instance = %id, "nobody wants it: stopping it");
                    }
                    if let Some(existing) = self.instances.get(&id) {
                        existing.told.send_replace(Told {
                            desired,
                            work: work(&id),
                        });
                    }
                }
                Action::Forget(id) => self.forget(&id),
            }
        }
    }

    fn forget(&mut self, id: &InstanceId) {
        if let Some(existing) = self.instances.remove(id) {
            existing.task.abort();
        }
        self.shared.board.remove(id);
        let dir = self.shared.layout(id).dir().to_owned();
        let kept = self.shared.config.data_dir.join("logs");
        tokio::task::spawn_blocking(move || {
            if let Err(error) = put_away(&dir, &kept) {
                // Found and forgotten again by the next agent.
                tracing::warn!(dir = %dir.display(), %error, "files of a gone instance stay");
            }
        });
    }
}

/// Removes the directory of an instance, except for its logs: those of the
/// last few are kept below `kept`.
fn put_away(dir: &Path, kept: &Path) -> io::Result<()> {
    fsio::create_private_dir(kept)?;
    let name = dir.file_name().unwrap_or_default();
    let target = kept.join(name);
    fsio::remove_tree(&target)?;
    match fs::rename(dir.join("logs"), &target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fsio::remove_tree(dir)?;
    let mut all = Vec::new();
    for entry in fs::read_dir(kept)? {
        let entry = entry?;
        all.push((entry.metadata()?.modified()?, entry.path()));
    }
    all.sort();
    let surplus = all.len().saturating_sub(KEPT_LOGS_MAX);
    all.iter()
        .take(surplus)
        .try_for_each(|(_, path)| fsio::remove_tree(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_the_last_few_instances_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("logs");
        for n in 0..KEPT_LOGS_MAX + 3 {
            let instance = dir.path().join(format!("i{n}"));
            fs::create_dir_all(instance.join("logs")).unwrap();
            fs::write(instance.join("logs/stdout.log"), format!("{n}")).unwrap();
            put_away(&instance, &kept).unwrap();
            assert!(!instance.exists());
        }
        assert_eq!(fs::read_dir(&kept).unwrap().count(), KEPT_LOGS_MAX);
        let without_logs = dir.path().join("other");
        fs::create_dir(&without_logs).unwrap();
        put_away(&without_logs, &kept).unwrap();
    }
}
