//! Two releases apply one log: whatever it holds, the states are equal, until
//! the level is raised above what the older one supports.

use aether_core::apply::Position;
use aether_core::command::{Command, Refusal, Request};
use aether_core::level::{FEATURE_LEVEL_FIRST, FEATURE_LEVEL_MAX, Unsupported, level_of, since};
use aether_core::state::State;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, check};

use crate::fuzz::makers::{Dice, MAKERS};
use crate::fuzz::{drafts, kind, put, walk_from};
use crate::world::World;

/// The commands that a build of level 1 can read. Frozen: that a name is missing
/// here is what makes a command a later one.
const OF_LEVEL_1: [&str; 43] = [
    "RegisterArtifact",
    "RemoveArtifact",
    "ArtifactDropped",
    "ArtifactHeld",
    "Deploy",
    "Scale",
    "Undeploy",
    "StartUpdate",
    "SetWeights",
    "Approve",
    "Complete",
    "Rollback",
    "Resume",
    "Undo",
    "Cleanup",
    "SetOptions",
    "Pause",
    "BeginDeploy",
    "MarkDeployed",
    "ShiftBack",
    "RemoveLosingSide",
    "Finish",
    "Fail",
    "Rearm",
    "Retire",
    "Assign",
    "MarkUnplaced",
    "Drain",
    "Stop",
    "Observe",
    "RegisterNode",
    "SetNodeLifecycle",
    "SetNodeSchedule",
    "ForgetNode",
    "FreezeReplacement",
    "OpenSession",
    "CloseSession",
    "InviteVoter",
    "AdmitVoter",
    "RemoveVoter",
    "EndVoterChange",
    "RaiseFeatureLevel",
    "Tick",
];

/// Whether a build of level 1 can read a command. Later fields are listed here by
/// hand too, for the same reason.
fn is_of_level_1(command: &Command) -> bool {
    let has_later_field = match command {
        Command::RemoveLosingSide { if_modified, .. } => if_modified.is_some(),
        Command::RegisterArtifact { manifest, .. } => manifest.run.reload_signal.is_some(),
        Command::Observe { observations, .. } => {
            observations.iter().any(|seen| seen.reloaded.is_some())
        }
        _ => false,
    };
    OF_LEVEL_1.contains(&&*kind(command)) && !has_later_field
}

/// What a build of level 1 makes of an entry: what it cannot read it skips. It
/// knows nothing of who needs which level, and stops at what would raise it.
fn old_build(state: &mut State, at: Position, request: &Request) -> Result<(), Unsupported> {
    if !is_of_level_1(&request.command) {
        state.skip(at);
        return Ok(());
    }
    let mut applied = state.clone();
    drop(applied.apply(at, request));
    applied.check_level(FEATURE_LEVEL_FIRST)?;
    *state = applied;
    Ok(())
}

fn raise(to: u32) -> Request {
    let command = Command::RaiseFeatureLevel { to };
    Request { request_id: None, actor: "coordinator".to_owned(), command }
}

fn put_config(request_id: &str) -> Request {
    let command =
        Command::PutConfig { name: "a".parse().unwrap(), value: "1".into(), if_modified: None };
    Request { request_id: Some(request_id.to_owned()), actor: "test".to_owned(), command }
}

#[test]
fn every_command_has_a_level_and_those_of_the_first_stay_there() {
    let state = World::deployed(1).state;
    let mut highest = FEATURE_LEVEL_FIRST;
    for (name, _, make) in MAKERS {
        for number in 0..20u64 {
            let command = make(&mut Dice::new(&state, [number; 8]));
            let level = level_of(&command);
            assert_eq!(level == FEATURE_LEVEL_FIRST, is_of_level_1(&command), "{name}: {level}");
            assert!((FEATURE_LEVEL_FIRST..=FEATURE_LEVEL_MAX).contains(&level), "{name}: {level}");
            highest = highest.max(level);
        }
    }
    // The last one brought no command: what entries do changed with it.
    let of_rules = [since::APPROVAL_OF_BATCH, since::PROMOTION_TO_END, since::RELOADED_ONLY];
    assert_eq!(of_rules, [FEATURE_LEVEL_MAX; 3]);
    assert_eq!(highest, FEATURE_LEVEL_MAX - 1, "a level that brings no command");
}

