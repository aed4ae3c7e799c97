//! What an update would do, before anything starts.
//!
//! Nothing here guesses: the update is carried out, from its start to COMPLETED,
//! on a copy of the state by the very planner and `apply` that would carry it
//! out for real, in a world where instances become ready at once, sessions
//! answer at once, and a person takes the guide's recommended steps. So the
//! schedule has every entry that the real one would have, its times are the
//! least that are possible, and its peak is the one that would be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::apply::{Position, instances_needed};
use crate::command::{Command, Observation, Refusal, Request};
use crate::coordinates::{SliceName, Version};
use crate::diff::Change;
use crate::evidence::{self, Tallies};
use crate::ids::{NodeName, UpdateId};
use crate::planner::{self, Holding, NodeView, SessionView, View};
use crate::records::{
    Colour, Desired, GateVerdict, InstanceRecord, NodeLifecycle, Observed, Remake, RevisionRecord,
    Side, UpdateRecord, UpdateState,
};
use crate::state::State;
use crate::weights::Weights;

/// Looks at the world before a preview gives up: an update takes some twenty
/// entries, and a large one a few more.
const ROUNDS_MAX: u32 = 1_000;

/// Calls without a failure that clear any version: a thousand times as many as the
/// strictest preset allows one of to fail.
const HEALTHY_REQUESTS: u64 = 1_000_000;

/// The guide's recommended progression.
pub const RATIOS: [(u64, u64); 5] = [(1, 9), (1, 3), (1, 1), (3, 1), (1, 0)];

/// One entry of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Least time from the start until then, milliseconds.
    pub after_ms: u64,
    /// State after it.
    pub state: UpdateState,
    /// Weights after it.
    pub weights: Weights,
    /// What happens.
    pub event: String,
    /// A person takes this step; otherwise the cluster does by itself.
    pub by_person: bool,
    /// Instances of the slice after it, of all versions.
    pub instances: u32,
}

/// A ratio that the capacity guard would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRatio {
    /// The ratio.
    pub weights: Weights,
    /// Instances that the new version would need for it.
    pub needed: u32,
    /// Instances that it would have.
    pub ready: u32,
}

/// Instances of the slice on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLoad {
    /// The node.
    pub node: NodeName,
    /// Before the update.
    pub before: u32,
    /// At the peak of this node.
    pub peak: u32,
    /// After the update.
    pub after: u32,
    /// Instances of all slices at the peak of this node.
    pub total_peak: u32,
    /// Most that it takes.
    pub most: u32,
}

/// What an update would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Why it would be refused, if it would. Then nothing else is said but what
    /// it would move between.
    pub refusal: Option<Refusal>,
    /// What it would move from.
    pub old: Option<Side>,
    /// Wanted instances of the new version.
    pub instances: u32,
    /// How the two revisions differ.
    pub changes: Vec<Change>,
    /// The entries in their order.
    pub steps: Vec<Step>,
    /// Ratios of the guide that the new version could not carry.
    pub refused_ratios: Vec<RefusedRatio>,
    /// The set that the start retires.
    pub retires: Option<Side>,
    /// Instances of the slice before, at the peak, and after.
    pub instances_before: u32,
    /// The most instances of the slice at any time.
    pub instances_peak: u32,
    /// Instances of the slice after.
    pub instances_after: u32,
    /// By node, where the slice has or would have instances.
    pub nodes: Vec<NodeLoad>,
    /// Least time until it is complete, milliseconds, if nobody hesitates.
    pub least_ms: u64,
    /// What it would wait for without an end, if anything.
    pub stuck: Option<String>,
}

