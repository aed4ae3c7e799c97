//! The set that a completed update keeps warm: the way back to it, its end, and
//! the other things that a person changes of an update on its way.

use aether_core::command::{Command, Refusal, RefusalKind};
use aether_core::coordinates::SliceName;
use aether_core::health::Verdict;
use aether_core::ids::UpdateId;
use aether_core::records::{
    CleanupPolicy, OptionChanges, Preset, Reason, UpdateOptions, UpdateState as S,
};

use crate::scenarios::at;
use crate::world::*;

fn undo(id: &UpdateId, weights: &str) -> Command {
    Command::Undo {
        update: id.clone(),
        weights: weights.parse().unwrap(),
        force: false,
        cleanup: None,
        grace_ms: None,
        if_modified: None,
    }
}

fn cleanup(id: &UpdateId, if_modified: Option<u64>) -> Command {
    Command::Cleanup { update: id.clone(), if_modified }
}

/// An update to 2.0.0 is complete; 1.0.0 is kept.
fn completed(cleanup: CleanupPolicy, grace_ms: u64) -> (World, UpdateId) {
    let mut world = World::deployed(3);
    let options = UpdateOptions { cleanup, grace_ms, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
    let kept = if cleanup == CleanupPolicy::Immediate { 0 } else { 3 };
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (kept, 3));
    (world, id)
}

#[test]
fn undo_takes_every_call_back_in_one_entry_and_completes_like_any_update() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let back = world.ok(undo(&id, "1:0")).update.unwrap();
    let update = world.update(&back);
    assert_eq!((update.state, update.weights.to_string()), (S::Routing, "1:0".to_owned()));
    let states: Vec<_> = update.history.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [S::Deployed, S::Routing]);
    let table = world.state.slice_table(&SLICE.parse().unwrap()).unwrap();
    assert_eq!(table.new.as_ref().unwrap().version.as_str(), "1.0.0");
    assert_eq!(table.effective_weights().unwrap().to_string(), "1:0");
    assert!(world.state.retained.is_empty());
    world.ok(complete(&back));
    world.settle();
    assert_eq!(world.state_of(&back), S::Completed);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 0));
    assert!(world.started.values().all(|count| *count == 1), "nothing was started again");
}

#[test]
fn what_was_kept_is_changed_only_for_who_knows_the_update_as_it_is() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let modified = world.update(&id).modified;
    let back = |if_modified| {
        let Command::Undo { update, weights, force, cleanup, grace_ms, .. } = undo(&id, "1:0")
        else {
            unreachable!("it is one");
        };
        Command::Undo { update, weights, force, cleanup, grace_ms, if_modified }
    };
    for command in [back(Some(modified - 1)), cleanup(&id, Some(modified - 1))] {
        let refused = world.propose(command.clone()).unwrap_err();
        let expected =
            Refusal::Modified { update: id.clone(), expected: modified - 1, actual: modified };
        assert_eq!(refused, expected, "{command:?}");
    }
    for command in [back(None), cleanup(&id, None)] {
        let text = serde_json::to_string(&command).unwrap();
        assert!(!text.contains("if_modified"), "as before there was one: {text}");
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
    }
    let mut other = world.state.clone();
    world.ok(back(Some(modified)));
    std::mem::swap(&mut world.state, &mut other);
    world.ok(cleanup(&id, Some(modified)));
}

#[test]
fn undo_can_begin_without_traffic_and_be_rolled_back() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let back = world.ok(undo(&id, "0:1")).update.unwrap();
    assert_eq!(world.state_of(&back), S::Deployed);
    world.settle();
    world.ok(routing(&back, "1:3"));
    world.ok(rollback(&back));
    world.settle();
    assert_eq!(world.state_of(&back), S::RolledBack);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (0, 3));
}

