//! Which node gets the next instance: spread each revision over the nodes, then
//! each slice, then the load. What an update removes in the end does not decide
//! where the new revision stays.

use std::cell::OnceCell;
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
}

/// What a node runs of one slice.
#[derive(Default, Clone, Copy)]
struct Share {
    of_slice: u32,
    of_revision: u32,
}

/// Counts what runs where, at most once a pass, and places on top of it.
pub struct Placer<'a> {
    view: &'a View<'a>,
    /// Nodes that report and take new instances. Counted when first asked for:
    /// most passes place nothing.
    nodes: OnceCell<BTreeMap<&'a NodeName, Load<'a>>>,
    /// What this pass has placed.
    placed: Vec<(SliceName, RevisionNo, NodeName)>,
}

impl<'a> Placer<'a> {
    /// Over what a pass looks at.
    pub fn new(view: &'a View<'a>) -> Self {
        Self { view, nodes: OnceCell::new(), placed: Vec::new() }
    }

    fn state(&self) -> &'a State {
        self.view.state
    }

    fn nodes(&self) -> &BTreeMap<&'a NodeName, Load<'a>> {
        self.nodes.get_or_init(|| loads(self.view))
    }

    fn nodes_mut(&mut self) -> &mut BTreeMap<&'a NodeName, Load<'a>> {
        self.nodes();
        self.nodes.get_mut().expect("they have just been counted")
    }

    fn manifest(&self, key: &(SliceName, RevisionNo)) -> Option<&'a Manifest> {
        self.state().revisions.get(key).map(|revision| &*revision.manifest)
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
        self.nodes().values().filter(suits).map(|load| load.room).fold(0, u32::saturating_add)
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
        let mut shares = self.shares(slice, revision);
        let mut in_domain: BTreeMap<Option<&str>, u32> = BTreeMap::new();
        if placement.spread.is_some() {
            for (name, load) in self.nodes() {
                let share = shares.get(*name).copied().unwrap_or_default();
                *in_domain.entry(placement.domain(load.labels)).or_default() += share.of_revision;
            }
        }
        let mut chosen = Vec::new();
        let mut nodes: Vec<_> = self
            .nodes_mut()
            .iter_mut()
            .filter(|(_, load)| placement.suits(load.labels))
            .map(|(name, load)| {
                let share = shares.remove(*name).unwrap_or_default();
                (*name, load, share)
            })
            .collect();
        for _ in 0..count {
            let best = nodes.iter_mut().filter(|(_, load, _)| load.room > 0).min_by_key(
                |(_, load, share)| {
                    let beside = in_domain.get(&placement.domain(load.labels)).copied();
                    (beside, share.of_revision, share.of_slice, load.total)
                },
            );
            let Some((name, load, share)) = best else { break };
            load.take();
            share.of_slice += 1;
            share.of_revision += 1;
            if let Some(beside) = in_domain.get_mut(&placement.domain(load.labels)) {
                *beside += 1;
            }
            chosen.push(name.clone());
        }
        let placed = chosen.iter().map(|node| (slice.clone(), revision, node.clone()));
        self.placed.extend(placed);
        chosen
    }

    /// What each node has of a slice that is to stay there, with what this pass
    /// has placed.
    fn shares(&self, slice: &SliceName, revision: RevisionNo) -> BTreeMap<NodeName, Share> {
        let there = self.state().instances_of(slice).filter(|i| i.desired != Desired::Stop);
        let there = there.map(|i| (i.revision, &i.node));
        let placed = self.placed.iter().filter(|(of, ..)| of == slice);
        let placed = placed.map(|(_, revision, node)| (*revision, node));
        let mut shares: BTreeMap<NodeName, Share> = BTreeMap::new();
        for (of, node) in there.chain(placed) {
            let share = shares.entry(node.clone()).or_default();
            share.of_slice += 1;
            share.of_revision += u32::from(of == revision);
        }
        shares
    }

    /// Why there is no place for more instances of a revision, as a clause.
    pub(super) fn why_no_place(&self, slice: &SliceName, revision: RevisionNo) -> String {
        let anywhere = Placement::default();
        let manifest = self.manifest(&(slice.clone(), revision));
        let placement = manifest.map_or(&anywhere, |manifest| &manifest.placement);
        let suits = self.nodes().values().any(|load| placement.suits(load.labels));
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
        self.nodes().get(node).map_or(u32::MAX, |load| load.total)
    }
}

/// What the nodes that report and take new instances have to carry.
fn loads<'a>(view: &View<'a>) -> BTreeMap<&'a NodeName, Load<'a>> {
    let takes = |node: &&'a Arc<NodeRecord>| {
        node.lifecycle == NodeLifecycle::Ready
            && node.schedule.is_open()
            && !view.is_silent(&node.name)
    };
    let load = |node: &'a Arc<NodeRecord>| {
        (&node.name, Load { labels: &node.labels, room: node.instances_max, total: 0 })
    };
    let mut nodes: BTreeMap<_, _> = view.state.nodes.values().filter(takes).map(load).collect();
    for instance in view.state.instances.values().filter(|i| i.desired != Desired::Stop) {
        if let Some(load) = nodes.get_mut(&instance.node) {
            load.take();
        }
    }
    nodes
}

impl Load<'_> {
    fn take(&mut self) {
        self.room = self.room.saturating_sub(1);
        self.total += 1;
    }
}
