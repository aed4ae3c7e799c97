//! Which node gets the next instance: spread each revision over the nodes, then
//! each slice, then the load. What an update removes in the end does not decide
//! where the new revision stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::View;
use crate::coordinates::SliceName;
use crate::ids::{NodeName, RevisionNo};
use crate::manifest::{Manifest, Placement};
use crate::records::{Desired, NodeLifecycle, NodeRecord};
use crate::state::State;

struct Load<'a> {
    labels: &'a BTreeMap<String, String>,
    room: u32,
    total: u32,
    by_slice: BTreeMap<SliceName, u32>,
    by_revision: BTreeMap<(SliceName, RevisionNo), u32>,
}

/// Counts what runs where, once a pass, and places on top of it.
pub struct Placer<'a> {
    state: &'a State,
    nodes: BTreeMap<NodeName, Load<'a>>,
}

impl<'a> Placer<'a> {
    /// Looks at the nodes that report and take new instances.
    pub fn new(view: &View<'a>) -> Self {
        let takes = |node: &&'a Arc<NodeRecord>| {
            node.lifecycle == NodeLifecycle::Ready
                && node.schedule.is_open()
                && !view.is_silent(&node.name)
        };
        let mut nodes: BTreeMap<NodeName, Load<'a>> = view
            .state
            .nodes
            .values()
            .filter(takes)
            .map(|node| {
                let load = Load {
                    labels: &node.labels,
                    room: node.instances_max,
                    total: 0,
                    by_slice: BTreeMap::new(),
                    by_revision: BTreeMap::new(),
                };
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
        Self { state: view.state, nodes }
    }

    fn manifest(&self, key: &(SliceName, RevisionNo)) -> Option<&'a Manifest> {
        self.state.revisions.get(key).map(|revision| &*revision.manifest)
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
        match self.room(slice, revision) {
            room if room < count => Err(room),
            _ => Ok(self.place_up_to(slice, revision, count)),
        }
    }

    /// How many more instances of a revision there is room for.
    pub fn room(&self, slice: &SliceName, revision: RevisionNo) -> u32 {
        let manifest = self.manifest(&(slice.clone(), revision));
        let suits = |load: &&Load<'_>| manifest.is_none_or(|m| m.placement.suits(load.labels));
        self.nodes.values().filter(suits).map(|load| load.room).fold(0, u32::saturating_add)
    }

    /// Nodes for as many as there is room for, at most `count`. First the
    /// failure domain with fewest of the revision, where there are domains; then
    /// fewest of the revision, then of the slice, then fewest at all, then by name.
    pub fn place_up_to(
        &mut self,
        slice: &SliceName,
        revision: RevisionNo,
        count: u32,
    ) -> Vec<NodeName> {
        let key = (slice.clone(), revision);
        let anywhere = Placement::default();
        let placement = self.manifest(&key).map_or(&anywhere, |manifest| &manifest.placement);
        let mut in_domain: BTreeMap<Option<&str>, u32> = BTreeMap::new();
        if placement.spread.is_some() {
            for load in self.nodes.values() {
                *in_domain.entry(placement.domain(load.labels)).or_default() +=
                    load.of_revision(&key);
            }
        }
        let mut placed = Vec::new();
        for _ in 0..count {
            let best = self
                .nodes
                .iter_mut()
                .filter(|(_, load)| load.room > 0 && placement.suits(load.labels))
                .min_by_key(|(_, load)| {
                    let beside = in_domain.get(&placement.domain(load.labels)).copied();
                    (beside, load.of_revision(&key), load.of(slice), load.total)
                });
            let Some((name, load)) = best else { break };
            load.take(slice, revision);
            if let Some(beside) = in_domain.get_mut(&placement.domain(load.labels)) {
                *beside += 1;
            }
            placed.push(name.clone());
        }
        placed
    }

    /// Why there is no place for more instances of a revision, as a clause.
    pub(super) fn why_no_place(&self, slice: &SliceName, revision: RevisionNo) -> String {
        let anywhere = Placement::default();
        let manifest = self.manifest(&(slice.clone(), revision));
        let placement = manifest.map_or(&anywhere, |manifest| &manifest.placement);
        let suits = self.nodes.values().any(|load| placement.suits(load.labels));
        match (suits, self.room(slice, revision)) {
            (false, _) if placement.require.is_empty() => {
                "no node reports and takes new instances".to_owned()
            }
            (false, _) => {
                format!("no node that reports and takes new instances has {}", placement.required())
            }
            (true, 0) => {
                format!("the nodes that report and take new instances{placement} have no room left")
            }
            (true, room) => format!(
                "the nodes that report and take new instances{placement} have room for {room} only"
            ),
        }
    }

    /// What would make place for them.
    pub(super) fn what_makes_place(&self, slice: &SliceName, revision: RevisionNo) -> String {
        let manifest = self.manifest(&(slice.clone(), revision));
        let required = manifest.map(|manifest| manifest.placement.required()).unwrap_or_default();
        let with = if required.is_empty() { "" } else { " with " };
        format!("add a node{with}{required}, uncordon one, or scale something down")
    }

    /// How many instances a node runs, for choosing which to remove.
    pub(super) fn total(&self, node: &NodeName) -> u32 {
        self.nodes.get(node).map_or(u32::MAX, |load| load.total)
    }
}

impl Load<'_> {
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
