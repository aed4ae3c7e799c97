//! Opening a replica: recovery, then consensus and its tasks.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::raft::raft_server::RaftServer;
use openraft::SnapshotPolicy;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;

use crate::ahead::ahead;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::error::OpenError;
use crate::forward::Links;
use crate::handle::Handle;
use crate::image::{Image, image_dir};
use crate::leadership::{self, Leadership};
use crate::lease::{self, Lease};
use crate::log_store::{DamagedLog, LogStore};
use crate::machine::{ErasedMachine, Machine, Stamp};
use crate::network::Network;
use crate::node::{Node, Stores};
use crate::peers::Peers;
use crate::position::Position;
use crate::reads::{self, Asked, ReadHub};
use crate::refound::{self, Restored};
use crate::report::Elections;
use crate::rounds::Rounds;
use crate::service::PeerService;
use crate::snapshot::SnapshotDir;
use crate::space::{self, Refusal};
use crate::state::{Progresses, StateMachine};
use crate::transfer::{CHUNK_BYTES, Incoming};
use crate::types::Raft;
use crate::watch;
use crate::wire::MESSAGE_BYTES_MAX;
use crate::{blocking, deaf, formation, silence, transfer, types};

/// An idle peer connection is probed this often.
const PEER_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Entries in one replication message.
const REPLICATION_ENTRIES_MAX: u64 = 1_024;

/// One voter of the cluster.
///
/// Shut it down with [`Handle::shutdown`]; a dropped replica stops its tasks
/// but doesn't hand over its leadership.
pub struct Replica {
    node: Arc<Node>,
    tasks: Vec<JoinHandle<()>>,
}

/// The tonic service that peers call, to be mounted on the peer listener.
pub type PeerServer = RaftServer<PeerService>;

/// Connections that arrive on the peer listener, set up as the peer protocol
/// needs them: without TCP_NODELAY every other small message waits 40 ms for a
/// delayed acknowledgement. For `tonic`'s `serve_with_incoming`.
pub fn peer_incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(PEER_KEEP_ALIVE))
}

