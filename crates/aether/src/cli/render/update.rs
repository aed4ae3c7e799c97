//! One update: the whole of it for `status`, a row for `list`.

use aether_core::weights::Weights;
use aether_core::words::counted;
use aether_proto::v1;

use super::{fields, gate, or_dash, percent, percent_of_ppm, slice, span, table};
use crate::cli::follow::is_terminal;

/// History entries shown; `-o json` has them all.
const HISTORY_SHOWN: usize = 10;
/// How far back calls are counted at most.
const WINDOW_MS: u64 = 10_000;

/// The whole of an update.
pub fn whole(update: &v1::Update) -> String {
    let pending = update.pending_routing.as_ref().map(|routing| {
        format!("{routing}, waits for 'aether update approve {}'", update.update_id)
    });
    let mut text = fields(&[
        ("update", update.update_id.clone()),
        ("slice", update.artifact_base.clone()),
        ("versions", versions(update)),
        ("state", update.state.clone()),
        ("strategy", update.progress.as_ref().map(strategy).unwrap_or_default()),
        ("requested", requested(update)),
        ("pending", pending.unwrap_or_default()),
        ("actual", actual(update)),
        ("in place", update.progress.as_ref().and_then(in_place).unwrap_or_default()),
        ("counted", update.progress.as_ref().map(counted_in_step).unwrap_or_default()),
        (
            "gates",
            update.progress.as_ref().map(|p| gate::states(&p.gate_states)).unwrap_or_default(),
        ),
        ("instances", instances(update)),
        ("paused", paused(update)),
        ("deadline", update.deadline.as_ref().map(deadline).unwrap_or_default()),
        ("waits for", update.waits_for.join("\n")),
        ("outcome", update.outcome.as_ref().map(reason).unwrap_or_default()),
        ("thresholds", thresholds(update)),
        ("cleanup", cleanup(update)),
        ("kept", kept(update)),
        ("started by", update.actor.clone()),
        ("as of", update.as_of.as_ref().map(as_of).unwrap_or_default()),
    ]);
    let all = update.new_instances_state.iter().chain(&update.old_instances_state);
    let mut rows: Vec<_> = all.clone().map(slice::instance_row).collect();
    if update.old_version.as_ref() == Some(&update.new_version) {
        // The version says nothing there.
        for (row, instance) in rows.iter_mut().zip(all) {
            row[1] = format!("{} r{}", instance.version, instance.revision);
        }
    }
    if !rows.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(&slice::INSTANCE_HEADER, rows));
    }
    if !update.history.is_empty() {
        text.push_str("\n\n");
        text.push_str(&history(&update.history));
    }
    text
}

fn history(entries: &[v1::HistoryEntry]) -> String {
    let row = |entry: &v1::HistoryEntry| {
        vec![
            entry.index.to_string(),
            entry.state.clone(),
            entry.routing.clone(),
            entry.actor.clone(),
            entry.event.clone(),
        ]
    };
    let skipped = entries.len().saturating_sub(HISTORY_SHOWN);
    let rows = entries[skipped..].iter().map(row).collect();
    table(&["INDEX", "STATE", "ROUTING", "BY", "EVENT"], rows)
}

/// Rows of `list`.
pub fn list(updates: &[v1::Update]) -> String {
    let row = |update: &v1::Update| {
        vec![
            update.update_id.clone(),
            update.artifact_base.clone(),
            versions(update),
            update.state.clone(),
            update.routing.clone(),
            update.actual_new_ppm.map_or_else(|| "-".to_owned(), percent_of_ppm),
            or_dash(&instances(update)),
            or_dash(update.pause.as_ref().map_or("", |pause| &pause.code)),
            or_dash(update.pending_routing.as_deref().unwrap_or_default()),
        ]
    };
    let header =
        ["UPDATE", "SLICE", "VERSIONS", "STATE", "ROUTING", "ACTUAL", "READY", "PAUSED", "PENDING"];
    table(&header, updates.iter().map(row).collect())
}

