//! Walks of one update, written as scenarios.

use aether_core::command::{Command, Observation, Refusal, RefusalKind};
use aether_core::health::Verdict;
use aether_core::planner::SessionView;
use aether_core::records::{
    CleanupPolicy, DeadlineAction, Desired, Observed, Reason, UpdateOptions, UpdateState as S,
};

use crate::world::*;

fn history(world: &World, id: &aether_core::ids::UpdateId) -> String {
    let update = world.update(id);
    update.history.iter().map(|e| format!("{} {} {}\n", e.state, e.weights, e.event)).collect()
}

#[test]
fn the_guide_s_walk_ends_with_the_new_version_alone() {
    let mut world = World::deployed(3);
    let id = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    assert_eq!(world.state_of(&id), S::Deployed);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 3));
    for ratio in ["1:9", "1:3", "1:1", "3:1", "1:0"] {
        world.ok(routing(&id, ratio));
        world.settle();
    }
    world.ok(complete(&id));
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (0, 3));
    assert_eq!(
        history(&world, &id),
        "PENDING 0:1 started: org.example:my-slice from 1.0.0 to 2.0.0, 3 instances\n\
         DEPLOYING 0:1 deploying 3 instances\n\
         DEPLOYED 0:1 3 instances are ready\n\
         ROUTING 1:9 routing 0:1 -> 1:9\n\
         ROUTING 1:3 routing 1:9 -> 1:3\n\
         ROUTING 1:1 routing 1:3 -> 1:1\n\
         ROUTING 3:1 routing 1:1 -> 3:1\n\
         ROUTING 1:0 routing 3:1 -> 1:0\n\
         COMPLETING 1:0 completing\n\
         COMPLETING 1:0 removing the instances of 1.0.0\n\
         COMPLETED 1:0 2.0.0 is the current version\n"
    );
    assert!(world.started.values().all(|count| *count == 1), "{:?}", world.started);
    assert_eq!(world.state.instances.len(), 3);
}

/// Brings a fresh world's update to a state. COMPLETING comes in three depths.
pub fn at(state: S, depth: u32) -> (World, aether_core::ids::UpdateId) {
    let mut world = World::deployed(3);
    let id = world.start("2.0.0", UpdateOptions::default());
    if state == S::Pending {
        return (world, id);
    }
    if state == S::Deploying {
        world.agents_work = false;
        world.round();
        world.agents_work = true;
        return (world, id);
    }
    world.settle();
    if state == S::Deployed {
        return (world, id);
    }
    world.ok(routing(&id, "1:1"));
    world.settle();
    if state == S::Routing {
        return (world, id);
    }
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    match depth {
        // Just accepted; half drained; old set signalled; old set gone.
        0 => {}
        1 => {
            world.sessions_ack();
            world.sessions_work = false;
            world.agents_work = false;
            world.rounds(3);
            assert_eq!(world.ready("1.0.0"), 0);
        }
        2 => {
            world.agents_work = false;
            world.rounds(6);
        }
        _ => {
            world.agents_work = false;
            world.rounds(6);
            world.agents_act();
            assert_eq!(world.state.instances.len(), 3);
        }
    }
    (world.agents_work, world.sessions_work) = (true, true);
    assert_eq!(world.state_of(&id), S::Completing);
    (world, id)
}

#[test]
fn rollback_from_every_state_ends_with_the_old_version_at_full_capacity() {
    let places = [
        (S::Pending, 0),
        (S::Deploying, 0),
        (S::Deployed, 0),
        (S::Routing, 0),
        (S::Completing, 0),
        (S::Completing, 1),
        (S::Completing, 2),
        (S::Completing, 3),
    ];
    for (state, depth) in places {
        let (mut world, id) = at(state, depth);
        assert_eq!(world.state_of(&id), state);
        let whole = world.ready("1.0.0") == 3 || depth == 1;
        world.ok(rollback(&id));
        // While the old set is whole, everything goes back in the same entry.
        let weights = world.update(&id).weights.to_string();
        assert_eq!(weights == "0:1", whole, "{state} {depth}: {weights}");
        let refused = world.propose(rollback(&id)).unwrap_err();
        assert_eq!(refused.kind(), RefusalKind::State);
        world.settle();
        assert_eq!(world.state_of(&id), S::RolledBack, "{state} {depth}");
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 0), "{state} {depth}");
        assert_eq!(world.state.instances.len(), 3);
        let table = world.state.slice_table(&SLICE.parse().unwrap()).unwrap();
        assert!(table.new.is_none());
    }
}

