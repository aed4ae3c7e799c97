//! The control plane of a voting node: the coordinator, the gRPC services, and
//! what connects them to the replicated log.
//!
//! ```text
//!  services ── Control ── aether-replica ── StateMachine (aether-core)
//!      │                                        │ published states
//!      ├── Feed   routing tables to watchers <──┤
//!      ├── Changes   rows to watchers        <──┤
//!      ├── Hub    what clients of this node said ── uplink ──> LeaderView
//!      └── Views  state + the leader's view          coordinator ── plan
//! ```
//!
//! Deliberately absent: listeners and configuration (the binary has them), and
//! decisions (`aether_core::planner` has them).

mod control;
mod coordinator;
mod deadline;
mod feed;
#[cfg(test)]
mod fuzz;
mod gates;
mod hub;
mod leader;
mod levels;
mod machine;
pub mod metrics;
mod order;
mod page;
mod render;
mod restore;
mod services;
mod status;
mod telemetry;
#[cfg(test)]
mod testing;
mod uplink;
mod views;
mod voters;

use std::sync::Arc;
use std::time::Duration;

use aether_agent::artifact::ArtifactStore;
use aether_core::ids::NodeName;
use aether_core::records::Observed;
use aether_proto::peer::peer_server::PeerServer;
use aether_proto::v1::agents_server::AgentsServer;
use aether_proto::v1::artifacts_server::ArtifactsServer;
use aether_proto::v1::cluster_server::ClusterServer;
use aether_proto::v1::routing_server::RoutingServer;
use aether_proto::v1::slices_server::SlicesServer;
use aether_proto::v1::updates_server::UpdatesServer;
use aether_proto::v1::voters_server::VotersServer;
use aether_proto::{MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX};
use aether_replica::{Changes, Handle};
use tokio::task::JoinSet;
use tonic::service::Routes;

pub use deadline::parse as parse_timeout;
pub use gates::GatePrograms;
pub use machine::{Published, StateMachine, States};
pub use services::artifacts::ArtifactsService;
pub use services::cluster::ClusterService;
pub use services::slices::SlicesService;
pub use services::updates::UpdatesService;
pub use services::voters::VotersService;

/// How long a node that waits for the others waits for a quorum: an election
/// that can succeed takes less.
const QUORUM_MAX: Duration = Duration::from_secs(1);
/// How often it looks whether they are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long it stays then, so that they see it too: a few looks.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Settings of the control plane of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeName,
    /// After this long without a word a session cannot be reached.
    pub session_lease: Duration,
    /// After this long without a word a node is unreachable.
    pub agent_lease: Duration,
    /// How long a session that cannot be reached is taken to use its table.
    pub table_age_max: Duration,
    /// How long a node is unreachable before it counts as lost, and its instances
    /// are replaced elsewhere.
    pub node_lost: Duration,
    /// Programs that gates may run on this node.
    pub gate_programs: GatePrograms,
}

