//! A start that takes the place of a live update, as one entry.

use aether_core::command::{Command, Refusal};
use aether_core::ids::UpdateId;
use aether_core::records::{Remake, Strategy, UpdateOptions, UpdateState};

use crate::world::{SLICE, World, canary, complete, routing};

fn supersede(version: &str) -> Command {
    Command::StartWith {
        slice: SLICE.parse().unwrap(),
        version: version.parse().unwrap(),
        instances: None,
        options: UpdateOptions::default(),
        strategy: Strategy::Manual {},
        supersede: true,
        remake: Remake::default(),
    }
}

fn walk_to(state: UpdateState) -> (World, UpdateId) {
    let mut world = World::deployed(3);
    let id = world.start("2.0.0", UpdateOptions::default());
    if state != UpdateState::Pending {
        world.round();
    }
    if state != UpdateState::Pending && state != UpdateState::Deploying {
        world.settle();
    }
    if matches!(state, UpdateState::Routing | UpdateState::Completing) {
        world.ok(routing(&id, if state == UpdateState::Routing { "1:3" } else { "1:0" }));
    }
    if state == UpdateState::Completing {
        world.sessions_work = false;
        world.ok(complete(&id));
    }
    assert_eq!(world.state_of(&id), state);
    (world, id)
}

#[test]
fn the_new_start_and_the_end_of_the_old_one_are_one_entry() {
    use UpdateState::{Completing, Deployed, Deploying, Pending, Routing};
    for state in [Pending, Deploying, Deployed, Routing, Completing] {
        let (mut world, first) = walk_to(state);
        let second = world.ok(supersede("3.0.0")).update.unwrap();
        assert_eq!(world.state_of(&first), UpdateState::RolledBack, "{state}");
        assert_eq!(world.update(&first).weights.to_string(), "0:1", "{state}");
        assert_eq!(world.state_of(&second), UpdateState::Pending, "{state}");
        assert_eq!(world.update(&second).old.as_ref().unwrap().version.as_str(), "1.0.0");
        world.sessions_work = true;
        world.settle();
        assert_eq!(world.state_of(&second), UpdateState::Deployed, "{state}");
        let ready = ["1.0.0", "2.0.0", "3.0.0"].map(|version| world.ready(version));
        assert_eq!(ready, [3, 0, 3], "{state}");
        assert!(world.instances("2.0.0").is_empty(), "{state}: they have ended");
    }
}

#[test]
fn what_cannot_go_back_is_not_superseded_and_nothing_changes() {
    // The old version is on its way out.
    let (mut world, id) = walk_to(UpdateState::Completing);
    world.sessions_work = true;
    while world.ready("1.0.0") == 3 {
        world.round();
    }
    assert_eq!(world.state_of(&id), UpdateState::Completing);
    let end_unasked = world.instances("1.0.0")[0].clone();
    world.end_unasked(&end_unasked);
    let refused = world.propose(supersede("3.0.0")).unwrap_err();
    assert!(matches!(refused, Refusal::NotSuperseded { .. }), "{refused}");
    assert_eq!(world.state_of(&id), UpdateState::Completing);
}

#[test]
fn with_nothing_live_it_is_a_start_and_without_the_word_it_is_refused() {
    let mut world = World::deployed(3);
    let id = world.ok(supersede("2.0.0")).update.unwrap();
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Deployed);
    let strategy = Strategy::Canary(canary("1:0"));
    let start = crate::world::start_with("3.0.0", UpdateOptions::default(), strategy);
    let refused = world.propose(start).unwrap_err();
    assert!(matches!(refused, Refusal::UpdateLive { .. }), "{refused}");
    // A supersede by what cannot be started leaves the live one as it is.
    let refused = world.propose(supersede("9.9.9")).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownArtifact { .. }), "{refused}");
    assert_eq!(world.state_of(&id), UpdateState::Deployed);
}
