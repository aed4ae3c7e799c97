//! Canaries: step by step, by evidence.

use aether_core::command::{Command, Refusal};
use aether_core::health::Verdict;
use aether_core::ids::UpdateId;
use aether_core::records::{
    Analysis, Canary, DeadlineAction, OptionChanges, Reason, Step, Strategy, UpdateOptions,
    UpdateState,
};

use crate::world::{
    World, approve, canary, complete, complete_forced, promote, resume, rollback, routing,
    start_with,
};

/// Steps 1:9, 1:1 and 1:0, a minute each.
const STEPS: &str = "1:9, 1:1, 1:0";
const MINUTE: u64 = 60_000;

fn begin(strategy: Canary) -> (World, UpdateId) {
    begin_by(UpdateOptions::default(), strategy)
}

/// Until the first step holds.
fn begin_by(options: UpdateOptions, strategy: Canary) -> (World, UpdateId) {
    let mut world = World::deployed(4);
    let id = world.ok(start_with("2.0.0", options, Strategy::Canary(strategy))).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    world.rounds(5);
    (world, id)
}

fn rolls_back(canary: Canary) -> Canary {
    let analysis = Analysis { on_failure: DeadlineAction::Rollback, ..canary.analysis.clone() };
    Canary { analysis, ..canary }
}

fn at(world: &World, id: &UpdateId) -> (UpdateState, String, u32) {
    let update = world.update(id);
    (update.state, update.weights.to_string(), update.step())
}

#[test]
fn a_healthy_canary_goes_through_its_steps_and_completes_by_itself() {
    let (mut world, id) = begin(canary(STEPS));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:9".into(), 1));
    for (told, next, step) in [(200, "1:1", 2), (900, "1:0", 3)] {
        world.count(&id, told, 0, 0);
        world.pass(MINUTE - 5_000);
        assert_eq!(world.update(&id).step(), step - 1, "its time is not over");
        world.pass(5_000);
        assert_eq!(at(&world, &id), (UpdateState::Routing, next.into(), step));
    }
    world.count(&id, 2_000, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    assert_eq!((world.ready("2.0.0"), world.ready("1.0.0")), (4, 0));
    let record = &world.state.evidence[&id];
    let epochs = record.evidence.epochs().values();
    let requests: Vec<u64> = epochs.map(|epoch| epoch.tallies.new.requests).collect();
    assert_eq!(requests, [200, 700, 1_100], "what each step showed is kept");
    assert!(record.marks.is_empty());
}

#[test]
fn the_next_leader_goes_on_with_what_was_counted() {
    let (mut world, id) = begin(canary(STEPS));
    world.count(&id, 150, 0, 0);
    world.fail_over();
    world.count(&id, 150, 0, 0);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).step(), 2);
    world.fail_over();
    world.count(&id, 160, 0, 0);
    assert_eq!(world.state.evidence[&id].present().new.requests, 10);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).step(), 2, "ten requests are too few");
}

#[test]
fn too_few_requests_are_no_health_and_end_in_a_pause() {
    let (mut world, id) = begin(canary(STEPS));
    world.count(&id, 99, 0, 0);
    world.pass(MINUTE);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["evidence"]));
    world.pass(MINUTE * 59);
    assert!(world.update(&id).pause.is_none());
    world.pass(MINUTE);
    let pause = world.update(&id).pause.clone().unwrap();
    assert_eq!(pause.reason.code, "inconclusive");
    assert!(pause.reason.message.contains("99 of at least 100 requests"), "{pause:?}");
    // What came in since is enough, but a pause is a person's to end, and then the
    // step shows itself anew.
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).step(), 1);
    world.ok(resume(&id));
    world.count(&id, 700, 0, 0);
    world.pass(MINUTE - 1);
    assert_eq!(world.update(&id).step(), 1);
    world.pass(1);
    assert_eq!(world.update(&id).step(), 2);
}

#[test]
fn what_was_shown_in_time_counts_though_nobody_led_when_the_time_was_over() {
    let (mut world, id) = begin(canary(STEPS));
    world.count(&id, 500, 0, 0);
    world.fail_over();
    world.pass(100 * MINUTE);
    assert_eq!((world.update(&id).step(), &world.update(&id).pause), (2, &None));
}

