//! Lives of a session: each is opened after the one that it names, and ended by
//! nobody else's goodbye.

use aether_core::command::{Command, Refusal};
use aether_core::ids::SessionId;
use aether_core::planner::SessionView;
use aether_core::records::{SessionKind, SessionRecord};

use crate::world::{SLICE, World};

fn id() -> SessionId {
    "s1".parse().unwrap()
}

fn open(follows: u64) -> Command {
    Command::OpenSession {
        session: id(),
        kind: SessionKind::Ingress,
        name: "edge".to_owned(),
        fresh: true,
        follows,
    }
}

fn close(opened: u64) -> Command {
    Command::CloseSession { session: id(), opened, reason: "it ended in order".to_owned() }
}

fn record(world: &World) -> &SessionRecord {
    &world.state.sessions[&id()]
}

#[test]
fn a_life_is_opened_after_the_one_that_it_names_and_no_other() {
    let mut world = World::deployed(1);
    let first = record(&world).clone();
    assert!(first.fresh);
    // Nobody was there, says one that comes too late: all stays as it is.
    world.ok(open(0));
    world.ok(open(first.opened + 1));
    assert_eq!(*record(&world), first);
    let second = world.ok(open(first.opened)).index;
    assert_eq!(record(&world).opened, second);
    // The hello may have been under way for so long that its process has got
    // tables elsewhere: removals wait for an ack.
    assert!(!record(&world).fresh);
    world.ok(open(first.opened));
    assert_eq!(record(&world).opened, second);
}

#[test]
fn a_life_is_ended_by_nobody_elses_goodbye() {
    let mut world = World::deployed(1);
    let first = record(&world).opened;
    let second = world.ok(open(first)).index;
    assert!(matches!(world.propose(close(first)), Err(Refusal::Stale { .. })));
    assert_eq!(record(&world).opened, second);
    world.ok(close(second));
    assert!(!world.state.sessions.contains_key(&id()));
    world.ok(close(second));
}

#[test]
fn the_planner_ends_the_life_that_was_silent() {
    let mut world = World::deployed(1);
    world.sessions.insert(id(), SessionView::Unreachable { since_ms: 0 });
    world.now_ms += 24 * 3_600_000;
    let opened = record(&world).opened;
    let plan = world.plan();
    let closes = plan.commands.iter().filter_map(|command| match command {
        Command::CloseSession { session, opened, .. } => Some((session.clone(), *opened)),
        _ => None,
    });
    assert_eq!(closes.collect::<Vec<_>>(), [(id(), opened)]);
}

#[test]
fn entries_of_before_there_were_lives_mean_what_they_meant() {
    let mut world = World::deployed(1);
    let before = record(&world).clone();
    let read = |text: &str| serde_json::from_str::<Command>(text).unwrap();
    let opening =
        r#"{"type":"OpenSession","session":"s1","kind":"INGRESS","name":"edge","fresh":true}"#;
    world.ok(read(opening));
    assert_eq!(*record(&world), before, "it was open");
    world.ok(read(r#"{"type":"CloseSession","session":"s1","reason":"it ended in order"}"#));
    assert!(!world.state.sessions.contains_key(&id()));
    let index = world.ok(read(opening)).index;
    assert_eq!((record(&world).opened, record(&world).fresh), (index, true));
}

#[test]
fn a_table_that_came_and_went_between_two_looks_is_noticed_by_whoever_left_it() {
    let slice = || SLICE.parse().unwrap();
    let mut world = World::empty();
    let before = world.state.clone();
    let version = "1.0.0".parse().unwrap();
    world.ok(Command::Deploy { slice: slice(), version, instances: 1 });
    world.settle();
    let deployed = world.state.clone();
    assert!(!deployed.has_left_since(&before));
    world.ok(Command::Undeploy { slice: slice(), version: None });
    let after = world.state.clone();
    assert!(before.routes.is_empty() && after.routes.is_empty(), "there is no other sign of it");
    assert!(after.has_left_since(&before) && after.has_left_since(&deployed));
    world.settle();
    assert!(!world.state.has_left_since(&after));
}
