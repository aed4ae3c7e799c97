//! Decisions about an update, made again from what the planner saw.
//!
//! The planner is a pure function, so that it has to decide the same from the same.
//! Where a later release decides otherwise, this says where; where it is the same
//! build, a difference is a fault. On which node an instance was placed is left out:
//! that depends on every other slice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::apply::INSTANCES_MAX;
use crate::command::Command;
use crate::ids::{InstanceId, NodeName, RevisionNo, SessionId, UpdateId};
use crate::level::since;
use crate::planner::{self, Holding, NodeView, SessionView, View};
use crate::records::{Desired, InputRecord, InstanceRecord, Observed, Seen, UpdateRecord};
use crate::state::{Meta, RowError, State, row_hash};

/// One decision, and the same decision now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Log index of the entry that has what was seen.
    pub index: u64,
    /// Log time of the look.
    pub now_ms: u64,
    /// What was decided.
    pub decided: Vec<Command>,
    /// What is decided now.
    pub now: Vec<Command>,
}

impl Replayed {
    /// Whether the decisions are the same, wherever instances are placed.
    pub fn is_same(&self) -> bool {
        let kinds = |commands: &[Command]| commands.iter().map(placeless).collect::<Vec<_>>();
        kinds(&self.decided) == kinds(&self.now)
    }
}

/// All decisions about an update of which is known what was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// In the order in which they were made.
    pub decisions: Vec<Replayed>,
    /// There were more than are written down.
    pub is_cut: bool,
}

/// Makes the decisions about an update again.
///
/// # Errors
/// A row of an input cannot be read.
pub fn replay(state: &State, update: &UpdateId) -> Result<Replay, RowError> {
    let mut replay = Replay::default();
    let mut rows: BTreeMap<String, String> = BTreeMap::new();
    for input in state.inputs_of(update) {
        let Some(seen) = &input.seen else {
            replay.is_cut = true;
            break;
        };
        fold(&mut rows, input);
        let seen_rows = rows.iter().map(|(key, row)| (key.clone(), row.clone().into_bytes()));
        let mut then = State::from_rows(seen_rows)?;
        fill(&mut then, seen);
        let Some(record) = then.updates.get(update).cloned() else { continue };
        replay.decisions.push(Replayed {
            index: input.index,
            now_ms: seen.now_ms,
            decided: input.decided.clone(),
            now: decide(&then, &record, seen),
        });
    }
    Ok(replay)
}

fn decide(state: &State, update: &UpdateRecord, seen: &Seen) -> Vec<Command> {
    let connected = || {
        let (busy, holding) = (BTreeSet::new(), Holding::able());
        SessionView::Connected { applied: u64::MAX, busy, holding }
    };
    let session = |id: &SessionId| {
        let view = seen.sessions.get(id).map_or_else(connected, SessionView::from);
        (id.clone(), view)
    };
    let node = |name: &NodeName| {
        let view = seen.nodes.get(name).map_or(NodeView::Reporting, |seen| (*seen).into());
        (name.clone(), view)
    };
    let verdict = seen.verdict.clone().map(|verdict| (update.id.clone(), verdict.into()));
    let view = View {
        state,
        now_ms: seen.now_ms,
        sessions: &state.sessions.keys().map(session).collect(),
        nodes: &state.nodes.keys().map(node).collect(),
        verdicts: &verdict.into_iter().collect(),
        table_age_max_ms: seen.table_age_max_ms,
        node_lost_ms: seen.node_lost_ms,
    };
    planner::plan_slice(&view, &update.slice).commands
}

