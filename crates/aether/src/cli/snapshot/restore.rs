//! `aether snapshot restore`

use std::path::PathBuf;
use std::sync::Mutex;

use aether_core::apply::{Position, RESTORE_INDEX_GAP};
use aether_core::state::{RowStream, row_hash};
use aether_replica::restored_at;
use clap::Args;
use serde::Serialize;

use super::content;
use crate::cli::Global;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::say;
use crate::node::config::NodeConfig;
use crate::node::replica_config;

/// Make the data of a founding voter of a new cluster from a backup
///
/// Run it once for each of the '[[voters]]' of the new cluster, with that node's
/// configuration and the same backup, then start all of them. They find each
/// other and begin by themselves once all are there; one that was restored from
/// another backup, or for other voters, is refused with the reason.
///
/// It makes 'replica' in the node's data directory, and refuses to touch one
/// that is there. What else is in the data directory stays: 'artifacts', and
/// what the node's agent runs.
///
/// The new cluster goes on where the backup stood, as the next incarnation:
/// agents and invokers of the old cluster follow it and never go back. What
/// happened after the backup is forgotten, and instances that were started since
/// are stopped. Log indices begin 2^40 higher, so that none of the old cluster's
/// names is given again. Log time stood still. Stop the old voters for good
/// first.
///
/// Archives of artifacts are not in a backup. Copy the 'artifacts' directory of
/// an old voter's data directory into that of a new one, before or after; or
/// push them again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether snapshot restore backup.snap --config /etc/aether/node.toml

See also: aether snapshot inspect, aether node")]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Configuration of the node that is to begin with it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The backup is of the cluster of this name, and the new one has another
    #[arg(long, value_name = "NAME")]
    from_cluster: Option<String>,
}

/// What was made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    node: String,
    cluster: String,
    directory: String,
    backup_index: u64,
    index: u64,
    incarnation: u64,
    state_hash: String,
    voters: Vec<String>,
}

impl Restore {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let loaded = NodeConfig::load(&self.config).map_err(Failure::usage)?;
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}"));
        }
        let config = loaded.config;
        if !config.roles.voter || config.joins_as_voter() {
            return Err(Failure::usage(format!(
                "{} is no founding voter by its configuration: it needs the role 'voter', and to be \
                 among its [[voters]]; others join the cluster when it is there",
                config.name
            )));
        }
        let (backup, mut state, found) =
            content::read(&self.file, config.compatibility.feature_level_max)?;
        let expected = self.from_cluster.as_ref().unwrap_or(&config.cluster);
        if found.cluster != *expected {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "{} is of cluster '{}', and not of '{expected}'; if it is meant, give \
                     --from-cluster {}",
                    found.file, found.cluster, found.cluster
                ),
            ));
        }
        let cannot = |error: aether_replica::OpenError| {
            let exit = match error {
                aether_replica::OpenError::Occupied { .. }
                | aether_replica::OpenError::Locked { .. } => Exit::Refused,
                _ => Exit::Failed,
            };
            Failure::new(exit, error.to_string())
        };
        let at = restored_at(&backup, RESTORE_INDEX_GAP).map_err(cannot)?;
        state.begin_anew(Position {
            term: at.term,
            index: at.index,
            log_time_ms: at.log_time_ms,
            wall_ms: at.wall_ms,
        });
        let incarnation = state.meta.incarnation;
        let hash = Mutex::new(0u128);
        // Hashed on the way to the file: it may be more than fits into memory twice.
        let rows = RowStream::new(state).inspect(|(key, value)| {
            let mut hash = hash.lock().expect("no panic while held");
            *hash = hash.wrapping_add(row_hash(key, value));
        });
        let made = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
            .block_on(aether_replica::restore(&replica_config(&config), &backup, at, rows));
        made.map_err(cannot)?;
        let restored = Restored {
            node: config.name.to_string(),
            cluster: config.cluster.clone(),
            directory: replica_config(&config).data_dir.display().to_string(),
            backup_index: found.index,
            index: at.index,
            incarnation,
            state_hash: content::shown_hash(hash.into_inner().expect("no panic while held")),
            voters: config.voters.iter().map(|voter| voter.name.to_string()).collect(),
        };
        global.plain_output().show(&restored, |made| {
            format!(
                "{} is voter {} of cluster {} at log index {}, incarnation {}, state hash {}",
                made.directory,
                made.node,
                made.cluster,
                made.index,
                made.incarnation,
                made.state_hash
            )
        })?;
        say(&format!(
            "note: restore {} from the same backup, then start them; {}",
            restored.voters.join(", "),
            super::ARCHIVES
        ));
        Ok(())
    }
}