impl Replica {
    /// Opens the data directory, recovers the state into `machine` and starts
    /// consensus. Peers are reached, and the cluster is formed, afterwards and
    /// in the background: mount [`peer_service`](Self::peer_service) next.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the settings or what the directory holds don't permit it. Nothing
    /// in the directory is changed then.
    pub async fn open(config: Config, machine: impl Machine) -> Result<Replica, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let opened = Instant::now();
        let mut machine: Box<dyn ErasedMachine> = Box::new(machine);
        let recover = move || {
            let recovered = Recovered::open(&config, machine.as_mut())?;
            Ok((config, machine, recovered))
        };
        // Reading a large state takes seconds.
        let (config, machine, recovered) = blocking::run(recover)
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        start(opened, config, machine, recovered).await
    }

    /// The service that peers call. Mount it on the peer listener, which may
    /// carry other services too.
    pub fn peer_service(&self) -> PeerServer {
        RaftServer::new(PeerService::new(self.node.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What everybody else uses.
    pub fn handle(&self) -> Handle {
        Handle::new(self.node.clone())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was found in the data directory.
struct Recovered {
    data: DataDir,
    log: LogStore,
    snapshots: Arc<SnapshotDir>,
    incoming: Arc<Incoming>,
    image: Arc<Image>,
    position: Position,
}

impl Recovered {
    fn open(config: &Config, machine: &mut dyn ErasedMachine) -> Result<Self, OpenError> {
        let mut data = DataDir::open(config)?;
        let log = open_log(&data)?;
        log.tell_of_syncs_over(Duration::from_millis(config.election_ms_min));
        data.confirm(log.is_pristine())?;
        let (snapshots, image, position) = recover_state(config, &data, &log, machine)?;
        let snapshots = Arc::new(snapshots);
        let dir = data.snapshots();
        let incoming = Incoming::open(snapshots.clone(), config.disk_free_min_bytes)
            .map_err(OpenError::io("look for parts of snapshots in", &dir))?;
        Ok(Recovered { data, log, snapshots, incoming, image: Arc::new(image), position })
    }
}

fn open_log(data: &DataDir) -> Result<LogStore, OpenError> {
    LogStore::open(&data.wal()).map_err(|DamagedLog { file, error }| {
        // It has a lock of its own, which its last life may hold a moment longer.
        if error.kind() == io::ErrorKind::WouldBlock {
            return OpenError::Locked { path: file.into() };
        }
        match error.raw_os_error() {
            Some(_) => OpenError::io("open the log", Path::new(&file))(error),
            None => OpenError::Damaged { path: file.into(), detail: error.to_string() },
        }
    })
}

/// Brings `machine` to the newest position that the image or a snapshot holds
/// and the log can continue from.
fn recover_state(
    config: &Config,
    data: &DataDir,
    log: &LogStore,
    machine: &mut dyn ErasedMachine,
) -> Result<(SnapshotDir, Image, Position), OpenError> {
    let dir = data.snapshots();
    let (snapshots, damaged) = SnapshotDir::open(&dir, &config.cluster_name)
        .map_err(OpenError::io("read the snapshots in", &dir))?;
    for snapshot in &damaged {
        let path = snapshot.path.display();
        tracing::warn!(snapshot = %path, detail = snapshot.detail, "a snapshot is not usable");
    }
    let (purged, last) = log.bounds();
    let newest = snapshots.current().map(|s| s.position.clone()).unwrap_or_default();
    let usable = |found: &Position| -> Result<(), String> {
        let at = found.applied;
        if at < newest.applied || at < purged {
            return Err(format!("it stands at {}, behind the snapshot or the log", found.index()));
        }
        if at > last.max(newest.applied) {
            return Err(format!("it stands at {}, ahead of the log", found.index()));
        }
        match log.term_at(found.index()) {
            Ok(Some(term)) if at.is_some() && term != found.term() => {
                Err(format!("at {} the log has term {term}", found.index()))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    let (image, position) =
        Image::open(&image_dir(&data.root), &config.cluster_name, machine, usable)
            .map_err(|reason| OpenError::Unsupported { path: data.root.clone(), reason })?;
    if let Some(position) = position {
        return Ok((snapshots, image, position));
    }
    if newest.applied < purged {
        let path = damaged.first().map_or(dir, |d| d.path.clone());
        let why = damaged.first().map_or("there is no snapshot", |d| &d.detail);
        let detail = format!(
            "{why}, and the log starts only after index {}",
            purged.map_or(0, |id| id.index)
        );
        return Err(OpenError::Damaged { path, detail });
    }
    restore_snapshot(&snapshots, machine, &data.root)?;
    image.replace(machine.image(), &newest, machine.hash());
    Ok((snapshots, image, newest))
}

/// Restores the current snapshot, or the empty state if there is none.
fn restore_snapshot(
    snapshots: &SnapshotDir,
    machine: &mut dyn ErasedMachine,
    root: &Path,
) -> Result<(), OpenError> {
    let Some(snapshot) = snapshots.current() else {
        // The image may have left something behind. An empty state has no row
        // that could be refused.
        let restored = machine.restore(Stamp::default(), &mut std::iter::empty());
        restored.expect("an empty state can be restored");
        return Ok(());
    };
    let at = snapshot.position.stamp();
    let (rows, restored) = ahead(snapshot.rows(), |rows| machine.restore(at, rows));
    if let Some(reason) = machine.unsupported() {
        return Err(OpenError::Unsupported { path: root.to_owned(), reason });
    }
    restored
        .and_then(|()| rows.finish().map_err(|e| e.to_string()))
        .map_err(|detail| OpenError::Damaged { path: snapshot.path.clone(), detail })
}

fn openraft_config(config: &Config, elects: bool) -> Result<openraft::Config, OpenError> {
    let every = config.snapshot_every_entries;
    openraft::Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms_min,
        election_timeout_max: config.election_ms_max,
        enable_pre_vote: Some(true),
        enable_elect: elects,
        // Entries go out while they are being written here. A leader that went
        // on in its term after a crash could put another entry where a follower
        // has one that was lost here, under the same term: nobody would notice.
        enable_leader_restore: Some(false),
        install_snapshot_timeout: config.snapshot_ms_max,
        snapshot_max_chunk_size: CHUNK_BYTES as u64,
        max_payload_entries: REPLICATION_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        // As much log stays as lies between two snapshots, so that the older
        // one of the two that are kept still reaches the present.
        max_in_snapshot_log_to_keep: every,
        purge_batch_size: (every / 4).max(1),
        replication_lag_threshold: every.saturating_mul(4),
        // A restarted peer is noticed within a heartbeat or two.
        backoff: "20ms 40ms 80ms ..250ms".to_owned(),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|e| OpenError::Config(e.to_string()))
}

async fn start(
    opened: Instant,
    config: Config,
    machine: Box<dyn ErasedMachine>,
    recovered: Recovered,
) -> Result<Replica, OpenError> {
    let Recovered { data, log, snapshots, incoming, image, position } = recovered;
    let identity = data.identity.clone();
    let pristine = log.is_pristine();
    let progress = Arc::new(Progresses::default());
    let peers = Arc::new(Peers::new(&config, &identity));
    let state =
        StateMachine::new(machine, position, snapshots.clone(), image.clone(), progress.clone());
    let lease = Arc::new(Lease::default());
    let network = Network { peers: peers.clone(), my_id: identity.raft_id, lease: lease.clone() };
    // One that was restored first meets the other founders.
    let restored = data.restored.clone();
    let has_met = restored.as_ref().is_none_or(Restored::has_met);
    // One that has no log yet never promised anything.
    let bound_until = (!pristine).then(|| lease::bound_until(opened));
    let elects = has_met && bound_until.is_none();
    let raft_config = Arc::new(openraft_config(&config, elects)?);
    let raft: types::Raft = Raft::new(identity.raft_id, raft_config, network, log.clone(), state)
        .await
        .map_err(|fatal| match progress.unsupported.get().cloned() {
            Some(reason) => OpenError::Unsupported { path: data.root.clone(), reason },
            None => OpenError::Consensus { path: data.root.clone(), detail: fatal.to_string() },
        })?;
    let (reads, line) = ReadHub::new();
    let (confirmations, leader_line) = ReadHub::new();
    let node = Arc::new(Node {
        proposals: Semaphore::new(config.proposals_in_flight_max),
        config,
        identity,
        raft,
        peers,
        progress,
        snapshots,
        incoming,
        image,
        leadership: watch::Sender::new(Leadership::default()),
        clock: Mutex::new(None),
        leader_heard: Mutex::new(None),
        bound_until,
        lease,
        fatal: watch::Sender::new(None),
        disk: Mutex::default(),
        refusal: Refusal::default(),
        elections: Elections::default(),
        restored: Mutex::new(restored),
        links: Links::default(),
        reads,
        confirmations,
        rounds: Rounds::default(),
        stores: Mutex::new(Some(Stores { log, data })),
    });
    let mut tasks = vec![
        tokio::spawn(leadership::watch(node.clone())),
        tokio::spawn(leadership::watch_fatal(node.clone())),
        tokio::spawn(reads::run(node.clone(), Asked::Leader, line)),
        tokio::spawn(reads::run(node.clone(), Asked::Voters, leader_line)),
        tokio::spawn(formation::compare(node.clone())),
        tokio::spawn(formation::watch_removal(node.clone())),
        tokio::spawn(silence::watch(node.clone())),
        tokio::spawn(deaf::watch(node.clone())),
        tokio::spawn(space::watch(node.clone())),
        tokio::spawn(transfer::watch(node.clone())),
    ];
    // One that joins gets its log from the others.
    if pristine && node.config.founding_id() == Some(node.identity.raft_id) {
        tasks.push(tokio::spawn(formation::run(node.clone())));
    }
    if !has_met {
        tasks.push(tokio::spawn(refound::run(node.clone())));
    } else if let Some(until) = bound_until {
        let node = node.clone();
        tasks.push(tokio::spawn(async move {
            // The only voter asks nobody, and owes nothing to anybody.
            if !node.is_only_voter() {
                tokio::time::sleep_until(until).await;
            }
            node.raft.runtime_config().elect(true);
        }));
    }
    Ok(Replica { node, tasks })
}
