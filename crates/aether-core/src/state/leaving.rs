//! Instances that go: which of them others are to stand in for first, and whether one
//! has left its table.

use imbl::ordmap::DiffItem;

use super::State;
use crate::ids::NodeName;
use crate::records::{InstanceRecord, NodeSchedule, Side, UpdateState};

impl State {
    /// Whether what a node has is to move to other nodes.
    pub fn is_draining(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|record| record.schedule == NodeSchedule::Draining)
    }

    /// Whether an instance is replaced: its node is drained, or its process was to go back
    /// by a reload and cannot be told to.
    pub fn is_to_leave(&self, instance: &InstanceRecord) -> bool {
        let goes_back = || {
            let Some(update) = self.live_update(&instance.slice) else { return false };
            let old = update.old.as_ref().map(|side| side.revision);
            update.state == UpdateState::RollingBack && old == Some(instance.revision)
        };
        self.is_draining(&instance.node) || (instance.reload_failure().is_some() && goes_back())
    }

    /// Whether an instance takes calls as one of another revision than its own: one that
    /// was told to reload, until its batch is entered or its old side gets no calls.
    pub fn is_lent(&self, instance: &InstanceRecord) -> bool {
        let called_as = instance.called_as();
        let gets_calls = || {
            let Some(route) = self.routes.get(&instance.slice) else { return false };
            let is_it =
                |side: &Option<Side>| side.as_ref().is_some_and(|s| s.revision == called_as);
            (is_it(&route.old) && route.weights.old_side() > 0)
                || (is_it(&route.new) && route.weights.new_side() > 0)
        };
        called_as != instance.revision && instance.is_routable() && gets_calls()
    }

    /// Whether an instance has left a table since an earlier state.
    ///
    /// A table that came after the one and was gone before the other differs in neither.
    /// Sessions that follow these states are told all the same that they are past it: the
    /// removal of its instances waits until they have said so.
    pub fn has_left_since(&self, before: &Self) -> bool {
        let since = before.meta.index;
        before.instances.diff(&self.instances).any(|change| match change {
            DiffItem::Add(_, record) | DiffItem::Update { new: (_, record), .. } => {
                record.left_table > since
            }
            DiffItem::Remove(..) => false,
        })
    }
}
