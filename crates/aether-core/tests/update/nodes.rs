//! Nodes that are lost, come back, are drained and cordoned.

use std::collections::BTreeSet;

use aether_core::command::{Command, Refusal};
use aether_core::ids::{InstanceId, NodeName};
use aether_core::planner::{self, Holding, SessionView};
use aether_core::records::{
    Desired, NodeLifecycle, NodeSchedule, Observed, UpdateOptions, UpdateState as S,
};

use crate::scenarios::at;
use crate::world::{NODE_LOST_MS, SLICE, World, complete, rollback, routing};

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn lifecycle(world: &World, name: &str) -> NodeLifecycle {
    world.state.nodes[&node(name)].lifecycle
}

/// Time passes, with a look once a second and whatever follows from it.
fn pass(world: &mut World, ms: u64) {
    for _ in 0..ms.div_ceil(1_000) {
        world.now_ms += 1_000;
        world.rounds(10);
    }
}

/// A node falls silent for so long that it is lost.
fn lose(world: &mut World, name: &str) {
    world.silent_nodes.insert(node(name));
    world.settle();
    assert_eq!(lifecycle(world, name), NodeLifecycle::Unreachable);
    pass(world, NODE_LOST_MS);
    assert_eq!(lifecycle(world, name), NodeLifecycle::Lost);
}

fn on(world: &World, name: &str) -> BTreeSet<InstanceId> {
    let here = world.state.instances.values().filter(|i| i.node.as_str() == name);
    here.map(|i| i.id.clone()).collect()
}

fn set_schedule(world: &mut World, name: &str, schedule: NodeSchedule) {
    world.ok(Command::SetNodeSchedule { node: node(name), schedule });
}

#[test]
fn a_node_is_lost_only_after_its_time_and_its_instances_are_replaced_elsewhere() {
    let mut world = World::deployed(3);
    let before = on(&world, "n3");
    assert_eq!(before.len(), 1);
    world.silent_nodes.insert(node("n3"));
    world.settle();
    pass(&mut world, NODE_LOST_MS - 2_000);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Unreachable);
    assert_eq!(world.ready("1.0.0"), 3, "calls may still reach it");
    pass(&mut world, 3_000);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Lost);
    assert_eq!(world.ready("1.0.0"), 3, "one of them is new");
    assert_eq!(world.state.instances.len(), 4);
    let orphan = &world.state.instances[before.first().unwrap()];
    assert_eq!((orphan.desired, orphan.observed), (Desired::Stop, Observed::Unknown));
    // Nothing is started twice, and the orphan is stopped on the node's return.
    world.silent_nodes.clear();
    world.settle();
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Ready);
    assert_eq!((world.ready("1.0.0"), world.state.instances.len()), (3, 3));
    assert!(on(&world, "n3").is_empty());
    assert!(world.started.values().all(|count| *count == 1), "{:?}", world.started);
}

#[test]
fn an_instance_of_a_lost_node_is_told_to_stop_only_when_every_session_knows() {
    let mut world = World::deployed(3);
    let orphan = on(&world, "n3").first().unwrap().clone();
    let session = "s1".parse().unwrap();
    world.sessions_work = false;
    let applied = world.state.meta.index;
    let (busy, holding) = (BTreeSet::new(), Holding::able());
    world.sessions.insert(session, SessionView::Connected { applied, busy, holding });
    lose(&mut world, "n3");
    assert_eq!(world.state.instances[&orphan].desired, Desired::Drain);
    world.sessions_work = true;
    world.settle();
    assert_eq!(world.state.instances[&orphan].desired, Desired::Stop);
}

#[test]
fn in_every_state_an_update_goes_on_without_a_lost_node_and_ends() {
    for state in [S::Pending, S::Deploying, S::Deployed, S::Routing, S::Completing, S::RollingBack]
    {
        for back in [false, true] {
            let (mut world, id) = match state {
                S::RollingBack => {
                    let (mut world, id) = at(S::Routing, 0);
                    world.ok(rollback(&id));
                    (world, id)
                }
                _ => at(state, 0),
            };
            lose(&mut world, "n3");
            if back && !matches!(state, S::RollingBack | S::Completing) {
                world.ok(rollback(&id));
            }
            world.settle();
            if !world.state_of(&id).is_terminal() && world.state_of(&id) != S::RollingBack {
                assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 3), "{state}");
                if world.state_of(&id) != S::Completing {
                    world.ok(routing(&id, "1:0"));
                    world.ok(complete(&id));
                }
                world.settle();
            }
            assert!(world.state_of(&id).is_terminal(), "{state}: {:#?}", world.plan().waits);
            let left = if world.state_of(&id) == S::Completed { "2.0.0" } else { "1.0.0" };
            assert_eq!(world.ready(left), 3, "{state}");
            // What was left behind is stopped on return, and nothing else happens.
            world.silent_nodes.clear();
            world.settle();
            assert_eq!(world.state.instances.len(), 3, "{state}");
            assert_eq!(world.ready(left), 3, "{state}");
            assert!(world.started.values().all(|count| *count == 1), "{state}");
        }
    }
}

