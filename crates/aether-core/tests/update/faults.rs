//! What goes wrong in the middle of an update, written as scenarios: leaders,
//! nodes, instances and room that are lost, and decisions that come too late.

use aether_core::command::{Command, Observation, Refusal};
use aether_core::health::Verdict;
use aether_core::planner::{SessionView, Wait};
use aether_core::records::{CleanupPolicy, Observed, Reason, UpdateOptions, UpdateState as S};

use crate::scenarios::{at, sicken};
use crate::world::{SLICE, World, complete, rollback, routing, start};

fn waits(world: &World) -> Vec<Wait> {
    world.plan().waits.remove(&SLICE.parse().unwrap()).unwrap_or_default()
}

fn lose_s2(world: &mut World) {
    let since_ms = world.now_ms;
    world.sessions.insert("s2".parse().unwrap(), SessionView::Unreachable { since_ms });
}

/// Goes on until nothing happens, with another leader after every command.
fn settle_leader_by_leader(world: &mut World) {
    for _ in 0..1_000 {
        world.now_ms += 500;
        let plan = world.plan();
        let wakes_soon = plan.wake_at_ms.is_some_and(|at| at < world.now_ms + 10_000);
        let Some(command) = plan.commands.into_iter().next() else {
            if !world.round() && !wakes_soon {
                return;
            }
            continue;
        };
        drop(world.propose(command));
        world.fail_over();
        world.agents_act();
        world.sessions_ack();
    }
    panic!("does not settle: {:#?}", world.plan());
}

#[test]
fn an_update_survives_a_leader_change_after_every_command() {
    // After so many steps it is taken back, or not at all.
    for back_after in [None, Some(0), Some(1), Some(2), Some(3)] {
        let mut world = World::deployed(3);
        let id = world.start("2.0.0", UpdateOptions::default());
        let steps = [routing(&id, "1:1"), routing(&id, "1:0"), complete(&id)];
        for step in steps.into_iter().take(back_after.unwrap_or(3)) {
            settle_leader_by_leader(&mut world);
            world.ok(step);
            world.fail_over();
        }
        if back_after.is_some() {
            world.ok(rollback(&id));
            world.fail_over();
        }
        settle_leader_by_leader(&mut world);
        let (end, ready) =
            if back_after.is_some() { (S::RolledBack, (3, 0)) } else { (S::Completed, (0, 3)) };
        assert_eq!(world.state_of(&id), end, "{back_after:?}");
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), ready, "{back_after:?}");
        assert!(world.started.values().all(|count| *count == 1), "{:?}", world.started);
    }
}

#[test]
fn a_side_whose_instances_ended_by_themselves_does_not_come_back() {
    for (end, losing, kept) in [(S::Completed, "1.0.0", "2.0.0"), (S::RolledBack, "2.0.0", "1.0.0")]
    {
        let (mut world, id) = at(S::Routing, 0);
        world.ok(routing(&id, if end == S::Completed { "1:0" } else { "0:1" }));
        world.settle();
        // Nobody has room for the ones that take their place.
        (1..=3).for_each(|node| world.set_room(node, 1));
        world.instances(losing).iter().for_each(|instance| world.end_unasked(instance));
        world.settle();
        assert!(world.instances(losing).is_empty());
        world.ok(if end == S::Completed { complete(&id) } else { rollback(&id) });
        world.settle();
        assert_eq!(world.state_of(&id), end);
        (1..=3).for_each(|node| world.set_room(node, 100));
        world.settle();
        assert!(world.instances(losing).is_empty(), "started again without an update");
        assert_eq!(world.ready(kept), 3);
    }
}

#[test]
fn a_pause_over_a_session_outlives_the_leader_that_set_it() {
    let (mut world, id) = at(S::Completing, 0);
    lose_s2(&mut world);
    world.rounds(10);
    let paused = world.update(&id).clone();
    assert_eq!(paused.pause.as_ref().unwrap().reason.code, "session_unreachable");
    world.fail_over();
    world.sessions_work = false;
    world.rounds(10);
    assert_eq!(*world.update(&id), paused, "nobody knows yet whether it is back");
    world.sessions_work = true;
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
}

