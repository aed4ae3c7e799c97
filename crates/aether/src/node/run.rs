//! Puts a node together from its parts, and takes it apart again.
//!
//! No decision of the domain is made here: which roles there are, who is wired
//! to whom, and the order in which things start and stop.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use aether_agent::Agent;
use aether_agent::artifact::ArtifactStore;
use aether_gateway::Readiness as _;
use aether_ingress::Ingress;
use aether_invoker::{Invoker, SessionKind};
use aether_replica::Replica;
use aether_server::{Server, StateMachine};
use anyhow::{Context, Result, bail};
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tracing::{error, info};

use super::config::NodeConfig;
use super::forward::{Voters, forwarding};
use super::grpc::{self, Health};
use super::join::join;
use super::metrics;
use super::ready::Readiness;
use super::remote::Remote;

/// The voting part of a node.
struct Voter {
    replica: Replica,
    server: Arc<Server>,
}

/// The sockets of a node. Bound before anything else is started, so that a
/// taken port is noticed while nothing has happened yet.
struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    peer: Option<TcpListener>,
    ingress: Option<TcpListener>,
}

async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({what}); is another node running there?")
    })
}

impl Listeners {
    async fn bind(config: &NodeConfig) -> Result<Self> {
        let (listen, roles) = (&config.listen, &config.roles);
        let peer = match roles.voter {
            true => Some(bind("peer", listen.peer).await?),
            false => None,
        };
        let ingress = match roles.ingress {
            true => Some(bind("ingress", listen.ingress).await?),
            false => None,
        };
        let grpc = bind("grpc", listen.grpc).await?;
        let http = bind("http", listen.http).await?;
        Ok(Self { grpc, http, peer, ingress })
    }
}

