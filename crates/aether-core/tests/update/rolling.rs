//! Rolling, in place: ready instances never below the floor, never more than the
//! ceiling, forward and back, whoever leads.

use aether_core::command::{Command, Observation, Refusal};
use aether_core::ids::{InstanceId, UpdateId};
use aether_core::level::{FEATURE_LEVEL_MAX, since};
use aether_core::records::{
    CleanupPolicy, DeadlineAction, InstanceRecord, NodeSchedule, Observed, Reason, Rolling,
    Strategy, UpdateOptions, UpdateState,
};

use crate::world::{SLICE, World, in_batches, promote, rollback, start_with};

/// Options of a world in which instances are ready at once.
fn options() -> UpdateOptions {
    UpdateOptions { healthy_ms: 0, ..UpdateOptions::default() }
}

fn begin(instances: u32, rolling: Rolling) -> (World, UpdateId) {
    let mut world = World::deployed(instances);
    let command = start_with("2.0.0", options(), Strategy::Rolling(rolling));
    let id = world.ok(command).update.unwrap();
    (world, id)
}

/// One round after the other until the update has ended; after each of them, and
/// within each, the bounds hold.
fn walk(world: &mut World, id: &UpdateId, floor: usize, ceiling: usize) -> Vec<(usize, usize)> {
    let mut seen = Vec::new();
    for round in 0..400 {
        let now = (world.ready("1.0.0"), world.ready("2.0.0"));
        let there = world.instances("1.0.0").len() + world.instances("2.0.0").len();
        assert!(now.0 + now.1 >= floor, "round {round}: {now:?} ready, {:#?}", world.plan());
        assert!(there <= ceiling, "round {round}: {there} exist");
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        if world.update(id).state.is_terminal() {
            return seen;
        }
        world.now_ms += 10;
        world.round();
    }
    panic!("does not end: {:#?} {:#?}", world.update(id), world.plan());
}

#[test]
fn instances_are_replaced_where_they_are_batch_by_batch() {
    let (mut world, id) = begin(12, in_batches("2", "2", "0"));
    let seen = walk(&mut world, &id, 10, 12);
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    assert_eq!(seen.last(), Some(&(0, 12)));
    assert!(
        seen.contains(&(10, 0)) && seen.contains(&(10, 2)) && seen.contains(&(8, 2)),
        "{seen:?}"
    );
    // Each batch got its share of the calls, no more.
    let routed: Vec<String> =
        world.update(&id).history.iter().map(|entry| entry.weights.to_string()).collect();
    for ratio in ["1:5", "1:4", "1:2", "2:3", "1:1", "2:1", "5:1", "1:0"] {
        assert!(routed.contains(&ratio.to_owned()), "{ratio} in {routed:?}");
    }
}

#[test]
fn with_a_surge_nothing_is_ever_missing() {
    let (mut world, id) = begin(4, in_batches("1", "0", "1"));
    let seen = walk(&mut world, &id, 4, 5);
    assert_eq!((world.state_of(&id), seen.last()), (UpdateState::Completed, Some(&(0, 4))));
}

#[test]
fn bounds_hold_for_every_shape_of_batch() {
    for (instances, batches, unavailable, surge) in [
        (1, "1", "0", "1"),
        (1, "100%", "100%", "0"),
        (3, "1, 50%", "1", "1"),
        (5, "2", "1", "0"),
        (7, "100%", "25%", "25%"),
        (10, "1, 2, 30%", "2", "3"),
        (6, "6", "3", "6"),
    ] {
        let rolling = in_batches(batches, unavailable, surge);
        let bounds = rolling.bounds(instances);
        let (mut world, id) = begin(instances, rolling);
        let (floor, ceiling) = (bounds.floor as usize, bounds.ceiling as usize);
        let seen = walk(&mut world, &id, floor, ceiling);
        assert_eq!(world.state_of(&id), UpdateState::Completed, "{batches}: {seen:?}");
        assert_eq!(world.ready("2.0.0"), instances as usize);
    }
}

