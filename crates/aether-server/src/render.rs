//! Records as the public messages that show them.

use std::collections::{BTreeMap, BTreeSet};

use aether_core::coordinates::SliceName;
use aether_core::evidence::{self, Side as Tallied};
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::planner;
use aether_core::records::{
    Bounds, DeadlineAction, Desired, InstanceRecord, NodeLifecycle, Observed, Reason,
    RetainedRecord, RevisionRecord, Side, Strategy, UpdateRecord,
};
use aether_core::state::State;
use aether_core::table::SliceTable;
use aether_proto::peer::UpdateView;
use aether_proto::v1;

use crate::services::gates;

/// The SCREAMING_SNAKE_CASE name that a unit variant serialises to.
fn name<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// A reason.
pub fn reason(reason: &Reason) -> v1::Reason {
    v1::Reason { code: reason.code.clone(), message: reason.message.clone() }
}

/// A revision, without what is in it.
pub fn revision(record: &RevisionRecord) -> v1::Revision {
    v1::Revision {
        number: record.no.0,
        version: record.version.to_string(),
        sha256: record.digest.clone(),
        config: record.config.map(|no| no.0),
        restarts: record.restarts,
    }
}

/// One instance.
pub fn instance(state: &State, record: &InstanceRecord, now_ms: u64) -> v1::Instance {
    let node = state.nodes.get(&record.node);
    let silent = node.filter(|node| node.lifecycle != NodeLifecycle::Ready);
    let (shown, since_ms) = match (silent, record.desired) {
        (Some(node), _) => (name(&node.lifecycle), node.since_ms),
        (None, Desired::Drain) => ("DRAINING".to_owned(), record.desired_since_ms),
        (None, Desired::Stop) => ("STOPPING".to_owned(), record.desired_since_ms),
        (None, Desired::Run) => (name(&record.observed), record.observed_since_ms),
    };
    let reloads = record.reload.as_ref().filter(|reload| !reload.done);
    let reloading = reloads.map(|_| v1::Reason {
        code: "reloading".to_owned(),
        message: "its process has not shown yet that it read its files again".to_owned(),
    });
    let revision = state.revisions.get(&(record.slice.clone(), record.revision));
    v1::Instance {
        instance_id: record.id.to_string(),
        slice: record.slice.to_string(),
        version: revision.map(|r| r.version.to_string()).unwrap_or_default(),
        revision: record.revision.0,
        node: record.node.to_string(),
        state: shown,
        endpoint: record.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        restarts: record.restarts,
        reason: record.reason.as_ref().map(reason).or(reloading),
        since_ms: now_ms.saturating_sub(since_ms),
        takes_calls: record.is_routable(),
    }
}

fn instances(
    state: &State,
    update: &UpdateRecord,
    revision: RevisionNo,
    now_ms: u64,
) -> Vec<v1::Instance> {
    let of_revision = state.instances_of(&update.slice).filter(|i| i.revision == revision);
    of_revision.map(|record| instance(state, record, now_ms)).collect()
}

