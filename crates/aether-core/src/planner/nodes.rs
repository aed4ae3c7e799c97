//! Nodes that fall silent, are lost, or report again.
//!
//! A silent node is UNREACHABLE after one lease: its instances stay in the
//! tables, because calls may reach them all the same. When it has been so for
//! long it is LOST: others take its instances' place. When many nodes are silent
//! at once the likely cause is the network, and starting everything anew on the
//! rest would be the larger harm: then nobody counts as lost, and once that is
//! over each has its whole time again to come back.

use super::{NodeView, Plan, View};
use crate::command::Command;
use crate::records::NodeLifecycle;

/// Nodes that may be silent at once, out of so many, before nobody counts as
/// lost any more: a fifth, but one in any case.
fn silent_max(nodes: usize) -> usize {
    (nodes / 5).max(1)
}

pub(super) fn lifecycles(view: &View<'_>, plan: &mut Plan) {
    let nodes = &view.state.nodes;
    // Of one that a new leader has not heard yet, the record still holds.
    let is_silent = |node: &crate::records::NodeRecord| match view.nodes.get(&node.name) {
        Some(NodeView::Reporting) => false,
        Some(NodeView::Silent { .. }) => true,
        Some(NodeView::Awaited) | None => node.lifecycle != NodeLifecycle::Ready,
    };
    let silent = nodes.values().filter(|node| is_silent(node)).count();
    let frozen = silent > silent_max(nodes.len());
    let was_frozen = view.state.meta.replacement_frozen_since_ms.is_some();
    if frozen != was_frozen {
        let silent = u32::try_from(silent).unwrap_or(u32::MAX);
        plan.commands.push(Command::FreezeReplacement { frozen, silent });
    }
    for node in nodes.values() {
        let lifecycle = match (view.nodes.get(&node.name), node.lifecycle) {
            (Some(NodeView::Reporting), _) => NodeLifecycle::Ready,
            (Some(NodeView::Silent { .. }), NodeLifecycle::Ready) => NodeLifecycle::Unreachable,
            (Some(NodeView::Silent { since_ms }), NodeLifecycle::Unreachable)
                if !frozen && !was_frozen =>
            {
                let from_ms = node.since_ms.max(*since_ms);
                let from_ms = from_ms.max(view.state.meta.replacement_resumed_ms);
                let lost_at_ms = from_ms.saturating_add(view.node_lost_ms);
                if view.now_ms >= lost_at_ms {
                    NodeLifecycle::Lost
                } else {
                    plan.wake_at(lost_at_ms);
                    node.lifecycle
                }
            }
            (_, lifecycle) => lifecycle,
        };
        if lifecycle != node.lifecycle {
            let node = node.name.clone();
            plan.commands.push(Command::SetNodeLifecycle { node, lifecycle });
        }
    }
}
