//! What has to hold, during a run and after it.

use std::collections::BTreeMap;

use aether_core::command::Request;
use aether_tests::linearizability::watch::check_equal;
use aether_tests::linearizability::{Operation, order, search, watch};
use bytes::Bytes;

use crate::machine::Stamp;

use super::World;
use super::watchers::Watcher;

/// An entry of the log that some node has applied.
struct Entry {
    term: u64,
    log_time_ms: u64,
    payload: Option<Bytes>,
    request: Option<String>,
    /// It changed a value.
    changed: bool,
}

/// What the clients were told of a request, all attempts together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub acknowledged: Option<u64>,
    /// Of some attempt it is not known whether it was done.
    pub unknown: bool,
}

/// What is known about the cluster as a whole.
#[derive(Default)]
pub(super) struct Ledger {
    entries: BTreeMap<u64, Entry>,
    hashes: BTreeMap<u64, u128>,
    leaders: BTreeMap<u64, u64>,
    requests: BTreeMap<String, Told>,
    /// What did not hold.
    pub wrong: Option<String>,
    /// How often a node took its state from a snapshot.
    pub restores: u64,
}

impl Ledger {
    pub fn blame(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    pub fn told(&mut self, request: &str, what: impl FnOnce(&mut Told)) {
        what(self.requests.entry(request.to_owned()).or_default());
    }

    /// Terms that had a leader.
    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// Every acknowledged write was done once, at the index that was told; no
    /// request was done twice; what is not done is not in the log.
    fn check_requests(&self) -> Result<(), String> {
        let mut effects: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut last_ms = 0;
        for (index, entry) in &self.entries {
            if entry.log_time_ms < last_ms {
                return Err(format!("log time goes back at {index}"));
            }
            last_ms = entry.log_time_ms;
            let Some(request) = &entry.request else { continue };
            match self.requests.get(request) {
                None => return Err(format!("nobody asked for {request}, at {index}")),
                Some(told) if told.acknowledged.is_none() && !told.unknown => {
                    return Err(format!("{request} is in the log at {index}, and not done"));
                }
                Some(_) => {}
            }
            if entry.changed {
                effects.entry(request).or_default().push(*index);
            }
        }
        for (request, told) in &self.requests {
            let done = effects.get(request.as_str()).map_or(&[][..], Vec::as_slice);
            if done.len() > 1 {
                return Err(format!("{request} was done at each of {done:?}"));
            }
            if let Some(index) = told.acknowledged
                && done != [index]
            {
                return Err(format!(
                    "{request} was done at {index}, as was told, but see {done:?}"
                ));
            }
        }
        Ok(())
    }
}

impl World {
    /// A node applied an entry: all that do apply the same.
    pub fn applied(&mut self, node: usize, at: Stamp, what: Option<(&[u8], &Request, bool)>) {
        let Stamp { term, index, log_time_ms, .. } = at;
        self.trace.count([self.now_ms, node as u64, index, term ^ log_time_ms << 20]);
        let payload = what.map(|(payload, ..)| payload);
        let Some(known) = self.ledger.entries.get(&index) else {
            let entry = Entry {
                term,
                log_time_ms,
                payload: payload.map(Bytes::copy_from_slice),
                request: what.and_then(|(_, request, _)| request.request_id.clone()),
                changed: what.is_some_and(|(.., changed)| changed),
            };
            self.ledger.entries.insert(index, entry);
            return;
        };
        if (known.term, known.payload.as_deref()) != (term, payload) {
            let text = format!("n{node} applies another entry at {index}: of term {term}");
            self.ledger.blame(format!("{text}, others one of term {}", known.term));
        }
    }

    /// A node shows a state: at one index all show the same.
    pub fn published(&mut self, node: usize, index: u64, hash: u128) {
        let known = *self.ledger.hashes.entry(index).or_insert(hash);
        if known != hash {
            self.ledger.blame(format!("n{node} shows another state at {index} than others did"));
        }
    }

    /// A node takes itself for the leader of a term.
    pub fn leads(&mut self, term: u64, raft_id: u64) {
        if !self.ledger.leaders.contains_key(&term) {
            self.trace.note(self.now_ms, format_args!("id {raft_id} leads term {term}"));
        }
        let known = *self.ledger.leaders.entry(term).or_insert(raft_id);
        if known != raft_id {
            self.ledger.blame(format!("{known} and {raft_id} both lead term {term}"));
        }
    }

    /// Whether all that was answered and told fits together.
    pub fn check_history(
        &mut self,
        operations: &[Operation],
        watchers: &[Watcher],
    ) -> Result<(), String> {
        self.ledger.check_requests()?;
        search::check(operations).map_err(|e| format!("not linearizable: {e}"))?;
        order::check(operations).map_err(|e| format!("not in the order of the log: {e}"))?;
        for (at, watcher) in watchers.iter().enumerate() {
            watch::check(operations, &watcher.watched).map_err(|e| format!("watcher {at}: {e}"))?;
            for other in &watchers[..at] {
                check_equal(&other.watched, &watcher.watched)
                    .map_err(|e| format!("watchers differ: {e}"))?;
            }
        }
        Ok(())
    }
}