/// One update at a log time; with the leader's view, what really happens and
/// what it waits for.
pub fn update(
    state: &State,
    record: &UpdateRecord,
    view: Option<&UpdateView>,
    now_ms: u64,
    as_of: v1::AsOf,
) -> v1::Update {
    // Once ended, neither route nor instances are this update's any more.
    let of_side = |side: &Side| match record.state.is_terminal() {
        true => Vec::new(),
        false => instances(state, record, side.revision, now_ms),
    };
    let table = state.slice_table(&record.slice).filter(|_| !record.state.is_terminal());
    let kept_revision = |side: &Side| {
        let kept = state.revisions.get(&(record.slice.clone(), side.revision));
        kept.map(|kept| revision(kept))
    };
    let effective = table.as_ref().and_then(SliceTable::effective_weights);
    let old_target = record.old.as_ref().and_then(|side| {
        state.targets.get(&(record.slice.clone(), side.revision)).map(|t| t.instances)
    });
    let thresholds = &record.options.thresholds;
    let kept = state.retained.get(&record.slice).filter(|kept| kept.update == record.id);
    v1::Update {
        update_id: record.id.to_string(),
        artifact_base: record.slice.to_string(),
        state: record.state.to_string(),
        old_version: record.old.as_ref().map(|side| side.version.to_string()),
        new_version: record.new.version.to_string(),
        routing: record.weights.to_string(),
        actual_new_ppm: view.and_then(|view| view.actual_new_ppm),
        actual_requests: view.map_or(0, |view| view.actual_requests),
        counted_ms: view.map(|view| view.counted_ms),
        effective_routing: effective.map(|w| w.to_string()).unwrap_or_default(),
        pending_routing: record.pending_weights.map(|w| w.to_string()),
        instances: record.instances,
        old_instances: old_target.unwrap_or(0),
        new_instances_state: of_side(&record.new),
        old_instances_state: record.old.as_ref().map(of_side).unwrap_or_default(),
        max_error_rate: f64::from(thresholds.error_rate_ppm) / 1_000_000.0,
        max_latency_ms: thresholds.p99_ms,
        require_manual_approval: record.options.manual_approval,
        cleanup_policy: name(&record.options.cleanup),
        pause: record.pause.as_ref().map(|pause| reason(&pause.reason)),
        deadline: deadline(record, now_ms),
        outcome: record.outcome.as_ref().map(reason),
        actor: record.actor.clone(),
        modified: record.modified,
        created_at: record.created_wall_ms,
        history: history(record),
        history_left_out: record.history_left_out,
        paused_ms: record.pause.as_ref().map(|pause| now_ms.saturating_sub(pause.since_ms)),
        min_requests: thresholds.requests_min,
        grace_ms: record.options.grace_ms,
        retained: kept.is_some(),
        retained_for_ms: kept.and_then(|kept| remaining_ms(kept, now_ms)),
        waits_for: view.map(waits_for).unwrap_or_default(),
        as_of: Some(as_of),
        note: String::new(),
        progress: progress(state, record, now_ms),
        old_revision: record.old.as_ref().and_then(kept_revision),
        new_revision: kept_revision(&record.new),
    }
}

/// How the new version compares with the old one.
pub fn comparison(decision: &evidence::Decision) -> v1::Comparison {
    use evidence::Verdict::{Continue, Inconclusive, InstanceOutlier, Promote, RollBack};
    let verdict = match &decision.verdict {
        Promote => "promote",
        RollBack => "roll_back",
        Continue => "continue",
        Inconclusive => "inconclusive",
        InstanceOutlier { .. } => "instance_outlier",
    };
    let tested = |compared: &evidence::Comparison| v1::Tested {
        worse_odds: compared.regression.value(),
        worse_odds_needed: compared.regression.needed(),
        sound_odds: compared.clearance.value(),
        sound_odds_needed: compared.clearance.needed(),
    };
    v1::Comparison {
        verdict: verdict.to_owned(),
        detail: decision.reason(),
        errors: Some(tested(&decision.errors)),
        latency: Some(tested(&decision.slow)),
        promote_if_alike_ms: decision.promote_if_alike_ms,
        roll_back_if_harmful_ms: decision.roll_back_if_harmful_ms,
    }
}

/// Where an update is on its way; absent where people set the ratio.
fn progress(state: &State, record: &UpdateRecord, now_ms: u64) -> Option<v1::Progress> {
    let (way, progress) = (record.way()?, record.progress.as_ref()?);
    let evidence = state.evidence.get(&record.id).filter(|_| record.step() > 0);
    let counts = |side: Tallied| v1::StepCounts {
        requests: side.requests,
        errors: side.errors,
        timed: side.timed,
        slow: side.slow,
    };
    let verify_ms = match &record.strategy {
        Strategy::BlueGreen(switch) => Some(switch.verify_ms),
        _ => None,
    };
    Some(v1::Progress {
        strategy: record.strategy.to_string(),
        steps: way.steps.iter().map(ToString::to_string).collect(),
        step: progress.step,
        held_ms: now_ms.saturating_sub(progress.since_ms),
        // One that was promoted ahead waits for its instances, not for approval.
        pending_step: progress.pending.filter(|_| record.pending_weights.is_some()),
        mixed_ms: progress.mixed_ms,
        on_failure: name(&way.analysis.on_failure),
        patience_ms: way.analysis.patience_ms,
        warm_up_ms: way.analysis.warm_up_ms,
        scale_with_weight: way.scale_with_weight,
        one_way_from: way.one_way_from,
        verify_ms,
        reload: record.strategy.is_reload(),
        new_counts: evidence.map(|evidence| counts(evidence.present().new)),
        old_counts: evidence.map(|evidence| counts(evidence.present().old)),
        late: evidence.map_or(0, |evidence| evidence.late),
        in_place: way.in_place.map(|bounds| in_place(state, record, bounds)),
        gates: way.analysis.gates.iter().map(gates::told).collect(),
        gate_states: gates::states(&way, progress, now_ms),
        barrier: record.strategy.has_barrier(),
        late_calls: progress.late_calls,
        promoted: record.is_promoted(),
    })
}