#[test]
fn force_is_not_answered_with_a_pause() {
    let (mut world, id) = at(S::Completing, 0);
    world.sessions_work = false;
    lose_s2(&mut world);
    world.rounds(10);
    assert!(world.update(&id).pause.is_some());
    world.ok(Command::Complete { update: id.clone(), force: true, if_modified: None });
    // The other one is still to ack.
    world.rounds(10);
    assert!(world.update(&id).pause.is_none(), "{:?}", world.update(&id).history);
    let codes: Vec<_> = waits(&world).iter().map(|wait| wait.code).collect();
    assert_eq!(codes, ["session_ack"]);
}

#[test]
fn the_next_update_may_use_the_room_of_a_retained_set() {
    let mut world = World::deployed(3);
    (1..=3).for_each(|node| world.set_room(node, 2));
    let options = UpdateOptions { cleanup: CleanupPolicy::GracePeriod, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 3));
    let refused = world.propose(start("3.0.0", Some(4), UpdateOptions::default())).unwrap_err();
    assert!(matches!(refused, Refusal::NoCapacity { needed: 4, room: 3, .. }), "{refused}");
    assert_eq!(world.ready("1.0.0"), 3, "a refused update retires nothing");
    let id = world.start("3.0.0", UpdateOptions::default());
    world.settle();
    assert_eq!(world.state_of(&id), S::Deployed);
    // The grace time of what was retired is over for nobody.
    world.now_ms += 400_000;
    world.settle();
    assert_eq!(world.instances("1.0.0"), []);
    assert_eq!((world.ready("2.0.0"), world.ready("3.0.0")), (3, 3));
    world.ok(rollback(&id));
    world.settle();
    assert_eq!((world.ready("2.0.0"), world.ready("3.0.0")), (3, 0));
}

#[test]
fn what_drains_is_kept_while_the_new_side_cannot_serve() {
    for way in ["back", "heal", "force"] {
        // The old set has left the table, nothing of it was stopped.
        let (mut world, id) = at(S::Completing, 1);
        world.sessions_ack();
        let planned = world.plan().commands.remove(0);
        assert!(matches!(planned, Command::Stop { .. }), "{planned:?}");
        sicken(&mut world, "2.0.0");
        let outcome = world.propose(planned);
        assert!(matches!(outcome, Err(Refusal::Stale { .. })), "{outcome:?}");
        world.rounds(20);
        assert_eq!(world.instances("1.0.0").len(), 3, "{way}");
        assert!(waits(&world).iter().any(|wait| wait.code == "new_capacity"));
        match way {
            "back" => {
                world.ok(rollback(&id));
                assert_eq!(world.update(&id).weights.to_string(), "0:1");
                assert_eq!(world.ready("1.0.0"), 3, "in the same entry");
            }
            "heal" => world.broken.clear(),
            _ => drop(world.ok(Command::Complete {
                update: id.clone(),
                force: true,
                if_modified: None,
            })),
        }
        world.settle();
        let end = if way == "back" { S::RolledBack } else { S::Completed };
        assert_eq!(world.state_of(&id), end, "{way}");
        let old = if way == "back" { 3 } else { 0 };
        assert_eq!(world.ready("1.0.0"), old, "{way}");
    }
}

#[test]
fn a_verdict_on_what_a_person_has_changed_meanwhile_is_stale() {
    let (mut world, id) = at(S::Routing, 0);
    let exceeded = Verdict::Exceeded { detail: "error rate".to_owned() };
    world.verdicts.insert(id.clone(), exceeded);
    let planned = world.plan().commands;
    world.ok(routing(&id, "1:3"));
    let outcomes: Vec<_> = planned.into_iter().map(|command| world.propose(command)).collect();
    assert!(matches!(outcomes[..], [Err(Refusal::Stale { .. })]), "{outcomes:?}");
    assert!(world.update(&id).pause.is_none());
    // New evidence pauses it.
    world.settle();
    assert!(world.update(&id).pause.is_some());
}