/// Its steps, and which of them holds.
fn strategy(progress: &v1::Progress) -> String {
    let how = if progress.reload { " by reload" } else { "" };
    let mut text = format!("{}{how}, {}", progress.strategy, progress.steps.join(", "));
    let last = progress.steps.len();
    text += &match progress.step {
        0 => "\nbefore the first step".to_owned(),
        step => format!("\nstep {step} of {last} for {}", span(progress.held_ms)),
    };
    if let Some(from) = progress.one_way_from {
        text += &format!("; no way back from step {from} on");
    }
    if progress.barrier && progress.step == 0 {
        text += match progress.promoted {
            true => "; the switch waits until every session holds its calls",
            false => "; the switch is behind a barrier",
        };
    } else if progress.promoted {
        text += &match progress.step as usize {
            step if step < last => format!("; promoted, step {} is next", step + 1),
            _ => "; promoted, the end is next".to_owned(),
        };
    }
    match (progress.mixed_ms, progress.late_calls) {
        (Some(_), Some(0)) => {
            text += "\nno call began at the old version after the first at the new";
        }
        (Some(mixed_ms), late) => {
            text += &format!("\nboth versions served for {} at the switch", span(mixed_ms));
            if let Some(late) = late {
                text += &format!(": {} could not be held long enough", counted(late, "call"));
            }
        }
        (None, _) => {}
    }
    text
}

/// How far the replacement of instances has come.
fn in_place(progress: &v1::Progress) -> Option<String> {
    let v1::InPlace { ready, floor, existing, ceiling, updated, failed, not_reached } =
        progress.in_place.as_ref()?;
    let mut text = format!(
        "{ready} ready of at least {floor}, {existing} there of at most {ceiling}\n{updated} \
         updated, {} failed, {not_reached} not reached",
        failed.len()
    );
    for instance in failed {
        text += &format!("\n{instance}");
    }
    Some(text)
}

/// What the calls of the step that holds showed.
fn counted_in_step(progress: &v1::Progress) -> String {
    let (Some(new), Some(old)) = (&progress.new_counts, &progress.old_counts) else {
        return String::new();
    };
    let one = |counts: &v1::StepCounts| {
        format!("{} ({} failed, {} slow)", counts.requests, counts.errors, counts.slow)
    };
    let late = match progress.late {
        0 => String::new(),
        late => format!("; {late} of the new took too long"),
    };
    format!("in this step new {}, old {}{late}", one(new), one(old))
}

fn versions(update: &v1::Update) -> String {
    let old = update.old_version.as_deref().unwrap_or("(none)");
    let new = &update.new_version;
    let (Some(from), Some(to)) = (&update.old_revision, &update.new_revision) else {
        return format!("{old} -> {new}");
    };
    let mut said = Vec::new();
    if from.config != to.config {
        said.push(format!("config {} -> {}", config(from), config(to)));
    }
    if from.restarts != to.restarts && old == new {
        said.push("restart".to_owned());
    }
    match said.is_empty() {
        true => format!("{old} -> {new}"),
        false if old == new => format!("{new}, {}", said.join(", ")),
        false => format!("{old} -> {new}, {}", said.join(", ")),
    }
}

fn config(revision: &v1::Revision) -> String {
    revision.config.map_or_else(|| "none".to_owned(), |no| format!("c{no}"))
}

/// The committed ratio as a share, and what of it holds now, if that differs.
pub fn requested(update: &v1::Update) -> String {
    let Ok(weights) = update.routing.parse::<Weights>() else {
        return update.routing.clone();
    };
    let share = f64::from(weights.new_side()) / f64::from(weights.total());
    let mut text = format!("{weights} ({} new)", percent(share));
    if is_terminal(update) {
        // Its ratio is history; the slice has a route of its own again.
    } else if update.effective_routing.is_empty() {
        text.push_str(", but no version has a ready instance");
    } else if update.effective_routing != update.routing {
        text.push_str(&format!(
            ", but {} by the instances that are ready",
            update.effective_routing
        ));
    }
    text
}

/// Where calls really went; nothing once the update has ended.
pub fn actual(update: &v1::Update) -> String {
    if is_terminal(update) {
        return String::new();
    }
    let (since, no_calls) = match update.counted_ms {
        // Each change of the ratio is judged by the calls after it.
        Some(counted_ms) if counted_ms < WINDOW_MS => {
            let since = format!("since the last change, {} ago", span(counted_ms));
            (since.clone(), format!("no calls counted yet {since}"))
        }
        Some(_) => ("in the last 10 s".to_owned(), "no calls seen in the last 10 s".to_owned()),
        None => (String::new(), "not known: the leader was not asked".to_owned()),
    };
    match update.actual_new_ppm {
        Some(ppm) => {
            format!("{} new of {} calls {since}", percent_of_ppm(ppm), update.actual_requests)
        }
        None => no_calls,
    }
}