/// Puts instances of others where there were some: they take room.
fn fill(state: &mut State, seen: &Seen) {
    let mut k = 0;
    for (node, count) in &seen.elsewhere {
        // There are no more of them anywhere, whatever a log says.
        for _ in 0..(*count).min(INSTANCES_MAX) {
            let slice: crate::coordinates::SliceName =
                "aether.replay:others".parse().expect("it is a name");
            state.put_instance(InstanceRecord {
                id: InstanceId::from_index("others", u64::MAX, k),
                slice,
                revision: RevisionNo(1),
                node: node.clone(),
                desired: Desired::Run,
                fence: Default::default(),
                desired_since_ms: 0,
                left_table: 0,
                observed: Observed::Ready,
                observed_since_ms: 0,
                endpoint: None,
                restarts: 0,
                reason: None,
                reload: None,
            });
            k += 1;
        }
    }
    state.settle();
}

/// A command without the places that it gives.
fn placeless(command: &Command) -> Command {
    let mut command = command.clone();
    if let Command::BeginDeploy { placements, .. } | Command::Assign { placements, .. } =
        &mut command
    {
        let nowhere: NodeName = "anywhere".parse().expect("it is a name");
        placements.fill(nowhere);
    }
    command
}

/// Most nodes, sessions and instances of a slice together of which rows are written
/// down: beyond it they would fill the bound of an update with its first look, and each
/// look would cost what they cost to write.
const ROWS_MAX: usize = 1_000;

/// Whether there is too much to be written down.
pub(crate) fn is_too_large(state: &State, update: &UpdateRecord) -> bool {
    let instances = state.instances_of(&update.slice).count();
    state.nodes.len() + state.sessions.len() + instances > ROWS_MAX
}

/// Whether more can be written down of an update.
pub(crate) fn takes_inputs(state: &State, update: &UpdateId) -> bool {
    state.inputs_of(update).next_back().is_none_or(|last| last.seen.is_some())
}

/// Rows as they are after an input.
pub(crate) fn fold(rows: &mut BTreeMap<String, String>, input: &InputRecord) {
    for (key, row) in &input.rows {
        match row {
            Some(row) => rows.insert(key.clone(), row.clone()),
            None => rows.remove(key),
        };
    }
}

/// The rows that a plan for the slice of an update reads.
pub(crate) fn rows_of(state: &State, update: &UpdateRecord) -> BTreeMap<String, String> {
    let slice = &update.slice;
    // Where the log stands is no matter for a plan, and would be another row each time.
    let meta = Meta { index: 0, log_time_ms: 0, wall_ms: 0, ..state.meta.clone() };
    let mut part = State::default();
    part.meta = meta;
    macro_rules! copy {
        ($field:ident, $keys:expr) => {
            for key in $keys {
                if let Some(record) = state.$field.get(&key) {
                    part.$field.insert(key, record.clone());
                }
            }
        };
    }
    copy!(slices, [slice.clone()]);
    copy!(routes, [slice.clone()]);
    copy!(retained, [slice.clone()]);
    copy!(updates, [update.id.clone()]);
    copy!(nodes, state.nodes.keys().cloned());
    copy!(sessions, state.sessions.keys().cloned());
    let of_slice = |no| (slice.clone(), no);
    let targets = state.targets.range(of_slice(RevisionNo(0))..=of_slice(RevisionNo(u32::MAX)));
    copy!(targets, targets.map(|(key, _)| key.clone()));
    let mut used: Vec<_> = state.instances_of(slice).map(|i| i.revision).collect();
    used.push(update.new.revision);
    used.extend(update.old.as_ref().map(|old| old.revision));
    used.extend(state.retained.get(slice).map(|kept| kept.side.revision));
    copy!(revisions, used.into_iter().map(of_slice));
    if let Some(evidence) = state.evidence.get(&update.id) {
        // What each session has told is for who counts.
        let mut evidence = (**evidence).clone();
        evidence.marks.clear();
        part.evidence.insert(update.id.clone(), evidence.into());
    }
    for instance in state.instances_of(slice) {
        part.put_instance((**instance).clone());
    }
    let text = |row: Vec<u8>| String::from_utf8(row).expect("JSON is text");
    part.rows().into_iter().map(|(key, row)| (key, text(row))).collect()
}

