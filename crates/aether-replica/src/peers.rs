//! Where the peers are, and connections to them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aether_proto::raft as pb;
use aether_proto::raft::raft_client::RaftClient;
use prost::Message;
use tonic::metadata::{BinaryMetadataKey, BinaryMetadataValue, MetadataMap};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::config::Config;
use crate::data_dir::Identity;
use crate::types::Member;
use crate::wire::MESSAGE_BYTES_MAX;

/// Metadata that names the receiver of a call.
const ROUTE_KEY: &str = "aether-route-bin";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that answers no ping for this long is gone, whatever TCP believes.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Connections are kept apart, so that bulk data delays no heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Heartbeats and elections.
    Control,
    /// Log replication.
    Log,
    /// Snapshots.
    Bulk,
    /// Forwarded proposals, reads, and what other services say to peers.
    Shared,
}

/// A client whose calls name their receiver.
pub(crate) type Client = RaftClient<InterceptedService<Channel, SetRoute>>;

/// Puts the route into every call.
#[derive(Clone)]
pub(crate) struct SetRoute(BinaryMetadataValue);

impl Interceptor for SetRoute {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let key = BinaryMetadataKey::from_static(ROUTE_KEY);
        request.metadata_mut().insert_bin(key, self.0.clone());
        Ok(request)
    }
}

/// Refuses a call that is meant for somebody else.
pub(crate) fn check_route(metadata: &MetadataMap, me: &Identity) -> Result<(), Status> {
    let route = metadata
        .get_bin(ROUTE_KEY)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| pb::Route::decode(bytes).ok())
        .ok_or_else(|| Status::invalid_argument(format!("{ROUTE_KEY} is missing or damaged")))?;
    let meant = (&route.cluster, route.target_id, &route.target_dir_id);
    if meant == (&me.cluster, me.raft_id, &me.dir_id) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this is node {} (id {}, data directory {}) of cluster {:?}; the call was meant for id {}, \
         data directory {}, of cluster {:?}",
        me.node,
        me.raft_id,
        me.dir_id,
        me.cluster,
        route.target_id,
        route.target_dir_id,
        route.cluster
    )))
}

/// Over TCP, or what stands in its place in a simulation.
fn connect_lazy(endpoint: &Endpoint) -> Channel {
    #[cfg(test)]
    if let Some(connector) = crate::sim::connector() {
        return endpoint.connect_with_connector_lazy(connector);
    }
    endpoint.connect_lazy()
}

/// Addresses of and connections to all peers.
pub(crate) struct Peers {
    cluster: String,
    my_id: u64,
    /// Addresses from the settings, by node name: they win over remembered ones.
    configured: BTreeMap<String, String>,
    channels: Mutex<BTreeMap<(String, Lane), Channel>>,
    /// Whether this node, as a leader, sends nothing to the others.
    silent: AtomicBool,
}

impl Peers {
    pub fn new(config: &Config, me: &Identity) -> Self {
        let configured = config.voters.iter().map(|v| (v.name.clone(), v.peer_addr.clone()));
        Peers {
            cluster: me.cluster.clone(),
            my_id: me.raft_id,
            configured: configured.collect(),
            channels: Mutex::new(BTreeMap::new()),
            silent: AtomicBool::new(false),
        }
    }

    /// See [`crate::deaf`].
    pub fn fall_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Whether entries and heartbeats are not to be sent.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub fn address<'a>(&'a self, member: &'a Member) -> &'a str {
        self.configured.get(&member.name).unwrap_or(&member.peer_addr)
    }

    /// A connection that is made at its first use and again after a loss.
    pub fn channel(&self, address: &str, lane: Lane) -> Result<Channel, String> {
        let mut channels = self.channels.lock().expect("no panic while held");
        if let Some(channel) = channels.get(&(address.to_owned(), lane)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("{address:?} is no address: {e}"))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = connect_lazy(&endpoint);
        channels.insert((address.to_owned(), lane), channel.clone());
        Ok(channel)
    }

    pub fn client(&self, id: u64, member: &Member, lane: Lane) -> Result<Client, String> {
        let channel = self.channel(self.address(member), lane)?;
        let route = pb::Route {
            cluster: self.cluster.clone(),
            target_id: id,
            target_dir_id: member.dir_id.clone(),
            source_id: self.my_id,
        };
        let route = SetRoute(BinaryMetadataValue::from_bytes(&route.encode_to_vec()));
        let client = RaftClient::with_interceptor(channel, route);
        Ok(client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity {
            format: 1,
            cluster: "c".into(),
            node: "a".into(),
            raft_id: 1,
            dir_id: "d1".into(),
        }
    }

    fn metadata(cluster: &str, id: u64, dir: &str) -> MetadataMap {
        let route = pb::Route {
            cluster: cluster.into(),
            target_id: id,
            target_dir_id: dir.into(),
            source_id: 2,
        };
        let mut map = MetadataMap::new();
        map.insert_bin(ROUTE_KEY, BinaryMetadataValue::from_bytes(&route.encode_to_vec()));
        map
    }

    #[test]
    fn calls_for_another_cluster_id_or_directory_are_refused() {
        assert!(check_route(&metadata("c", 1, "d1"), &me()).is_ok());
        for wrong in [metadata("x", 1, "d1"), metadata("c", 2, "d1"), metadata("c", 1, "d0")] {
            let refused = check_route(&wrong, &me()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        }
        let missing = check_route(&MetadataMap::new(), &me()).unwrap_err();
        assert_eq!(missing.code(), tonic::Code::InvalidArgument);
    }
}