#[test]
fn nothing_is_stopped_before_every_session_acked() {
    let (mut world, id) = at(S::Completing, 0);
    world.sessions_work = false;
    world.rounds(20);
    assert_eq!(world.state.instances.len(), 6, "1:0 is not acked: all of 1.0.0 stays");
    assert_eq!(world.ready("1.0.0"), 3);
    world.sessions_ack();
    world.rounds(20);
    assert_eq!(world.ready("1.0.0"), 0, "drained after the ack of 1:0");
    assert_eq!(world.state.instances.len(), 6, "but not stopped before the next ack");
    let waits = &world.plan().waits[&SLICE.parse().unwrap()];
    assert!(waits.iter().any(|w| w.code == "session_ack"), "{waits:#?}");
    world.sessions_work = true;
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
}

#[test]
fn a_session_that_cannot_be_reached_holds_the_last_old_instance() {
    let (mut world, id) = at(S::Completing, 0);
    let silent = SessionView::Unreachable { since_ms: world.now_ms };
    world.sessions.insert("s2".parse().unwrap(), silent.clone());
    world.rounds(50);
    assert_eq!(world.ready("1.0.0"), 3);
    let pause = world.update(&id).pause.clone().expect("paused");
    assert_eq!(pause.reason.code, "session_unreachable");
    assert!(pause.reason.message.contains("s2 (caller s2)"), "{}", pause.reason.message);
    // The same when the leader has just died.
    world.fail_over();
    world.sessions_work = false;
    world.rounds(50);
    world.sessions_work = true;
    world.sessions.insert("s2".parse().unwrap(), silent);
    world.rounds(50);
    assert_eq!(world.ready("1.0.0"), 3);
    // It comes back: the pause ends by itself.
    world.sessions.insert("s2".parse().unwrap(), SessionView::Awaited);
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
    assert!(world.update(&id).pause.is_none());
}

#[test]
fn force_or_age_ends_the_wait_for_a_session() {
    for forced in [true, false] {
        let (mut world, id) = at(S::Completing, 0);
        let since_ms = world.now_ms;
        world.sessions.insert("s2".parse().unwrap(), SessionView::Unreachable { since_ms });
        world.rounds(50);
        assert_eq!(world.state_of(&id), S::Completing);
        if forced {
            world.ok(complete_forced(&id));
        } else {
            world.now_ms += 600_000;
            world.round();
            world.sessions.remove(&"s2".parse().unwrap());
        }
        world.settle();
        assert_eq!(world.state_of(&id), S::Completed);
    }
}

#[test]
fn calls_in_flight_hold_an_instance_until_its_drain_time_is_over() {
    let (mut world, id) = at(S::Routing, 0);
    let busy = world.state.slice_table(&SLICE.parse().unwrap()).unwrap().old.unwrap().endpoints[0]
        .instance
        .clone();
    world.stuck_calls.insert(busy.clone());
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.rounds(50);
    assert_eq!(world.state_of(&id), S::Completing);
    assert!(world.state.instances.contains_key(&busy));
    assert_eq!(world.state.instances.len(), 4, "the idle ones are gone");
    world.now_ms += 30_000;
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
    let said = world.state.audit.values().any(|a| a.event.contains("calls in flight after 30 s"));
    assert!(said, "a waived drain is reported");
}

