//! A new cluster begins with the state of a backup: what it goes on with, and
//! what of the old cluster it no longer claims.

use aether_core::apply::{Position, RESTORE_INDEX_GAP};
use aether_core::command::Command;
use aether_core::lint::lint;
use aether_core::records::{UpdateOptions, UpdateState};
use aether_core::state::State;

use crate::world::{SLICE, World, complete, register, routing};

/// What a founding voter makes of a backup.
fn restored(backup: &State) -> State {
    let mut state = State::from_rows(backup.rows().into_iter()).unwrap();
    let index = backup.meta.index + RESTORE_INDEX_GAP;
    state.begin_anew(Position { term: 3, index, log_time_ms: 0, wall_ms: 0 });
    state
}

fn invite() -> Command {
    let peer_addr = "n4:8091".to_owned();
    Command::InviteVoter { node: "n4".parse().unwrap(), peer_addr, replaces: None }
}

#[test]
fn all_goes_on_but_what_only_the_old_voters_could_keep() {
    let mut world = World::deployed(2);
    let update = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    world.ok(routing(&update, "1:3"));
    world.ok(invite());
    world.ok(Command::FreezeReplacement { frozen: true, silent: 3 });
    let backup = world.state.clone();

    let state = restored(&backup);
    assert!(lint(&state).is_empty(), "{:#?}", lint(&state));
    assert_eq!(state.rows(), restored(&backup).rows(), "every founder makes the same");
    assert_eq!(state.meta.incarnation, backup.meta.incarnation + 1);
    assert_eq!(state.meta.log_time_ms, backup.meta.log_time_ms, "no deadline has passed");
    assert_eq!(state.meta.replacement_frozen_since_ms, None);
    assert_eq!(state.meta.replacement_resumed_ms, backup.meta.log_time_ms);
    assert!(state.voter_changes.is_empty());
    assert!(state.artifacts.values().all(|artifact| artifact.held_by.is_empty()));
    assert!(state.sessions.values().all(|session| !session.fresh));
    let changed = State::diff(&backup, &state);
    let tables: std::collections::BTreeSet<&str> =
        changed.iter().map(|row| row.key.split('/').next().unwrap()).collect();
    let expected = ["artifacts", "audit", "meta", "session", "voter-change"];
    assert_eq!(tables.into_iter().collect::<Vec<_>>(), expected);
    let last = &state.audit.get_max().unwrap().1;
    let told = "restored from a backup of log index";
    assert!(last.event.starts_with(told) && last.event.contains("1 change"), "{}", last.event);
}

#[test]
fn an_update_goes_on_where_it_stood() {
    let mut world = World::deployed(2);
    let update = world.start("2.0.0", UpdateOptions::default());
    world.settle();
    world.ok(routing(&update, "1:3"));
    world.state = restored(&world.state);
    // The log that led here is another cluster's.
    world.fail_over();
    world.settle();
    assert_eq!(world.state_of(&update), UpdateState::Routing);
    world.ok(routing(&update, "1:0"));
    world.settle();
    world.ok(complete(&update));
    world.settle();
    assert_eq!(world.state_of(&update), UpdateState::Completed);
}

#[test]
fn no_name_that_the_old_cluster_gave_after_the_backup_is_given_again() {
    let mut old = World::deployed(2);
    let mut new = World::deployed(2);
    new.state = restored(&old.state);
    let of_old = old.start("2.0.0", UpdateOptions::default());
    let of_new = new.start("2.0.0", UpdateOptions::default());
    assert_ne!(of_old, of_new);
    for world in [&mut old, &mut new] {
        world.settle();
    }
    let ids = |world: &World| world.state.instances.keys().cloned().collect::<Vec<_>>();
    let of_one_run: Vec<_> = ids(&old).into_iter().filter(|id| ids(&new).contains(id)).collect();
    assert_eq!(of_one_run.len(), 2, "only those of the backup: {of_one_run:?}");
}

#[test]
fn an_archive_that_is_pushed_again_is_taken() {
    let mut world = World::deployed(1);
    world.state = restored(&world.state);
    let pushed = register("1.0.0");
    world.ok(pushed);
    let of_slice = |a: &&std::sync::Arc<aether_core::records::ArtifactRecord>| {
        a.artifact.to_string() == format!("{SLICE}:1.0.0")
    };
    let record = world.state.artifacts.values().find(of_slice).unwrap();
    assert_eq!(record.held_by.len(), 1);
}
