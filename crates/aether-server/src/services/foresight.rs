//! What an update would do, and how revisions differ: answers that are computed
//! from the state and change nothing.

use std::sync::Arc;

use aether_core::command::{Command, RefusalKind, Request};
use aether_core::coordinates::SliceName;
use aether_core::diff::Change;
use aether_core::ids::RevisionNo;
use aether_core::preview::{self, Preview};
use aether_core::records::RevisionRecord;
use aether_core::state::State;
use aether_proto::v1;
use tonic::Status;

use crate::{render, status};

/// What a start would do. Walks through the whole update on a copy, which takes
/// tens of milliseconds with ten thousand instances: not for an async thread.
///
/// # Errors
/// The request makes no sense, whatever the state.
pub fn plan(
    state: &State,
    request: &Request,
    now_ms: u64,
) -> Option<Result<v1::UpdatePlan, Status>> {
    let (Command::StartUpdate { slice, version, .. } | Command::StartWith { slice, version, .. }) =
        &request.command
    else {
        return None;
    };
    let preview = preview::preview(state, request, now_ms)?;
    if let Some(refusal) = preview.refusal.as_ref().filter(|r| r.kind() == RefusalKind::Invalid) {
        return Some(Err(status::refused(refusal)));
    }
    let same = matches!(preview.refusal, Some(aether_core::command::Refusal::SameRevision { .. }));
    Some(Ok(v1::UpdatePlan {
        artifact_base: slice.to_string(),
        old_version: preview.old.as_ref().map(|side| side.version.to_string()),
        new_version: version.to_string(),
        instances: preview.instances,
        refused: preview
            .refusal
            .as_ref()
            .map(|refusal| v1::Reason { code: refusal.code(), message: refusal.to_string() }),
        has_changes: !same,
        same_version: preview.old.as_ref().is_some_and(|old| {
            // Of an artifact that was pushed anew the digest differs.
            let differs = |path| preview.changes.iter().any(|change| change.path == path);
            old.version == *version && !differs("digest")
        }),
        changes: preview.changes.iter().map(change).collect(),
        retires_version: preview.retires.as_ref().map(|side| side.version.to_string()),
        ..schedule(preview)
    }))
}

fn schedule(preview: Preview) -> v1::UpdatePlan {
    let steps = preview.steps.into_iter().map(|step| v1::PlanStep {
        after_ms: step.after_ms,
        state: step.state.to_string(),
        routing: step.weights.to_string(),
        event: step.event,
        by_person: step.by_person,
        instances: step.instances,
    });
    let refused_ratios = preview.refused_ratios.into_iter().map(|refused| v1::PlanRefusedRatio {
        routing: refused.weights.to_string(),
        needed: refused.needed,
        ready: refused.ready,
    });
    let nodes = preview.nodes.into_iter().map(|load| v1::PlanNode {
        node: load.node.to_string(),
        before: load.before,
        peak: load.peak,
        after: load.after,
        total_peak: load.total_peak,
        instances_max: load.most,
    });
    v1::UpdatePlan {
        steps: steps.collect(),
        refused_ratios: refused_ratios.collect(),
        nodes: nodes.collect(),
        instances_before: preview.instances_before,
        instances_peak: preview.instances_peak,
        instances_after: preview.instances_after,
        least_ms: preview.least_ms,
        stuck: preview.stuck.unwrap_or_default(),
        ..Default::default()
    }
}

fn change(change: &Change) -> v1::FieldChange {
    v1::FieldChange {
        path: change.path.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
    }
}

/// How two revisions of a slice differ; from nothing, where there is no `from`.
/// Revision 0 is the one that serves now.
///
/// # Errors
/// The slice or a revision is not known, or is not kept any more.
pub fn diff(
    state: &State,
    slice: &SliceName,
    from: Option<RevisionNo>,
    to: RevisionNo,
) -> Result<v1::RevisionDiff, Status> {
    let from = from.map(|no| find(state, slice, no)).transpose()?;
    let to = find(state, slice, to)?;
    Ok(v1::RevisionDiff {
        slice: slice.to_string(),
        from: from.as_deref().map(render::revision),
        to: Some(render::revision(&to)),
        changes: state.differences(from.as_deref(), &to).iter().map(change).collect(),
        as_of: None,
    })
}

fn find(state: &State, slice: &SliceName, no: RevisionNo) -> Result<Arc<RevisionRecord>, Status> {
    let Some(record) = state.slices.get(slice) else {
        return Err(super::slices::unknown(slice));
    };
    let no = match (no, record.current) {
        (RevisionNo(0), Some(current)) => current,
        (RevisionNo(0), None) => return Err(super::slices::unknown(slice)),
        (no, _) => no,
    };
    state.revisions.get(&(slice.clone(), no)).cloned().ok_or_else(|| {
        let kept: Vec<String> = state
            .revisions
            .keys()
            .filter(|(name, _)| name == slice)
            .map(|(_, no)| no.to_string())
            .collect();
        status::no_such(
            "revision",
            &format!("{slice} {no}"),
            format!("{slice} has no revision {no} any more; it has {}", kept.join(", ")),
        )
    })
}