#[test]
fn a_threshold_that_is_exceeded_pauses_or_rolls_back_as_was_asked() {
    // By what was counted over the step, though no window is full.
    let (mut world, id) = begin(canary(STEPS));
    world.count(&id, 1_000, 11, 0);
    world.rounds(3);
    let pause = world.update(&id).pause.clone().unwrap();
    assert_eq!(pause.reason.code, "threshold_exceeded");
    assert!(pause.reason.message.contains("1.10 %"), "{pause:?}");
    assert_eq!(world.update(&id).weights.to_string(), "1:9", "a pause moves nothing");

    let (mut world, id) = begin(rolls_back(canary(STEPS)));
    world.count(&id, 1_000, 0, 11);
    world.rounds(2);
    assert_eq!(at(&world, &id), (UpdateState::RollingBack, "0:1".into(), 1));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (4, 0));

    // By the window of the last seconds.
    let (mut world, id) = begin(rolls_back(canary(STEPS)));
    world.verdicts.insert(id.clone(), Verdict::Exceeded { detail: "p99 900 ms".into() });
    world.rounds(2);
    assert_eq!(world.state_of(&id), UpdateState::RollingBack);
}

#[test]
fn a_version_that_is_worse_than_the_old_one_fails_though_no_threshold_is_exceeded() {
    use aether_core::evidence::{Side, Tallies};
    let (mut world, id) = begin(rolls_back(canary(STEPS)));
    // The old version's sums begin with a baseline.
    let side = |requests, errors| Side { requests, errors, timed: 0, slow: 0 };
    let told = |new, old| Tallies { new, old };
    world.told(&id, told(side(0, 0), side(1, 0)), 0);
    world.told(&id, told(side(20_000, 20), side(180_001, 180)), 0);
    world.rounds(3);
    assert_eq!(world.state_of(&id), UpdateState::Routing, "they are alike");
    world.told(&id, told(side(60_000, 300), side(540_001, 540)), 0);
    world.rounds(3);
    assert_eq!(world.state_of(&id), UpdateState::RollingBack);
    let outcome = world.update(&id).outcome.clone().unwrap();
    assert_eq!(outcome.code, "worse_than_old", "{outcome:?}");
}

#[test]
fn who_resumes_in_spite_of_a_comparison_has_it_shown_anew() {
    use aether_core::evidence::{Side, Tallies};
    let (mut world, id) = begin(canary(STEPS));
    let side = |requests, errors| Side { requests, errors, timed: 0, slow: 0 };
    let told = |new, old| Tallies { new, old };
    world.told(&id, told(side(20_000, 150), side(180_000, 180)), 0);
    world.rounds(3);
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "worse_than_old");
    world.ok(resume(&id));
    world.rounds(3);
    assert!(world.update(&id).pause.is_none());
    world.told(&id, told(side(40_000, 170), side(360_000, 360)), 0);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).step(), 2);
}

#[test]
fn a_ratio_by_hand_is_no_way_around_approval() {
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let (mut world, id) = begin_by(options, canary(STEPS));
    let Command::SetWeights { update, weights, if_modified, .. } = routing(&id, "1:0") else {
        unreachable!()
    };
    let refused = world.propose(Command::SetWeights { update, weights, if_modified, force: true });
    assert!(matches!(refused, Err(Refusal::GoesBySteps { .. })), "{refused:?}");
}

#[test]
fn what_was_promoted_by_force_grows_all_the_same() {
    let strategy = Canary { scale_with_weight: true, ..canary("1:3 pause, 1:1 pause, 1:0 0s") };
    let (mut world, id) = begin(strategy);
    world.ok(promote(&id, true, true));
    world.settle();
    world.count(&id, 500, 0, 0);
    world.settle();
    assert_eq!((world.state_of(&id), world.ready("2.0.0")), (UpdateState::Completed, 4));
}