/// How far the replacement of instances has come.
fn in_place(state: &State, record: &UpdateRecord, bounds: Bounds) -> v1::InPlace {
    let live = |i: &&std::sync::Arc<InstanceRecord>| {
        !record.state.is_terminal() && i.observed != Observed::Stopped
    };
    let all: Vec<_> = state.instances_of(&record.slice).filter(live).collect();
    let is_new = |i: &InstanceRecord| i.revision == record.new.revision;
    let count = |of: &dyn Fn(&InstanceRecord) -> bool| {
        u32::try_from(all.iter().filter(|i| of(i)).count()).unwrap_or(u32::MAX)
    };
    let failed = all.iter().filter(|i| is_new(i) && i.desired == Desired::Run).filter_map(|i| {
        let Reason { code, message } = i.reason.as_ref().filter(|_| !i.is_updated())?;
        Some(format!("{} on {}: {code}: {message}", i.id, i.node))
    });
    v1::InPlace {
        ready: count(&InstanceRecord::is_routable),
        floor: bounds.floor,
        existing: count(&|_| true),
        ceiling: bounds.ceiling,
        updated: count(&|i| is_new(i) && i.is_updated()),
        failed: failed.collect(),
        not_reached: count(&|i| !is_new(i) && i.desired == Desired::Run),
    }
}

/// What happened to an update.
pub fn history(record: &UpdateRecord) -> Vec<v1::HistoryEntry> {
    let entries = record.history.iter().map(|entry| v1::HistoryEntry {
        index: entry.index,
        wall_ms: entry.wall_ms,
        actor: entry.actor.clone(),
        state: entry.state.to_string(),
        routing: entry.weights.to_string(),
        event: entry.event.clone(),
        reason: entry.reason.as_ref().map(reason),
    });
    entries.collect()
}

/// Says on which node each instance runs, if it is still there.
pub fn name_nodes(state: &State, instances: &mut [v1::InstanceHealth]) {
    for instance in instances {
        let id: Option<InstanceId> = instance.instance_id.parse().ok();
        let record = id.and_then(|id| state.instances.get(&id));
        instance.node = record.map(|record| record.node.to_string()).unwrap_or_default();
    }
}

/// How long a set is still kept; `None` if for ever.
fn remaining_ms(kept: &RetainedRecord, now_ms: u64) -> Option<i64> {
    kept.expires_at_ms.map(|at_ms| at_ms as i64 - now_ms as i64)
}

/// What needs a person's attention in the cluster as a whole.
pub fn alerts(state: &State, now_ms: u64) -> Vec<v1::Reason> {
    let frozen =
        state.meta.replacement_frozen_since_ms.map(|since_ms| frozen(state, since_ms, now_ms));
    frozen.into_iter().chain(no_capacity(state, now_ms)).collect()
}

fn frozen(state: &State, since_ms: u64, now_ms: u64) -> v1::Reason {
    let silent = state.nodes.values().filter(|n| n.lifecycle != NodeLifecycle::Ready);
    let names: Vec<&str> = silent.map(|node| node.name.as_str()).take(ALERTED_MAX).collect();
    v1::Reason {
        code: "replacement_frozen".to_owned(),
        message: format!(
            "{} of {} nodes are silent at once, for {} s: {}{}; none of them counts as lost until \
             most are back. Look at the network, or 'aether node forget' those that are gone for \
             good",
            state.nodes.values().filter(|n| n.lifecycle != NodeLifecycle::Ready).count(),
            state.nodes.len(),
            now_ms.saturating_sub(since_ms) / 1_000,
            names.join(", "),
            if names.len() == ALERTED_MAX { ", …" } else { "" },
        ),
    }
}

