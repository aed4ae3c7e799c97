//! What the planner saw is written down, and leads to the same decisions again.

use aether_core::command::{Command, Refusal};
use aether_core::ids::UpdateId;
use aether_core::planner::SessionView;
use aether_core::records::{INPUTS_UPDATES_MAX, Strategy, UpdateOptions, UpdateState as S};
use aether_core::replay::{Replay, replay};

use crate::world::{World, canary, complete, in_batches, rollback, routing, start_with};

/// Replays an update, of which every decision has to be the same again.
fn same(world: &World, id: &UpdateId) -> Replay {
    let replay = replay(&world.state, id).unwrap();
    for decision in &replay.decisions {
        assert!(decision.is_same(), "{decision:#?}");
    }
    replay
}

fn options() -> UpdateOptions {
    UpdateOptions { healthy_ms: 0, ..UpdateOptions::default() }
}

#[test]
fn every_decision_of_an_update_is_the_same_again_whoever_led() {
    let mut world = World::deployed(6);
    let rolling = Strategy::Rolling(in_batches("2", "2", "0"));
    let id = world.ok(start_with("2.0.0", options(), rolling)).update.unwrap();
    for round in 0..200 {
        world.now_ms += 10;
        if round % 5 == 0 {
            world.fail_over();
        }
        world.round();
    }
    assert_eq!(world.state_of(&id), S::Completed);
    let replay = same(&world, &id);
    let decided = |is: fn(&Command) -> bool| {
        replay.decisions.iter().flat_map(|d| &d.decided).filter(|c| is(c)).count()
    };
    assert!(!replay.is_cut);
    assert_eq!(decided(|c| matches!(c, Command::EnterStep { .. })), 3);
    assert_eq!(decided(|c| matches!(c, Command::Finish { .. })), 1);
    assert!(decided(|c| matches!(c, Command::MoveInPlace { .. })) >= 4);
    // Another row is written only for what changed.
    let rows: Vec<usize> = world.state.inputs_of(&id).map(|input| input.rows.len()).collect();
    assert!(rows[0] > 10 && rows[1..].iter().all(|rows| *rows < rows.max(&20) + 1), "{rows:?}");
    assert!(rows.iter().sum::<usize>() < rows[0] * rows.len() / 2, "{rows:?}");
}

#[test]
fn who_was_behind_and_what_calls_showed_is_part_of_it() {
    let mut world = World::deployed(4);
    let strategy = Strategy::Canary(canary("1:9, 1:1, 1:0"));
    let id = world.ok(start_with("2.0.0", options(), strategy)).update.unwrap();
    world.pass(100);
    world.count(&id, 1_000, 0, 0);
    world.pass(60_000);
    // One session falls silent, and then the version fails.
    let session = world.sessions.keys().next().unwrap().clone();
    world.sessions.insert(session, SessionView::Unreachable { since_ms: world.now_ms });
    world.count(&id, 2_000, 500, 0);
    world.rounds(3);
    assert!(world.update(&id).pause.is_some());
    world.ok(rollback(&id));
    world.rounds(5);
    let replay = same(&world, &id);
    assert!(replay.decisions.len() >= 4, "{replay:#?}");
    assert!(
        world
            .state
            .inputs_of(&id)
            .any(|input| { input.seen.as_ref().is_some_and(|seen| !seen.sessions.is_empty()) })
    );
}

#[test]
fn what_was_not_seen_is_not_written_down() {
    let mut world = World::deployed(3);
    let id = world.start("2.0.0", options());
    let input = world.plan().inputs[0].clone();
    // Something came between.
    world.ok(Command::Tick {});
    world.ok(rollback(&id));
    let refusal = world.propose(input).unwrap_err();
    assert!(matches!(refusal, Refusal::Stale { .. }), "{refusal}");
    assert_eq!(world.state.inputs_of(&id).count(), 0);
}

#[test]
fn only_the_latest_updates_are_kept() {
    let mut world = World::deployed(1);
    let mut ids = Vec::new();
    for round in 0..INPUTS_UPDATES_MAX + 2 {
        let version = if round % 2 == 0 { "2.0.0" } else { "1.0.0" };
        let id = world.start(version, options());
        world.settle();
        world.ok(routing(&id, "1:0"));
        world.settle();
        world.ok(complete(&id));
        world.settle();
        same(&world, &id);
        ids.push(id);
    }
    let has = |id: &UpdateId| world.state.inputs_of(id).count() > 0;
    assert_eq!(ids.iter().map(has).collect::<Vec<_>>()[..3], [false, false, true]);
    assert_eq!(ids.iter().filter(|id| has(id)).count(), INPUTS_UPDATES_MAX);
}