#[test]
fn a_step_by_evidence_is_left_when_the_comparison_clears_the_version() {
    use aether_core::evidence::{Side, Tallies};
    let (mut world, id) = begin(canary("1:9 evidence 30m, 1:0"));
    let side = |requests, errors| Side { requests, errors, timed: requests, slow: requests / 100 };
    let told = |new, old| Tallies { new, old };
    world.told(&id, told(side(0, 0), side(1, 0)), 0);
    world.told(&id, told(side(150, 1), side(1_350, 13)), 0);
    world.pass(20 * MINUTE);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["evidence"]));
    world.told(&id, told(side(20_000, 100), side(180_000, 900)), 0);
    world.rounds(2);
    assert_eq!(world.update(&id).step(), 2, "{:#?}", world.plan());

    let (mut world, id) = begin(canary("1:9 evidence 30m, 1:0"));
    world.told(&id, told(side(0, 0), side(1, 0)), 0);
    world.told(&id, told(side(150, 1), side(1_350, 13)), 0);
    world.pass(30 * MINUTE);
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "inconclusive");
}

#[test]
fn instances_that_do_not_stay_up_fail_the_step() {
    let (mut world, id) = begin(rolls_back(canary(STEPS)));
    let reason = Reason::new(Reason::CRASH_LOOP, "exit status 1");
    use aether_core::records::Observed::Crashed;
    world.broken.insert("2.0.0".into(), (Crashed, 3, reason));
    world.rounds(4);
    world.broken.clear();
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
    assert_eq!(world.update(&id).outcome.as_ref().unwrap().code, "crash_loop");
}

#[test]
fn a_pause_step_waits_for_a_promotion() {
    let (mut world, id) = begin(canary("1:9 pause, 1:0"));
    world.count(&id, 5_000, 0, 0);
    world.pass(20 * MINUTE);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["promotion"]));
    world.ok(promote(&id, false, false));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
    // From the last step a promotion completes.
    world.ok(promote(&id, false, false));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn a_full_promotion_goes_to_the_last_step_at_once() {
    let (mut world, id) = begin(canary(STEPS));
    world.ok(promote(&id, true, false));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 3));
}

#[test]
fn people_can_pause_what_goes_by_itself() {
    let (mut world, id) = begin(canary(STEPS));
    let suspend = |id: &UpdateId, why: Option<&str>| Command::Suspend {
        update: id.clone(),
        why: why.map(str::to_owned),
        if_modified: None,
    };
    world.ok(suspend(&id, Some("lunch")));
    let twice = world.propose(suspend(&id, None)).unwrap_err();
    assert!(matches!(twice, Refusal::PausedAlready { .. }), "{twice}");
    let refused = world.propose(promote(&id, false, false)).unwrap_err();
    assert!(matches!(refused, Refusal::Paused { .. }), "{refused}");
    world.count(&id, 5_000, 0, 0);
    world.pass(10 * MINUTE);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["paused"]));
    world.fail_over();
    world.pass(10 * MINUTE);
    assert_eq!(world.update(&id).step(), 1);
    world.ok(promote(&id, false, true));
    assert!(world.update(&id).pause.is_none());
    assert_eq!(world.update(&id).step(), 2);
}

#[test]
fn a_pause_of_the_deployment_holds_the_first_step_too() {
    let mut world = World::deployed(4);
    let strategy = Strategy::Canary(canary(STEPS));
    let command = start_with("2.0.0", UpdateOptions::default(), strategy);
    let id = world.ok(command).update.unwrap();
    world.round();
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    world.pass(10 * MINUTE);
    assert_eq!(at(&world, &id), (UpdateState::Deployed, "0:1".into(), 0));
    world.ok(resume(&id));
    world.pass(1);
    assert_eq!(world.update(&id).step(), 1);
}