/// One alert for each slice with instances that have no place, as far as they
/// are named; the last says how many slices there are besides.
fn no_capacity(state: &State, now_ms: u64) -> Vec<v1::Reason> {
    let waits = planner::placement_waits(state, now_ms);
    let mut all = waits.iter().flat_map(|(slice, waits)| {
        let no_place = waits.iter().filter(|wait| wait.code == planner::NO_CAPACITY);
        no_place.map(move |wait| (slice, wait))
    });
    let alert = |message| v1::Reason { code: planner::NO_CAPACITY.to_owned(), message };
    let mut alerts: Vec<v1::Reason> = all
        .by_ref()
        .take(ALERTED_MAX)
        .map(|(slice, wait)| {
            let ago = now_ms.saturating_sub(wait.since_ms) / 1_000;
            let (message, unblock) = (&wait.message, &wait.unblock);
            alert(format!("{slice}: {message}, for {ago} s. To end this, {unblock}"))
        })
        .collect();
    let more = all.count();
    if more > 0 {
        alerts.push(alert(format!("{more} more of this kind; 'aether slices' shows them")));
    }
    alerts
}

/// Nodes named in an alert, and slices with one of their own: as many as fit into
/// a few lines.
const ALERTED_MAX: usize = 10;

/// What is waited for, each sentence once.
fn waits_for(view: &UpdateView) -> Vec<String> {
    once(view.waits.iter().map(|wait| wait.message.clone()))
}

fn once(sentences: impl Iterator<Item = String>) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for message in sentences {
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    messages
}

/// What instances wait for that have no place, by slice.
pub type PlacementWaits = BTreeMap<SliceName, Vec<planner::Wait>>;

fn deadline(record: &UpdateRecord, now_ms: u64) -> Option<v1::Deadline> {
    let deadline = record.deadline.as_ref()?;
    let in_ms = deadline.at_ms as i64 - now_ms as i64;
    Some(v1::Deadline { in_ms, action: name::<DeadlineAction>(&deadline.action) })
}

/// What the leader says of an update, as an explanation.
pub fn explanation(
    record: &UpdateRecord,
    view: Option<&UpdateView>,
    now_ms: u64,
    as_of: v1::AsOf,
) -> v1::Explanation {
    let mut waits: Vec<v1::Wait> = Vec::new();
    for wait in view.iter().flat_map(|view| &view.waits) {
        let same = |known: &v1::Wait| known.code == wait.code && known.message == wait.message;
        if !waits.iter().any(same) {
            waits.push(wait.clone());
        }
    }
    let mut next: Vec<String> = Vec::new();
    for wait in &waits {
        if !next.contains(&wait.unblock) {
            next.push(wait.unblock.clone());
        }
    }
    // That wait names both ways out of it.
    let is_told = waits.iter().any(|wait| wait.code == planner::PAUSED);
    match &record.pause {
        None => {}
        Some(_) if is_told => {}
        // Resumed, it would be paused again for the same reason at once.
        Some(pause) if pause.reason.code == planner::SESSION_UNREACHABLE => {
            let named = waits.iter().any(|wait| wait.code == planner::SESSION_UNREACHABLE);
            if !named {
                next.push(format!(
                    "'aether update {} {} --force' to go on without the sessions",
                    planner::force_verb(record),
                    record.id
                ));
            }
        }
        Some(_) => {
            next.push(format!("'aether update resume {}' to go on all the same", record.id));
        }
    }
    use aether_core::records::UpdateState::{Completing, Deployed, Deploying, Pending, Routing};
    let goes_back = matches!(record.state, Pending | Deploying | Deployed | Routing | Completing);
    if goes_back && !is_told && !record.is_one_way() {
        next.push(format!("'aether update rollback {}' to go back", record.id));
    }
    v1::Explanation {
        update_id: record.id.to_string(),
        state: record.state.to_string(),
        waits,
        pause: record.pause.as_ref().map(|pause| reason(&pause.reason)),
        deadline: deadline(record, now_ms),
        next,
        as_of: Some(as_of),
    }
}