#[test]
fn a_version_that_cannot_start_takes_the_action_of_the_deadline() {
    let reason = |code: &str| Reason::new(code, format!("it says {code}"));
    let kinds = [
        ("probe_failed", Observed::Starting, 0),
        ("port_closed", Observed::Starting, 0),
        ("crash_loop", Observed::Crashed, 3),
    ];
    for (code, observed, restarts) in kinds {
        for (action, end) in [
            (DeadlineAction::Rollback, S::RolledBack),
            (DeadlineAction::Fail, S::Failed),
            (DeadlineAction::Pause, S::Deploying),
        ] {
            let mut world = World::deployed(3);
            world.broken.insert("2.0.0".to_owned(), (observed, restarts, reason(code)));
            let options = UpdateOptions { on_deploy_failure: action, ..UpdateOptions::default() };
            let id = world.start("2.0.0", options);
            world.settle();
            if restarts == 0 {
                assert_eq!(world.state_of(&id), S::Deploying);
                let waits = &world.plan().waits[&SLICE.parse().unwrap()];
                let named = format!("{code}: it says {code}");
                assert!(waits[0].message.contains(&named), "{waits:?}");
                world.now_ms += 300_000;
            }
            world.settle();
            assert_eq!(world.state_of(&id), end, "{code} {action:?}");
            assert_eq!(world.ready("1.0.0"), 3, "the old version is untouched");
            let update = world.update(&id);
            let named = match end {
                S::Deploying => update.pause.as_ref().map(|p| &p.reason),
                _ => update.outcome.as_ref(),
            };
            assert!(named.unwrap().message.contains(&format!("it says {code}")), "{named:?}");
            if end == S::Deploying {
                // However long the pause lasts, it goes on being explained.
                world.now_ms += 3_600_000;
                world.settle();
                let named = format!("{code}: it says {code}");
                let waits = world.plan().waits;
                assert!(waits[&SLICE.parse().unwrap()][0].message.contains(&named), "{waits:?}");
            }
        }
    }
}

#[test]
fn an_exceeded_threshold_pauses_and_refuses_a_higher_weight() {
    let (mut world, id) = at(S::Routing, 0);
    let detail = "error rate 2.00 % over 100 requests, threshold 1 %".to_owned();
    world.verdicts.insert(id.clone(), Verdict::Exceeded { detail: detail.clone() });
    world.settle();
    let pause = world.update(&id).pause.clone().unwrap();
    assert_eq!(pause.reason.code, "threshold_exceeded");
    assert!(pause.reason.message.contains(&detail));
    let refused = world.propose(routing(&id, "3:1")).unwrap_err();
    assert!(matches!(refused, Refusal::Paused { .. }), "{refused}");
    world.ok(routing(&id, "1:3"));
    world.verdicts.clear();
    world.ok(resume(&id));
    world.ok(routing(&id, "3:1"));
}

#[test]
fn the_grace_time_survives_a_failover_and_the_old_set_is_kept_until_then() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { cleanup: CleanupPolicy::GracePeriod, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 3));
    world.fail_over();
    world.now_ms += 299_000 - 60_000;
    world.settle();
    assert_eq!(world.ready("1.0.0"), 3);
    world.fail_over();
    world.now_ms += 61_000;
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (0, 3));
    assert!(world.state.retained.is_empty());
}

