//! Which version a slice is to have, and the colours of its sets.

use aether_core::command::{Command, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::level::since;
use aether_core::records::{Colour, UpdateOptions, UpdateState as S};

use crate::world::{SLICE, World, complete, rollback, routing};

fn set(version: &str) -> Command {
    Command::SetCurrent { slice: SLICE.parse().unwrap(), version: version.parse().unwrap() }
}

/// The colours of what serves outside of updates, and of what a live update brings.
fn colours(world: &World) -> (Colour, Option<Colour>) {
    let slice = SLICE.parse().unwrap();
    let of = |no| world.state.colour(&slice, no).unwrap();
    let current = world.state.slices[&slice].current.unwrap();
    (of(current), world.state.live_update(&slice).map(|update| of(update.new.revision)))
}

#[test]
fn what_a_slice_is_set_to_moves_nothing_and_keeps_its_artifact() {
    let mut world = World::deployed(2);
    let unknown = world.propose(set("9.0.0")).unwrap_err();
    assert!(matches!(unknown, Refusal::UnknownArtifact { .. }), "{unknown}");
    let note = world.ok(set("2.0.0")).note.unwrap();
    assert!(note.contains("'aether env refresh"), "{note}");
    world.settle();
    assert_eq!((world.ready("1.0.0"), world.instances("2.0.0").len()), (2, 0));
    let slice: SliceName = SLICE.parse().unwrap();
    let record = &world.state.slices[&slice];
    assert_eq!(record.set.as_ref().unwrap().version.as_str(), "2.0.0");
    let artifact = format!("{SLICE}:2.0.0").parse().unwrap();
    let refusal = world.propose(Command::RemoveArtifact { artifact }).unwrap_err();
    assert!(refusal.to_string().contains("is set to it"), "{refusal}");
    // A slice of which nothing is deployed has nothing to be refreshed.
    let nowhere = Command::SetCurrent {
        slice: format!("{SLICE}@none").parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
    };
    let refusal = world.propose(nowhere).unwrap_err();
    assert!(matches!(refusal, Refusal::UnknownSlice { .. }), "{refusal}");
    world.ok(Command::Undeploy { slice: SLICE.parse().unwrap(), version: None });
    world.settle();
    assert!(world.state.slices.is_empty(), "nothing is left of it");
}

#[test]
fn of_two_sets_that_run_each_has_its_own_colour() {
    let mut world = World::deployed(2);
    assert_eq!(colours(&world), (Colour::Blue, None));
    // One that is rolled back leaves its colour to the next.
    for version in ["2.0.0", "3.0.0"] {
        let id = world.start(version, UpdateOptions::default());
        world.settle();
        assert_eq!(colours(&world), (Colour::Blue, Some(Colour::Green)));
        world.ok(rollback(&id));
        world.settle();
    }
    for (version, serves) in [("2.0.0", Colour::Green), ("3.0.0", Colour::Blue)] {
        let id = world.start(version, UpdateOptions::default());
        world.settle();
        world.ok(routing(&id, "1:0"));
        world.ok(complete(&id));
        world.settle();
        assert_eq!(world.state_of(&id), S::Completed);
        assert_eq!(colours(&world), (serves, None));
    }
}

#[test]
fn before_the_level_that_knows_colours_there_are_none() {
    let mut world = World::deployed_at(since::COLOURS - 1, 2);
    world.start("2.0.0", UpdateOptions::default());
    assert_eq!(colours(&world), (Colour::Blue, Some(Colour::Blue)));
    let refusal = world.propose(set("2.0.0")).unwrap_err();
    assert!(matches!(refusal, Refusal::LevelTooLow { .. }), "{refusal}");
}
