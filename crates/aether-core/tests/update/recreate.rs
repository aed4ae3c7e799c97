//! Recreate: all are stopped, then all are started, and so is the way back.

use aether_core::command::{Command, Refusal};
use aether_core::records::{
    Analysis, CleanupPolicy, OptionChanges, Recreate, Strategy, UpdateOptions, UpdateState,
};

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

#[test]
fn what_is_half_gone_is_not_superseded_and_what_would_serve_nobody_is_not_started() {
    let (mut world, id) = begin();
    while world.ready("1.0.0") > 0 {
        world.now_ms += 10;
        world.round();
    }
    let mut command = start_with("3.0.0", UpdateOptions::default(), Strategy::Manual {});
    let Command::StartWith { supersede, .. } = &mut command else { unreachable!() };
    *supersede = true;
    let refused = world.propose(command).unwrap_err();
    assert!(matches!(refused, Refusal::NotSuperseded { .. }), "{refused}");
    world.ok(rollback(&id));
    world.settle();
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let strategy = Strategy::Recreate(Recreate { analysis: Analysis::default() });
    let refused = world.propose(start_with("2.0.0", options, strategy)).unwrap_err();
    assert!(matches!(refused, Refusal::BadOption { .. }), "{refused}");
}

#[test]
fn no_old_set_can_be_kept_later_either() {
    let (mut world, id) = begin();
    let cleanup = Some(CleanupPolicy::Manual);
    let changes = OptionChanges { cleanup, ..OptionChanges::default() };
    let refused = world.propose(Command::SetOptions { update: id, changes, if_modified: None });
    assert!(matches!(refused, Err(Refusal::BadOption { .. })), "{refused:?}");
}