#[test]
fn a_first_deployment_by_update_has_no_route_until_ready_and_rolls_back_to_nothing() {
    let mut world = World::empty();
    let slice = SLICE.parse().unwrap();
    let id = world.ok(start("1.0.0", Some(2), UpdateOptions::default())).update.unwrap();
    world.agents_work = false;
    world.round();
    assert!(world.state.slice_table(&slice).is_none());
    world.agents_work = true;
    world.settle();
    assert_eq!(world.state_of(&id), S::Deployed);
    let refused = world.propose(routing(&id, "1:1")).unwrap_err();
    assert!(refused.to_string().contains("there is no old version"), "{refused}");
    world.ok(rollback(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
    assert!(world.state.instances.is_empty() && world.state.slices.is_empty());
    let id = world.ok(start("2.0.0", Some(2), UpdateOptions::default())).update.unwrap();
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!((world.state_of(&id), world.ready("2.0.0")), (S::Completed, 2));
}

#[test]
fn revision_numbers_go_on_after_everything_of_a_slice_was_removed() {
    let slice: aether_core::coordinates::SliceName = SLICE.parse().unwrap();
    let mut world = World::deployed(2);
    for life in 2..5 {
        world.ok(Command::Undeploy { slice: slice.clone(), version: None });
        world.settle();
        assert!(world.state.slices.is_empty() && world.state.revisions.is_empty());
        assert_eq!(world.state.row(&format!("slice/{SLICE}")), None, "no trace is shown");
        world.fail_over();
        let version = "1.0.0".parse().unwrap();
        world.ok(Command::Deploy { slice: slice.clone(), version, instances: 2 });
        world.settle();
        assert_eq!(world.state.slices[&slice].current.unwrap().0, life);
    }
}

#[test]
fn a_state_without_the_number_of_forgotten_revisions_is_read() {
    let world = World::deployed(1);
    let mut rows = world.state.rows();
    let meta = rows.iter_mut().find(|(key, _)| key == "meta/cluster").unwrap();
    let text = String::from_utf8(meta.1.clone()).unwrap();
    let old = text.replace(",\"revisionsForgotten\":0", "");
    assert_ne!(old, text);
    meta.1 = old.into_bytes();
    let state = aether_core::state::State::from_rows(rows.into_iter()).unwrap();
    assert_eq!(state.rows(), world.state.rows());
}

#[test]
fn every_refusal_of_the_design_names_itself_and_changes_nothing() {
    let mut world = World::deployed(3);
    let refused = |world: &mut World, command: Command| world.propose(command).unwrap_err().code();
    let options = UpdateOptions::default;
    assert_eq!(refused(&mut world, start("9.9.9", None, options())), "unknown_artifact");
    assert_eq!(refused(&mut world, start("1.0.0", None, options())), "same_revision");
    let not_deployed = Command::Undeploy {
        slice: SLICE.parse().unwrap(),
        version: Some("2.0.0".parse().unwrap()),
    };
    assert_eq!(world.propose(not_deployed.clone()).unwrap_err().kind(), RefusalKind::State);
    assert_eq!(refused(&mut world, not_deployed), "not_deployed");
    assert_eq!(refused(&mut world, start("2.0.0", Some(0), options())), "bad_instances");
    assert_eq!(refused(&mut world, start("2.0.0", Some(298), options())), "no_capacity");
    let never_healthy = UpdateOptions { deploy_timeout_ms: 1_000, ..options() };
    assert_eq!(refused(&mut world, start("2.0.0", None, never_healthy)), "bad_option");
    let id = world.ok(start("2.0.0", Some(1), options())).update.unwrap();
    assert_eq!(refused(&mut world, start("3.0.0", None, options())), "update_live");
    assert_eq!(refused(&mut world, routing(&id, "1:1")), "wrong_state");
    world.settle();
    let slice: aether_core::coordinates::SliceName = SLICE.parse().unwrap();
    let scale = Command::Scale { slice: slice.clone(), instances: 5 };
    assert_eq!(refused(&mut world, scale), "update_live");
    let deploy =
        Command::Deploy { slice: slice.clone(), version: "3.0.0".parse().unwrap(), instances: 1 };
    assert_eq!(refused(&mut world, deploy), "update_live");
    let undeploy = Command::Undeploy { slice, version: None };
    assert_eq!(refused(&mut world, undeploy), "update_live");
    assert_eq!(refused(&mut world, routing(&id, "1:1")), "capacity_guard");
    world.ok(routing(&id, "1:9"));
    assert_eq!(refused(&mut world, complete(&id)), "not_all_new");
    assert_eq!(refused(&mut world, resume(&id)), "not_paused");
    assert_eq!(refused(&mut world, approve(&id)), "nothing_to_approve");
    let cas = Command::SetWeights {
        update: id.clone(),
        weights: "1:9".parse().unwrap(),
        force: false,
        if_modified: Some(1),
    };
    assert_eq!(refused(&mut world, cas), "modified");
    let unknown = Command::Resume { update: "u0".parse().unwrap(), if_modified: None };
    assert_eq!(refused(&mut world, unknown), "unknown_update");
    world.ok(rollback(&id));
    assert_eq!(refused(&mut world, rollback(&id)), "wrong_state");
}

#[test]
fn undeploying_the_new_side_at_weight_0_is_the_way_out_of_a_stuck_rollback() {
    let (mut world, id) = at(S::Routing, 0);
    let slice: aether_core::coordinates::SliceName = SLICE.parse().unwrap();
    let undeploy = Command::Undeploy { slice, version: Some("2.0.0".parse().unwrap()) };
    let refused = world.propose(undeploy.clone()).unwrap_err();
    assert!(matches!(refused, Refusal::StillServing { .. }), "{refused}");
    let since_ms = world.now_ms;
    world.sessions.insert("s1".parse().unwrap(), SessionView::Unreachable { since_ms });
    world.ok(rollback(&id));
    world.rounds(50);
    assert_eq!(world.state_of(&id), S::RollingBack);
    world.ok(undeploy);
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 0));
}

