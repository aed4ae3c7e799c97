//! A reload beside drained nodes, stand-ins and other updates: there may be more of the
//! new side than are wanted, and not all of them have reloaded.

use aether_core::command::Command;
use aether_core::ids::{InstanceId, UpdateId};
use aether_core::records::{Desired, NodeSchedule, UpdateState as S};

use crate::reload::{begin, by_reload, called, configs, ids, slice, start, until_told, world};
use crate::world::{World, approve, complete_forced, rollback};

/// Old instances that are on their way out come back at once in a rollback. Who reloads
/// then is one too many, and goes as soon as another update takes the place of this one.
#[test]
fn another_update_takes_the_place_of_a_reload_whose_rollback_found_old_instances() {
    let mut world = world(4);
    world.sessions_work = false;
    world.ok(Command::Scale { slice: slice(), instances: 2 });
    world.decide();
    let drained = |world: &World| {
        let instances = world.state.instances.values();
        instances.filter(|i| i.desired == Desired::Drain).count()
    };
    assert_eq!(drained(&world), 2, "and nobody has said that it does not call them");
    let id = begin(&mut world, 2, by_reload("1", "1"));
    until_told(&mut world);
    world.ok(rollback(&id));
    world.decide();
    let lent = |world: &World| {
        let instances = world.state.instances.values();
        instances.filter(|i| i.called_as() != i.revision).map(|i| i.desired).collect::<Vec<_>>()
    };
    let mut command = start(2, by_reload("1", "1"));
    let Command::StartWith { supersede, .. } = &mut command else { unreachable!() };
    *supersede = true;
    let second = world.ok(command).update.unwrap();
    assert_eq!((world.state_of(&id), lent(&world)), (S::RolledBack, vec![Desired::Drain]));
    // With this one nothing is live that it could be called for.
    world.ok(rollback(&second));
    world.sessions_work = true;
    world.settle();
    assert_eq!((world.state_of(&second), lent(&world)), (S::RolledBack, vec![]));
    assert_eq!((configs(&world), called(&world)), (vec![1, 1], 2));
}

/// A stand-in came up while a node was drained, and the node is open again: with another
/// one that is told and has not reloaded there are too many of the new side by number, and
/// not by what serves.
#[test]
fn nobody_goes_for_one_that_has_not_reloaded_yet() {
    one_too_many(false);
}

/// And what never reloads goes before the old side is all that it is called as.
#[test]
fn who_never_reloads_is_not_called_as_of_the_new_side() {
    one_too_many(true);
}

fn one_too_many(is_deaf_for_good: bool) {
    let mut world = world(3);
    let mut command = start(2, by_reload("1", "1"));
    let Command::StartWith { options, .. } = &mut command else { unreachable!() };
    options.manual_approval = true;
    let id = world.ok(command).update.unwrap();
    let updated = |world: &World| {
        let of_new = world.update(&id).new.revision;
        world.state.ready_count(&slice(), of_new)
    };
    for _ in 0..200 {
        if world.update(&id).step() > 0 {
            break;
        }
        world.now_ms += 50;
        world.round();
        drop(world.propose(approve(&id)));
    }
    until_told(&mut world);
    let late = world.state.instances.values().find(|i| !i.has_reloaded()).unwrap().id.clone();
    world.deaf.insert(late.clone());
    let first = world.state.instances.values().find(|i| i.reload.is_some() && i.id != late);
    let home = first.unwrap().node.clone();
    let node = home.clone();
    world.ok(Command::SetNodeSchedule { node, schedule: NodeSchedule::Draining });
    for _ in 0..40 {
        world.now_ms += 50;
        world.round();
    }
    assert_eq!((updated(&world), ids(&world).len()), (2, 4), "the stand-in serves beside it");
    world.ok(Command::SetNodeSchedule { node: home, schedule: NodeSchedule::Open });
    for round in 0..40 {
        assert_eq!(updated(&world), 2, "round {round}: nobody went");
        world.now_ms += 50;
        world.round();
    }
    if !is_deaf_for_good {
        world.deaf.clear();
    }
    for round in 0..200 {
        let table = world.state.slice_table(&slice()).unwrap();
        let of_new = table.new.iter().flat_map(|set| &set.endpoints);
        let serves = |world: &World| world.update(&id).state.is_terminal();
        let old = table.old.iter().filter(|_| serves(&world)).flat_map(|set| &set.endpoints);
        for endpoint in of_new.chain(old) {
            let instance = &world.state.instances[&endpoint.instance];
            assert!(instance.has_reloaded(), "round {round}: {instance:#?}");
        }
        world.now_ms += 50;
        world.round();
        drop(world.propose(approve(&id)));
    }
    assert!(!is_deaf_for_good || !world.state.instances.contains_key(&late));
    assert_eq!((world.state_of(&id), configs(&world)), (S::Completed, vec![2; 3]));
}

