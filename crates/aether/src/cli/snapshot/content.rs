//! What a backup holds, verified and read.

use std::collections::BTreeMap;
use std::path::Path;

use aether_core::apply::Position;
use aether_core::level::Gate;
use aether_core::state::{State, row_hash};
use aether_replica::Backup;
use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::render;

/// What there is to say about a backup.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    pub cluster: String,
    pub index: u64,
    pub term: u64,
    pub log_time_ms: u64,
    pub wall_ms: u64,
    pub incarnation: u64,
    pub feature_level: u32,
    pub state_hash: String,
    pub rows: u64,
    pub tables: Vec<Table>,
    pub members: Vec<Member>,
}

/// The rows of which the keys begin alike.
#[derive(Debug, Serialize)]
pub struct Table {
    pub table: String,
    pub rows: u64,
    /// Of keys and values.
    pub bytes: u64,
}

/// A member of the cluster that the backup is of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub name: String,
    pub raft_id: u64,
    pub peer_address: String,
    pub voter: bool,
}

/// Verifies a backup to its last byte and row, for a node that supports feature
/// levels up to `supports`.
///
/// # Errors
/// What is wrong with the file, and where; or that it is above that level.
pub fn read(path: &Path, supports: u32) -> Result<(Backup, State, Content), Failure> {
    let shown = path.display();
    let problem = |problem: String| Failure::failed(format!("{shown}: {problem}"));
    let backup = Backup::open(path).map_err(|error| problem(error.to_string()))?;
    let (mut state, mut tables) = (State::default(), Tables::default());
    let (mut gate, mut unreadable) = (Gate::new(supports), None);
    let (mut hash, mut count) = (0u128, 0);
    let taken = backup.rows(|(key, value)| {
        gate.see(&key, &value);
        hash = hash.wrapping_add(row_hash(&key, &value));
        count += 1;
        tables.count(&key, &value);
        // One that cannot be read may come before the one that says why.
        if unreadable.is_none() {
            unreadable = state.add_row(&key, &value).err();
        }
        Ok(())
    });
    taken.map_err(|error| problem(error.to_string()))?;
    gate.check().map_err(|why| Failure::new(Exit::Refused, format!("{shown}: {why}")))?;
    if let Some(error) = unreadable {
        return Err(problem(format!("{error}; if a newer release wrote it, use that one")));
    }
    let at = backup.at();
    if state.meta.index > at.index {
        let index = state.meta.index;
        return Err(problem(format!("its rows are of index {index}, and it of {}", at.index)));
    }
    state.skip(Position {
        term: at.term,
        index: at.index,
        log_time_ms: at.log_time_ms,
        wall_ms: state.meta.wall_ms,
    });
    let members = backup.members().into_iter().map(|member| Member {
        name: member.name,
        raft_id: member.raft_id,
        peer_address: member.peer_addr,
        voter: member.voter,
    });
    let content = Content {
        file: shown.to_string(),
        bytes: backup.bytes(),
        sha256: backup.checksum(),
        cluster: backup.cluster().to_owned(),
        index: at.index,
        term: at.term,
        log_time_ms: at.log_time_ms,
        wall_ms: state.meta.wall_ms,
        incarnation: state.meta.incarnation,
        feature_level: state.meta.feature_level,
        state_hash: shown_hash(hash),
        rows: count,
        tables: tables.list(),
        members: members.collect(),
    };
    Ok((backup, state, content))
}

/// The hash of a state as `aether status` shows it.
pub fn shown_hash(hash: u128) -> String {
    format!("{hash:032x}")
}

/// Rows and bytes by the beginning of the key.
#[derive(Default)]
struct Tables(BTreeMap<String, (u64, u64)>);

impl Tables {
    fn count(&mut self, key: &str, value: &[u8]) {
        let table = key.split('/').next().unwrap_or_default();
        if !self.0.contains_key(table) {
            self.0.insert(table.to_owned(), (0, 0));
        }
        if let Some(sum) = self.0.get_mut(table) {
            sum.0 += 1;
            sum.1 += (key.len() + value.len()) as u64;
        }
    }

    fn list(self) -> Vec<Table> {
        self.0.into_iter().map(|(table, (rows, bytes))| Table { table, rows, bytes }).collect()
    }
}

/// For people.
pub fn shown(content: &Content) -> String {
    let of = |value: u64| value.to_string();
    let fields = render::fields(&[
        ("Cluster", content.cluster.clone()),
        ("Log index", format!("{} (term {})", content.index, content.term)),
        ("Log time", format!("{} ms", content.log_time_ms)),
        ("Wall time", render::history::when(content.wall_ms)),
        ("Incarnation", of(content.incarnation)),
        ("Feature level", of(content.feature_level.into())),
        ("State hash", content.state_hash.clone()),
        ("Size", format!("{} bytes, {} rows", content.bytes, content.rows)),
        ("SHA-256", content.sha256.clone()),
    ]);
    let members = content.members.iter().map(|member| {
        let votes = if member.voter { "yes" } else { "no" };
        vec![member.name.clone(), of(member.raft_id), member.peer_address.clone(), votes.to_owned()]
    });
    let members = render::table(&["MEMBER", "RAFT ID", "PEER", "VOTES"], members.collect());
    let tables = content.tables.iter();
    let tables = tables.map(|table| vec![table.table.clone(), of(table.rows), of(table.bytes)]);
    let tables = render::table(&["TABLE", "ROWS", "BYTES"], tables.collect());
    format!("{fields}\n\n{members}\n\n{tables}")
}