#[test]
fn a_shift_back_onto_instances_that_died_meanwhile_is_stale() {
    let (mut world, id) = at(S::Completing, 3);
    world.ok(rollback(&id));
    let shift = |command: &Command| matches!(command, Command::ShiftBack { .. });
    let planned = loop {
        let commands = world.plan().commands;
        if let Some(planned) = commands.into_iter().find(shift) {
            break planned;
        }
        assert!(world.round(), "{:#?}", world.plan());
    };
    world.end_unasked(&world.instances("1.0.0")[0].clone());
    let outcome = world.propose(planned);
    assert!(matches!(outcome, Err(Refusal::Stale { .. })), "{outcome:?}");
    world.settle();
    assert_eq!((world.state_of(&id), world.ready("1.0.0")), (S::RolledBack, 3));
}

#[test]
fn a_rollback_without_room_says_since_when_and_what_would_end_it() {
    let (mut world, id) = at(S::Completing, 3);
    (1..=3).for_each(|node| world.set_room(node, 1));
    world.now_ms += 5_000;
    world.ok(rollback(&id));
    let began_ms = world.now_ms;
    world.settle();
    let waits = waits(&world);
    let codes: Vec<_> = waits.iter().map(|wait| wait.code).collect();
    assert_eq!(codes, ["no_capacity", "old_capacity"]);
    assert!(waits.iter().all(|wait| wait.since_ms == began_ms), "{waits:#?}");
    let now = format!("'aether update rollback {id} --now'");
    assert!(waits[1].unblock.contains(&now), "{waits:#?}");
}

#[test]
fn an_update_may_start_while_a_node_is_silent_and_waits_for_it_at_the_end() {
    for forward in [true, false] {
        let mut world = World::deployed(3);
        world.silent_nodes.insert("n3".parse().unwrap());
        world.settle();
        let id = world.start("2.0.0", UpdateOptions::default());
        world.settle();
        assert_eq!(world.state_of(&id), S::Deployed, "all of it is elsewhere");
        world.ok(routing(&id, "1:0"));
        world.settle();
        // Another falls silent while the losing side is being removed.
        world.silent_nodes.insert("n2".parse().unwrap());
        world.ok(if forward { complete(&id) } else { rollback(&id) });
        world.settle();
        assert!(!world.state_of(&id).is_terminal());
        assert!(waits(&world).iter().any(|wait| wait.code == "instances_stopped"));
        world.silent_nodes.clear();
        world.settle();
        let (end, ready) = if forward { (S::Completed, (0, 3)) } else { (S::RolledBack, (3, 0)) };
        assert_eq!(world.state_of(&id), end);
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), ready);
    }
}

#[test]
fn lopsided_weights_need_what_they_take() {
    for (instances, ratio, needed) in
        [(1, "1:10000", None), (1, "10000:1", Some(3)), (3, "10000:1", None), (3, "9999:1", None)]
    {
        let mut world = World::deployed(3);
        let options = UpdateOptions::default();
        let id = world.ok(start("2.0.0", Some(instances), options)).update.unwrap();
        world.settle();
        match (world.propose(routing(&id, ratio)), needed) {
            (Ok(_), None) => {}
            (Err(Refusal::CapacityGuard { needed: said, .. }), Some(needed)) => {
                assert_eq!(said, needed, "{ratio}");
            }
            (outcome, _) => panic!("{instances} instances, {ratio}: {outcome:?}"),
        }
    }
}

fn crash(world: &mut World, code: &str) {
    let reason = Reason::new(code, "exited with status 3");
    world.broken.insert("2.0.0".to_owned(), (Observed::Crashed, 4, reason));
}

