//! Where instances are put, and which ones go.

use std::sync::Arc;

use aether_core::command::Command;
use aether_core::ids::NodeName;
use aether_core::planner;
use aether_core::records::{Desired, InstanceRecord, NodeLifecycle, UpdateOptions};

use crate::world::{SLICE, World, register, start};

/// How many instances of a version each node has, fewest first.
fn spread(world: &World, version: &str) -> Vec<usize> {
    let of = |node: &NodeName| {
        let here = world.state.instances.values().filter(|i| i.node == *node);
        let revision = |i: &InstanceRecord| {
            world.state.revisions.get(&(i.slice.clone(), i.revision)).unwrap().version.to_string()
        };
        here.filter(|i| i.desired == Desired::Run && revision(i) == version).count()
    };
    let mut counts: Vec<usize> = world.state.nodes.keys().map(of).collect();
    counts.sort_unstable();
    counts
}

#[test]
fn each_version_is_spread_whatever_the_other_one_occupies() {
    let mut world = World::deployed(2);
    assert_eq!(spread(&world, "1.0.0"), [0, 1, 1]);
    world.ok(start("2.0.0", Some(3), UpdateOptions::default()));
    world.settle();
    assert_eq!(spread(&world, "2.0.0"), [1, 1, 1]);
    let mut world = World::deployed(7);
    world.ok(Command::Scale { slice: SLICE.parse().unwrap(), instances: 3 });
    world.settle();
    assert_eq!(spread(&world, "1.0.0"), [1, 1, 1]);
}

#[test]
fn instances_without_a_place_are_told_with_the_label_once_when_it_begins_and_once_when_it_ends() {
    let mut world = World::empty();
    let ssd = |world: &mut World, node: &str| {
        world.ok(Command::RegisterNode {
            node: node.parse().unwrap(),
            address: "127.0.0.1:9009".parse().unwrap(),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            instances_max: 2,
        });
    };
    ssd(&mut world, "n1");
    let Command::RegisterArtifact { artifact, digest, size_bytes, manifest, holder, others } =
        register("4.0.0")
    else {
        unreachable!("it is one");
    };
    let mut manifest = (*manifest).clone();
    manifest.placement.require.insert("disk".to_owned(), "ssd".to_owned());
    let manifest = Arc::new(manifest);
    let register =
        Command::RegisterArtifact { artifact, digest, size_bytes, manifest, holder, others };
    world.ok(register);
    let (slice, version) = (SLICE.parse().unwrap(), "4.0.0".parse().unwrap());
    world.ok(Command::Deploy { slice, version, instances: 2 });
    world.settle();
    assert_eq!(world.ready("4.0.0"), 2);
    let waits = |world: &World| planner::placement_waits(&world.state, world.now_ms);
    let events = |world: &World| -> Vec<String> {
        let all = world.state.audit.values().filter(|r| r.subject.as_str().starts_with("slice/"));
        all.map(|r| r.event.clone()).filter(|event| event.contains("place")).collect()
    };
    assert!(waits(&world).is_empty());

    let node: NodeName = "n1".parse().unwrap();
    let lifecycle = NodeLifecycle::Lost;
    world.silent_nodes.insert(node.clone());
    world.ok(Command::SetNodeLifecycle { node: node.clone(), lifecycle });
    world.ok(Command::ForgetNode { node: node.clone(), force: false });
    world.settle();
    let said = "2 instances of r1 have no place: no node that reports and takes new instances has \
                disk=ssd";
    let all = waits(&world);
    let wait = &all[&SLICE.parse().unwrap()][0];
    assert_eq!((wait.code, &*wait.message), (planner::NO_CAPACITY, said));
    assert_eq!(wait.unblock, "add a node with disk=ssd, uncordon one, or scale something down");
    let since_ms = wait.since_ms;
    world.now_ms += 5_000;
    world.rounds(3);
    assert_eq!(waits(&world)[&SLICE.parse().unwrap()][0].since_ms, since_ms, "it is the same wait");
    assert_eq!(events(&world), [format!("ALERT: {said}")], "once");

    ssd(&mut world, "n2");
    world.settle();
    assert!(waits(&world).is_empty());
    assert_eq!(world.ready("4.0.0"), 2);
    assert_eq!(events(&world)[1..], ["all instances of r1 have a place again"]);
}