/// Otherwise it would stay paused with a deadline that pauses, which is refused for
/// ever, and nothing else of the slice would have its turn.
#[test]
fn a_step_that_was_promoted_past_a_pause_ends_it_once_it_is_approved() {
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let (mut world, id) = begin_by(options, canary("1:1 10s, 1:0 10s"));
    world.ok(approve(&id));
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    world.ok(promote(&id, false, true));
    assert_eq!(world.waits(), ["paused", "approval"]);
    world.ok(approve(&id));
    let update = world.update(&id);
    assert_eq!((update.step(), update.weights.to_string().as_str()), (2, "1:0"));
    assert!(update.pause.is_none(), "{:?}", update.pause);
    // Nobody counts anything: it is undecided when its time is over, and says so.
    let due_ms = update.deadline.as_ref().unwrap().at_ms;
    world.pass(due_ms - world.now_ms);
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "inconclusive");
    let alert = world.update(&id).deadline.as_ref().unwrap().action;
    assert_eq!(alert, DeadlineAction::Alert);
}

#[test]
fn each_step_waits_for_approval_where_that_is_asked_for() {
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let (mut world, id) = begin_by(options, canary(STEPS));
    assert_eq!(at(&world, &id), (UpdateState::Deployed, "0:1".into(), 0));
    assert_eq!(world.waits(), ["approval"]);
    world.pass(10 * MINUTE);
    assert!(world.update(&id).pause.is_none(), "approval has its own time");
    world.ok(approve(&id));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:9".into(), 1));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).pending_weights.unwrap().to_string(), "1:1");
    assert_eq!(world.update(&id).step(), 1);
    world.ok(approve(&id));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:1".into(), 2));
}

#[test]
fn a_ratio_by_hand_has_to_be_forced_and_pauses() {
    let (mut world, id) = begin(canary(STEPS));
    let refused = world.propose(routing(&id, "1:3")).unwrap_err();
    assert!(matches!(refused, Refusal::GoesBySteps { .. }), "{refused}");
    let Command::SetWeights { update, weights, if_modified, .. } = routing(&id, "1:3") else {
        unreachable!()
    };
    world.ok(Command::SetWeights { update, weights, if_modified, force: true });
    world.count(&id, 500, 0, 0);
    world.pass(2 * MINUTE);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:3".into(), 1));
    world.ok(resume(&id));
    world.count(&id, 900, 0, 0);
    world.pass(MINUTE);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:1".into(), 2));
}

#[test]
fn a_ratio_by_hand_below_the_last_step_goes_on_with_the_step_above_it() {
    let (mut world, id) = begin(canary("1:3, 1:0"));
    world.ok(promote(&id, true, false));
    let Command::SetWeights { update, weights, if_modified, .. } = routing(&id, "1:1") else {
        unreachable!()
    };
    world.ok(Command::SetWeights { update, weights, if_modified, force: true });
    world.ok(resume(&id));
    world.count(&id, 1_000, 0, 0);
    world.pass(MINUTE);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
}

#[test]
fn who_promotes_finds_the_instances_that_the_next_step_needs() {
    let strategy = Canary { scale_with_weight: true, ..canary("1:3 pause, 1:0") };
    let (mut world, id) = begin(strategy);
    world.settle();
    assert_eq!((world.update(&id).step(), world.ready("2.0.0")), (1, 4));
    world.ok(promote(&id, false, false));
    assert_eq!(world.update(&id).step(), 2);
}

#[test]
fn instances_follow_the_weight_where_that_is_asked_for() {
    let strategy = Canary { scale_with_weight: true, ..canary("1:9, 1:1, 1:0") };
    let (mut world, id) = begin(strategy);
    assert_eq!((world.ready("2.0.0"), world.ready("1.0.0")), (1, 4));
    assert_eq!(world.update(&id).step(), 1);
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!((world.update(&id).step(), world.ready("2.0.0")), (2, 2));
    world.count(&id, 1_000, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!((world.update(&id).step(), world.ready("2.0.0")), (3, 4));
    world.ok(rollback(&id));
    assert_eq!(world.update(&id).weights.to_string(), "0:1", "the old set is whole");
}

#[test]
fn what_was_promoted_past_its_growth_is_whole_in_the_end() {
    let strategy = Canary { scale_with_weight: true, ..canary("1:9, 1:1, 1:0") };
    let (mut world, id) = begin(strategy);
    assert_eq!(world.ready("2.0.0"), 1);
    world.ok(promote(&id, true, true));
    world.ok(complete_forced(&id));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    assert_eq!((world.ready("2.0.0"), world.instances("1.0.0").len()), (4, 0));
}

#[test]
fn from_a_one_way_step_on_nobody_goes_back() {
    let strategy = Canary { one_way_from: Some(2), ..rolls_back(canary(STEPS)) };
    let (mut world, id) = begin(strategy);
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(world.update(&id).step(), 2);
    let refused = world.propose(rollback(&id)).unwrap_err();
    assert!(matches!(refused, Refusal::OneWay { step: 2, .. }), "{refused}");
    // A failed step pauses in its place.
    world.count(&id, 1_500, 500, 0);
    world.rounds(3);
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "threshold_exceeded");
    assert_eq!(world.state_of(&id), UpdateState::Routing);
}