#[test]
fn undo_is_refused_when_nothing_is_kept_and_while_another_update_is_live() {
    let (mut world, id) = completed(CleanupPolicy::Immediate, 0);
    let refused = world.propose(undo(&id, "1:0")).unwrap_err();
    assert!(matches!(refused, Refusal::NothingToUndo { .. }), "{refused}");
    let unknown = "unone".parse().unwrap();
    let refused = world.propose(undo(&unknown, "1:0")).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::NotFound);

    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let other = world.start("3.0.0", UpdateOptions::default());
    let refused = world.propose(undo(&id, "1:0")).unwrap_err();
    assert!(matches!(refused, Refusal::NothingToUndo { .. }), "the start retired it: {refused}");
    world.ok(rollback(&other));
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (0, 3));
}

#[test]
fn undo_needs_the_kept_set_to_carry_what_it_takes_unless_forced() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let crashed = (
        aether_core::records::Observed::Crashed,
        1,
        Reason::new("crashed", "it crashed while it was kept"),
    );
    world.broken.insert("1.0.0".to_owned(), crashed);
    world.settle();
    let refused = world.propose(undo(&id, "1:0")).unwrap_err();
    assert!(matches!(refused, Refusal::CapacityGuard { .. }), "{refused}");
    assert!(!world.state.retained.is_empty(), "it is still kept");
    let back = world.ok(undo(&id, "0:1")).update.unwrap();
    world.broken.clear();
    world.settle();
    world.ok(routing(&back, "1:0"));
}

#[test]
fn grace_ends_on_time_across_failovers_and_manual_never_by_itself() {
    let (mut world, _) = completed(CleanupPolicy::GracePeriod, 60_000);
    let slice: SliceName = SLICE.parse().unwrap();
    let expires_at_ms = world.state.retained[&slice].expires_at_ms.unwrap();
    for part in 1..=2 {
        world.now_ms = expires_at_ms - 30_000 / part;
        world.fail_over();
        world.rounds(5);
        assert_eq!(world.ready("1.0.0"), 3);
    }
    world.now_ms = expires_at_ms;
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.state.instances.len()), (0, 3));

    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    world.now_ms += 400 * 24 * 3_600_000;
    world.settle();
    assert_eq!(world.ready("1.0.0"), 3);
    let answer = world.ok(cleanup(&id, None));
    assert!(answer.note.unwrap().contains("1.0.0"));
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.state.instances.len()), (0, 3));
    let refused = world.propose(cleanup(&id, None)).unwrap_err();
    assert!(matches!(refused, Refusal::NothingToUndo { .. }), "{refused}");
}

#[test]
fn a_start_that_retires_a_kept_set_says_so() {
    let (mut world, _) = completed(CleanupPolicy::Manual, 0);
    let answer = world.ok(start("3.0.0", None, UpdateOptions::default()));
    assert!(answer.note.unwrap().contains("1.0.0, which was kept warm, is removed"));
}

fn set(id: &UpdateId, changes: OptionChanges) -> Command {
    Command::SetOptions { update: id.clone(), changes, if_modified: None }
}

#[test]
fn options_change_on_a_live_update_and_what_changed_is_said() {
    let (mut world, id) = at(S::Routing, 0);
    let strict = Preset::Strict.thresholds();
    let changes = OptionChanges {
        error_rate_ppm: Some(strict.error_rate_ppm),
        p99_ms: Some(strict.p99_ms),
        cleanup: Some(CleanupPolicy::Manual),
        ..OptionChanges::default()
    };
    let note = world.ok(set(&id, changes.clone())).note.unwrap();
    assert_eq!(
        note,
        "set error rate 0.1 % (was 1 %), p99 latency 200 ms (was 500 ms), cleanup MANUAL (was \
         IMMEDIATE)"
    );
    assert_eq!(world.update(&id).options.thresholds, strict);
    assert!(world.ok(set(&id, changes)).note.unwrap().starts_with("nothing changes"));
    let bad = OptionChanges { p99_ms: Some(0), ..OptionChanges::default() };
    assert_eq!(world.propose(set(&id, bad)).unwrap_err().kind(), RefusalKind::Invalid);
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.ready("1.0.0"), 3, "kept, as was set on the way");
    let late = world.propose(set(&id, OptionChanges::default())).unwrap_err();
    assert!(matches!(late, Refusal::WrongState { .. }), "{late}");
}

