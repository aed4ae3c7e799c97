//! Settings of a replica.

use std::path::PathBuf;

/// Eight files of the log: enough to append for some seconds at full speed while
/// writes come to their end, and little beside any disk that is bought today.
pub const DISK_FREE_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// Least value of [`Config::election_ms_max`]: for so long other nodes count on a
/// voter that has heard a leader.
pub const ELECTION_MS_MAX_MIN: u64 = 200;

/// A founding voter: its position in the list is its Raft id, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Name of the node, unique in the cluster.
    pub name: String,
    /// Where its peer listener is reached, as `host:port`.
    pub peer_addr: String,
}

/// What a node that comes to a cluster that there is has been given by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its Raft id, never given to anybody before.
    pub raft_id: u64,
    /// Identity of its data directory, as [`crate::Joining`] made it.
    pub dir_id: String,
}

/// Settings of one [`Replica`](crate::Replica). Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node, one of `voters`.
    pub node_name: String,
    /// Name of the cluster: peers of another one are refused.
    pub cluster_name: String,
    /// Where everything is kept. Created if it isn't there.
    pub data_dir: PathBuf,
    /// The voters that found the cluster, in the same order on every node.
    /// Later only their addresses are read: they override remembered ones.
    pub voters: Vec<Voter>,
    /// Who this node is if it came later, and its directory is still empty.
    pub joined: Option<Joined>,
    /// How often a leader shows that it is alive.
    pub heartbeat_ms: u64,
    /// Shortest and longest time without a leader before an election. A
    /// follower waits for the longest (the leader's lease), then for a random
    /// time between both. A vote is given within the shortest, and synced to
    /// disk before, so that must be longer than a sync of the slowest disk.
    pub election_ms_min: u64,
    /// See `election_ms_min`. At least [`ELECTION_MS_MAX_MIN`].
    pub election_ms_max: u64,
    /// Whether this node, as the leader, answers linearizable reads without asking
    /// the other voters while it holds a lease (see `lease`). Correct as long as
    /// no clock of a voter's machine goes at half the speed of another's, or is
    /// stopped and started again without a trace, as a hypervisor can do.
    pub lease_reads: bool,
    /// A snapshot is built, and the log before the previous one purged, every
    /// so many entries.
    pub snapshot_every_entries: u64,
    /// Time to send and install one snapshot.
    pub snapshot_ms_max: u64,
    /// Proposals of this node's callers that may be under way at once.
    pub proposals_in_flight_max: usize,
    /// Free space below which this voter counts as low, beside room for the next
    /// snapshot (see `space`); 0 to not look. Well above what the log takes
    /// between two looks and what one snapshot needs.
    pub disk_free_min_bytes: u64,
    /// Highest feature level that the machine supports: told to others who ask,
    /// and of no other meaning here.
    pub feature_level_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node_name: String::new(),
            cluster_name: "aether".to_owned(),
            data_dir: PathBuf::new(),
            voters: Vec::new(),
            joined: None,
            heartbeat_ms: 40,
            election_ms_min: 150,
            election_ms_max: 250,
            lease_reads: false,
            snapshot_every_entries: 50_000,
            snapshot_ms_max: 10 * 60 * 1_000,
            proposals_in_flight_max: 4_096,
            disk_free_min_bytes: DISK_FREE_MIN_BYTES,
            feature_level_max: 1,
        }
    }
}

impl Config {
    /// Checks what can be checked without touching anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let ordered = 0 < self.heartbeat_ms
            && self.heartbeat_ms < self.election_ms_min
            && self.election_ms_min < self.election_ms_max;
        if !ordered {
            return Err(format!(
                "heartbeat_ms ({}) < election_ms_min ({}) < election_ms_max ({}) must hold",
                self.heartbeat_ms, self.election_ms_min, self.election_ms_max
            ));
        }
        if self.election_ms_max < ELECTION_MS_MAX_MIN {
            return Err(format!(
                "election_ms_max ({}) must be at least {ELECTION_MS_MAX_MIN}",
                self.election_ms_max
            ));
        }
        for (field, text) in [("node_name", &self.node_name), ("cluster_name", &self.cluster_name)]
        {
            if text.is_empty() || text.len() > 128 {
                return Err(format!("{field} {text:?} must have 1 to 128 bytes"));
            }
        }
        if self.snapshot_every_entries == 0 || self.proposals_in_flight_max == 0 {
            return Err("snapshot_every_entries and proposals_in_flight_max must be above 0".into());
        }
        for (i, voter) in self.voters.iter().enumerate() {
            if voter.name.is_empty() || voter.peer_addr.is_empty() {
                return Err(format!("voter {} needs a name and a peer address", i + 1));
            }
            let clash =
                |other: &Voter| other.name == voter.name || other.peer_addr == voter.peer_addr;
            if self.voters[..i].iter().any(clash) {
                return Err(format!("voter {:?} or its address is listed twice", voter.name));
            }
        }
        Ok(())
    }

    /// The Raft id that the founding list gives this node.
    pub(crate) fn founding_id(&self) -> Option<u64> {
        let at = self.voters.iter().position(|v| v.name == self.node_name)?;
        Some(at as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(names: &[(&str, &str)]) -> Config {
        let voters = names
            .iter()
            .map(|(name, addr)| Voter { name: name.to_string(), peer_addr: addr.to_string() })
            .collect();
        Config { node_name: "b".into(), voters, ..Config::default() }
    }

    #[test]
    fn position_in_the_founding_list_is_the_raft_id() {
        assert_eq!(config(&[("a", "x:1"), ("b", "x:2")]).founding_id(), Some(2));
        assert_eq!(config(&[("a", "x:1")]).founding_id(), None);
    }

    #[test]
    fn contradictions_are_named() {
        assert_eq!(config(&[("b", "x:1")]).validate(), Ok(()));
        assert!(config(&[("a", "x:1"), ("b", "x:1")]).validate().is_err());
        assert!(config(&[("b", "x:1"), ("b", "x:2")]).validate().is_err());
        let slow = Config { heartbeat_ms: 500, ..config(&[("b", "x:1")]) };
        assert!(slow.validate().unwrap_err().contains("heartbeat_ms (500)"));
        let hasty = Config { election_ms_max: 199, ..config(&[("b", "x:1")]) };
        assert!(hasty.validate().unwrap_err().contains("at least 200"));
    }
}