#[test]
fn there_is_no_undo_of_a_one_way_update() {
    let strategy = Canary { one_way_from: Some(1), ..canary("1:0") };
    let cleanup = aether_core::records::CleanupPolicy::Manual;
    let options = UpdateOptions { cleanup, ..UpdateOptions::default() };
    let (mut world, id) = begin_by(options, strategy);
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    let undo = Command::Undo {
        update: id.clone(),
        weights: "1:0".parse().unwrap(),
        force: true,
        cleanup: None,
        grace_ms: None,
        if_modified: None,
    };
    let refused = world.propose(undo).unwrap_err();
    assert!(matches!(refused, Refusal::OneWay { .. }), "{refused}");
}

#[test]
fn another_latency_threshold_begins_the_count_anew() {
    let (mut world, id) = begin(canary(STEPS));
    world.count(&id, 1_000, 0, 9);
    let changes = OptionChanges { p99_ms: Some(100), ..OptionChanges::default() };
    world.ok(Command::SetOptions { update: id.clone(), changes, if_modified: None });
    // The first sums are a baseline: nobody knows what took longer than 100 ms before.
    world.count(&id, 1_200, 0, 700);
    world.count(&id, 1_300, 0, 701);
    let record = world.state.evidence[&id].clone();
    assert_eq!((record.present().new.requests, record.late), (100, 1));
}

#[test]
fn a_first_deployment_has_one_step() {
    let mut world = World::empty();
    let strategy = Strategy::Canary(canary(STEPS));
    let command = start_with("1.0.0", UpdateOptions::default(), strategy);
    let id = world.ok(command).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 1));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn strategies_that_make_no_sense_are_refused() {
    let mut world = World::deployed(2);
    let mut refused = |change: &dyn Fn(&mut Canary)| {
        let mut strategy = canary(STEPS);
        change(&mut strategy);
        let command = start_with("2.0.0", UpdateOptions::default(), Strategy::Canary(strategy));
        let refusal = world.propose(command).unwrap_err();
        assert!(matches!(refusal, Refusal::BadOption { .. }), "{refusal}");
        refusal.to_string()
    };
    let steps = |text| Step::list(text, 1).unwrap();
    assert!(refused(&|c| c.steps.clear()).contains("1 to 100"));
    assert!(refused(&|c| c.steps = steps("1:9, 1:1")).contains("1:0"));
    assert!(refused(&|c| c.steps = steps("1:1, 1:9, 1:0")).contains("at least the 1:1"));
    assert!(refused(&|c| c.steps = steps("0:1, 1:0")).contains("a share"));
    assert!(refused(&|c| c.one_way_from = Some(0)).contains("1 to 3"));
    assert!(refused(&|c| c.one_way_from = Some(4)).contains("1 to 3"));
    assert!(refused(&|c| c.analysis.on_failure = DeadlineAction::Fail).contains("ROLLBACK"));
    assert!(refused(&|c| c.analysis.patience_ms = 0).contains("above zero"));
    assert!(refused(&|c| c.analysis.warm_up_ms = u64::MAX).contains("30 days"));
    refused(&|c| c.steps[0].hold = aether_core::records::Hold::For { ms: u64::MAX });
}