/// Instances of both sides: those that take calls, wanted ones, and what the
/// others do; nothing once the update has ended.
pub fn instances(update: &v1::Update) -> String {
    if is_terminal(update) {
        return String::new();
    }
    let new = slice::taking_calls(update.new_instances_state.iter(), update.instances);
    if update.old_version.is_none() {
        return format!("new {new}");
    }
    let old = slice::taking_calls(update.old_instances_state.iter(), update.old_instances);
    format!("new {new}, old {old}")
}

fn paused(update: &v1::Update) -> String {
    let since = update.paused_ms.map(|ms| format!(" (for {})", span(ms))).unwrap_or_default();
    update.pause.as_ref().map(|pause| reason(pause) + &since).unwrap_or_default()
}

fn cleanup(update: &v1::Update) -> String {
    match update.cleanup_policy.as_str() {
        "GRACE_PERIOD" => format!("GRACE_PERIOD of {}", span(update.grace_ms)),
        policy => policy.to_owned(),
    }
}

/// The old version's set, while it is kept warm.
fn kept(update: &v1::Update) -> String {
    if !update.retained {
        return String::new();
    }
    let until = match update.retained_for_ms {
        Some(ms) => format!("for another {}", span(ms.max(0) as u64)),
        None => format!("until 'aether update cleanup {}'", update.update_id),
    };
    format!(
        "{} is kept warm {until}; 'aether update undo {}' goes back to it",
        update.old_version.as_deref().unwrap_or_default(),
        update.update_id
    )
}

fn thresholds(update: &v1::Update) -> String {
    let approval = if update.require_manual_approval { ", each step approved by hand" } else { "" };
    format!(
        "error rate {}, p99 {} ms, from {} requests on{approval}",
        percent(update.max_error_rate),
        update.max_latency_ms,
        update.min_requests
    )
}

/// Code and sentence of a reason.
pub fn reason(reason: &v1::Reason) -> String {
    match reason.message.as_str() {
        "" => reason.code.clone(),
        message => format!("{}: {message}", reason.code),
    }
}

/// When something happens by itself, and what.
pub fn deadline(deadline: &v1::Deadline) -> String {
    let amount = span(deadline.in_ms.unsigned_abs());
    match deadline.in_ms {
        0.. => format!("{} in {amount}{}", deadline.action, meaning(&deadline.action)),
        _ => format!("{} overdue by {amount}", deadline.action),
    }
}

/// What happens at a deadline, where its name does not say it.
fn meaning(action: &str) -> &'static str {
    match action {
        "ALERT" => ", which changes nothing",
        _ => "",
    }
}