#[test]
fn a_rollback_keeps_the_bounds_from_wherever_it_begins() {
    for (unavailable, surge) in [("2", "0"), ("0", "2"), ("1", "1")] {
        for rounds in 0..70 {
            let rolling = in_batches("2", unavailable, surge);
            let bounds = rolling.bounds(6);
            let (floor, ceiling) = (bounds.floor as usize, bounds.ceiling as usize);
            let (mut world, id) = begin(6, rolling);
            for _ in 0..rounds {
                world.now_ms += 10;
                world.round();
            }
            if world.update(&id).state.is_terminal() {
                break;
            }
            if rounds % 3 == 1 {
                world.fail_over();
            }
            if world.propose(rollback(&id)).is_err() {
                break;
            }
            if rounds % 3 == 2 {
                world.fail_over();
            }
            walk(&mut world, &id, floor, ceiling);
            assert_eq!(world.state_of(&id), UpdateState::RolledBack, "after {rounds} rounds");
            assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (6, 0));
            assert_eq!(world.update(&id).weights.to_string(), "0:1");
        }
    }
}

#[test]
fn a_leader_dies_after_every_round_and_the_bounds_hold() {
    let (mut world, id) = begin(6, in_batches("2", "2", "0"));
    for _ in 0..600 {
        let ready = world.ready("1.0.0") + world.ready("2.0.0");
        assert!(ready >= 4, "{ready} are ready");
        world.fail_over();
        world.sessions_ack();
        world.now_ms += 10;
        world.round();
        if world.update(&id).state.is_terminal() {
            break;
        }
    }
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn a_batch_that_fails_stops_there_and_says_how_far_it_came() {
    let (mut world, id) = begin(6, in_batches("2", "2", "0"));
    while world.ready("2.0.0") < 4 {
        world.now_ms += 10;
        world.round();
    }
    let reason = Reason::new(Reason::CRASH_LOOP, "exit status 7");
    world.broken.insert("2.0.0".into(), (Observed::Crashed, 5, reason));
    // Only what is started from now on fails.
    let sound = world.instances("2.0.0");
    world.rounds(1);
    world.broken.clear();
    assert!(!sound.is_empty());
    world.rounds(4);
    let pause = world.update(&id).pause.clone().expect("it is paused");
    assert_eq!(pause.reason.code, "crash_loop");
    for part in ["failed", "updated", "not reached", "exit status 7"] {
        assert!(pause.reason.message.contains(part), "{part}: {}", pause.reason.message);
    }
}

/// Where no calls are waited for, it is not for want of calls that it stays.
#[test]
fn a_batch_that_is_never_ready_is_paused_and_named_when_its_time_is_over() {
    let (mut world, id) = begin(6, in_batches("2", "2", "0"));
    while world.update(&id).step() == 0 {
        world.now_ms += 10;
        world.round();
    }
    let reason = Reason::new("probe_failed", "http status 500");
    world.broken.insert("2.0.0".into(), (Observed::Starting, 0, reason));
    let due_ms = world.update(&id).deadline.as_ref().unwrap().at_ms;
    world.pass(due_ms - world.now_ms);
    let Reason { code, message } = &world.update(&id).pause.as_ref().unwrap().reason;
    assert_eq!(code, "inconclusive");
    assert!(
        message.starts_with("step 1 of 3 was not decided in time: what the next step needs")
            && message.ends_with("probe_failed: http status 500"),
        "{message}"
    );
}

#[test]
fn a_first_batch_that_never_becomes_ready_goes_back_within_the_bounds() {
    let (mut world, id) = begin(6, in_batches("2", "2", "0"));
    let reason = Reason::new("probe_failed", "503");
    world.broken.insert("2.0.0".into(), (Observed::Starting, 0, reason));
    world.rounds(30);
    assert_eq!(world.state_of(&id), UpdateState::Deploying);
    world.now_ms += 5 * 60_000;
    world.round();
    assert_eq!(world.state_of(&id), UpdateState::RollingBack);
    walk(&mut world, &id, 4, 6);
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
}

#[test]
fn a_rollback_from_a_version_of_which_nothing_is_ready_gets_through() {
    let (mut world, id) = begin(6, in_batches("2", "2", "0"));
    while world.ready("2.0.0") < 4 {
        world.now_ms += 10;
        world.round();
    }
    let reason = Reason::new("probe_failed", "503");
    world.broken.insert("2.0.0".into(), (Observed::Unready, 0, reason));
    world.rounds(1);
    assert_eq!(world.ready("2.0.0"), 0);
    world.ok(rollback(&id));
    let before = world.log.len();
    world.rounds(60);
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
    assert_eq!(world.ready("1.0.0"), 6);
    assert!(world.log.len() - before < 100, "nothing was proposed over and over");
}

#[test]
fn old_instances_that_are_not_ready_are_replaced_though_the_floor_is_not_reached() {
    let (mut world, id) = begin(6, in_batches("1", "1", "0"));
    let reason = Reason::new("probe_failed", "503");
    world.broken.insert("1.0.0".into(), (Observed::Unready, 0, reason));
    world.rounds(1);
    assert_eq!(world.ready("1.0.0"), 0);
    for _ in 0..200 {
        world.now_ms += 10;
        world.round();
    }
    assert_eq!(world.state_of(&id), UpdateState::Completed, "{:#?}", world.plan());
}

#[test]
fn a_pause_of_the_first_batch_takes_nothing_more_away() {
    let (mut world, id) = begin(4, in_batches("2", "2", "0"));
    world.round();
    assert_eq!(world.state_of(&id), UpdateState::Deploying);
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    world.rounds(30);
    assert_eq!((world.ready("1.0.0"), world.waits()), (4, vec!["paused"]));
    world.ok(crate::world::resume(&id));
    walk(&mut world, &id, 2, 4);
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn batches_are_staggered_and_judged_where_that_is_asked_for() {
    let rolling = Rolling { stagger_ms: 30_000, ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(4, rolling);
    world.settle();
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["hold"]));
    world.pass(29_000);
    assert_eq!(world.update(&id).step(), 1);
    world.pass(1_000);
    world.settle();
    assert_eq!(world.update(&id).step(), 2);

    let analysis = aether_core::records::Analysis {
        on_failure: DeadlineAction::Rollback,
        warm_up_ms: 0,
        ..Default::default()
    };
    let rolling = Rolling { hold_ms: 10_000, analysis, ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(4, rolling);
    world.settle();
    world.pass(60_000);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["evidence"]));
    world.count(&id, 1_000, 500, 0);
    walk(&mut world, &id, 2, 4);
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
}

