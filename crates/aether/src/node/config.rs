//! A node's configuration: a TOML file, overridden by `AETHER_NODE_…`
//! variables, checked as a whole before anything is started.
//!
//! A member of a table is named with two underscores: `AETHER_NODE_HTTP`,
//! `AETHER_NODE_TIMING__HEARTBEAT`. Unknown keys are errors, in the file (which
//! are shown with their line) as in the environment. What is checked here
//! touches nothing: neither the data directory nor an address.

mod check;
mod environment;
mod file;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use aether_core::duration::Millis;
use aether_core::ids::NodeName;
use aether_server::GatePrograms;
use thiserror::Error;

/// Largest accepted configuration file in bytes. A thousand voters would fit.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a configuration was not accepted.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not TOML of the expected shape; the text points at the line.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong with it.
        problem: String,
    },
    /// A variable makes no sense.
    #[error("environment variable {variable}: {problem}")]
    Environment {
        /// Its name.
        variable: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Well-formed, but a value makes no sense, alone or beside the others.
    #[error("configuration: {field}: {problem}")]
    Value {
        /// Dotted path of the key.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// It would be reachable by others without protection.
    #[error(
        "{field} = {address} is not a loopback address; without TLS and a token everybody who \
         reaches it controls the cluster: use 127.0.0.1, or give --insecure"
    )]
    Exposed {
        /// Dotted path of the key.
        field: &'static str,
        /// The address.
        address: IpAddr,
    },
}

/// A configuration, and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One node's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Name of the node, unique in the cluster.
    pub name: NodeName,
    /// Name of the cluster; peers of another one are refused.
    pub cluster: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// What the node does.
    pub roles: Roles,
    /// Where it listens.
    pub listen: Listen,
    /// The founding voters, this node included, in the same order on each. A
    /// node that joins as a voter may list others, for their addresses.
    pub voters: Vec<Voter>,
    /// Client addresses of voters, for a node that is none, or that comes to vote
    /// in a cluster that there is.
    pub join: Vec<SocketAddr>,
    /// Running instances.
    pub agent: Agent,
    /// Bounds and waits of the ingress; used with the ingress role only.
    pub ingress: aether_ingress::Config,
    /// Space that a voter keeps free.
    pub storage: Storage,
    /// How reads are confirmed.
    pub reads: Reads,
    /// Programs that gates of updates may run on this node while it leads. To be set
    /// on all voters alike.
    pub gates: GatePrograms,
    /// What this node supports beside other releases.
    pub compatibility: Compatibility,
    /// Leases and timeouts.
    pub timing: Timing,
    /// What the node says about itself.
    pub log: Log,
}

/// What a node does; at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles {
    /// Decides and remembers.
    pub voter: bool,
    /// Runs instances.
    pub agent: bool,
    /// Takes requests to slices.
    pub ingress: bool,
}

/// Where a node listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Client gRPC.
    pub grpc: SocketAddr,
    /// REST, health and metrics.
    pub http: SocketAddr,
    /// Raft and other talk between voters; used by voters only.
    pub peer: SocketAddr,
    /// Requests to slices; used with the ingress role only.
    pub ingress: SocketAddr,
}

/// A founding voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its name.
    pub name: NodeName,
    /// Where the others reach its peer listener.
    pub peer: SocketAddr,
}

/// How a node runs instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Most instances it takes.
    pub instances_max: u32,
    /// Labels, for people and placement.
    pub labels: BTreeMap<String, String>,
    /// Ports it gives to instances.
    pub ports: RangeInclusive<u16>,
    /// The address instances listen on.
    pub bind_ip: IpAddr,
    /// How long a port rests before another instance gets it. Never shorter
    /// than `timing.max_table_age`: nobody may reach a new instance by an old
    /// table.
    pub port_reuse_after: Millis,
    /// Instances end with the node when it is asked to end. Without it they go
    /// on, and the node finds them again.
    pub stop_instances_on_exit: bool,
}

/// Space that a voter keeps free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Bytes free for log and snapshots below which a voter counts as low, beside
    /// room for its next snapshot; 0 to let the disk run full. While no majority
    /// of voters has so much, no writes are taken.
    pub disk_free_min_bytes: u64,
}