/// What tells whether rows are those that a leader saw.
pub(crate) fn hash_of(rows: &BTreeMap<String, String>) -> String {
    let hashes = rows.iter().map(|(key, row)| row_hash(key, row.as_bytes()));
    format!("{:032x}", hashes.fold(0u128, u128::wrapping_add))
}

/// What of it a plan for an update looks at.
fn held_for(update: &UpdateRecord, holding: &Holding) -> Holding {
    let mut holding = match update.strategy.has_barrier() {
        true => holding.clone(),
        false => Holding::able(),
    };
    holding.late.retain(|slice, _| *slice == update.slice);
    holding
}

/// What a leader saw when it planned, as far as it is not in the state, for one update.
/// `before` is what the same look decided about other slices.
fn seen(view: &View<'_>, update: &UpdateRecord, before: &[Command]) -> Seen {
    let is_plain = |view: &SessionView, index: u64| match view {
        SessionView::Connected { applied, busy, holding } => {
            *applied >= index && busy.is_empty() && holding.is_plain()
        }
        SessionView::Awaited | SessionView::Unreachable { .. } => false,
    };
    let route = view.state.routes.get(&update.slice);
    let route = route.map_or(0, |route| route.route_revision.max(route.table_revision));
    let left = view.state.instances_of(&update.slice).map(|i| i.left_table).max();
    let last = route.max(left.unwrap_or(0));
    let session = |id: &SessionId| {
        let mut seen = view.sessions.get(id).cloned().unwrap_or(SessionView::Awaited);
        if let SessionView::Connected { holding, .. } = &mut seen {
            *holding = held_for(update, holding);
        }
        (!is_plain(&seen, last)).then(|| (id.clone(), (&seen).into()))
    };
    let node = |name: &NodeName| {
        let seen = view.nodes.get(name).copied().unwrap_or(NodeView::Awaited);
        (seen != NodeView::Reporting).then(|| (name.clone(), seen.into()))
    };
    let mut elsewhere: BTreeMap<NodeName, u32> = BTreeMap::new();
    let others = view.state.instances.values().filter(|i| i.slice != update.slice);
    for instance in others.filter(|i| i.desired != Desired::Stop) {
        *elsewhere.entry(instance.node.clone()).or_default() += 1;
    }
    for command in before {
        if let Command::BeginDeploy { placements, .. } | Command::Assign { placements, .. } =
            command
        {
            for node in placements {
                *elsewhere.entry(node.clone()).or_default() += 1;
            }
        }
    }
    Seen {
        now_ms: view.now_ms,
        sessions: view.state.sessions.keys().filter_map(session).collect(),
        nodes: view.state.nodes.keys().filter_map(node).collect(),
        verdict: view.verdicts.get(&update.id).cloned().map(Into::into),
        elsewhere,
        table_age_max_ms: view.table_age_max_ms,
        node_lost_ms: view.node_lost_ms,
    }
}

/// The commands that write down what was seen of updates before those of `commands`
/// that were decided about each. None before all who share the log know of them.
pub(crate) fn inputs(
    view: &View<'_>,
    decided: &[(&UpdateId, Range<usize>)],
    commands: &[Command],
) -> Vec<Command> {
    if view.state.meta.feature_level < since::INPUTS {
        return Vec::new();
    }
    let input = |(id, range): &(&UpdateId, Range<usize>)| {
        let update = view.state.updates.get(*id).filter(|u| takes_inputs(view.state, &u.id))?;
        let rows = match is_too_large(view.state, update) {
            true => String::new(),
            false => hash_of(&rows_of(view.state, update)),
        };
        Some(Command::RecordInput {
            update: update.id.clone(),
            rows,
            seen: seen(view, update, &commands[..range.start]),
            decided: commands.get(range.clone())?.to_vec(),
        })
    };
    decided.iter().filter_map(input).collect()
}