/// Runs a node until it is asked to end, or cannot go on.
///
/// # Errors
/// When it cannot start, or the replicated log cannot go on; a supervisor then
/// starts the process again.
pub async fn run(config: NodeConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listeners = Listeners::bind(&config).await?;
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make {}", config.data_dir.display()))?;
    let store = ArtifactStore::open_dir_in_turn(&config.data_dir).await?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();

    let voter = match config.roles.voter {
        true => tokio::select! {
            started = start_voter(&config, Arc::clone(&store)) => Some(started?),
            // It may have to wait until somebody invites it.
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        },
        false => None,
    };
    if let (Some(voter), Some(listener)) = (&voter, listeners.peer) {
        let routes = Routes::new(voter.replica.peer_service());
        let routes = grpc::peer(voter.server.peer_routes(routes));
        tasks.spawn(grpc::serve(listener, routes));
    }
    let mut agent = match config.roles.agent {
        true => Some(start_agent(&config, Arc::clone(&store)).await?),
        false => None,
    };
    let voters = Voters::new(config.join.clone());
    let routes = client_routes(voter.as_ref(), agent.as_ref(), &voters);
    let cluster = voter.as_ref().map(|voter| voter.server.cluster_service());
    let health = Health::new(agent.is_some()).await;
    tasks.spawn(grpc::serve(listeners.grpc, grpc::public(routes, cluster, &health)?));
    let invoker = start_invoker(&config)?;
    let ingress = match (listeners.ingress, &invoker) {
        (Some(listener), Some(invoker)) => {
            Some(Ingress::start(listener, invoker.clone(), config.ingress.clone())?)
        }
        _ => None,
    };
    let server = voter.as_ref().map(|voter| &voter.server);
    let ready = Readiness::of(stopping.clone(), server, agent.as_ref(), ingress.as_ref());
    let ready = Arc::new(ready);
    let is_ready = move || ready.check();
    tasks.spawn(health.report(is_ready.clone(), stopping.clone()));
    let router = management(server, voters, invoker.clone(), is_ready);
    let mut stopped = stopping.clone();
    let http = tokio::spawn(aether_gateway::serve(listeners.http, router, async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    info!(node = %config.name, grpc = %config.listen.grpc, http = %config.listen.http, "started");

    let ended = until_end(voter.as_ref(), &mut terminate, &mut interrupt).await;
    info!(node = %config.name, "stopping");
    let _ = stop.send(true);
    let stops_instances = config.agent.stop_instances_on_exit;
    // Side by side: requests in flight may take longer than the control plane
    // is there to be told of the instances.
    let leave = async {
        if let Some(agent) = agent.as_mut().filter(|_| stops_instances) {
            agent.leave().await;
        }
    };
    let close = async {
        if let Some(ingress) = ingress {
            ingress.shutdown().await;
        }
        if let Some(invoker) = invoker {
            invoker.close().await;
        }
    };
    tokio::join!(leave, close);
    if let Some(agent) = agent {
        match stops_instances {
            true => agent.shutdown_with_instances().await,
            false => agent.shutdown().await,
        }
    }
    if let Some(voter) = &voter {
        let together = config.timing.stop_together.duration();
        // Either way the others had their time.
        let _ = tokio::time::timeout(together, voter.server.until_all_stopped()).await;
        voter.replica.handle().shutdown().await;
    }
    tasks.shutdown().await;
    http.abort();
    ended
}

async fn until_end(
    voter: Option<&Voter>,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<()> {
    let fatal = async {
        match voter {
            Some(voter) => {
                let mut fatal = voter.replica.handle().fatal();
                match fatal.wait_for(Option::is_some).await {
                    Ok(reason) => reason.clone().unwrap_or_default(),
                    Err(_) => "the replicated log ended".to_owned(),
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reason = fatal => {
            error!(reason, "the replicated log cannot go on");
            bail!("the replicated log cannot go on: {reason}")
        }
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Settings of a voter's replica.
pub fn replica_config(config: &NodeConfig) -> aether_replica::Config {
    let voters = config.voters.iter().map(|voter| aether_replica::Voter {
        name: voter.name.to_string(),
        peer_addr: voter.peer.to_string(),
    });
    let timing = &config.timing;
    aether_replica::Config {
        node_name: config.name.to_string(),
        cluster_name: config.cluster.clone(),
        data_dir: config.data_dir.join("replica"),
        voters: voters.collect(),
        heartbeat_ms: timing.heartbeat.0,
        election_ms_min: timing.election_min.0,
        election_ms_max: timing.election_max.0,
        lease_reads: config.reads.leases,
        disk_free_min_bytes: config.storage.disk_free_min_bytes,
        feature_level_max: config.compatibility.feature_level_max,
        ..aether_replica::Config::default()
    }
}

async fn start_voter(config: &NodeConfig, store: Arc<ArtifactStore>) -> Result<Voter> {
    let (machine, published) = StateMachine::new();
    let machine = machine.supporting(config.compatibility.feature_level_max);
    let changes = machine.watched();
    let timing = &config.timing;
    let mut settings = replica_config(config);
    if config.joins_as_voter() {
        settings = join(settings, &config.join).await?;
    }
    let replica = Replica::open(settings, machine).await?;
    let server_config = aether_server::Config {
        node: config.name.clone(),
        session_lease: timing.session_lease.duration(),
        agent_lease: timing.agent_lease.duration(),
        table_age_max: timing.max_table_age.duration(),
        node_lost: timing.node_lost.duration(),
        gate_programs: config.gates.clone(),
    };
    let server = Server::start(server_config, replica.handle(), published, changes, store);
    Ok(Voter { replica, server: Arc::new(server) })
}

/// Where the node's own agent and ingress reach the control plane: itself
/// first, if it is a voter.
fn control_plane(config: &NodeConfig) -> Vec<SocketAddr> {
    let own = config.roles.voter.then_some(config.listen.grpc);
    let others = config.join.iter().copied().filter(|address| Some(*address) != own);
    own.into_iter().chain(others).collect()
}

async fn start_agent(config: &NodeConfig, store: Arc<ArtifactStore>) -> Result<Agent> {
    let binary = std::env::current_exe().context("cannot find the path of this program")?;
    let shim = vec![binary.into_os_string(), OsString::from("shim")];
    let settings = &config.agent;
    let agent = aether_agent::Config {
        labels: settings.labels.clone(),
        instances_max: settings.instances_max,
        bind_ip: settings.bind_ip,
        ports: settings.ports.clone(),
        port_reuse_after: settings.port_reuse_after.duration(),
        // A voter's store is the repository: it keeps every artifact.
        cache: (!config.roles.voter).then(aether_agent::CacheLimits::default),
        ..aether_agent::Config::new(
            config.name.clone(),
            config.data_dir.clone(),
            control_plane(config),
            config.listen.grpc,
            shim,
        )
    };
    Ok(Agent::start_with(agent, store).await?)
}

fn start_invoker(config: &NodeConfig) -> Result<Option<Invoker>> {
    if !config.roles.ingress {
        return Ok(None);
    }
    // The same session after a restart: the process before it holds no tables
    // and no calls any more.
    let session_id = Some(format!("ingress-{}", config.name).parse()?);
    let invoker = aether_invoker::Config {
        session_id,
        // Instances outlive their node, and a machine may come back before any voter.
        cache_file: Some(config.data_dir.join("ingress-tables")),
        cache_age_max: config.timing.max_table_age.duration() / 2,
        ..aether_invoker::Config::new(
            config.name.as_str(),
            SessionKind::Ingress,
            control_plane(config),
        )
    };
    Ok(Some(Invoker::connect(invoker)?))
}

/// The client gRPC of the node: a voter's services, or the way to a voter.
fn client_routes(voter: Option<&Voter>, agent: Option<&Agent>, voters: &Arc<Voters>) -> Routes {
    let logs = |routes: Routes| match agent {
        Some(agent) => routes.add_service(agent.logs_service()),
        None => routes,
    };
    match voter {
        Some(voter) => logs(voter.server.client_routes()),
        None => {
            let own = logs(Routes::default()).into_axum_router();
            Routes::from(forwarding(own, Arc::clone(voters)))
        }
    }
}

/// The management REST of the node.
fn management(
    server: Option<&Arc<Server>>,
    voters: Arc<Voters>,
    invoker: Option<Invoker>,
    ready: impl aether_gateway::Readiness,
) -> Router {
    let calls = move || metrics::calls(invoker.as_ref());
    match server {
        Some(server) => {
            let server = Arc::clone(server);
            let services = aether_gateway::Services {
                updates: Arc::new(server.updates.clone()),
                slices: Arc::new(server.slices.clone()),
                artifacts: Arc::new(server.artifacts.clone()),
                voters: Arc::new(server.voters.clone()),
                cluster: Arc::new(server.cluster.clone()),
            };
            aether_gateway::router(services, ready, move || server.metrics() + &calls())
        }
        None => {
            let remote = Arc::new(Remote::new(voters));
            let services = aether_gateway::Services {
                updates: Arc::clone(&remote) as _,
                slices: Arc::clone(&remote) as _,
                artifacts: Arc::clone(&remote) as _,
                voters: Arc::clone(&remote) as _,
                cluster: remote,
            };
            aether_gateway::router(services, ready, calls)
        }
    }
}