/// The control plane of one voting node. Dropping it ends its tasks.
pub struct Server {
    /// `aether update …`
    pub updates: UpdatesService,
    /// `aether deploy|scale|undeploy|slices|logs`
    pub slices: SlicesService,
    /// `aether artifact …`
    pub artifacts: ArtifactsService,
    /// `aether node add|remove|replace|transfer-leader`
    pub voters: VotersService,
    /// `aether status|nodes|kv|events`
    pub cluster: ClusterService,
    control: control::Control,
    leader: Arc<leader::LeaderView>,
    hub: Arc<hub::Hub>,
    feed: Arc<feed::Feed>,
    config: Config,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts the coordinator and everything else over an open replica.
    pub fn start(
        config: Config,
        replica: Handle,
        states: States,
        changes: Arc<Changes>,
        store: Arc<ArtifactStore>,
    ) -> Self {
        let control = control::Control::new(replica, states, config.node.as_str());
        let leader = Arc::new(leader::LeaderView::new(config.session_lease, config.agent_lease));
        let hub = Arc::new(hub::Hub::new(config.session_lease, config.agent_lease));
        let feed = Arc::new(feed::Feed::new());
        let views = views::Views::new(control.clone(), Arc::clone(&leader));
        let artifacts = ArtifactsService::new(control.clone(), store, config.node.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&feed).run(control.clone()));
        tasks.spawn(uplink::run(
            control.clone(),
            Arc::clone(&hub),
            Arc::clone(&leader),
            config.node.to_string(),
        ));
        let waits =
            coordinator::Waits { table_age_max: config.table_age_max, node_lost: config.node_lost };
        let programs = config.gate_programs.clone();
        let gates = gates::Gates::new(config.node.as_str(), programs.clone());
        tasks.spawn(coordinator::run(control.clone(), Arc::clone(&leader), waits, gates));
        tasks.spawn(voters::run(control.clone()));
        tasks.spawn(levels::run(control.clone()));
        tasks.spawn(artifacts.clone().replicate());
        tasks.spawn(artifacts.clone().collect());
        Self {
            updates: UpdatesService::new(views.clone()).running(config.node.as_str(), programs),
            slices: SlicesService::new(views.clone()),
            artifacts,
            voters: VotersService::new(views.clone()),
            cluster: ClusterService::new(views, changes),
            control,
            leader,
            hub,
            feed,
            config,
            _tasks: tasks,
        }
    }

    /// The services of the client listener.
    pub fn client_routes(&self) -> Routes {
        let routing = services::routing::RoutingService::new(
            self.control.clone(),
            Arc::clone(&self.hub),
            Arc::clone(&self.feed),
            self.config.session_lease,
        );
        let agents = services::agents::AgentsService::new(
            self.control.clone(),
            Arc::clone(&self.hub),
            self.config.agent_lease,
        );
        let mut routes = Routes::default();
        let updates = UpdatesServer::new(self.updates.clone());
        routes = routes.add_service(updates.max_decoding_message_size(REQUEST_BYTES_MAX));
        let slices = SlicesServer::new(self.slices.clone());
        routes = routes.add_service(slices.max_decoding_message_size(REQUEST_BYTES_MAX));
        let artifacts = ArtifactsServer::new(self.artifacts.clone());
        routes = routes.add_service(artifacts.max_decoding_message_size(REQUEST_BYTES_MAX));
        routes = routes.add_service(self.cluster_service());
        let voters = VotersServer::new(self.voters.clone());
        routes = routes.add_service(voters.max_decoding_message_size(REQUEST_BYTES_MAX));
        let routing = RoutingServer::new(routing);
        routes = routes.add_service(routing.max_decoding_message_size(MESSAGE_BYTES_MAX));
        let agents = AgentsServer::new(agents);
        routes.add_service(agents.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The one of them that is called most.
    pub fn cluster_service(&self) -> ClusterServer<ClusterService> {
        ClusterServer::new(self.cluster.clone()).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    /// The services of the peer listener, beside the replica's own.
    pub fn peer_routes(&self, routes: Routes) -> Routes {
        let peer = services::peer::PeerService::new(
            self.control.clone(),
            Arc::clone(&self.leader),
            self.artifacts.clone(),
        );
        routes
            .add_service(
                PeerServer::new(peer)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add_service(ArtifactsServer::new(self.artifacts.clone()))
    }

    /// Whether this node can answer: a leader is known.
    pub fn is_ready(&self) -> bool {
        self.control.replica().leadership().borrow().leader.is_some()
    }

    /// Waits until no instance of the cluster runs, as far as the agents report,
    /// or until nothing can be committed any more. For nodes that end together
    /// with their instances: while this one votes, the others can report theirs.
    pub async fn until_all_stopped(&self) {
        // Each barrier brings this node up to what is committed.
        while self.control.replica().read_barrier(QUORUM_MAX).await.is_ok() {
            let published = self.control.local();
            // Of those on lost nodes nobody will hear in time.
            let over = |observed| matches!(observed, Observed::Stopped | Observed::Unknown);
            if published.state.instances.values().all(|i| over(i.observed)) {
                tokio::time::sleep(LAST_WORD).await;
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The node's figures as Prometheus reads them.
    pub fn metrics(&self) -> String {
        metrics::text(&self.control, &self.leader)
    }
}