/// One slice.
pub fn slice(
    state: &State,
    record: &aether_core::records::SliceRecord,
    waits: &PlacementWaits,
    now_ms: u64,
) -> v1::Slice {
    let waits = waits.get(&record.slice).into_iter().flatten();
    let revision = record.current.and_then(|no| state.revisions.get(&(record.slice.clone(), no)));
    let kept = state.retained.get(&record.slice);
    let update = state.live_update(&record.slice);
    let colour = |no: Option<RevisionNo>| {
        let colour = no.and_then(|no| state.colour(&record.slice, no));
        colour.map(|colour| colour.to_string()).unwrap_or_default()
    };
    v1::Slice {
        colour: colour(record.current),
        update_colour: colour(update.map(|update| update.new.revision)),
        retained_colour: colour(kept.map(|kept| kept.side.revision)),
        set_version: record.set.as_ref().map(|set| set.version.to_string()),
        set_by: record.set.as_ref().map(|set| set.actor.clone()).unwrap_or_default(),
        slice: record.slice.to_string(),
        version: revision.map(|r| r.version.to_string()),
        instances: record.instances,
        ready: record.current.map_or(0, |no| state.ready_count(&record.slice, no)),
        routing: state.routes.get(&record.slice).map(|r| r.weights.to_string()).unwrap_or_default(),
        live_update: record.live_update.as_ref().map(ToString::to_string),
        retained_version: kept.map(|kept| kept.side.version.to_string()),
        instances_state: state
            .instances_of(&record.slice)
            .map(|record| instance(state, record, now_ms))
            .collect(),
        modified: record.modified,
        note: String::new(),
        retained_for_ms: kept.and_then(|kept| remaining_ms(kept, now_ms)),
        retained_instances: kept.map_or(0, |kept| kept.instances),
        retained_update: kept.map(|kept| kept.update.to_string()),
        revision: record.current.map(|no| no.0),
        waits_for: once(waits.map(|wait| wait.message.clone())),
        config: revision.and_then(|revision| revision.config).map(|no| no.0),
        latest_config: Some(record.last_config.0).filter(|no| *no > 0),
        as_of: None,
    }
}

/// One node.
pub fn node(
    state: &State,
    record: &aether_core::records::NodeRecord,
    waits: &PlacementWaits,
    now_ms: u64,
) -> v1::Node {
    let here = state.instances_on(&record.name);
    let to_leave = state.instances_on(&record.name).filter(|i| i.desired == Desired::Run);
    let slices: BTreeSet<&SliceName> = match state.is_draining(&record.name) {
        true => to_leave.map(|instance| &instance.slice).collect(),
        false => BTreeSet::new(),
    };
    let held_up = slices.into_iter().flat_map(|slice| {
        let waits = waits.get(slice).into_iter().flatten();
        waits.map(move |wait| format!("{slice}: {}", wait.message))
    });
    v1::Node {
        name: record.name.to_string(),
        address: record.address.to_string(),
        lifecycle: name(&record.lifecycle),
        instances: u32::try_from(here.count()).unwrap_or(u32::MAX),
        instances_max: record.instances_max,
        since_ms: now_ms.saturating_sub(record.since_ms),
        labels: record.labels.clone().into_iter().collect(),
        schedule: name(&record.schedule),
        waits_for: once(held_up),
        note: String::new(),
        as_of: None,
    }
}

/// One artifact.
pub fn artifact(record: &aether_core::records::ArtifactRecord) -> v1::Artifact {
    v1::Artifact {
        artifact: record.artifact.to_string(),
        sha256: record.digest.clone(),
        size_bytes: record.size_bytes,
        held_by: record.held_by.iter().map(ToString::to_string).collect(),
        pushed_at: record.pushed_wall_ms,
        manifest: record.manifest.to_toml(),
        as_of: None,
    }
}
