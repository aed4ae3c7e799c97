//! What an invoker has to be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aether_core::ids::SessionId;

use crate::error::ConfigError;

/// Most control-plane addresses. A cluster has at most a handful of voters,
/// and any node answers.
const NODES_MAX: usize = 64;

/// What kind of session the control plane shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A service that embeds this crate.
    Invoker,
    /// An HTTP ingress.
    Ingress,
}

impl SessionKind {
    pub(crate) fn as_wire(self) -> &'static str {
        match self {
            Self::Invoker => "INVOKER",
            Self::Ingress => "INGRESS",
        }
    }
}

/// What an invoker has to be told. [`Config::new`] sets the defaults named
/// below.
#[derive(Debug, Clone)]
pub struct Config {
    /// For people: the name of the service or node.
    pub name: String,
    /// What kind of session this is.
    pub kind: SessionKind,
    /// gRPC addresses of control-plane nodes. They are tried in this order,
    /// beginning anew after the last.
    pub control_plane: Vec<SocketAddr>,
    /// Unique for ever; `{name}-{8 random characters}` if absent. Give one only
    /// if it is never used by another process.
    pub session_id: Option<SessionId>,
    /// How long opening a connection to an instance or node may take (1 s).
    pub connect_timeout: Duration,
    /// Most idle connections kept to one instance (256).
    pub idle_connections_max: usize,
    /// Idle connections are closed after this long (30 s), or earlier if the
    /// instance announces in `Keep-Alive` that it will. Keep it below the time
    /// after which instances close theirs.
    pub idle_timeout: Duration,
    /// Most calls at a time to one instance (4,096), to within an eighth where many
    /// threads call. A pick above it fails
    /// with [`CallError::Overloaded`](crate::CallError::Overloaded) when sent.
    pub in_flight_max: u64,
    /// How many instances one call may be tried on, if it provably reached
    /// none before (5).
    pub attempts_max: usize,
    /// A file in which the tables are kept for the next start (none): calls are made by
    /// it once each node of the control plane was tried and none answered. A process
    /// that is not connected holds nobody back from stopping an instance, so such a
    /// call may find its instance gone, and is then tried at another one. The directory
    /// has to be private: whoever can write the file decides where calls go.
    pub cache_file: Option<PathBuf>,
    /// How long ago a node must have confirmed the tables in the file (5 min); older
    /// ones are not used, and no longer used. At most half of the cluster's
    /// `max_table_age`, after which the addresses in them may be used anew: the other
    /// half is for clocks that were set and for attempts that hang.
    pub cache_age_max: Duration,
    /// How long [`Invoker::close`](crate::Invoker::close) waits for calls in
    /// flight (10 s).
    pub close_timeout: Duration,
}

impl Config {
    /// A configuration with the defaults.
    pub fn new(name: impl Into<String>, kind: SessionKind, control_plane: Vec<SocketAddr>) -> Self {
        Self {
            name: name.into(),
            kind,
            control_plane,
            session_id: None,
            connect_timeout: Duration::from_secs(1),
            idle_connections_max: 256,
            idle_timeout: Duration::from_secs(30),
            in_flight_max: 4_096,
            attempts_max: 5,
            cache_file: None,
            cache_age_max: Duration::from_secs(300),
            close_timeout: Duration::from_secs(10),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.control_plane.is_empty() || self.control_plane.len() > NODES_MAX {
            return Err(ConfigError::Nodes { given: self.control_plane.len(), max: NODES_MAX });
        }
        let zero = |what| Err(ConfigError::Zero { what });
        if self.connect_timeout.is_zero() {
            return zero("connect_timeout");
        }
        if self.attempts_max == 0 {
            return zero("attempts_max");
        }
        if self.in_flight_max == 0 {
            return zero("in_flight_max");
        }
        Ok(())
    }

    /// The session id to use: the given one, or the name and a random part.
    pub(crate) fn session(&self) -> Result<SessionId, ConfigError> {
        if let Some(id) = &self.session_id {
            return Ok(id.clone());
        }
        // Room for the dash and the random part within the 64 bytes of an id.
        let name: String = self.name.chars().take(50).collect();
        let random: u32 = rand::random();
        format!("{name}-{random:08x}")
            .parse()
            .map_err(|_| ConfigError::Name { name: self.name.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_after_the_service_and_differ() {
        let config = Config::new("shop", SessionKind::Invoker, vec![([127, 0, 0, 1], 1).into()]);
        let id = config.session().unwrap();
        assert!(id.as_str().starts_with("shop-") && id.as_str().len() == 13, "{id}");
        assert_ne!(id, config.session().unwrap());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let config = Config::new("a b", SessionKind::Invoker, vec![]);
        assert!(matches!(config.check(), Err(ConfigError::Nodes { given: 0, .. })));
        assert!(matches!(config.session(), Err(ConfigError::Name { .. })));
    }
}