/// A batch that is only staggered does not wait for calls: what is known when its time is
/// over decides.
#[test]
fn a_staggered_batch_does_not_go_on_past_a_bad_host() {
    let rolling = Rolling { stagger_ms: 30_000, ..in_batches("3", "3", "0") };
    let (mut world, id) = begin(6, rolling);
    world.settle();
    world.count_by_instance(&id, &[(1, 0), (1, 0), (1, 0)]);
    world.count_by_instance(&id, &[(34, 0), (34, 20), (34, 0)]);
    world.pass(1_000);
    let update = world.update(&id);
    let reason = &update.pause.as_ref().expect("it pauses").reason;
    assert_eq!((update.step(), &*reason.code), (1, "instance_outlier"), "{reason:?}");
    assert!(reason.message.contains("too few to judge the version by"), "{reason:?}");
    world.pass(60_000);
    assert_eq!(world.update(&id).step(), 1);
}

/// The first two of four wait for approval.
fn begin_with_approval() -> (World, UpdateId) {
    begin_with_approval_at(FEATURE_LEVEL_MAX)
}

fn begin_with_approval_at(level: u32) -> (World, UpdateId) {
    let mut world = World::deployed_at(level, 4);
    let options = UpdateOptions { manual_approval: true, ..options() };
    let strategy = Strategy::Rolling(in_batches("2", "2", "0"));
    let id = world.ok(start_with("2.0.0", options, strategy)).update.unwrap();
    world.settle();
    (world, id)
}