#[test]
fn when_many_are_silent_at_once_nobody_counts_as_lost_and_it_is_said() {
    let mut world = World::empty();
    (4..=10).for_each(|node| world.set_room(node, 100));
    for name in ["n1", "n2", "n3"] {
        world.silent_nodes.insert(node(name));
    }
    world.settle();
    assert!(world.state.meta.replacement_frozen_since_ms.is_some());
    pass(&mut world, 10 * NODE_LOST_MS);
    for name in ["n1", "n2", "n3"] {
        assert_eq!(lifecycle(&world, name), NodeLifecycle::Unreachable);
    }
    let alerts = world.state.audit.values().filter(|a| a.event.starts_with("ALERT")).count();
    assert_eq!(alerts, 1, "said once");
    // One comes back: two of ten are a fifth. The others may be about to come
    // back too, and have all their time for it.
    world.silent_nodes.remove(&node("n1"));
    world.settle();
    assert!(world.state.meta.replacement_frozen_since_ms.is_none());
    assert_eq!(lifecycle(&world, "n1"), NodeLifecycle::Ready);
    pass(&mut world, NODE_LOST_MS - 5_000);
    assert_eq!(lifecycle(&world, "n2"), NodeLifecycle::Unreachable);
    pass(&mut world, 6_000);
    assert_eq!(lifecycle(&world, "n2"), NodeLifecycle::Lost);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Lost);
}

#[test]
fn a_new_leader_takes_nobody_for_back_nor_for_lost_before_it_has_listened() {
    let mut world = World::deployed(3);
    world.silent_nodes.insert(node("n3"));
    world.settle();
    pass(&mut world, NODE_LOST_MS - 5_000);
    world.fail_over();
    world.awaited_nodes = world.state.nodes.keys().cloned().collect();
    pass(&mut world, 2_000);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Unreachable);
    // A lease is over: the others report, and the loss timer starts.
    world.awaited_nodes.clear();
    world.heard_since_ms = world.now_ms;
    pass(&mut world, NODE_LOST_MS - 2_000);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Unreachable);
    pass(&mut world, 3_000);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Lost);
}

#[test]
fn a_rollback_does_not_count_on_what_is_on_a_lost_node() {
    let (mut world, id) = at(S::Completing, 1);
    // The old set drains; its node is lost before it was told to stop.
    world.sessions_work = false;
    lose(&mut world, "n3");
    world.ok(rollback(&id));
    let back = |world: &World| {
        let wanted = world.instances("1.0.0").into_iter();
        wanted.filter(|id| world.state.instances[id].desired == Desired::Run).count()
    };
    assert_eq!(back(&world), 2, "two were revived, the third is not there");
    world.sessions_work = true;
    world.settle();
    assert_eq!(world.state_of(&id), S::RolledBack);
    assert_eq!(world.ready("1.0.0"), 3);
}

#[test]
fn a_node_that_is_gone_for_good_is_forgotten_with_its_instances() {
    let mut world = World::deployed(3);
    let forget = |force| Command::ForgetNode { node: node("n3"), force };
    for force in [false, true] {
        let refused = world.propose(forget(force)).unwrap_err();
        assert!(matches!(refused, Refusal::NodeInUse { .. }), "{refused}");
    }
    world.silent_nodes.insert(node("n3"));
    world.settle();
    assert!(world.propose(forget(false)).unwrap_err().to_string().contains("--force"));
    world.ok(forget(true));
    world.settle();
    assert!(!world.state.nodes.contains_key(&node("n3")));
    assert_eq!((world.ready("1.0.0"), world.state.instances.len()), (3, 3));
    let refused = world.propose(forget(true)).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownNode { .. }), "{refused}");
}

