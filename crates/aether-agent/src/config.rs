//! What an agent needs to know of its node.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use aether_core::ids::NodeName;

use crate::collect::CacheLimits;
use crate::restart::RestartPolicy;
use crate::shim::LogLimits;

/// Settings of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub node: NodeName,
    /// Where everything is kept. At most one agent runs per directory.
    pub data_dir: PathBuf,
    /// Client gRPC addresses of the voters, tried in turn.
    pub control_plane: Vec<SocketAddr>,
    /// This node's own client gRPC address, where others get archives and logs.
    pub advertise: SocketAddr,
    /// Labels of the node, for people and placement.
    pub labels: BTreeMap<String, String>,
    /// Most instances the node takes.
    pub instances_max: u32,
    /// Where slices listen. An unspecified address (`0.0.0.0`) is reported as
    /// the IP of `advertise`.
    pub bind_ip: IpAddr,
    /// Ports that slices get.
    pub ports: RangeInclusive<u16>,
    /// How long a port rests after its use: the longest time for which an old
    /// routing table may be used.
    pub port_reuse_after: Duration,
    /// Program and arguments that run [`shim_main`](crate::shim_main) with one
    /// more argument, such as `[current_exe, "shim"]`.
    pub shim: Vec<OsString>,
    /// How restarts of a slice are spaced.
    pub restart: RestartPolicy,
    /// How much log is kept.
    pub logs: LogLimits,
    /// Which archives are kept that nothing here uses. Absent: all of them, as
    /// on a voter, whose store is the repository.
    pub cache: Option<CacheLimits>,
}

impl Config {
    /// A node with defaults for the rest: 64 instances, listening on
    /// 127.0.0.1, ports 10000-29999 (outside of the range from which Linux
    /// takes ports for outgoing connections), reused after ten minutes.
    pub fn new(
        node: NodeName,
        data_dir: PathBuf,
        control_plane: Vec<SocketAddr>,
        advertise: SocketAddr,
        shim: Vec<OsString>,
    ) -> Self {
        Self {
            node,
            data_dir,
            control_plane,
            advertise,
            labels: BTreeMap::new(),
            instances_max: 64,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: 10_000..=29_999,
            port_reuse_after: Duration::from_secs(600),
            shim,
            restart: RestartPolicy::default(),
            logs: LogLimits::default(),
            cache: Some(CacheLimits::default()),
        }
    }
}