/// What this request, a [`Command::StartUpdate`] or [`Command::StartWith`], would do
/// now, at log time `now_ms`.
pub fn preview(state: &State, request: &Request, now_ms: u64) -> Option<Preview> {
    let (slice, version, remake) = match &request.command {
        Command::StartUpdate { slice, version, .. } => (slice, version, Remake::default()),
        Command::StartWith { slice, version, remake, .. } => (slice, version, *remake),
        _ => return None,
    };
    let old = state
        .slices
        .get(slice)
        .and_then(|record| state.revisions.get(&(slice.clone(), record.current?)));
    let mut world = World::new(state, slice, now_ms);
    let mut preview = Preview {
        refusal: None,
        old: old.map(|r| Side { revision: r.no, version: r.version.clone() }),
        instances: 0,
        changes: Vec::new(),
        steps: Vec::new(),
        refused_ratios: Vec::new(),
        retires: state.retained.get(slice).map(|kept| kept.side.clone()),
        instances_before: world.count(),
        instances_peak: 0,
        instances_after: 0,
        nodes: Vec::new(),
        least_ms: 0,
        stuck: None,
    };
    preview.changes = changes(state, slice, version, remake, old.map(|old| &**old));
    let before = world.by_node();
    match world.apply(&request.actor, request.command.clone()) {
        Err(refusal) => {
            preview.refusal = Some(refusal);
            preview.retires = None;
        }
        Ok(answer) => {
            let id = answer?;
            preview.stuck = world.walk(&id, &mut preview.refused_ratios);
            let update = world.state.updates.get(&id).cloned()?;
            preview.instances = update.instances;
            preview.least_ms = world.now_ms - now_ms;
            preview.steps = world.steps(&update, &request.actor, now_ms);
        }
    }
    preview.instances_after = world.count();
    preview.instances_peak = world.peak;
    preview.nodes = world.loads(&before);
    Some(preview)
}

/// How the revision that it would move to differs from the one that serves; nothing
/// where there can be no such revision.
fn changes(
    state: &State,
    slice: &SliceName,
    version: &Version,
    remake: Remake,
    old: Option<&RevisionRecord>,
) -> Vec<Change> {
    let Some(artifact) = state.artifacts.get(&slice.base().at(version.clone())) else {
        return Vec::new();
    };
    let Ok(config) = state.next_config(slice, old, remake.config) else { return Vec::new() };
    let same = old.filter(|old| old.version == *version);
    let restart = same.is_some() && remake.restart;
    let new = RevisionRecord {
        slice: slice.clone(),
        no: crate::ids::RevisionNo(0),
        version: version.clone(),
        digest: artifact.digest.clone(),
        manifest: Arc::clone(&artifact.manifest),
        created: 0,
        colour: Colour::Blue,
        config,
        restarts: same.map_or(0, |old| old.restarts).saturating_add(restart.into()),
    };
    state.differences(old, &new)
}

/// The world of a preview.
struct World<'a> {
    state: State,
    slice: &'a SliceName,
    now_ms: u64,
    started_index: u64,
    nodes: BTreeMap<NodeName, NodeView>,
    /// Instances of the slice by the log index after which there were so many.
    counts: BTreeMap<u64, u32>,
    peak: u32,
    /// Most of the slice, and of all slices, that each node ever had.
    peaks: BTreeMap<NodeName, (u32, u32)>,
}

impl<'a> World<'a> {
    fn new(state: &State, slice: &'a SliceName, now_ms: u64) -> Self {
        let seen = |lifecycle| match lifecycle {
            NodeLifecycle::Ready => NodeView::Reporting,
            NodeLifecycle::Unreachable | NodeLifecycle::Lost => NodeView::Silent { since_ms: 0 },
        };
        let nodes = state.nodes.values().map(|node| (node.name.clone(), seen(node.lifecycle)));
        let mut world = Self {
            state: state.clone(),
            slice,
            now_ms,
            started_index: state.meta.index,
            nodes: nodes.collect(),
            counts: BTreeMap::new(),
            peak: 0,
            peaks: BTreeMap::new(),
        };
        world.note();
        world
    }

