//! Deploy, scale and undeploy, outside of updates.

use std::sync::Arc;

use super::{INSTANCES_MAX, REVISIONS_MAX, Tx};
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::{COORDINATE_BYTES_MAX, SliceName, Version};
use crate::ids::{ConfigNo, RevisionNo};
use crate::level::since;
use crate::manifest::Manifest;
use crate::records::{
    ArtifactRecord, Colour, Desired, NodeLifecycle, NodeRecord, Reason, RevisionRecord,
    RouteRecord, SetVersion, Side, SliceRecord, UpdateState,
};
use crate::weights::Weights;
use crate::words::counted;

impl Tx<'_> {
    pub(super) fn check_instances(&self, instances: u32) -> Result<(), Refusal> {
        if (1..=INSTANCES_MAX).contains(&instances) {
            return Ok(());
        }
        Err(Refusal::BadInstances { given: instances, most: INSTANCES_MAX })
    }

    /// Whether the nodes that report, take new instances and suit the manifest
    /// have room for this many more, or will have when what drains is gone.
    pub(super) fn check_room(&self, needed: u32, manifest: &Manifest) -> Result<(), Refusal> {
        let placement = &manifest.placement;
        let takes = |node: &&Arc<NodeRecord>| {
            node.lifecycle == NodeLifecycle::Ready
                && node.schedule.is_open()
                && placement.suits(&node.labels)
        };
        let room: u64 = self
            .state
            .nodes
            .values()
            .filter(takes)
            .map(|node| {
                let here = self.state.instances_on(&node.name);
                let used = here.filter(|i| i.desired == Desired::Run).count();
                u64::from(node.instances_max).saturating_sub(used as u64)
            })
            .sum();
        if room >= u64::from(needed) {
            return Ok(());
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        Err(Refusal::NoCapacity { needed, room, placement: placement.to_string() })
    }

    /// Refuses while an update of the slice is live.
    pub(super) fn check_no_update(&self, slice: &SliceName) -> Result<(), Refusal> {
        match self.state.live_update(slice) {
            None => Ok(()),
            Some(update) => Err(Refusal::UpdateLive {
                slice: slice.clone(),
                update: update.id.clone(),
                state: update.state,
            }),
        }
    }

    /// The slice's record, a fresh one if nothing of it is deployed.
    pub(super) fn slice_or_new(&self, slice: &SliceName) -> SliceRecord {
        self.slice(slice).unwrap_or_else(|_| SliceRecord {
            last_revision: self.state.meta.revisions_forgotten,
            ..SliceRecord::empty(slice.clone())
        })
    }

    /// The artifact of a slice's version.
    pub(super) fn known_artifact(
        &self,
        slice: &SliceName,
        version: &Version,
    ) -> Result<Arc<ArtifactRecord>, Refusal> {
        let artifact = slice.base().at(version.clone());
        if let Some(known) = self.state.artifacts.get(&artifact) {
            return Ok(Arc::clone(known));
        }
        let bytes = artifact.to_string().len();
        if bytes > COORDINATE_BYTES_MAX {
            // Each part is short enough, but not both together: there can be no
            // such artifact, and a refusal that names it could not be read.
            return Err(Refusal::BadOption {
                what: "group:artifact:version".to_owned(),
                given: format!("{bytes} bytes"),
                expected: format!("at most {COORDINATE_BYTES_MAX} bytes long"),
            });
        }
        Err(Refusal::UnknownArtifact { artifact, is_sought: false })
    }

    /// Makes the next revision of a slice from a known artifact. The caller
    /// writes the slice's record.
    pub(super) fn make_revision(
        &mut self,
        record: &mut SliceRecord,
        version: &Version,
        config: Option<ConfigNo>,
        restarts: u32,
    ) -> Result<Side, Refusal> {
        let known = self.known_artifact(&record.slice, version)?;
        record.last_revision.0 += 1;
        let serves = record.current.and_then(|no| self.state.colour(&record.slice, no));
        let colour = match serves {
            Some(colour) if self.state.meta.feature_level >= since::COLOURS => colour.other(),
            _ => Colour::Blue,
        };
        let revision = RevisionRecord {
            slice: record.slice.clone(),
            no: record.last_revision,
            version: version.clone(),
            digest: known.digest.clone(),
            manifest: Arc::clone(&known.manifest),
            created: self.index(),
            colour,
            config,
            restarts,
        };
        let key = (record.slice.clone(), revision.no);
        self.state.revisions.insert(key, Arc::new(revision));
        self.forget_revisions(&record.slice);
        Ok(Side { revision: record.last_revision, version: version.clone() })
    }

    /// Lets go of old revisions that nothing refers to.
    fn forget_revisions(&mut self, slice: &SliceName) {
        let numbers: Vec<RevisionNo> = self
            .state
            .revisions
            .range((slice.clone(), RevisionNo(0))..=(slice.clone(), RevisionNo(u32::MAX)))
            .map(|((_, no), _)| *no)
            .collect();
        let surplus = numbers.len().saturating_sub(REVISIONS_MAX);
        for no in numbers.into_iter().take(surplus) {
            let key = (slice.clone(), no);
            let current = self.state.slices.get(slice).and_then(|record| record.current);
            let used = current == Some(no)
                || self.state.targets.contains_key(&key)
                || self.state.instances_of(slice).any(|i| i.revision == no);
            if !used {
                self.state.revisions.remove(&key);
            }
        }
    }

    pub(super) fn deploy(
        &mut self,
        slice: &SliceName,
        version: &Version,
        instances: u32,
    ) -> Outcome {
        self.check_instances(instances)?;
        self.check_no_update(slice)?;
        let mut record = self.slice_or_new(slice);
        if let Some(current) = record.current {
            let deployed = self.state.revisions.get(&(slice.clone(), current));
            return Err(Refusal::AlreadyDeployed {
                slice: slice.clone(),
                version: deployed.map_or_else(|| version.clone(), |r| r.version.clone()),
            });
        }
        let config = self.state.next_config(slice, None, None)?;
        let side = self.make_revision(&mut record, version, config, 0)?;
        let revision = self.state.revisions[&(slice.clone(), side.revision)].clone();
        self.check_room(instances, &revision.manifest)?;
        record.current = Some(side.revision);
        record.instances = instances;
        self.put_slice(record);
        self.put_target(slice, side.revision, instances);
        let note = self.rules_of_others(slice, &revision.manifest.ingress);
        self.route_to(slice, side);
        let event = format!("deployed {version} with {}", counted(instances, "instance"));
        self.audit(Subject::slice(slice), event);
        Ok(Answer { note, ..Answer::default() })
    }

    /// The route outside of updates: one version takes all.
    pub(super) fn route_to(&mut self, slice: &SliceName, side: Side) {
        self.put_route(RouteRecord {
            slice: slice.clone(),
            new: None,
            old: Some(side),
            weights: Weights::ALL_OLD,
            route_revision: 0,
            table_revision: 0,
            ingress: Vec::new(),
            hold: None,
        });
    }

    pub(super) fn scale(&mut self, slice: &SliceName, instances: u32) -> Outcome {
        self.check_instances(instances)?;
        let mut record = self.slice(slice)?;
        self.check_no_update(slice)?;
        let Some(current) = record.current else {
            return Err(Refusal::UnknownSlice { slice: slice.clone() });
        };
        if let Some(revision) = self.state.revisions.get(&(slice.clone(), current)) {
            let more = instances.saturating_sub(record.instances);
            self.check_room(more, &revision.manifest.clone())?;
        }
        record.instances = instances;
        self.put_slice(record);
        self.put_target(slice, current, instances);
        let event = format!("scaled to {}", counted(instances, "instance"));
        self.audit(Subject::slice(slice), event);
        let kept = self.state.retained.get(slice);
        let note = kept.filter(|kept| kept.instances < instances).map(|kept| {
            format!(
                "version {} is kept with {}, too few for 'aether update undo {}': before it, 'aether \
                 scale {slice} -n {}', or --force with it",
                kept.side.version,
                counted(kept.instances, "instance"),
                kept.update,
                kept.instances
            )
        });
        Ok(Answer { note, ..Answer::default() })
    }

    /// Says which version a slice is to have. Nothing moves.
    pub(super) fn set_current(&mut self, slice: &SliceName, version: &Version) -> Outcome {
        let mut record = self.slice(slice)?;
        self.known_artifact(slice, version)?;
        if record.current.is_none() && record.live_update.is_none() {
            return Err(Refusal::UnknownSlice { slice: slice.clone() });
        }
        record.set = Some(SetVersion {
            version: version.clone(),
            actor: self.actor.to_owned(),
            wall_ms: self.state.meta.wall_ms,
        });
        self.put_slice(record);
        self.audit(Subject::slice(slice), format!("set to {version}, until it is refreshed"));
        let note = format!("nothing moves until 'aether env refresh {slice}'");
        Ok(Answer { note: Some(note), ..Answer::default() })
    }

    pub(super) fn undeploy(&mut self, slice: &SliceName, version: Option<&Version>) -> Outcome {
        let mut record = self.slice(slice)?;
        if let Some(update) = self.state.live_update(slice).cloned() {
            return self.undeploy_new_side(&update, version);
        }
        let retained = self.state.retained.get(slice).map(|r| r.side.version.clone());
        if version.is_some() && version == retained.as_ref() {
            return self.retire(slice);
        }
        let Some(current) = record.current else {
            return self.withdraw_what_was_pushed(record, version);
        };
        let deployed =
            self.state.revisions.get(&(slice.clone(), current)).map(|r| r.version.clone());
        if let (Some(version), Some(deployed)) = (version, &deployed)
            && version != deployed
        {
            return Err(Refusal::NotDeployed {
                slice: slice.clone(),
                version: version.clone(),
                deployed: deployed.clone(),
            });
        }
        if retained.is_some() {
            self.retire(slice)?;
        }
        record.current = None;
        record.instances = 0;
        self.withdraw_configs(&mut record);
        self.put_slice(record);
        self.remove_route(slice);
        self.drain_revision(slice, current);
        self.audit(Subject::slice(slice), "undeployed".to_owned());
        self.forget_slice_if_empty(slice);
        Ok(Answer::default())
    }

    /// Of a slice of which nothing is deployed there may be configurations.
    fn withdraw_what_was_pushed(
        &mut self,
        mut record: SliceRecord,
        version: Option<&Version>,
    ) -> Outcome {
        let slice = record.slice.clone();
        if record.last_config.is_none() || version.is_some() {
            return Err(Refusal::UnknownSlice { slice });
        }
        self.withdraw_configs(&mut record);
        self.put_slice(record);
        self.audit(Subject::slice(&slice), "configurations withdrawn".to_owned());
        self.forget_slice_if_empty(&slice);
        Ok(Answer::default())
    }

    /// The guide's way out of a stuck rollback: the new side at weight 0 goes,
    /// without waiting for sessions that cannot be reached.
    fn undeploy_new_side(
        &mut self,
        update: &crate::records::UpdateRecord,
        version: Option<&Version>,
    ) -> Outcome {
        let Some(version) = version else {
            self.check_no_update(&update.slice)?;
            return Ok(Answer::default());
        };
        let idle = update.weights.new_side() == 0 && *version == update.new.version;
        if !idle || matches!(update.state, UpdateState::Completing) {
            return Err(Refusal::StillServing {
                slice: update.slice.clone(),
                version: version.clone(),
            });
        }
        let reason = Reason::new("undeployed", format!("version {version} was undeployed"));
        self.rollback(&update.id, true, Some(&reason), true, None)
    }
}