#[test]
fn approval_holds_a_routing_change() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    let answer = world.ok(routing(&id, "1:3"));
    assert!(answer.note.unwrap().contains("approve"));
    let waits = &world.plan().waits[&SLICE.parse().unwrap()];
    assert_eq!(waits[0].message, "approval of the ratio 1:3; until then it is 0:1", "{waits:?}");
    world.settle();
    assert_eq!(world.state_of(&id), S::Deployed);
    world.ok(approve(&id));
    assert_eq!(world.update(&id).weights.to_string(), "1:3");
    assert_eq!(world.state_of(&id), S::Routing);
}

#[test]
fn an_instance_that_an_agent_stopped_unasked_is_replaced() {
    let mut world = World::deployed(3);
    let gone = world.instances("1.0.0").remove(0);
    world.end_unasked(&gone);
    assert_eq!(world.ready("1.0.0"), 2);
    world.agents_work = false;
    world.rounds(3);
    world.agents_work = true;
    world.settle();
    assert_eq!(world.ready("1.0.0"), 3);
    assert!(!world.state.instances.contains_key(&gone));
}

/// Reports every instance of a node as `observed`, because the node ends.
fn put_away(world: &mut World, node: &str, observed: Observed) {
    let here = world.state.instances.values().filter(|i| i.node.as_str() == node);
    let observations = here.map(|i| Observation {
        instance: i.id.clone(),
        observed,
        endpoint: i.endpoint,
        restarts: i.restarts,
        reason: Some(Reason::new(Reason::NODE_STOPPED, "its node ends")),
        reloaded: None,
    });
    let observations = observations.collect();
    world.ok(Command::Observe { node: node.parse().unwrap(), observations });
}

#[test]
fn instances_of_a_node_that_ends_leave_the_table_and_return_with_it() {
    let (mut world, id) = at(S::Routing, 0);
    let before: Vec<_> = world.state.instances.keys().cloned().collect();
    world.agents_work = false;
    for observed in [Observed::Stopping, Observed::Stopped] {
        put_away(&mut world, "n3", observed);
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (2, 2));
        world.rounds(5);
        assert!(world.state.instances.values().all(|i| i.desired == Desired::Run));
    }
    world.silent_nodes.insert("n3".parse().unwrap());
    world.settle();
    assert!(world.state.instances.keys().eq(&before), "none was replaced");
    assert_eq!((world.state_of(&id), &world.update(&id).pause), (S::Routing, &None));
    // What is left carries what is routed, but not all of it.
    let refused = world.propose(routing(&id, "1:0")).unwrap_err();
    assert_eq!(refused.kind(), RefusalKind::State);

    world.silent_nodes.clear();
    world.agents_work = true;
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 3));
    assert!(world.state.instances.keys().eq(&before));
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
}