/// The stand-in of another one makes the batch whole while one has not reloaded: the end
/// of the update would have it called as of the new side.
#[test]
fn an_update_does_not_end_over_one_that_has_not_reloaded() {
    let (mut world, id, late) = all_but_one();
    assert_eq!((world.state_of(&id), world.update(&id).step()), (S::Completing, 1));
    let waits = world.plan().waits;
    let said = waits.values().flatten().find(|wait| wait.code == "reload").expect("it is said");
    assert!(said.message.contains(late.as_str()), "{said:?}");
    assert!(!world.state.instances[&late].has_reloaded());
    world.deaf.clear();
    world.settle();
    assert_eq!((world.state_of(&id), configs(&world)), (S::Completed, vec![2; 3]));
}

/// All of three have reloaded or have a stand-in, but for the one that is named.
fn all_but_one() -> (World, UpdateId, InstanceId) {
    let mut world = world(3);
    let id = begin(&mut world, 2, by_reload("100%", "100%"));
    until_told(&mut world);
    let told = ids(&world);
    world.deaf.insert(told[2].clone());
    let home = world.state.instances[&told[0]].node.clone();
    world.ok(Command::SetNodeSchedule { node: home, schedule: NodeSchedule::Draining });
    for _ in 0..100 {
        world.now_ms += 50;
        world.round();
    }
    (world, id, told[2].clone())
}

/// Somebody does not wait for it: it is replaced, and never called as of the new side.
#[test]
fn who_has_not_reloaded_when_an_update_is_forced_to_its_end_is_replaced() {
    let (mut world, id, late) = all_but_one();
    world.ok(complete_forced(&id));
    for _ in 0..100 {
        let table = world.state.slice_table(&slice()).unwrap();
        let is_called = table.new.iter().flat_map(|set| &set.endpoints).any(|e| e.instance == late);
        assert!(!is_called && called(&world) >= 2, "{:#?}", world.state.instances);
        world.now_ms += 50;
        world.round();
    }
    assert_eq!((world.state_of(&id), ids(&world).contains(&late)), (S::Completed, false));
    assert_eq!((configs(&world), called(&world)), (vec![2; 3], 3));
}

/// Nor when the next update is taken back while it is on its way out.
#[test]
fn who_goes_because_it_has_not_reloaded_does_not_come_back() {
    let (mut world, id, late) = all_but_one();
    world.sessions_work = false;
    world.ok(complete_forced(&id));
    for _ in 0..20 {
        world.round();
    }
    assert_eq!(world.state_of(&id), S::Completed);
    assert_eq!(world.state.instances[&late].desired, Desired::Drain);
    let next = begin(&mut world, 1, by_reload("1", "1"));
    world.rounds(5);
    world.ok(rollback(&next));
    assert_eq!(world.state.instances[&late].desired, Desired::Drain);
    world.sessions_work = true;
    world.settle();
    assert_eq!((world.state_of(&next), ids(&world).contains(&late)), (S::RolledBack, false));
    assert_eq!((configs(&world), called(&world)), (vec![2; 3], 3));
}
