//! Recreate: all are stopped, then all are started, and so is the way back.

use aether_core::records::{Analysis, Recreate, Strategy, UpdateOptions, UpdateState};

use crate::world::{World, rollback, start_with};

fn begin() -> (World, aether_core::ids::UpdateId) {
    let mut world = World::deployed(3);
    let strategy = Strategy::Recreate(Recreate { analysis: Analysis::default() });
    let options = UpdateOptions { healthy_ms: 0, ..UpdateOptions::default() };
    let id = world.ok(start_with("2.0.0", options, strategy)).update.unwrap();
    (world, id)
}

#[test]
fn never_do_both_versions_run_at_once() {
    let (mut world, id) = begin();
    let mut was_empty = false;
    for _ in 0..200 {
        let [old, new] = ["1.0.0", "2.0.0"].map(|version| world.instances(version).len());
        assert!(old == 0 || new == 0, "{old} and {new} exist");
        was_empty |= old + new == 0;
        if world.update(&id).state.is_terminal() {
            break;
        }
        world.now_ms += 10;
        world.round();
    }
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    assert!(was_empty && world.ready("2.0.0") == 3);
}

#[test]
fn a_rollback_stops_all_of_the_new_version_first() {
    for rounds in 1..25 {
        let (mut world, id) = begin();
        for _ in 0..rounds {
            world.now_ms += 10;
            world.round();
        }
        if world.propose(rollback(&id)).is_err() {
            assert_eq!(world.state_of(&id), UpdateState::Completed);
            return;
        }
        world.settle();
        assert_eq!(world.state_of(&id), UpdateState::RolledBack, "after {rounds} rounds");
        assert_eq!((world.ready("1.0.0"), world.ready("2.0.0")), (3, 0));
    }
    panic!("it does not complete");
}