#[test]
fn what_is_being_removed_cannot_be_kept_any_more() {
    for depth in 0..3 {
        let (mut world, id) = at(S::Completing, depth);
        let changes =
            OptionChanges { cleanup: Some(CleanupPolicy::Manual), ..OptionChanges::default() };
        let refused = world.propose(set(&id, changes)).unwrap_err();
        assert!(matches!(refused, Refusal::WrongState { .. }), "{refused}");
    }
}

#[test]
fn an_undo_that_is_repeated_is_the_same_undo() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let answer = world.ok(undo(&id, "1:0"));
    assert_eq!(answer.named.as_ref(), Some(&id));
    assert_ne!(answer.update.as_ref(), Some(&id));
}

#[test]
fn a_longer_deploy_timeout_counts_from_the_start_of_deploying() {
    let (mut world, id) = at(S::Deploying, 0);
    world.agents_work = false;
    let since = world.update(&id).state_since_ms;
    let changes = OptionChanges { deploy_timeout_ms: Some(900_000), ..OptionChanges::default() };
    world.now_ms += 10_000;
    world.ok(set(&id, changes));
    assert_eq!(world.update(&id).deadline.as_ref().unwrap().at_ms, since + 900_000);
}

#[test]
fn a_pause_stays_when_thresholds_change_until_somebody_resumes() {
    let (mut world, id) = at(S::Routing, 0);
    world.verdicts.insert(id.clone(), Verdict::Exceeded { detail: "p99 900 ms".to_owned() });
    world.settle();
    world.verdicts.clear();
    let changes = OptionChanges { p99_ms: Some(2_000), ..OptionChanges::default() };
    let note = world.ok(set(&id, changes)).note.unwrap();
    assert!(note.contains("still paused"), "{note}");
    assert!(world.update(&id).pause.is_some());
    world.ok(resume(&id));
}

#[test]
fn history_has_the_reason_of_a_pause_and_of_a_rollback_once() {
    let (mut world, id) = at(S::Routing, 0);
    world.verdicts.insert(id.clone(), Verdict::Exceeded { detail: "p99 900 ms".to_owned() });
    world.settle();
    world.ok(resume(&id));
    world.verdicts.clear();
    world.ok(rollback(&id));
    world.settle();
    let update = world.update(&id);
    let reasons: Vec<_> = update
        .history
        .iter()
        .filter_map(|entry| Some((entry.state, entry.reason.as_ref()?.code.as_str())))
        .collect();
    assert_eq!(reasons, [(S::Routing, "threshold_exceeded"), (S::RollingBack, "operator")]);
}

#[test]
fn a_ratio_that_waits_for_approval_is_taken_back_by_asking_for_the_present_one() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:3"));
    assert!(world.update(&id).pending_weights.is_some());
    let note = world.ok(routing(&id, "0:1")).note.unwrap();
    assert!(note.contains("no longer waits"), "{note}");
    assert!(world.update(&id).pending_weights.is_none());
    let refused = world.propose(approve(&id)).unwrap_err();
    assert!(matches!(refused, Refusal::NothingToApprove { .. }), "{refused}");
}

#[test]
fn a_paused_update_waits_for_its_pause_and_not_for_what_would_be_refused() {
    let (mut world, id) = at(S::Routing, 0);
    let waits = |world: &World| -> Vec<(&'static str, String)> {
        let waits = world.plan().waits.remove(&SLICE.parse().unwrap()).unwrap_or_default();
        waits.into_iter().map(|wait| (wait.code, wait.unblock)).collect()
    };
    assert_eq!(waits(&world)[0].0, "operator");
    let reason = Reason::new("threshold_exceeded", "error rate 4 %");
    world.ok(Command::Pause { update: id.clone(), reason, if_modified: None });
    let paused = waits(&world);
    assert_eq!(paused.len(), 1, "{paused:?}");
    let (code, unblock) = &paused[0];
    assert_eq!(*code, "paused");
    let ways = [format!("update resume {id}'"), format!("update rollback {id}'")];
    assert!(ways.iter().all(|way| unblock.contains(way)), "{unblock}");
    world.ok(resume(&id));
    assert_eq!(waits(&world)[0].0, "operator");
}

