//! An artifact is removed only when nothing needs it any more.

use aether_core::command::{Command, Refusal, RefusalKind};
use aether_core::records::{CleanupPolicy, UpdateOptions, UpdateState};

use crate::world::{SLICE, World, complete, register, rollback, routing};

fn remove(version: &str) -> Command {
    Command::RemoveArtifact { artifact: format!("{SLICE}:{version}").parse().unwrap() }
}

/// Why a version is not removed.
#[track_caller]
fn needed(world: &mut World, version: &str) -> String {
    match world.propose(remove(version)) {
        Err(refusal @ Refusal::ArtifactInUse { .. }) => {
            assert_eq!(refusal.kind(), RefusalKind::State);
            assert_eq!(refusal.code(), "artifact_in_use");
            let needed = world.state.artifacts_needed();
            let key = format!("{SLICE}:{version}").parse().unwrap();
            let Refusal::ArtifactInUse { user, .. } = refusal else { unreachable!() };
            assert_eq!(needed.get(&key), Some(&user), "both ways to ask say the same");
            user
        }
        other => panic!("{version} should be needed: {other:?}"),
    }
}

#[test]
fn what_serves_and_both_sides_of_a_live_update_are_needed() {
    let mut world = World::deployed(2);
    assert_eq!(needed(&mut world, "1.0.0"), format!("slice {SLICE} runs it"));
    let id = world.start("2.0.0", UpdateOptions::default());
    assert_eq!(needed(&mut world, "2.0.0"), format!("update {id} moves to it"));
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.settle();
    assert_eq!(needed(&mut world, "1.0.0"), format!("slice {SLICE} runs it"));
    world.ok(rollback(&id));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
    world.ok(remove("2.0.0"));
    world.ok(remove("3.0.0"));
    let left: Vec<_> = world.state.artifacts.keys().map(|a| a.version.to_string()).collect();
    assert_eq!(left, ["1.0.0"]);
}

#[test]
fn what_the_last_update_replaced_is_needed_until_another_one_has_completed() {
    let mut world = World::deployed(2);
    let mut ids = Vec::new();
    for version in ["2.0.0", "3.0.0"] {
        let id = world.start(version, UpdateOptions::default());
        world.settle();
        world.ok(routing(&id, "1:0"));
        world.ok(complete(&id));
        world.settle();
        assert_eq!(world.state_of(&id), UpdateState::Completed);
        ids.push(id);
        if version == "2.0.0" {
            let user = needed(&mut world, "1.0.0");
            assert_eq!(user, format!("update {} replaced it, and may have to be reversed", ids[0]));
        }
    }
    world.ok(remove("1.0.0"));
    assert!(needed(&mut world, "2.0.0").contains(ids[1].as_str()));
    world.ok(Command::Undeploy { slice: SLICE.parse().unwrap(), version: None });
    world.settle();
    world.ok(remove("2.0.0"));
    world.ok(remove("3.0.0"));
}

#[test]
fn a_set_that_is_kept_warm_needs_its_artifact() {
    let mut world = World::deployed(2);
    let cleanup = CleanupPolicy::Manual;
    let id = world.start("2.0.0", UpdateOptions { cleanup, ..UpdateOptions::default() });
    world.settle();
    world.ok(routing(&id, "1:0"));
    world.ok(complete(&id));
    world.settle();
    assert_eq!(needed(&mut world, "1.0.0"), format!("slice {SLICE} keeps it warm"));
}

#[test]
fn instances_that_are_still_there_need_their_artifact() {
    let mut world = World::deployed(2);
    world.agents_work = false;
    world.ok(Command::Undeploy { slice: SLICE.parse().unwrap(), version: None });
    assert_eq!(needed(&mut world, "1.0.0"), format!("slice {SLICE} has instances of it"));
    world.agents_work = true;
    world.settle();
    world.ok(remove("1.0.0"));
}

#[test]
fn an_artifact_that_was_removed_is_unknown_and_may_be_pushed_anew() {
    let mut world = World::empty();
    world.ok(remove("1.0.0"));
    let artifact: aether_core::coordinates::Artifact = format!("{SLICE}:1.0.0").parse().unwrap();
    let refusal = world.propose(remove("1.0.0")).unwrap_err();
    let unknown = Refusal::UnknownArtifact { artifact: artifact.clone(), is_sought: true };
    assert_eq!(refusal, unknown);
    let text = refusal.to_string();
    assert!(text.ends_with("is unknown; 'aether artifact list' shows what there is"), "{text}");
    let last = world.state.audit.values().next_back().unwrap();
    assert_eq!(last.subject, aether_core::audit::Subject::artifact(&artifact));
    world.ok(register("1.0.0"));
}

#[test]
fn all_who_hold_an_artifact_at_its_push_are_known_and_one_that_dropped_it_is_not() {
    let mut world = World::empty();
    let Command::RegisterArtifact { artifact, digest, size_bytes, manifest, holder, .. } =
        register("4.0.0")
    else {
        unreachable!()
    };
    let others = ["n2", "n3"].map(|node| node.parse().unwrap()).into();
    world.ok(Command::RegisterArtifact {
        artifact: artifact.clone(),
        digest: digest.clone(),
        size_bytes,
        manifest,
        holder,
        others,
    });
    let held = |world: &World| {
        let held = &world.state.artifacts[&artifact].held_by;
        held.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(held(&world), "n1 n2 n3");
    let dropped = |digest: &str| Command::ArtifactDropped {
        artifact: artifact.clone(),
        digest: digest.to_owned(),
        holder: "n2".parse().unwrap(),
    };
    world.ok(dropped(&"0".repeat(64)));
    assert_eq!(held(&world), "n1 n2 n3", "it dropped another archive");
    world.ok(dropped(&digest));
    assert_eq!(held(&world), "n1 n3");
}