#[test]
fn a_draining_instance_of_a_node_that_ended_is_not_waited_for() {
    let (mut world, _) = at(S::Completing, 1);
    (world.sessions_work, world.agents_work) = (false, false);
    put_away(&mut world, "n3", Observed::Stopped);
    world.rounds(3);
    let drained = |i: &aether_core::records::InstanceRecord| match i.node.as_str() {
        "n3" => i.desired == Desired::Stop,
        _ => i.desired == Desired::Drain,
    };
    let old = world.state.instances.values().filter(|i| i.revision.0 == 1);
    assert!(old.map(|i| &**i).all(drained), "{:#?}", world.state.instances);
}

/// Makes every instance of a version fail its probe from now on.
pub fn sicken(world: &mut World, version: &str) {
    let reason = Reason::new("probe_failed", "it says 503");
    world.broken.insert(version.to_owned(), (Observed::Unready, 0, reason));
    world.agents_act();
}

#[test]
fn complete_keeps_the_old_set_while_the_new_one_cannot_serve() {
    for cleanup in [CleanupPolicy::Immediate, CleanupPolicy::GracePeriod] {
        let mut world = World::deployed(3);
        let options = UpdateOptions { cleanup, ..UpdateOptions::default() };
        let id = world.start("2.0.0", options);
        world.settle();
        world.ok(routing(&id, "1:0"));
        world.ok(complete(&id));
        sicken(&mut world, "2.0.0");
        world.rounds(20);
        assert_eq!(world.state_of(&id), S::Completing);
        assert_eq!(world.ready("1.0.0"), 3, "the way back is whole");
        let waits = &world.plan().waits[&SLICE.parse().unwrap()];
        assert!(waits.iter().any(|wait| wait.code == "new_capacity"), "{waits:?}");
        world.broken.clear();
        world.settle();
        assert_eq!(world.state_of(&id), S::Completed);
    }
}

#[test]
fn force_ends_an_update_whose_last_instance_is_on_a_dead_node() {
    for forward in [true, false] {
        let (mut world, id) = at(S::Routing, 0);
        world.silent_nodes.insert("n3".parse().unwrap());
        world.settle();
        if forward {
            world.ok(routing(&id, "1:0"));
            world.ok(complete(&id));
        } else {
            world.ok(rollback(&id));
        }
        world.rounds(50);
        assert!(!world.state_of(&id).is_terminal());
        let waits = &world.plan().waits[&SLICE.parse().unwrap()];
        assert!(waits.iter().any(|wait| wait.unblock.contains("--force")), "{waits:?}");
        world.ok(if forward { complete_forced(&id) } else { rollback_by(&id, false, true) });
        world.settle();
        assert!(world.state_of(&id).is_terminal());
        // The node comes back and stops what it was told to.
        world.silent_nodes.clear();
        world.settle();
        assert_eq!(world.state.instances.len(), 3);
    }
}

#[test]
fn force_waives_a_session_that_answers_but_never_follows() {
    let (mut world, id) = at(S::Completing, 0);
    world.sessions_work = false;
    let stuck = SessionView::Connected {
        applied: 0,
        busy: Default::default(),
        holding: Default::default(),
    };
    world.sessions.insert("s2".parse().unwrap(), stuck.clone());
    world.rounds(50);
    world.ok(complete_forced(&id));
    for _ in 0..10 {
        world.sessions_ack();
        world.sessions.insert("s2".parse().unwrap(), stuck.clone());
        world.now_ms += 11_000;
        world.rounds(5);
    }
    assert_eq!(world.state_of(&id), S::Completed);
}