/// How a leader makes sure that what it shows is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reads {
    /// While it leads, this node answers reads for a tenth of a second after each
    /// round to the voters without another one. Not for machines whose clocks a
    /// hypervisor stops and starts again, as it does when it moves them: a leader
    /// could then show what is old for as long. To be set on all voters alike.
    pub leases: bool,
}

/// What a node supports beside other releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compatibility {
    /// Highest feature level that this node supports, 1 to that of its release,
    /// which is the default. For a staged upgrade: while one voter has a lower
    /// one, the level of the cluster stays below, and the release before can be
    /// installed again. A node ends when the cluster is above it.
    pub feature_level_max: u32,
}

/// Leases and timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it is alive.
    pub heartbeat: Millis,
    /// Shortest silence of a leader before an election.
    pub election_min: Millis,
    /// Longest silence of a leader before an election; at least 200 ms.
    pub election_max: Millis,
    /// How long a session may be silent before it counts as unreachable.
    pub session_lease: Millis,
    /// How long an agent may be silent before it counts as unreachable.
    pub agent_lease: Millis,
    /// How long a node may be unreachable before it counts as lost, and its
    /// instances are replaced elsewhere.
    pub node_lost: Millis,
    /// How long a client that cannot be reached is taken to use its table.
    pub max_table_age: Millis,
    /// How long a voter that is asked to end goes on voting while instances of
    /// the cluster run. For nodes that end together with their instances, so
    /// that all of them can report it; 0 for a node that ends alone.
    pub stop_together: Millis,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives such as `info,aether_replica=debug`. They replace
    /// the default, which is `info` but `openraft=error` and `warn` of the log's
    /// storage: to see heartbeats that fail, add `openraft=warn`.
    pub level: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

impl NodeConfig {
    /// Whether the node comes to vote in a cluster that others founded.
    pub fn joins_as_voter(&self) -> bool {
        self.roles.voter && self.voters.iter().all(|voter| voter.name != self.name)
    }

    /// Reads the file and this process's environment.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let cannot = |source| ConfigError::Read { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(cannot)?.len();
        if size > FILE_BYTES_MAX {
            let problem = format!("is {size} bytes long; at most {FILE_BYTES_MAX} are accepted");
            return Err(ConfigError::Syntax { path: path.to_owned(), problem });
        }
        let text = fs::read_to_string(path).map_err(cannot)?;
        Self::parse(path, &text, environment::variables()?)
    }

    /// Reads a text and variables, given with their whole names.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(
        path: &Path,
        text: &str,
        variables: BTreeMap<String, String>,
    ) -> Result<Loaded, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            path: path.to_owned(),
            problem: error.to_string(),
        };
        // Read for itself first, so that its errors point at its lines.
        let file: file::File = toml::from_str(text).map_err(syntax)?;
        let file = if variables.is_empty() {
            file
        } else {
            environment::overlay(toml::from_str(text).map_err(syntax)?, variables)?
        };
        check::resolve(file)
    }

    /// Refuses listeners that others could reach, unless that is wanted. An ingress
    /// that speaks TLS is there to be reached.
    ///
    /// # Errors
    /// The first address that is not a loopback address.
    pub fn check_exposure(&self, insecure: bool) -> Result<(), ConfigError> {
        let agent = self.roles.agent.then_some(("agent.bind_ip", self.agent.bind_ip));
        let listeners = self.listeners().into_iter().map(|(field, at)| (field, at.ip()));
        for (field, address) in listeners.chain(agent) {
            let is_meant = field == "ingress" && self.ingress.tls.is_some();
            if !insecure && !is_meant && !address.is_loopback() {
                return Err(ConfigError::Exposed { field, address });
            }
        }
        Ok(())
    }

    /// The listeners that the roles call for, with their keys.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut listeners = vec![("grpc", self.listen.grpc), ("http", self.listen.http)];
        if self.roles.voter {
            listeners.push(("peer", self.listen.peer));
        }
        if self.roles.ingress {
            listeners.push(("ingress", self.listen.ingress));
        }
        listeners
    }
}
