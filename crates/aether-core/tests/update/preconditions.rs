//! What a write is told to expect: the record's revision, and its own retry.

use aether_core::apply::Position;
use aether_core::command::{Command, Outcome, Refusal, Request};
use aether_core::ids::UpdateId;
use aether_core::records::UpdateState as S;

use crate::scenarios::at;
use crate::world::{World, routing};

/// Proposes under the request id `k`.
fn under_key(world: &mut World, command: Command) -> Outcome {
    let (index, log_time_ms) = (world.state.meta.index + 1, world.now_ms);
    let at = Position { term: world.term, index, log_time_ms, wall_ms: log_time_ms };
    let (request_id, actor) = (Some("k".to_owned()), "test".to_owned());
    world.state.apply(at, &Request { request_id, actor, command })
}

/// Every change of an update that a person asks for, with a precondition.
fn changes(update: &UpdateId, if_modified: Option<u64>) -> [Command; 4] {
    let update = update.clone();
    [
        Command::Approve { update: update.clone(), weights: None, if_modified },
        Command::Complete { update: update.clone(), force: false, if_modified },
        Command::Resume { update: update.clone(), if_modified },
        Command::Rollback { update, now: false, reason: None, force: false, if_modified },
    ]
}

#[test]
fn a_change_of_an_older_record_is_refused_and_one_of_this_record_is_not() {
    let (mut world, id) = at(S::Routing, 0);
    world.ok(routing(&id, "1:0"));
    let modified = world.update(&id).modified;
    for command in changes(&id, Some(modified - 1)) {
        let refused = world.propose(command.clone()).unwrap_err();
        let expected =
            Refusal::Modified { update: id.clone(), expected: modified - 1, actual: modified };
        assert_eq!(refused, expected, "{command:?}");
    }
    let [approve, complete, resume, _] = changes(&id, Some(modified));
    assert_eq!(world.propose(approve).unwrap_err().code(), "nothing_to_approve");
    assert_eq!(world.propose(resume).unwrap_err().code(), "not_paused");
    world.ok(complete);
    let modified = world.update(&id).modified;
    let [.., rollback] = changes(&id, Some(modified));
    world.ok(rollback);
}

#[test]
fn commands_without_a_precondition_are_written_and_read_as_before_there_was_one() {
    for command in changes(&"u1".parse().unwrap(), None) {
        let text = serde_json::to_string(&command).unwrap();
        assert!(!text.contains("if_modified"), "{text}");
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
    }
}

#[test]
fn a_push_is_the_same_request_whichever_node_took_the_archive_in() {
    let mut world = World::deployed(1);
    let known = world.state.artifacts.values().next().unwrap().clone();
    let push = |holder: &str, digest: &str| Command::RegisterArtifact {
        artifact: known.artifact.clone(),
        digest: digest.to_owned(),
        size_bytes: known.size_bytes,
        manifest: known.manifest.clone(),
        holder: holder.parse().unwrap(),
        others: Default::default(),
    };
    let first = under_key(&mut world, push("n1", &known.digest)).unwrap();
    assert_eq!(under_key(&mut world, push("n2", &known.digest)).unwrap(), first);
    let other = under_key(&mut world, push("n1", &"0".repeat(64))).unwrap_err();
    assert_eq!(other.code(), "request_reused");
}

#[test]
fn a_key_stands_for_what_was_done_and_not_for_what_was_refused() {
    let (mut world, id) = at(S::Deploying, 0);
    let refused = under_key(&mut world, routing(&id, "1:1")).unwrap_err();
    assert_eq!(refused.code(), "wrong_state");
    world.settle();
    let done = under_key(&mut world, routing(&id, "1:1")).unwrap();
    assert_eq!(under_key(&mut world, routing(&id, "1:1")).unwrap(), done);
    assert_eq!(under_key(&mut world, routing(&id, "1:3")).unwrap_err().code(), "request_reused");
    assert_eq!(world.update(&id).weights, "1:1".parse().unwrap());
}