#[test]
fn an_old_build_and_this_one_make_the_same_of_any_log_before_the_raise() {
    check(CASES / 2, (drafts(100), any::<Index>()), |(drafts, raised)| {
        let world = World::deployed_at(FEATURE_LEVEL_FIRST, 2);
        let raised = raised.index(drafts.len() + 1);
        // The dice may raise it before, and somebody who joins may keep it down.
        let mut world = walk_from(world, &drafts[..raised], |_, _| {});
        drop(put(&mut world, raise(FEATURE_LEVEL_MAX)));
        let world = walk_from(world, &drafts[raised..], |_, _| {});

        let (mut old, mut new) = (State::default(), State::default());
        let mut stopped = None;
        for (number, (at, request)) in world.log.iter().enumerate() {
            drop(new.apply(*at, request));
            if stopped.is_none() {
                let before = old.clone();
                match old_build(&mut old, *at, request) {
                    Ok(()) => {
                        assert_eq!(State::diff(&old, &new), [], "{number}: {request:?}");
                        assert_eq!(old.meta, new.meta, "{number}: {request:?}");
                    }
                    Err(_) => {
                        assert_eq!(old.rows(), before.rows(), "it applied nothing of it");
                        stopped = Some(number);
                    }
                }
            }
            // It stops exactly where the level is raised, and a snapshot from
            // there on says so too.
            assert_eq!(new.check_level(FEATURE_LEVEL_FIRST).is_err(), stopped.is_some());
        }
        assert_eq!(new.rows(), world.state.rows());
        if stopped.is_none() {
            assert_eq!(old.rows(), new.rows());
        }
    });
}

#[test]
fn what_is_above_the_level_is_refused_and_not_remembered() {
    let mut world = World::deployed_at(FEATURE_LEVEL_FIRST, 1);
    let refused = put(&mut world, put_config("r1")).unwrap_err();
    let Refusal::LevelTooLow { needs: 2, committed: 1, .. } = refused else { panic!("{refused}") };
    assert!(refused.to_string().contains("values under config/ need feature level 2"), "{refused}");
    assert!(world.state.requests.is_empty(), "an older build could not remember it");
    put(&mut world, raise(2)).unwrap();
    // Tried again under the same id it is carried out, once.
    let answer = put(&mut world, put_config("r1")).unwrap();
    assert_eq!(put(&mut world, put_config("r1")).unwrap(), answer);
    assert_eq!(world.state.config.len(), 1);
}

#[test]
fn the_level_rises_only_and_says_so_once() {
    let mut world = World::deployed_at(FEATURE_LEVEL_FIRST, 1);
    let audited = world.state.audit.len();
    put(&mut world, raise(2)).unwrap();
    assert_eq!(world.state.meta.feature_level, 2);
    for to in [0, 1, 2] {
        let refused = put(&mut world, raise(to)).unwrap_err();
        assert!(matches!(refused, Refusal::Stale { .. }), "{refused}");
    }
    assert_eq!(world.state.meta.feature_level, 2);
    assert_eq!(world.state.audit.len(), audited + 1);
    let event = &world.state.audit.get_max().unwrap().1.event;
    assert_eq!(event, "feature level 2 holds from now on, after 1: values under config/");
}

#[test]
fn who_supports_less_is_not_admitted_and_who_was_admitted_is_not_left_behind() {
    let invite = Command::InviteVoter {
        node: "n9".parse().unwrap(),
        peer_addr: "h:1".into(),
        replaces: None,
    };
    let admit = |feature_level| Command::AdmitVoter {
        node: "n9".parse().unwrap(),
        dir_id: "d".into(),
        feature_level,
    };
    let mut world = World::deployed_at(FEATURE_LEVEL_FIRST, 1);
    world.ok(invite.clone());
    world.ok(admit(1));
    let waits = put(&mut world, raise(2)).unwrap_err();
    assert!(waits.to_string().contains("n9 joins"), "{waits}");

    let mut world = World::deployed_at(2, 1);
    world.ok(invite);
    let refused = world.propose(admit(1)).unwrap_err();
    assert!(matches!(refused, Refusal::LevelUnsupported { supports: 1, committed: 2, .. }));
    assert!(refused.to_string().contains("the release that the others run"), "{refused}");
    world.ok(admit(2));
    let is_one = |request: &Command| serde_json::to_string(request).unwrap();
    assert!(!is_one(&admit(1)).contains("level"), "as a build says it that tells no level");
}

#[test]
fn a_command_with_a_field_that_is_unknown_here_is_not_read_without_it() {
    let state = World::deployed(1).state;
    for (name, _, make) in MAKERS {
        let command = make(&mut Dice::new(&state, [3; 8]));
        let request = Request { request_id: None, actor: "test".to_owned(), command };
        let whole = serde_json::to_value(&request).unwrap();
        serde_json::from_value::<Request>(whole.clone()).unwrap();
        let mut newer = whole.clone();
        newer["tenant"] = 1.into();
        assert!(serde_json::from_value::<Request>(newer).is_err(), "{name}");
        let mut newer = whole;
        newer["command"]["new_field"] = 1.into();
        assert!(serde_json::from_value::<Request>(newer).is_err(), "{name}");
    }
}