/// How fresh an answer is; said only where it matters.
pub fn as_of(as_of: &v1::AsOf) -> String {
    if !as_of.stale {
        return String::new();
    }
    format!("index {} on node {}, without asking the leader", as_of.index, as_of.node)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An update in the middle of its way, with everything to show.
    pub fn routing_update() -> v1::Update {
        let instance = |id: &str, version: &str, state: &str| v1::Instance {
            instance_id: id.into(),
            slice: "org.example:my-slice".into(),
            version: version.into(),
            node: "n1".into(),
            state: state.into(),
            endpoint: "127.0.0.1:10001".into(),
            since_ms: 61_500,
            takes_calls: state == "READY",
            ..Default::default()
        };
        v1::Update {
            update_id: "u1f".into(),
            artifact_base: "org.example:my-slice".into(),
            state: "ROUTING".into(),
            old_version: Some("1.0.0".into()),
            new_version: "2.0.0".into(),
            routing: "1:3".into(),
            actual_new_ppm: Some(249_812),
            actual_requests: 1_203,
            counted_ms: Some(10_000),
            effective_routing: "1:3".into(),
            instances: 1,
            old_instances: 2,
            new_instances_state: vec![instance("my-slice-1f-0", "2.0.0", "READY")],
            old_instances_state: vec![
                instance("my-slice-5-0", "1.0.0", "READY"),
                v1::Instance {
                    reason: Some(v1::Reason {
                        code: "probe_failed".into(),
                        message: "GET /ready: 503".into(),
                    }),
                    restarts: 1,
                    ..instance("my-slice-5-1", "1.0.0", "UNREADY")
                },
            ],
            max_error_rate: 0.01,
            max_latency_ms: 500,
            min_requests: 100,
            cleanup_policy: "IMMEDIATE".into(),
            deadline: Some(v1::Deadline { in_ms: 86_399_400, action: "ALERT".into() }),
            actor: "alice".into(),
            modified: 99,
            history: vec![v1::HistoryEntry {
                index: 99,
                actor: "alice".into(),
                state: "ROUTING".into(),
                routing: "1:3".into(),
                event: "routing set".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn status_shows_requested_and_actual_side_by_side() {
        let expected = "\
update      u1f
slice       org.example:my-slice
versions    1.0.0 -> 2.0.0
state       ROUTING
requested   1:3 (25 % new)
actual      24.98 % new of 1203 calls in the last 10 s
instances   new 1/1, old 1/2 (1 UNREADY)
deadline    ALERT in 23h 59m 59s, which changes nothing
thresholds  error rate 1 %, p99 500 ms, from 100 requests on
cleanup     IMMEDIATE
started by  alice

INSTANCE       VERSION  NODE  STATE    SINCE   RESTARTS  ENDPOINT         REASON
my-slice-1f-0  2.0.0    n1    READY    1m 1s   0         127.0.0.1:10001  -
my-slice-5-0   1.0.0    n1    READY    1m 1s   0         127.0.0.1:10001  -
my-slice-5-1   1.0.0    n1    UNREADY  1m 1s   1         127.0.0.1:10001  probe_failed: GET /ready: 503

INDEX  STATE    ROUTING  BY     EVENT
99     ROUTING  1:3      alice  routing set";
        let squeezed =
            |text: &str| text.replace("SINCE   ", "SINCE  ").replace("1m 1s   ", "1m 1s  ");
        assert_eq!(squeezed(&whole(&routing_update())), squeezed(expected));
    }

    #[test]
    fn status_says_what_holds_an_update_back() {
        let update = v1::Update {
            effective_routing: "0:1".into(),
            pending_routing: Some("1:1".into()),
            actual_new_ppm: None,
            counted_ms: None,
            pause: Some(v1::Reason {
                code: "threshold_exceeded".into(),
                message: "error rate 4 % is above 1 %".into(),
            }),
            deadline: Some(v1::Deadline { in_ms: -1_500, action: "ROLLBACK".into() }),
            waits_for: vec!["one thing".into(), "another".into()],
            as_of: Some(v1::AsOf { index: 7, stale: true, node: "n2".into() }),
            ..routing_update()
        };
        let text = whole(&update);
        for part in [
            "requested   1:3 (25 % new), but 0:1 by the instances that are ready",
            "pending     1:1, waits for 'aether update approve u1f'",
            "actual      not known: the leader was not asked",
            "paused      threshold_exceeded: error rate 4 % is above 1 %",
            "deadline    ROLLBACK overdue by 1s",
            "waits for   one thing\n            another",
            "as of       index 7 on node n2, without asking the leader",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn an_update_by_steps_says_where_it_is_and_what_was_counted() {
        let counts = |requests| v1::StepCounts { requests, errors: 1, slow: 2, timed: requests };
        let progress = v1::Progress {
            strategy: "CANARY".into(),
            steps: vec!["1:9 5m".into(), "1:0 pause".into()],
            step: 1,
            held_ms: 61_000,
            one_way_from: Some(2),
            new_counts: Some(counts(120)),
            old_counts: Some(counts(1_080)),
            ..Default::default()
        };
        for (step, next) in [
            (1, "step 1 of 2 for 1m 1s; no way back from step 2 on; promoted, step 2"),
            (2, "promoted, the end"),
        ] {
            let text = strategy(&v1::Progress { step, promoted: true, ..progress.clone() });
            assert!(text.contains(&format!("{next} is next")), "{text}");
        }
        let text = whole(&v1::Update { progress: Some(progress), ..routing_update() });
        for part in [
            "strategy    CANARY, 1:9 5m, 1:0 pause\n            step 1 of 2 for 1m 1s; no way back \
             from step 2 on\n",
            "counted     in this step new 120 (1 failed, 2 slow), old 1080 (1 failed, 2 slow)\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let progress = v1::Progress {
            strategy: "BLUE_GREEN".into(),
            steps: vec!["1:0 5m".into()],
            mixed_ms: Some(12),
            ..Default::default()
        };
        let text = strategy(&progress);
        assert!(text.contains("before the first step"), "{text}");
        assert!(text.ends_with("both versions served for 12ms at the switch"), "{text}");
        let held =
            v1::Progress { barrier: true, promoted: true, mixed_ms: None, ..progress.clone() };
        let text = strategy(&held);
        assert!(text.ends_with("the switch waits until every session holds its calls"), "{text}");
        let switched = |late| v1::Progress { step: 1, late_calls: Some(late), ..progress.clone() };
        let text = strategy(&switched(0));
        assert!(
            text.ends_with("no call began at the old version after the first at the new"),
            "{text}"
        );
        let text = strategy(&switched(3));
        assert!(text.ends_with("at the switch: 3 calls could not be held long enough"), "{text}");
        let in_place = v1::InPlace {
            ready: 10,
            floor: 10,
            existing: 12,
            ceiling: 12,
            updated: 4,
            failed: vec!["hello-9-0 on n1: crash_loop: status 7".into()],
            not_reached: 6,
        };
        let progress = v1::Progress { in_place: Some(in_place), ..progress };
        let text = whole(&v1::Update { progress: Some(progress.clone()), ..routing_update() });
        for part in [
            "in place    10 ready of at least 10, 12 there of at most 12\n",
            "            4 updated, 1 failed, 6 not reached\n",
            "            hello-9-0 on n1: crash_loop: status 7\n",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_first_deployment_has_no_old_side() {
        let update = v1::Update { old_version: None, ..routing_update() };
        let text = whole(&update);
        assert!(text.contains("versions    (none) -> 2.0.0"), "{text}");
        assert!(text.contains("instances   new 1/1\n"), "{text}");
    }

    #[test]
    fn calls_are_counted_from_the_last_change_on() {
        let update = v1::Update { counted_ms: Some(2_300), ..routing_update() };
        let text = actual(&update);
        assert_eq!(text, "24.98 % new of 1203 calls since the last change, 2s ago");
        let update = v1::Update { actual_new_ppm: None, actual_requests: 0, ..update };
        assert_eq!(actual(&update), "no calls counted yet since the last change, 2s ago");
        let update = v1::Update { counted_ms: Some(10_000), ..update };
        assert_eq!(actual(&update), "no calls seen in the last 10 s");
    }

    #[test]
    fn an_instance_on_a_silent_node_takes_calls_and_is_named() {
        let mut update = routing_update();
        update.new_instances_state[0].state = "UNREACHABLE".into();
        assert_eq!(instances(&update), "new 1/1 (1 UNREACHABLE), old 1/2 (1 UNREADY)");
    }

    #[test]
    fn the_ratio_of_an_ended_update_is_history() {
        let update = v1::Update {
            state: "COMPLETED".into(),
            effective_routing: "0:1".into(),
            ..routing_update()
        };
        let text = whole(&update);
        assert!(text.contains("requested   1:3 (25 % new)\n"), "{text}");
        assert!(!text.contains("actual") && !text.contains("instances"), "{text}");
        let row = list(&[update]);
        assert!(!row.contains("new 1/1"), "{row}");
    }

    #[test]
    fn list_has_a_row_per_update() {
        let text = list(&[routing_update()]);
        let row = text.lines().nth(1).unwrap();
        let words: Vec<&str> = row.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
        assert_eq!(
            words,
            [
                "u1f",
                "org.example:my-slice",
                "1.0.0 -> 2.0.0",
                "ROUTING",
                "1:3",
                "24.98 %",
                "new 1/1, old 1/2 (1 UNREADY)",
                "-",
                "-"
            ]
        );
    }

    #[test]
    fn what_is_kept_warm_is_shown_with_the_way_back() {
        let kept = |retained_for_ms| v1::Update {
            state: "COMPLETED".into(),
            cleanup_policy: "GRACE_PERIOD".into(),
            grace_ms: 300_000,
            retained: true,
            retained_for_ms,
            ..routing_update()
        };
        let text = whole(&kept(Some(61_000)));
        assert!(text.contains("cleanup     GRACE_PERIOD of 5m\n"), "{text}");
        let way_back = "kept        1.0.0 is kept warm for another 1m 1s; 'aether update undo u1f'";
        assert!(text.contains(way_back), "{text}");
        let text = whole(&kept(None));
        assert!(text.contains("until 'aether update cleanup u1f'"), "{text}");
    }
}
