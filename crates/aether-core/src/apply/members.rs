//! Nodes and sessions come, report, and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{INSTANCES_MAX, Tx};
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::{NodeName, SessionId};
use crate::records::{
    Desired, InstanceRecord, NodeLifecycle, NodeRecord, NodeSchedule, Observed, Reason,
    SessionKind, SessionRecord,
};
use crate::words::{are, counted};

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
            schedule: known.map(|known| known.schedule).unwrap_or_default(),
        };
        self.state.nodes.insert(node.clone(), Arc::new(record));
        Ok(Answer::default())
    }

    pub(super) fn set_node_lifecycle(
        &mut self,
        node: &NodeName,
        lifecycle: NodeLifecycle,
    ) -> Outcome {
        let known = self.node(node)?;
        if known.lifecycle == lifecycle {
            return Ok(Answer::default());
        }
        let record = NodeRecord { lifecycle, since_ms: self.now_ms(), ..known };
        self.state.nodes.insert(node.clone(), Arc::new(record));
        let event = match lifecycle {
            NodeLifecycle::Ready => "reports again".to_owned(),
            NodeLifecycle::Unreachable => "is silent; its instances stay in the tables".to_owned(),
            NodeLifecycle::Lost => {
                let count = self.lose_instances(node);
                let lost = counted(count, "instance");
                format!("is lost; {lost} left the tables and {} replaced", are(count))
            }
        };
        self.audit(Subject::node(node), event);
        Ok(Answer::default())
    }

    fn node(&self, node: &NodeName) -> Result<NodeRecord, Refusal> {
        let unknown = || Refusal::UnknownNode { node: node.clone() };
        self.state.nodes.get(node).map(|record| (**record).clone()).ok_or_else(unknown)
    }

    /// What runs on a node that is lost takes no calls any more, and is stopped
    /// once every session knows and the node is back. Says how many were wanted.
    fn lose_instances(&mut self, node: &NodeName) -> usize {
        let here: Vec<Arc<InstanceRecord>> = self.state.instances_on(node).cloned().collect();
        let wanted = here.iter().filter(|i| i.desired == Desired::Run).count();
        for record in here {
            // What had ended has nothing to come back as.
            if record.observed != Observed::Stopped {
                self.put_instance(InstanceRecord {
                    observed: Observed::Unknown,
                    observed_since_ms: self.now_ms(),
                    reason: Some(Reason::new("node_lost", format!("node {node} is lost"))),
                    ..(*record).clone()
                });
            }
            if record.desired == Desired::Run {
                self.decide(&record.id, Desired::Drain);
            }
        }
        wanted
    }

    pub(super) fn set_node_schedule(&mut self, node: &NodeName, schedule: NodeSchedule) -> Outcome {
        let known = self.node(node)?;
        if known.schedule == schedule {
            let note = match schedule {
                NodeSchedule::Open => format!("node {node} takes instances already"),
                NodeSchedule::Cordoned => format!("node {node} is cordoned already"),
                NodeSchedule::Draining => format!("node {node} is being drained already"),
            };
            return Ok(Answer { note: Some(note), ..Answer::default() });
        }
        self.state.nodes.insert(node.clone(), Arc::new(NodeRecord { schedule, ..known }));
        let event = match schedule {
            NodeSchedule::Open => "takes new instances",
            NodeSchedule::Cordoned => "is cordoned: it takes no new instances",
            NodeSchedule::Draining => "is drained: its instances move to other nodes",
        };
        self.audit(Subject::node(node), event.to_owned());
        Ok(Answer::default())
    }

    /// A node that will not come back is forgotten with its instances. Should it
    /// come back all the same, its agent stops them: nobody names them to it.
    pub(super) fn forget_node(&mut self, node: &NodeName, force: bool) -> Outcome {
        let known = self.node(node)?;
        let may = match known.lifecycle {
            NodeLifecycle::Ready => false,
            NodeLifecycle::Unreachable => force,
            NodeLifecycle::Lost => true,
        };
        if !may {
            return Err(Refusal::NodeInUse { node: node.clone(), lifecycle: known.lifecycle });
        }
        let here: Vec<Arc<InstanceRecord>> = self.state.instances_on(node).cloned().collect();
        self.state.nodes.remove(node);
        for record in &here {
            self.forget_instance(record);
        }
        let event = format!("is forgotten, with {}", counted(here.len(), "instance"));
        self.audit(Subject::node(node), event);
        Ok(Answer::default())
    }

    /// Too many nodes are silent at once, or no longer.
    pub(super) fn freeze_replacement(&mut self, frozen: bool, silent: u32) -> Outcome {
        if self.state.meta.replacement_frozen_since_ms.is_some() == frozen {
            return Err(Refusal::Stale { what: "whether re-placement is frozen".to_owned() });
        }
        self.state.meta.replacement_frozen_since_ms = frozen.then(|| self.now_ms());
        if !frozen {
            self.state.meta.replacement_resumed_ms = self.now_ms();
        }
        let nodes = self.state.nodes.len();
        let event = match frozen {
            true => format!(
                "ALERT: {silent} of {nodes} nodes are silent at once; none of them counts as lost \
                 until most are back: look at the network, or 'aether node forget' those that are \
                 gone for good"
            ),
            false => format!("{silent} of {nodes} nodes are silent; lost nodes are replaced again"),
        };
        self.audit(Subject::cluster(), event);
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
        let event = format!("session of {} closed: {reason}", record.name);
        self.audit(Subject::session(session), event);
        Ok(Answer::default())
    }
}
