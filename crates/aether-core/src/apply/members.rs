//! Nodes and sessions come, report, and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{INSTANCES_MAX, Tx};
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::{NodeName, SessionId};
use crate::records::{NodeLifecycle, NodeRecord, SessionKind, SessionRecord};

/// Sessions at a time: four times the largest fan-out that is measured.
const SESSIONS_MAX: usize = 4_096;
/// Nodes: ten times the largest fleet that is measured.
const NODES_MAX: usize = 10_000;
/// Longest accepted session name in bytes.
const NAME_BYTES_MAX: usize = 200;

impl Tx<'_> {
    pub(super) fn register_node(
        &mut self,
        node: &NodeName,
        address: SocketAddr,
        labels: &BTreeMap<String, String>,
        instances_max: u32,
    ) -> Outcome {
        if instances_max > INSTANCES_MAX {
            return Err(Refusal::BadInstances { given: instances_max, most: INSTANCES_MAX });
        }
        let known = self.state.nodes.get(node);
        if known.is_none() && self.state.nodes.len() >= NODES_MAX {
            return Err(Refusal::TooMany { what: "nodes".to_owned(), most: NODES_MAX as u64 });
        }
        let since_ms = match known {
            Some(known) if known.lifecycle == NodeLifecycle::Ready => known.since_ms,
            _ => self.now_ms(),
        };
        let record = NodeRecord {
            name: node.clone(),
            address,
            labels: labels.clone(),
            instances_max,
            lifecycle: NodeLifecycle::Ready,
            since_ms,
        };
        self.state.nodes.insert(node.clone(), Arc::new(record));
        Ok(Answer::default())
    }

    pub(super) fn set_node_lifecycle(
        &mut self,
        node: &NodeName,
        lifecycle: NodeLifecycle,
    ) -> Outcome {
        let Some(known) = self.state.nodes.get(node) else {
            return Err(Refusal::UnknownNode { node: node.clone() });
        };
        if known.lifecycle != lifecycle {
            let record = NodeRecord { lifecycle, since_ms: self.now_ms(), ..(**known).clone() };
            self.state.nodes.insert(node.clone(), Arc::new(record));
            let event = match lifecycle {
                NodeLifecycle::Ready => "reports again",
                NodeLifecycle::Unreachable => "is silent; its instances stay in the tables",
            };
            self.audit(format!("node {node}"), event.to_owned());
        }
        Ok(Answer::default())
    }

    pub(super) fn open_session(
        &mut self,
        session: &SessionId,
        kind: SessionKind,
        name: &str,
        fresh: bool,
        follows: u64,
    ) -> Outcome {
        let known = self.state.sessions.get(session).map(|known| known.opened);
        if known.is_some_and(|opened| opened != follows) {
            return Ok(Answer::default());
        }
        if known.is_none() && self.state.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::TooMany {
                what: "sessions".to_owned(),
                most: SESSIONS_MAX as u64,
            });
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::BadOption {
                what: "session name".to_owned(),
                given: format!("{} bytes", name.len()),
                expected: format!("at most {NAME_BYTES_MAX} bytes long"),
            });
        }
        let record = SessionRecord {
            id: session.clone(),
            kind,
            name: name.to_owned(),
            opened: self.index(),
            fresh: fresh && known.is_none(),
        };
        self.state.sessions.insert(session.clone(), Arc::new(record));
        Ok(Answer::default())
    }

    pub(super) fn close_session(
        &mut self,
        session: &SessionId,
        opened: u64,
        reason: &str,
    ) -> Outcome {
        let Some(record) = self.state.sessions.get(session).cloned() else {
            return Ok(Answer::default());
        };
        if opened != 0 && opened != record.opened {
            return Err(Refusal::Stale { what: format!("session {session}") });
        }
        self.state.sessions.remove(session);
        self.audit(format!("session {session} of {}", record.name), format!("closed: {reason}"));
        Ok(Answer::default())
    }
}
