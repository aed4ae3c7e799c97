//! Voters are invited, admitted, and sent away.

use std::sync::Arc;

use super::Tx;
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::NodeName;
use crate::records::{
    Admitted, ArtifactRecord, RAFT_ID_BASE, VOTER_CHANGES_MAX, VoterChange, VoterWanted,
};

/// Longest accepted peer address, as of a host name (RFC 1035) with its port.
const PEER_ADDR_BYTES_MAX: usize = 260;
/// Longest accepted identity of a data directory.
const DIR_ID_BYTES_MAX: usize = 64;

impl Tx<'_> {
    pub(super) fn invite_voter(
        &mut self,
        node: &NodeName,
        peer_addr: &str,
        replaces: Option<u64>,
    ) -> Outcome {
        check_peer_addr(peer_addr)?;
        if let Some(known) = self.state.voter_changes.get(node) {
            return match &known.wanted {
                VoterWanted::Join { peer_addr: at, replaces: of, .. }
                    if at == peer_addr && *of == replaces =>
                {
                    let note = Some(format!("node {node} is invited already"));
                    Ok(Answer { note, ..Answer::default() })
                }
                _ => Err(Refusal::VoterChanging { node: node.clone() }),
            };
        }
        if self.state.voter_changes.len() >= VOTER_CHANGES_MAX {
            return Err(Refusal::TooMany {
                what: "changes of voters".to_owned(),
                most: VOTER_CHANGES_MAX as u64,
            });
        }
        let wanted =
            VoterWanted::Join { peer_addr: peer_addr.to_owned(), replaces, admitted: None };
        let event = match replaces {
            None => format!("is invited to vote, at {peer_addr}"),
            Some(id) => format!("is invited to vote, at {peer_addr}, in the place of id {id}"),
        };
        self.put_voter_change(node, wanted, event);
        Ok(Answer::default())
    }

    pub(super) fn admit_voter(
        &mut self,
        node: &NodeName,
        dir_id: &str,
        feature_level: u32,
    ) -> Outcome {
        if dir_id.is_empty() || dir_id.len() > DIR_ID_BYTES_MAX {
            return Err(Refusal::BadOption {
                what: "identity of the data directory".to_owned(),
                given: format!("{} bytes", dir_id.len()),
                expected: format!("1 to {DIR_ID_BYTES_MAX} bytes long"),
            });
        }
        let known = self.state.voter_changes.get(node).map(|change| change.wanted.clone());
        let Some(VoterWanted::Join { peer_addr, replaces, admitted }) = known else {
            return Err(Refusal::NotInvited { node: node.clone() });
        };
        let committed = self.state.meta.feature_level;
        if feature_level < committed {
            let (node, supports) = (node.clone(), feature_level);
            return Err(Refusal::LevelUnsupported { node, supports, committed });
        }
        match admitted {
            Some(admitted) if admitted.dir_id == dir_id => return Ok(Answer::default()),
            Some(_) => return Err(Refusal::VoterTaken { node: node.clone() }),
            None => {}
        }
        let raft_id = RAFT_ID_BASE + self.index();
        // Whatever a node of this name held may be gone with its directory. What
        // it has all the same it says again.
        self.forget_holder(node);
        let admitted = Some(Admitted { dir_id: dir_id.to_owned(), raft_id, feature_level });
        let wanted = VoterWanted::Join { peer_addr, replaces, admitted };
        self.put_voter_change(node, wanted, format!("is admitted under Raft id {raft_id}"));
        Ok(Answer::default())
    }

    pub(super) fn remove_voter(&mut self, node: &NodeName, raft_id: u64) -> Outcome {
        match self.state.voter_changes.get(node).map(|change| &change.wanted) {
            Some(VoterWanted::Leave { raft_id: leaving }) if *leaving == raft_id => {
                let note = Some(format!("node {node} is being removed already"));
                return Ok(Answer { note, ..Answer::default() });
            }
            // Nobody knows it under an id yet: there is nothing to undo.
            Some(VoterWanted::Join { admitted: None, .. }) => {
                self.state.voter_changes.remove(node);
                self.audit(Subject::node(node), "is not invited any more".to_owned());
                return Ok(Answer::default());
            }
            _ => {}
        }
        // One that joins is sent away under the id that it was admitted under,
        // whether or not it is known by it yet.
        let raft_id = match self.state.voter_changes.get(node).map(|change| &change.wanted) {
            Some(VoterWanted::Join { admitted: Some(admitted), .. }) => admitted.raft_id,
            _ => raft_id,
        };
        let wanted = VoterWanted::Leave { raft_id };
        self.put_voter_change(node, wanted, format!("is to vote no more, under id {raft_id}"));
        Ok(Answer::default())
    }

    /// The membership is what was wanted of this node.
    pub(super) fn end_voter_change(&mut self, node: &NodeName, modified: u64) -> Outcome {
        let Some(change) = self.state.voter_changes.get(node).cloned() else {
            return Ok(Answer::default());
        };
        if change.modified != modified {
            return Err(Refusal::Stale { what: format!("what is wanted of voter {node}") });
        }
        self.state.voter_changes.remove(node);
        let event = match change.wanted {
            VoterWanted::Join { .. } => "votes",
            VoterWanted::Leave { .. } => {
                self.forget_holder(node);
                "votes no more"
            }
        };
        self.audit(Subject::node(node), event.to_owned());
        Ok(Answer::default())
    }

    fn forget_holder(&mut self, node: &NodeName) {
        let held = self.state.artifacts.values().filter(|record| record.held_by.contains(node));
        let held: Vec<ArtifactRecord> = held.map(|record| (**record).clone()).collect();
        for mut record in held {
            record.held_by.remove(node);
            self.state.artifacts.insert(record.artifact.clone(), Arc::new(record));
        }
    }

    fn put_voter_change(&mut self, node: &NodeName, wanted: VoterWanted, event: String) {
        let record = VoterChange {
            node: node.clone(),
            wanted,
            since_ms: self.now_ms(),
            modified: self.index(),
        };
        self.state.voter_changes.insert(node.clone(), Arc::new(record));
        self.audit(Subject::node(node), event);
    }
}

fn check_peer_addr(text: &str) -> Result<(), Refusal> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    let is_port = port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port != 0);
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_port && is_plain && text.len() <= PEER_ADDR_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::BadOption {
        what: "peer address".to_owned(),
        given: format!("'{}'", text.chars().take(80).collect::<String>()),
        expected: "host:port, where the other voters reach its peer listener".to_owned(),
    })
}
