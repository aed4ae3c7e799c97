//! Which node gets the next instance: spread each revision over the nodes, then
//! each slice, then the load. What an update removes in the end does not decide
//! where the new revision stays.

use std::collections::BTreeMap;

use super::View;
use crate::coordinates::SliceName;
use crate::ids::{NodeName, RevisionNo};
use crate::records::Desired;

#[derive(Default)]
struct Load {
    room: u32,
    total: u32,
    by_slice: BTreeMap<SliceName, u32>,
    by_revision: BTreeMap<(SliceName, RevisionNo), u32>,
}

/// Counts what runs where, once a pass, and places on top of it.
pub struct Placer {
    nodes: BTreeMap<NodeName, Load>,
}

impl Placer {
    /// Looks at the nodes that report.
    pub fn new(view: &View<'_>) -> Self {
        let mut nodes: BTreeMap<NodeName, Load> = view
            .state
            .nodes
            .values()
            .filter(|node| !view.silent_nodes.contains(&node.name))
            .map(|node| {
                let load = Load { room: node.instances_max, ..Load::default() };
                (node.name.clone(), load)
            })
            .collect();
        for instance in view.state.instances.values() {
            if instance.desired != Desired::Stop
                && let Some(load) = nodes.get_mut(&instance.node)
            {
                load.take(&instance.slice, instance.revision);
            }
        }
        Self { nodes }
    }

    /// Nodes for `count` more instances of a revision, all or none.
    ///
    /// # Errors
    /// The room that there is, when it is not enough.
    pub fn place(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        count: u32,
    ) -> Result<Vec<NodeName>, u32> {
        match self.room() {
            room if room < count => Err(room),
            _ => Ok(self.place_up_to(slice, revision, count)),
        }
    }

    /// How many more instances there is room for.
    pub fn room(&self) -> u32 {
        self.nodes.values().map(|load| load.room).fold(0, u32::saturating_add)
    }

    /// Nodes for as many as there is room for, at most `count`. Fewest of the
    /// revision first, then of the slice, then fewest at all, then by name.
    pub fn place_up_to(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        count: u32,
    ) -> Vec<NodeName> {
        let key = (slice.clone(), revision);
        let mut placed = Vec::new();
        for _ in 0..count {
            let best = self
                .nodes
                .iter_mut()
                .filter(|(_, load)| load.room > 0)
                .min_by_key(|(_, load)| (load.of_revision(&key), load.of(slice), load.total));
            let Some((name, load)) = best else { break };
            load.take(slice, revision);
            placed.push(name.clone());
        }
        placed
    }

    /// How many instances a node runs, for choosing which to remove.
    pub(super) fn total(&self, node: &NodeName) -> u32 {
        self.nodes.get(node).map_or(u32::MAX, |load| load.total)
    }
}

impl Load {
    fn of(&self, slice: &SliceName) -> u32 {
        self.by_slice.get(slice).copied().unwrap_or(0)
    }

    fn of_revision(&self, key: &(SliceName, RevisionNo)) -> u32 {
        self.by_revision.get(key).copied().unwrap_or(0)
    }

    fn take(&mut self, slice: &SliceName, revision: RevisionNo) {
        self.room = self.room.saturating_sub(1);
        self.total += 1;
        *self.by_slice.entry(slice.clone()).or_default() += 1;
        *self.by_revision.entry((slice.clone(), revision)).or_default() += 1;
    }
}