    fn running(&self) -> impl Iterator<Item = &Arc<InstanceRecord>> {
        let lives =
            |i: &&Arc<InstanceRecord>| !matches!(i.observed, Observed::Stopped | Observed::Unknown);
        self.state.instances_of(self.slice).filter(lives)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.running().count()).unwrap_or(u32::MAX)
    }

    fn by_node(&self) -> BTreeMap<NodeName, u32> {
        let mut counts = BTreeMap::new();
        for instance in self.running() {
            *counts.entry(instance.node.clone()).or_default() += 1;
        }
        counts
    }

    /// Takes note of what there is now.
    fn note(&mut self) {
        let count = self.count();
        self.counts.insert(self.state.meta.index, count);
        self.peak = self.peak.max(count);
        for (node, count) in self.by_node() {
            let here = |i: &&Arc<InstanceRecord>| i.desired != Desired::Stop;
            let total = self.state.instances_on(&node).filter(here).count();
            let peak = self.peaks.entry(node).or_default();
            *peak = (peak.0.max(count), peak.1.max(u32::try_from(total).unwrap_or(u32::MAX)));
        }
    }

    fn apply(&mut self, actor: &str, command: Command) -> Result<Option<UpdateId>, Refusal> {
        let index = self.state.meta.index + 1;
        // Of a term that no fence of the present one is older than.
        let at = Position { term: u64::MAX, index, log_time_ms: self.now_ms, wall_ms: 0 };
        let request = Request { request_id: None, actor: actor.to_owned(), command };
        let answer = self.state.apply(at, &request)?;
        self.note();
        Ok(answer.update)
    }

    /// One look of the planner and what its commands lead to. Whether anything
    /// happened, and when to look again if nothing did.
    fn look(&mut self) -> (bool, planner::Plan) {
        let answered = |id: &crate::ids::SessionId| {
            let applied = self.state.meta.index;
            let (busy, holding) = (BTreeSet::new(), Holding::able());
            (id.clone(), SessionView::Connected { applied, busy, holding })
        };
        let sessions = self.state.sessions.keys().map(answered).collect();
        let plan = planner::plan_slice(
            &View {
                state: &self.state,
                now_ms: self.now_ms,
                sessions: &sessions,
                nodes: &self.nodes,
                verdicts: &BTreeMap::new(),
                table_age_max_ms: u64::MAX,
                node_lost_ms: u64::MAX,
            },
            self.slice,
        );
        let mut any = false;
        for command in plan.commands.clone() {
            any |= self.apply("coordinator", command).is_ok();
        }
        for asked in &plan.measurements {
            // Nobody is asked; what they would say is hoped for, like health.
            let passed = asked.answered(GateVerdict::Pass, String::new());
            any |= self.apply("coordinator", passed).is_ok();
        }
        (self.agents_act() || any, plan)
    }

    /// What was assigned is ready, what was told to stop has ended.
    fn agents_act(&mut self) -> bool {
        let mut reports: BTreeMap<NodeName, Vec<Observation>> = BTreeMap::new();
        let reporting = |node| self.nodes.get(node) == Some(&NodeView::Reporting);
        for instance in self.state.instances_of(self.slice).filter(|i| reporting(&i.node)) {
            let reloads = instance.reload.as_ref().filter(|reload| !reload.done);
            let reloaded = reloads.map(|reload| reload.at);
            let observed = match (instance.desired, instance.observed) {
                (Desired::Stop, _) => Observed::Stopped,
                (Desired::Run, Observed::Assigned) => Observed::Ready,
                (Desired::Run, observed) if reloaded.is_some() => observed,
                _ => continue,
            };
            reports.entry(instance.node.clone()).or_default().push(Observation {
                instance: instance.id.clone(),
                observed,
                endpoint: instance.endpoint.or(Some(([127, 0, 0, 1], 1).into())),
                restarts: instance.restarts,
                reason: None,
                reloaded,
            });
        }
        let any = !reports.is_empty();
        for (node, observations) in reports {
            let _ = self.apply("agents", Command::Observe { node, observations });
        }
        any
    }

    /// Goes on until the update has ended, or waits for what does not come.
    fn walk(&mut self, id: &UpdateId, refused: &mut Vec<RefusedRatio>) -> Option<String> {
        let mut ratios = RATIOS.iter();
        for _ in 0..ROUNDS_MAX {
            let (any, plan) = self.look();
            let update = self.state.updates.get(id)?.clone();
            if update.state.is_terminal() {
                return None;
            }
            if any {
                continue;
            }
            let serving = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
            if serving && update.progress.is_some() && self.show_health(&update) {
                continue;
            }
            let waits_for = |code| {
                let waits = plan.waits.get(self.slice);
                waits.is_some_and(|waits| waits.iter().any(|wait| wait.code == code))
            };
            let by_hand = update.progress.is_none();
            if serving && waits_for("promotion") {
                let update = id.clone();
                let (full, force, if_modified) = (false, false, None);
                let promote = Command::Promote { update, full, force, if_modified };
                let _ = self.apply("person", promote);
            } else if serving && update.pending_weights.is_some() {
                let update = id.clone();
                let approve = Command::Approve { update, weights: None, if_modified: None };
                let _ = self.apply("person", approve);
            } else if serving && by_hand && update.weights == Weights::ALL_NEW {
                let _ = self.apply(
                    "person",
                    Command::Complete { update: id.clone(), force: false, if_modified: None },
                );
            } else if serving
                && by_hand
                && let Some((new, old)) = ratios.next()
            {
                self.shift(&update, Weights::new(*new, *old).ok()?, refused);
            } else {
                // Time passes only while nothing else happens.
                let waits = plan.waits.get(self.slice).and_then(|waits| waits.first());
                let due = plan.wake_at_ms.filter(|at| *at > self.now_ms);
                let deadline = update.deadline.as_ref().map(|deadline| deadline.at_ms);
                match due {
                    Some(at_ms) if Some(at_ms) != deadline => self.now_ms = at_ms,
                    _ => return Some(waits.map_or_else(String::new, |w| w.message.clone())),
                }
            }
        }
        Some("it takes more entries than a preview looks at".to_owned())
    }

    /// Has as many healthy calls reach both versions as a verdict takes. Whether that
    /// was not so already.
    fn show_health(&mut self, update: &UpdateRecord) -> bool {
        let least = update.options.thresholds.requests_min.max(HEALTHY_REQUESTS);
        let Some(record) = self.state.evidence.get(&update.id) else { return false };
        let mut record = (**record).clone();
        let missing = least.saturating_sub(record.present().new.requests);
        let last = record.evidence.epochs().last_key_value().map(|(index, _)| *index);
        let Some(last) = last.filter(|_| missing > 0) else { return false };
        let all = |requests| evidence::Side { requests, timed: requests, ..Default::default() };
        let weights = update.weights;
        let old = missing * u64::from(weights.old_side()) / u64::from(weights.new_side().max(1));
        record.evidence.fold(last, Tallies { new: all(missing), old: all(old) });
        self.state.evidence.insert(update.id.clone(), record.into());
        true
    }

    fn shift(&mut self, update: &UpdateRecord, weights: Weights, refused: &mut Vec<RefusedRatio>) {
        let first = update.old.is_none();
        if first && weights != Weights::ALL_NEW {
            return;
        }
        let needed = instances_needed(weights.new_side(), weights, update.base_instances);
        let ready = self.state.ready_count(&update.slice, update.new.revision);
        let force = needed > ready;
        if force {
            refused.push(RefusedRatio { weights, needed, ready });
            // The schedule goes on to its end all the same.
            if weights != Weights::ALL_NEW {
                return;
            }
        }
        let update = update.id.clone();
        let _ =
            self.apply("person", Command::SetWeights { update, weights, force, if_modified: None });
    }

    fn steps(&self, update: &UpdateRecord, actor: &str, from_ms: u64) -> Vec<Step> {
        let count_after = |index: u64| self.counts.range(..=index).next_back().map_or(0, |c| *c.1);
        let entries = update.history.iter().filter(|entry| entry.index > self.started_index);
        entries
            .map(|entry| Step {
                after_ms: entry.log_time_ms.saturating_sub(from_ms),
                state: entry.state,
                weights: entry.weights,
                event: entry.event.clone(),
                by_person: entry.actor == "person" || entry.actor == actor,
                instances: count_after(entry.index),
            })
            .collect()
    }

    fn loads(&self, before: &BTreeMap<NodeName, u32>) -> Vec<NodeLoad> {
        let after = self.by_node();
        let load = |(node, (peak, total_peak)): (&NodeName, &(u32, u32))| NodeLoad {
            node: node.clone(),
            before: before.get(node).copied().unwrap_or(0),
            peak: *peak,
            after: after.get(node).copied().unwrap_or(0),
            total_peak: *total_peak,
            most: self.state.nodes.get(node).map_or(0, |record| record.instances_max),
        };
        self.peaks.iter().map(load).collect()
    }
}