#[test]
fn a_version_that_stops_staying_up_after_it_was_deployed_pauses_its_update() {
    for state in [S::Deployed, S::Routing] {
        let (mut world, id) = at(state, 0);
        crash(&mut world, "crashed");
        world.settle();
        assert!(world.update(&id).pause.is_none(), "a crash is no crash loop");
        let named = |wait: &Wait| {
            wait.code == "new_capacity"
                && wait.message.starts_with("0 of 3 instances of 2.0.0 are ready; ")
                && wait.message.ends_with(": crashed: exited with status 3")
                && wait.unblock.contains("aether logs")
        };
        assert!(waits(&world).iter().any(named), "{:?}", waits(&world));

        crash(&mut world, "crash_loop");
        let ids = world.instances("2.0.0");
        world.now_ms += 1;
        let observed = ids.into_iter().map(|instance| {
            let record = &world.state.instances[&instance];
            Observation {
                instance: instance.clone(),
                observed: Observed::Crashed,
                endpoint: record.endpoint,
                restarts: 4,
                reason: Some(Reason::new("crash_loop", "exited with status 3")),
                reloaded: None,
            }
        });
        let observed: Vec<_> = observed.collect();
        for observation in observed {
            let node = world.state.instances[&observation.instance].node.clone();
            world.ok(Command::Observe { node, observations: vec![observation] });
        }
        world.settle();
        let pause = world.update(&id).pause.clone().expect("a pause");
        assert_eq!(pause.reason.code, "crash_loop");
        assert!(pause.reason.message.contains("exited with status 3"), "{pause:?}");
        assert!(matches!(world.propose(routing(&id, "3:1")), Err(Refusal::Paused { .. })));
        world.ok(rollback(&id));
        world.settle();
        assert_eq!(world.state_of(&id), S::RolledBack);
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 0));
    }
}

#[test]
fn what_completing_waits_for_says_why() {
    let (mut world, id) = at(S::Routing, 0);
    world.ok(routing(&id, "1:0"));
    world.settle();
    world.ok(complete(&id));
    crash(&mut world, "crash_loop");
    world.agents_act();
    let _ = world.round();
    let said = waits(&world);
    let named = |wait: &Wait| {
        wait.code == "new_capacity" && wait.message.contains("crash_loop: exited with status 3")
    };
    assert!(said.iter().any(named), "{said:?}");
    world.ok(rollback(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
}

#[test]
fn a_version_that_comes_and_goes_is_not_deployed_and_the_deadline_says_so() {
    let mut world = World::deployed(3);
    let options =
        UpdateOptions { healthy_ms: 5_000, deploy_timeout_ms: 10_000, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.rounds(4);
    let reason = Reason::new("probe_failed", "http status 503");
    for (wait_ms, well) in [(4_000, false), (4_000, true)] {
        world.now_ms += wait_ms;
        world.broken.clear();
        if !well {
            world.broken.insert("2.0.0".to_owned(), (Observed::Unready, 0, reason.clone()));
        }
        world.rounds(4);
        assert_eq!(world.state_of(&id), S::Deploying);
    }
    world.now_ms += 2_500;
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
    let outcome = world.update(&id).outcome.clone().unwrap();
    assert_eq!(outcome.code, "deadline");
    let named = "is ready, but only for 2600 ms without a break, not for 5000 ms";
    assert!(outcome.message.contains(named), "{outcome:?}");
}

#[test]
fn instances_that_had_to_be_killed_are_in_the_history() {
    let (mut world, id) = at(S::Deployed, 0);
    world.ok(rollback(&id));
    world.agents_work = false;
    world.settle();
    let mut killed = 0;
    for instance in world.instances("2.0.0") {
        let node = world.state.instances[&instance].node.clone();
        let reason = Some(Reason::new(Reason::KILLED, "it did not end within 1s of SIGTERM"));
        let observation = Observation {
            instance,
            observed: Observed::Stopped,
            endpoint: None,
            restarts: 0,
            reason,
            reloaded: None,
        };
        world.ok(Command::Observe { node, observations: vec![observation] });
        killed += 1;
    }
    world.agents_work = true;
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
    let history = &world.update(&id).history;
    let said = history.iter().filter(|entry| entry.event.ends_with("within 1s of SIGTERM"));
    assert_eq!((said.count(), killed), (3, 3), "{history:?}");
}

#[test]
fn a_side_is_not_removed_by_a_decision_of_before_somebody_turned_the_update_round() {
    let (mut world, id) = at(S::Routing, 0);
    world.ok(routing(&id, "1:0"));
    world.settle();
    world.ok(complete(&id));
    let decided = world.plan().commands;
    assert!(matches!(&decided[..], [Command::RemoveLosingSide { .. }]), "{decided:?}");
    // Every session acked the route by which the new side serves alone; nobody that of
    // the rollback.
    world.ok(rollback(&id));
    let refusal = world.propose(decided[0].clone()).unwrap_err();
    assert!(matches!(refusal, Refusal::Stale { .. }), "{refusal}");
    assert_eq!(world.ready("2.0.0"), 3);
}