#[test]
fn a_drained_node_gives_its_instances_away_one_for_one_and_takes_no_more() {
    let mut world = World::deployed(3);
    world.agents_work = false;
    set_schedule(&mut world, "n3", NodeSchedule::Draining);
    world.rounds(10);
    assert_eq!(world.ready("1.0.0"), 3, "the old one takes calls until its replacement does");
    assert_eq!(world.state.instances.len(), 4);
    world.agents_work = true;
    let mut least = usize::MAX;
    for _ in 0..30 {
        world.now_ms += 100;
        world.round();
        least = least.min(world.ready("1.0.0"));
    }
    world.settle();
    assert_eq!((least, world.state.instances.len()), (3, 3));
    assert!(on(&world, "n3").is_empty());
    world.ok(Command::Scale { slice: SLICE.parse().unwrap(), instances: 6 });
    world.settle();
    assert!(on(&world, "n3").is_empty());
    set_schedule(&mut world, "n3", NodeSchedule::Open);
    world.ok(Command::Scale { slice: SLICE.parse().unwrap(), instances: 9 });
    world.settle();
    assert_eq!(on(&world, "n3").len(), 3);
}

#[test]
fn a_drain_without_room_elsewhere_waits_and_takes_nothing_away() {
    let mut world = World::deployed(3);
    world.set_room(1, 1);
    world.set_room(2, 1);
    set_schedule(&mut world, "n3", NodeSchedule::Draining);
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.state.instances.len()), (3, 3));
    let plan = world.plan();
    let waits = &plan.waits[&SLICE.parse().unwrap()];
    let codes: Vec<_> = waits.iter().map(|wait| wait.code).collect();
    assert_eq!(codes, ["no_capacity", "node_drain"]);
    let said = "1 instance of r1 has no other place: the nodes that report and take new instances \
                have no room left";
    assert_eq!(waits[0].message, said);
    let seen_by_any_node = planner::placement_waits(&world.state, world.now_ms);
    assert_eq!(seen_by_any_node, plan.waits);
    world.set_room(2, 2);
    world.settle();
    assert!(on(&world, "n3").is_empty());
    assert_eq!(world.ready("1.0.0"), 3);
}

#[test]
fn in_every_state_of_an_update_a_node_can_be_drained() {
    for state in [S::Deploying, S::Deployed, S::Routing, S::Completing] {
        let (mut world, id) = at(state, 0);
        set_schedule(&mut world, "n3", NodeSchedule::Draining);
        world.settle();
        if world.state_of(&id) != S::Completed {
            world.ok(routing(&id, "1:0"));
            world.settle();
            world.ok(complete(&id));
            world.settle();
        }
        assert_eq!(world.state_of(&id), S::Completed, "{state}");
        assert!(on(&world, "n3").is_empty(), "{state}");
        assert_eq!((world.ready("2.0.0"), world.state.instances.len()), (3, 3), "{state}");
    }
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_an_update_goes_elsewhere() {
    let mut world = World::deployed(3);
    set_schedule(&mut world, "n3", NodeSchedule::Cordoned);
    world.settle();
    assert_eq!(on(&world, "n3").len(), 1);
    world.start("2.0.0", UpdateOptions::default());
    world.settle();
    assert_eq!((on(&world, "n3").len(), world.ready("2.0.0")), (1, 3));
    // The node's agent says hello again: what people decided stands.
    world.set_room(3, 100);
    assert_eq!(world.state.nodes[&node("n3")].schedule, NodeSchedule::Cordoned);
    let again =
        world.ok(Command::SetNodeSchedule { node: node("n3"), schedule: NodeSchedule::Cordoned });
    assert!(again.note.unwrap().contains("already"));
}

#[test]
fn nothing_is_decided_beside_the_loss_of_a_node() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { healthy_ms: NODE_LOST_MS, ..UpdateOptions::default() };
    let id = world.start("2.0.0", options);
    world.rounds(6);
    assert_eq!(world.ready("2.0.0"), 3);
    world.silent_nodes.insert(node("n3"));
    world.rounds(1);
    assert_eq!(lifecycle(&world, "n3"), NodeLifecycle::Unreachable);
    world.now_ms += NODE_LOST_MS + 1_000;
    // By the state as it is all instances have been ready for long enough.
    let lost = Command::SetNodeLifecycle { node: node("n3"), lifecycle: NodeLifecycle::Lost };
    assert_eq!(world.plan().commands, [lost]);
    world.rounds(1);
    assert_eq!(world.state_of(&id), S::Deploying);
    assert_eq!(world.ready("2.0.0"), 2);
}
