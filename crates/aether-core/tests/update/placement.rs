//! Where instances are put, and which ones go.

use aether_core::command::Command;
use aether_core::ids::NodeName;
use aether_core::records::{Desired, InstanceRecord, UpdateOptions};

use crate::world::{SLICE, World, start};

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