#[test]
fn each_batch_waits_for_approval_where_that_is_asked_for() {
    let (mut world, id) = begin_with_approval();
    assert_eq!((world.waits(), world.ready("2.0.0")), (vec!["approval"], 2));
    world.ok(crate::world::approve(&id));
    assert_eq!(world.update(&id).step(), 1);
    world.settle();
    assert_eq!((world.waits(), world.ready("2.0.0")), (vec!["approval"], 4));
    world.ok(crate::world::approve(&id));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

fn unready(of: &InstanceRecord) -> Observation {
    Observation {
        instance: of.id.clone(),
        observed: Observed::Unready,
        endpoint: of.endpoint,
        restarts: 0,
        reason: None,
        reloaded: None,
    }
}

/// While a node is drained its instances and those in their place are ready at once. A
/// promotion then finds a batch whole that is not once the first have gone.
#[test]
fn what_waits_for_approval_still_gets_its_instances() {
    let (mut world, id) = begin_with_approval();
    world.ok(crate::world::approve(&id));
    // One that is not ready for a while has the next batch begin with one instance.
    let ill = world.state.instances[&world.instances("2.0.0")[0]].clone();
    let wanted = |world: &World| {
        let key = (SLICE.parse().unwrap(), world.update(&id).new.revision);
        world.state.targets[&key].instances
    };
    for _ in 0..50 {
        if wanted(&world) == 3 {
            break;
        }
        world.ok(Command::Observe { node: ill.node.clone(), observations: vec![unready(&ill)] });
        world.decide();
        world.now_ms += 50;
        world.agents_act();
        world.sessions_ack();
    }
    assert_eq!((wanted(&world), world.update(&id).step()), (3, 1));
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    let node = world.state.instances[&world.instances("2.0.0")[0]].node.clone();
    world.ok(Command::SetNodeSchedule { node, schedule: NodeSchedule::Draining });
    world.decide();
    for _ in 0..10 {
        world.now_ms += 50;
        world.agents_act();
    }
    assert_eq!(world.ready("2.0.0"), 4, "{:#?}", world.plan());
    // Promoted past its pause, which takes nothing more away until somebody ends it.
    world.ok(crate::world::promote(&id, false, true));
    assert!(world.update(&id).pending_weights.is_some(), "{:?}", world.update(&id));
    world.rounds(5);
    assert_eq!((wanted(&world), world.update(&id).pause.is_some()), (3, true));
    world.ok(crate::world::resume(&id));
    world.rounds(5);
    world.settle();
    assert_eq!((world.waits(), world.ready("2.0.0")), (vec!["approval"], 4));
    world.ok(crate::world::approve(&id));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

/// Whoever forces a promotion goes past its hold and its gates, and not past instances that
/// are not there: what is approved later least of all.
#[test]
fn an_approval_of_what_was_forced_waits_for_the_batch() {
    for level in [since::APPROVAL_OF_BATCH - 1, since::APPROVAL_OF_BATCH] {
        let (mut world, id) = begin_with_approval_at(level);
        world.ok(crate::world::promote(&id, false, true));
        assert!(world.update(&id).pending_forced);
        for instance in world.instances("2.0.0") {
            let ill = world.state.instances[&instance].clone();
            let (node, observations) = (ill.node.clone(), vec![unready(&ill)]);
            world.ok(Command::Observe { node, observations });
        }
        assert_eq!(world.ready("2.0.0"), 0);
        let approved = world.propose(crate::world::approve(&id));
        if level < since::APPROVAL_OF_BATCH {
            assert!(approved.is_ok() && world.update(&id).step() == 1, "{approved:?}");
            continue;
        }
        assert!(matches!(approved, Err(Refusal::CapacityGuard { .. })), "{approved:?}");
        assert_eq!(world.update(&id).step(), 0);
        world.settle();
        assert_eq!((world.waits(), world.ready("2.0.0")), (vec!["approval"], 2));
        world.ok(crate::world::approve(&id));
        assert_eq!(world.update(&id).step(), 1);
    }
}

#[test]
fn a_person_can_pause_and_promote_between_batches() {
    let rolling = Rolling { stagger_ms: 600_000, ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(4, rolling);
    world.settle();
    assert_eq!(world.update(&id).step(), 1);
    // The last batch has no instances yet: there is nothing that could take calls.
    let refused = world.propose(crate::world::promote(&id, true, true)).unwrap_err();
    assert!(matches!(refused, Refusal::CapacityGuard { .. }), "{refused}");
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    world.pass(700_000);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["paused"]));
    world.ok(crate::world::resume(&id));
    world.pass(600_000);
    world.settle();
    assert_eq!(world.update(&id).step(), 2);
}

/// A batch that too few calls reach is never shown to be healthy; where there is no
/// way back either, a promotion is all there is.
#[test]
fn a_batch_that_too_few_calls_reach_is_left_by_promotion() {
    let rolling = Rolling { hold_ms: 3_000, one_way_from: Some(1), ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(4, rolling);
    world.settle();
    assert_eq!((world.waits(), world.update(&id).step()), (vec!["evidence"], 1));
    let due_ms = world.update(&id).deadline.as_ref().unwrap().at_ms;
    world.pass(due_ms - world.now_ms);
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "inconclusive");
    assert!(matches!(world.propose(rollback(&id)), Err(Refusal::OneWay { .. })));

    let promoted = |force| crate::world::promote(&id, false, force);
    assert!(matches!(world.propose(promoted(false)), Err(Refusal::Paused { .. })));
    let note = world.ok(promoted(true)).note.unwrap();
    assert_eq!(note, "step 2 of 2 follows once its instances are ready and its gates pass");
    // What it paused over is not held against it again, and what comes next counts.
    assert_eq!(world.update(&id).health_from_ms, world.state.meta.log_time_ms);
    assert_eq!(world.state.evidence[&id].evidence.epochs().len(), 1);
    world.settle();
    assert_eq!((world.update(&id).step(), world.ready("2.0.0")), (2, 4));
    // The next one is judged by its own calls.
    assert_eq!(world.waits(), ["evidence"]);
}

#[test]
fn what_cannot_be_done_in_place_is_refused() {
    let mut world = World::deployed(4);
    let mut refused = |options: UpdateOptions, instances: Option<u32>, rolling: Rolling| {
        let mut command = start_with("2.0.0", options, Strategy::Rolling(rolling));
        let Command::StartWith { instances: wanted, .. } = &mut command else { unreachable!() };
        *wanted = instances;
        let refusal = world.propose(command).unwrap_err();
        assert!(matches!(refusal, Refusal::BadOption { .. }), "{refusal}");
        refusal.to_string()
    };
    let sound = || in_batches("1", "1", "0");
    assert!(refused(options(), Some(5), sound()).contains("scale before"));
    assert!(refused(options(), None, in_batches("1", "0", "0")).contains("at least one"));
    assert!(refused(options(), None, in_batches("1", "10%", "0")).contains("at least one"));
    let kept = UpdateOptions { cleanup: CleanupPolicy::GracePeriod, ..options() };
    assert!(refused(kept, None, sound()).contains("IMMEDIATE"));
    refused(options(), None, Rolling { batches: Vec::new(), ..sound() });
    refused(options(), None, Rolling { one_way_from: Some(0), ..sound() });
}

#[test]
fn thousands_of_batches_are_refused_before_anything_starts() {
    let mut world = World::empty();
    (1..=3).for_each(|node| world.set_room(node, 1_000));
    world.ok(Command::Deploy {
        slice: crate::world::SLICE.parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        instances: 1_001,
    });
    let refused = |world: &mut World, batches: &str| {
        let strategy = Strategy::Rolling(in_batches(batches, "2", "0"));
        world.propose(start_with("2.0.0", options(), strategy)).map_err(|r| r.to_string())
    };
    let said = refused(&mut world, "1").unwrap_err();
    assert!(said.contains("at most 1000") && said.contains("1001"), "{said}");
    refused(&mut world, "2").unwrap();
}

#[test]
fn it_needs_no_room_beyond_its_surge() {
    let mut world = World::deployed(6);
    (1..=3).for_each(|node| world.set_room(node, 2));
    let command = start_with("2.0.0", options(), Strategy::Rolling(in_batches("2", "2", "0")));
    let id = world.ok(command).update.unwrap();
    walk(&mut world, &id, 4, 6);
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    let refused =
        world.propose(start_with("3.0.0", options(), Strategy::Rolling(in_batches("2", "0", "1"))));
    assert!(matches!(refused, Err(Refusal::NoCapacity { needed: 1, .. })), "{refused:?}");
}

#[test]
fn so_many_instances_may_fail_as_somebody_said_and_the_floor_holds_all_the_same() {
    let strategy = || Rolling { max_failures: 1, ..in_batches("2", "3", "0") };
    let fails = |world: &mut World, instance: &aether_core::ids::InstanceId| {
        let reason = Reason::new(Reason::CRASH_LOOP, "exit status 7");
        world.broken.insert(instance.to_string(), (Observed::Crashed, 5, reason));
    };
    for (failing, ends) in [(1, UpdateState::Completed), (2, UpdateState::Routing)] {
        let (mut world, id) = begin(6, strategy());
        for _ in 0..80 {
            world.now_ms += 10;
            for command in world.plan().commands {
                drop(world.propose(command));
            }
            // The first batch serves; of the next one some stay down.
            if world.broken.is_empty() && world.update(&id).step() == 1 {
                let mut next = world.instances("2.0.0");
                next.retain(|id| !world.state.instances[id].is_routable());
                next.iter().take(failing).for_each(|instance| fails(&mut world, instance));
            }
            world.agents_act();
            world.sessions_ack();
            let ready = world.ready("1.0.0") + world.ready("2.0.0");
            assert!(ready >= 3, "{ready} are ready, {:#?}", world.plan());
        }
        if failing == 2 {
            let reason = world.update(&id).pause.clone().expect("one too many").reason;
            assert_eq!(reason.code, "crash_loop");
            assert!(reason.message.contains("2 failed"), "{}", reason.message);
            continue;
        }
        // All others are there; the update ends when the one that failed is, too.
        assert_eq!(world.ready("2.0.0"), 5);
        assert_eq!(world.update(&id).weights.to_string(), "1:0");
        let waits = &world.plan().waits[&"org.example:my-slice".parse().unwrap()];
        let said: Vec<&str> = waits.iter().map(|wait| wait.message.as_str()).collect();
        assert!(said.iter().any(|text| text.contains("exit status 7")), "{said:?}");
        world.broken.clear();
        world.settle();
        assert_eq!(world.state_of(&id), ends);
    }
}

#[test]
fn the_last_batch_takes_all_calls_once_the_floor_is_new_however_many_may_fail() {
    let slice = || "org.example:my-slice".parse().unwrap();
    let down = |world: &mut World, instance: &InstanceId| {
        let reason = Reason::new(Reason::CRASH_LOOP, "exit status 7");
        world.broken.insert(instance.to_string(), (Observed::Crashed, 5, reason));
    };
    // As many as may fail; the floor; new ones that stay up; whether that will do.
    for (instances, unavailable, may_fail, up, is_enough) in [
        (2, "1", 2, 0, false),
        (2, "1", 2, 1, true),
        (2, "2", 2, 0, false),
        (4, "1", 2, 2, false),
        (4, "1", 2, 3, true),
        (4, "0", 1, 3, false),
    ] {
        let rolling = Rolling { max_failures: may_fail, ..in_batches("1", unavailable, "1") };
        let goals = rolling.goals(instances).len() as u32;
        let (mut world, id) = begin(instances, rolling);
        let mut refused = 0;
        for _ in 0..200 {
            world.now_ms += 10;
            for command in world.plan().commands {
                drop(world.propose(command));
            }
            // The batch before the last serves; all but so many go down, old or new.
            if world.update(&id).step() == goals - 1 && world.update(&id).pause.is_none() {
                let new = world.instances("2.0.0");
                new.iter().skip(up).for_each(|instance| down(&mut world, instance));
                // A person is told the same.
                let is_there = world.state.is_batch_whole(world.update(&id), instances);
                refused += u32::from(!is_there);
            }
            world.agents_act();
            world.sessions_ack();
            let table = world.state.slice_table(&slice()).unwrap();
            assert!(table.effective_weights().is_some(), "nowhere: {:#?}", world.update(&id));
        }
        let last = world.update(&id).step() == goals;
        assert_eq!(last, is_enough, "{instances}, {up} up: {:#?}", world.plan().waits);
        assert!(refused > 0 || is_enough);
        let by_hand = world.propose(promote(&id, false, false));
        let weights = world.update(&id).weights.to_string();
        assert_eq!(weights == "1:0", is_enough, "{by_hand:?}");
        world.broken.clear();
        world.settle();
        assert_eq!(world.state_of(&id), UpdateState::Completed);
    }
}

#[test]
fn below_its_level_the_last_batch_is_entered_as_it_was() {
    for (level, is_entered) in
        [(since::FLOOR_OF_LAST_BATCH - 1, true), (since::FLOOR_OF_LAST_BATCH, false)]
    {
        let mut world = World::deployed_at(level, 4);
        let rolling = Rolling { max_failures: 2, ..in_batches("2", "1", "1") };
        let id = world.ok(start_with("2.0.0", options(), Strategy::Rolling(rolling))).update;
        let id = id.unwrap();
        for _ in 0..200 {
            world.now_ms += 10;
            world.round();
            if world.update(&id).step() == 1 {
                break;
            }
        }
        // Of the last batch none stays up: two of four are ready, and the floor is three.
        let first = world.instances("2.0.0");
        for _ in 0..200 {
            world.now_ms += 10;
            for command in world.plan().commands {
                drop(world.propose(command));
            }
            for instance in world.instances("2.0.0").into_iter().filter(|i| !first.contains(i)) {
                let reason = Reason::new(Reason::CRASH_LOOP, "exit status 7");
                world.broken.insert(instance.to_string(), (Observed::Crashed, 5, reason));
            }
            world.agents_act();
            world.sessions_ack();
        }
        assert_eq!(world.update(&id).step() == 2, is_entered, "{level}: {:#?}", world.plan().waits);
    }
}