#[test]
fn a_long_history_keeps_its_start_and_its_changes_of_state_and_counts_what_it_leaves_out() {
    use aether_core::records::HISTORY_MAX;
    let mut world = World::deployed(3);
    let id = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    let began = world.update(&id).history.len();
    for n in 1..=250 {
        world.ok(routing(&id, if n % 2 == 0 { "1:3" } else { "1:9" }));
    }
    world.ok(rollback(&id));
    world.settle();
    let update = world.update(&id);
    let mut states: Vec<_> = update.history.iter().map(|entry| entry.state).collect();
    states.dedup();
    let expected =
        [S::Pending, S::Deploying, S::Deployed, S::Routing, S::RollingBack, S::RolledBack];
    assert_eq!(states, expected);
    assert_eq!(update.history.len(), HISTORY_MAX);
    let written = world.state.audit.values().filter(|r| r.subject.as_str().ends_with(id.as_str()));
    let left_out = update.history_left_out as usize;
    assert_eq!(left_out + HISTORY_MAX, written.count());
    assert!(left_out > 250 + began - HISTORY_MAX);
    // A record of before there was such a counter has left nothing out.
    let mut old = serde_json::to_value(update).unwrap();
    assert_eq!(old["historyLeftOut"], left_out);
    old.as_object_mut().unwrap().remove("historyLeftOut");
    let old: aether_core::records::UpdateRecord = serde_json::from_value(old).unwrap();
    assert_eq!(old.history_left_out, 0);
    assert!(!serde_json::to_string(&old).unwrap().contains("historyLeftOut"));
}

#[test]
fn an_approval_names_who_asked_and_approves_only_what_was_seen() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:0"));
    let approve_seen = |seen: &str| Command::Approve {
        update: id.clone(),
        weights: Some(seen.parse().unwrap()),
        if_modified: None,
    };
    let refused = world.propose(approve_seen("1:3")).unwrap_err();
    assert!(matches!(refused, Refusal::OtherPending { .. }), "{refused}");
    assert_eq!(refused.kind(), RefusalKind::Precondition);
    assert!(refused.to_string().contains("1:0, asked for by test, is what waits"), "{refused}");
    let off = OptionChanges { manual_approval: Some(false), ..OptionChanges::default() };
    let note = world.ok(set(&id, off)).note.unwrap();
    let pending =
        format!("routing 1:0, asked for by test, still waits for 'aether update approve {id}'");
    assert!(note.ends_with(&pending), "{note}");
    world.ok(approve_seen("1:0"));
    let update = world.update(&id);
    let event = &update.history.last().unwrap().event;
    assert_eq!(event, "approved 1:0, asked for by test: routing 0:1 -> 1:0");
    assert_eq!((update.pending_weights, &update.pending_actor), (None, &None));
}

#[test]
fn after_a_scale_up_an_undo_says_what_helps_and_that_helps() {
    let (mut world, id) = completed(CleanupPolicy::Manual, 0);
    let scale = |instances| Command::Scale { slice: SLICE.parse().unwrap(), instances };
    let note = world.ok(scale(5)).note.unwrap();
    let helps = format!("'aether scale {SLICE} -n 3'");
    assert!(note.contains("1.0.0 is kept with 3 instances") && note.contains(&helps), "{note}");
    world.settle();
    let refused = world.propose(undo(&id, "1:0")).unwrap_err().to_string();
    let said = format!("3 are ready; 3 instances are kept: {helps} first, or use --force");
    assert!(refused.ends_with(&said), "{refused}");
    // One that has begun is rolled back before that.
    let mut begun = world.state.clone();
    let back = world.ok(undo(&id, "0:1")).update.unwrap();
    let refused = world.propose(routing(&back, "1:0")).unwrap_err().to_string();
    let said = format!("'aether update rollback {back}', {helps} first, or use --force");
    assert!(refused.ends_with(&said), "{refused}");
    std::mem::swap(&mut world.state, &mut begun);
    assert_eq!(world.ok(scale(3)).note, None);
    world.settle();
    world.ok(undo(&id, "1:0"));
}