#[test]
fn a_session_that_came_later_does_not_hold_what_left_before() {
    let (mut world, id) = at(S::Completing, 1);
    world.sessions_ack();
    let open = |fresh| Command::OpenSession {
        session: "s3".parse().unwrap(),
        kind: aether_core::records::SessionKind::Invoker,
        name: "late".to_owned(),
        fresh,
        follows: 0,
    };
    world.ok(open(true));
    let since_ms = world.now_ms;
    world.sessions.insert("s3".parse().unwrap(), SessionView::Unreachable { since_ms });
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
    // One that holds tables from before its record is not taken for fresh.
    let (mut world, id) = at(S::Completing, 1);
    world.sessions_ack();
    world.ok(open(false));
    world.sessions.insert("s3".parse().unwrap(), SessionView::Unreachable { since_ms });
    world.rounds(50);
    assert_eq!(world.state_of(&id), S::Completing);
}

#[test]
fn a_rollback_that_waits_for_capacity_can_be_told_not_to() {
    let (mut world, id) = at(S::Completing, 3);
    sicken(&mut world, "1.0.0");
    world.ok(rollback(&id));
    world.rounds(50);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    let now = rollback_by(&id, true, false);
    world.ok(now.clone());
    assert_eq!(world.update(&id).weights.to_string(), "0:1");
    assert!(matches!(world.propose(now), Err(Refusal::WrongState { .. })));
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
}

#[test]
fn a_rollback_places_what_there_is_room_for() {
    let (mut world, id) = at(S::Completing, 3);
    // Room for two more instances in all.
    for (node, most) in [(1, 1), (2, 2), (3, 2)] {
        world.set_room(node, most);
    }
    world.ok(rollback(&id));
    world.rounds(50);
    assert_eq!(world.ready("1.0.0"), 2);
    assert_eq!(world.update(&id).weights.to_string(), "1:2");
}

#[test]
fn approval_respects_a_pause_and_remembers_force() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let id = world.ok(start("2.0.0", Some(1), options)).update.unwrap();
    world.settle();
    let forced = Command::SetWeights {
        update: id.clone(),
        weights: "1:0".parse().unwrap(),
        force: true,
        if_modified: None,
    };
    world.ok(forced);
    world.ok(approve(&id));
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    // The smaller set was forced there; that need not be said again.
    world.ok(complete(&id));
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);

    let mut world = World::deployed(3);
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.settle();
    world.ok(routing(&id, "1:1"));
    let reason = Reason::new("threshold_exceeded", "too slow");
    world.ok(Command::Pause { update: id.clone(), reason, if_modified: None });
    let refused = world.propose(approve(&id)).unwrap_err();
    assert!(matches!(refused, Refusal::Paused { .. }), "{refused}");
}

#[test]
fn what_else_drains_does_not_pause_a_new_update() {
    let mut world = World::deployed(3);
    let since_ms = world.now_ms;
    world.sessions.insert("s2".parse().unwrap(), SessionView::Unreachable { since_ms });
    world.ok(Command::Scale { slice: SLICE.parse().unwrap(), instances: 2 });
    world.rounds(10);
    let id = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    assert_eq!(world.state_of(&id), S::Deployed);
    assert!(world.update(&id).pause.is_none());
    world.ok(routing(&id, "1:9"));
}

#[test]
fn a_paused_update_is_not_completed_unless_somebody_insists() {
    for insists in [false, true] {
        let (mut world, id) = at(S::Routing, 0);
        world.ok(routing(&id, "1:0"));
        let reason = Reason::new("threshold_exceeded", "errors");
        world.ok(Command::Pause { update: id.clone(), reason, if_modified: None });
        let refused = world.propose(complete(&id)).unwrap_err();
        assert!(matches!(refused, Refusal::Paused { .. }), "{refused}");
        if insists {
            world.ok(complete_forced(&id));
        } else {
            world.ok(resume(&id));
            world.ok(complete(&id));
        }
        world.settle();
        assert_eq!(world.state_of(&id), S::Completed);
    }
}