#[test]
fn people_are_told_what_has_no_steps() {
    let mut world = World::deployed(2);
    let id = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    let refused = world.propose(promote(&id, false, false)).unwrap_err();
    assert!(matches!(refused, Refusal::HasNoSteps { .. }), "{refused}");
}

/// A canary that rolls back by itself, of which each session's sums have a mark
/// already and the warm-up is over: what is told next counts, at the first step.
fn begin_counting() -> (World, UpdateId) {
    let (mut world, id) = begin(rolls_back(canary(STEPS)));
    for _ in 0..2 {
        world.count_by_instance(&id, &[(1, 0), (1, 0), (1, 0), (1, 0)]);
        world.now_ms += 20_000;
    }
    (world, id)
}

fn paused_by(world: &World, id: &UpdateId) -> Option<(String, String)> {
    let pause = world.update(id).pause.clone()?;
    Some((pause.reason.code, pause.reason.message))
}

#[test]
fn one_bad_host_is_named_and_the_version_is_not_rolled_back_for_it() {
    let (mut world, id) = begin_counting();
    let bad = world.instances("2.0.0")[2].clone();
    let node = world.state.instances[&bad].node.clone();
    world.count_by_instance(&id, &[(50, 0), (50, 0), (50, 25), (50, 0)]);
    // Whoever leads: what each instance served is committed.
    world.fail_over();
    world.rounds(3);
    let (code, message) = paused_by(&world, &id).expect("it pauses");
    assert_eq!(code, "instance_outlier", "{message}");
    for part in [bad.as_str(), "25 failed", &format!("'aether node drain {node}'")] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:9".into(), 1), "a pause moves nothing");
    // Somebody has seen to it; what was shown before does not count any more.
    world.ok(resume(&id));
    world.rounds(3);
    assert_eq!(paused_by(&world, &id), None);
    world.count_by_instance(&id, &[(50, 0), (50, 0), (50, 0), (50, 0)]);
    world.rounds(3);
    assert_eq!(at(&world, &id).2, 1);
    assert_eq!(paused_by(&world, &id), None);
}

#[test]
fn a_version_that_fails_on_every_host_is_rolled_back() {
    let (mut world, id) = begin_counting();
    world.count_by_instance(&id, &[(50, 5), (50, 0), (50, 9), (50, 7)]);
    world.rounds(3);
    assert_eq!(world.state_of(&id), UpdateState::RollingBack);
    assert_eq!(world.update(&id).outcome.clone().unwrap().code, "threshold_exceeded");
}

#[test]
fn a_host_that_the_comparison_finds_is_named_though_no_threshold_is_exceeded() {
    let (mut world, id) = begin_counting();
    // 0.6 % of all, and every one of them at one instance.
    for _ in 0..4 {
        world.count_by_instance(&id, &[(1_000, 0), (1_000, 24), (1_000, 0), (1_000, 0)]);
    }
    world.rounds(3);
    let (code, message) = paused_by(&world, &id).expect("it pauses");
    assert_eq!(code, "instance_outlier", "{message}");
    assert!(message.contains("it is to blame and not the version"), "{message}");
}

/// With 25 requests to each of four there are enough in all, and too few without the bad
/// one: what every step goes through that counts from nothing on.
#[test]
fn while_too_few_calls_reach_the_others_a_bad_host_is_not_taken_for_its_version() {
    let (mut world, id) = begin_counting();
    world.count_by_instance(&id, &[(25, 0), (25, 0), (25, 10), (25, 0)]);
    world.rounds(3);
    assert_eq!((at(&world, &id).2, paused_by(&world, &id)), (1, None));
    world.now_ms += 10 * MINUTE;
    let waits = world.plan().waits;
    let said = waits.values().flatten().find(|wait| wait.message.contains("more calls will tell"));
    assert!(said.expect("it is said").message.contains("'aether node drain "), "{waits:#?}");
    world.count_by_instance(&id, &[(20, 0), (20, 0), (20, 10), (20, 0)]);
    world.rounds(3);
    let (code, message) = paused_by(&world, &id).expect("it pauses");
    assert_eq!(code, "instance_outlier", "{message}");
}
