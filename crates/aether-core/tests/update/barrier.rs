//! Blue-green behind a barrier: the switch is committed only once every session has
//! said that it holds its calls, and is given up when one has not.

use aether_core::command::{Command, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::ids::{SessionId, UpdateId};
use aether_core::planner::{Holding, LateCalls, SessionView};
use aether_core::records::{
    Analysis, BARRIER_MS, BlueGreen, CALL_HOLD_MS, CleanupPolicy, Gate, GateSource, GateVerdict,
    GateWhen, OptionChanges, RouteRecord, SessionKind, Strategy, UpdateOptions, UpdateState,
};

use crate::world::{SLICE, World, approve, promote, resume, rollback, start_with};

const MINUTE: u64 = 60_000;

fn behind_barrier(auto_promote: bool) -> Strategy {
    Strategy::BlueGreen(BlueGreen {
        verify_ms: 0,
        auto_promote,
        hold_ms: MINUTE,
        analysis: Analysis { warm_up_ms: 0, ..Analysis::default() },
        one_way: false,
        barrier: true,
    })
}

/// Deployed, and nobody has promoted.
fn deployed(options: UpdateOptions) -> (World, UpdateId) {
    let mut world = World::deployed(3);
    let id = world.ok(start_with("2.0.0", options, behind_barrier(false))).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    assert_eq!(world.state_of(&id), UpdateState::Deployed);
    assert_eq!(world.waits(), ["promotion"]);
    (world, id)
}

/// Calls are held, and no session has said so yet.
fn holding() -> (World, UpdateId) {
    let (mut world, id) = deployed(UpdateOptions::default());
    world.sessions_work = false;
    world.ok(promote(&id, false, false));
    world.round();
    assert!(route(&world).hold.is_some());
    (world, id)
}

fn route(world: &World) -> &RouteRecord {
    &world.state.routes[&SLICE.parse::<SliceName>().unwrap()]
}

fn ratio(world: &World, id: &UpdateId) -> String {
    world.update(id).weights.to_string()
}

fn session(name: &str) -> SessionId {
    name.parse().unwrap()
}

/// One session says how far it is.
fn say(world: &mut World, name: &str, holding: Holding) {
    let (applied, busy) = (world.state.meta.index, Default::default());
    world.sessions.insert(session(name), SessionView::Connected { applied, busy, holding });
}

/// Both sessions say that they hold their calls.
fn both_hold(world: &mut World) {
    for name in ["s1", "s2"] {
        say(world, name, Holding::able());
    }
}

fn open(world: &mut World, name: &str) -> Command {
    Command::OpenSession {
        session: session(name),
        kind: SessionKind::Invoker,
        name: "a newcomer".to_owned(),
        fresh: true,
        follows: world.state.sessions.get(&session(name)).map_or(0, |known| known.opened),
    }
}

fn close(world: &mut World, name: &str) {
    let opened = world.state.sessions[&session(name)].opened;
    let reason = "goodbye".to_owned();
    world.ok(Command::CloseSession { session: session(name), opened, reason });
    world.sessions.remove(&session(name));
}

#[test]
fn the_switch_is_committed_once_every_session_holds_its_calls() {
    let (mut world, id) = holding();
    assert_eq!((ratio(&world, &id), world.waits()), ("0:1".to_owned(), vec!["barrier"]));
    let table = world.state.slice_table(&SLICE.parse().unwrap()).unwrap();
    assert_eq!((table.hold_ms, table.route_revision), (CALL_HOLD_MS, table.table_revision));
    say(&mut world, "s1", Holding::able());
    world.round();
    assert_eq!(ratio(&world, &id), "0:1", "one has not said so");
    world.now_ms += BARRIER_MS - 1;
    say(&mut world, "s2", Holding::able());
    world.round();
    assert_eq!(ratio(&world, &id), "1:0");
    assert_eq!(route(&world).hold, None, "calls go on in the entry of the switch");
    assert_eq!(world.state.slice_table(&SLICE.parse().unwrap()).unwrap().hold_ms, 0);
    let progress = world.update(&id).progress.clone().unwrap();
    assert_eq!(progress.held_revision, Some(table.route_revision));
    // However long it takes them to apply it, nobody sends a call meanwhile.
    world.now_ms += 70;
    world.sessions_work = true;
    world.rounds(2);
    let progress = world.update(&id).progress.clone().unwrap();
    assert_eq!((progress.mixed_ms, progress.late_calls), (Some(0), Some(0)));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn a_verified_set_is_switched_to_by_itself() {
    let mut world = World::deployed(3);
    let options = UpdateOptions { cleanup: CleanupPolicy::GracePeriod, ..Default::default() };
    let id = world.ok(start_with("2.0.0", options, behind_barrier(true))).update.unwrap();
    world.settle();
    assert_eq!((world.state_of(&id), ratio(&world, &id)), (UpdateState::Routing, "1:0".to_owned()));
    let held = world.log.iter().filter(|(_, r)| matches!(r.command, Command::HoldCalls { .. }));
    assert_eq!(held.count(), 1);
}

#[test]
fn a_first_deployment_has_nothing_to_hold_calls_from() {
    let mut world = World::empty();
    let started = start_with("1.0.0", UpdateOptions::default(), behind_barrier(true));
    let id = world.ok(started).update.unwrap();
    world.settle();
    assert_eq!(world.update(&id).progress.as_ref().unwrap().held_revision, None);
    assert_eq!(ratio(&world, &id), "1:0");
}

#[test]
fn one_that_does_not_say_so_in_time_ends_the_hold_with_the_route_as_it_was() {
    let (mut world, id) = holding();
    say(&mut world, "s1", Holding::able());
    let until_ms = world.now_ms + BARRIER_MS;
    world.round();
    assert_eq!(world.plan().wake_at_ms, Some(until_ms));
    world.now_ms = until_ms;
    // Too late by now: sessions may let calls go on before the switch reaches them.
    let late = Command::EnterStep {
        update: id.clone(),
        step: 1,
        if_modified: world.update(&id).modified,
        opened_max: Some(world.state.meta.index),
    };
    assert!(matches!(world.propose(late), Err(Refusal::Stale { .. })));
    world.round();
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
    let pause = world.update(&id).pause.clone().unwrap().reason;
    assert_eq!(pause.code, "barrier_failed");
    assert!(
        pause.message.contains("session s2 (caller s2) did not within 200ms"),
        "{}",
        pause.message
    );
    assert!(!pause.message.contains("s1"), "{}", pause.message);
    // What a person asked for stands: resumed, it is tried again.
    world.pass(MINUTE);
    assert_eq!(world.waits(), ["paused"]);
    world.sessions_work = true;
    world.rounds(2);
    world.ok(resume(&id));
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0");
}

#[test]
fn a_new_leader_ends_a_hold_when_its_time_is_over() {
    let (mut world, id) = holding();
    world.fail_over();
    world.round();
    assert!(route(&world).hold.is_some(), "they may report in time");
    world.now_ms += BARRIER_MS;
    world.round();
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "barrier_failed");
    // And one to whom all of them report only then does not switch on that.
    let (mut world, id) = holding();
    world.fail_over();
    world.now_ms += BARRIER_MS;
    world.sessions_ack();
    world.round();
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
}

#[test]
fn whatever_else_happens_to_the_update_ends_the_hold_in_its_own_entry() {
    let suspend = |update: UpdateId| Command::Suspend { update, why: None, if_modified: None };
    let set = |update: UpdateId| Command::SetOptions {
        update,
        changes: OptionChanges { healthy_ms: Some(7), ..OptionChanges::default() },
        if_modified: None,
    };
    let back = |update: UpdateId| rollback(&update);
    for disturb in [&back, &suspend, &set] as [&dyn Fn(UpdateId) -> Command; 3] {
        let (mut world, id) = holding();
        let decided_on = world.update(&id).modified;
        world.ok(disturb(id.clone()));
        assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
        assert_eq!(route(&world).route_revision, world.state.meta.index, "sessions are told");
        let late = Command::EnterStep {
            update: id.clone(),
            step: 1,
            if_modified: decided_on,
            opened_max: Some(world.state.meta.index),
        };
        assert!(matches!(world.propose(late), Err(Refusal::Stale { .. })));
    }
}

#[test]
fn a_promotion_outlives_a_pause_and_nothing_is_held_meanwhile() {
    let (mut world, id) = holding();
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    world.sessions_work = true;
    world.pass(1_000);
    assert_eq!((world.waits(), route(&world).hold.clone()), (vec!["paused"], None));
    assert!(matches!(world.propose(promote(&id, false, false)), Err(Refusal::Paused { .. })));
    world.ok(resume(&id));
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0");
}

#[test]
fn a_second_promotion_while_calls_are_held_is_no_news_and_one_by_force_switches_at_once() {
    let (mut world, id) = holding();
    let held = route(&world).clone();
    let answer = world.ok(promote(&id, false, false));
    assert!(answer.note.unwrap().contains("is promoted already"));
    world.ok(promote(&id, true, false));
    assert_eq!(*route(&world), held, "the hold stands");
    world.ok(promote(&id, false, true));
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("1:0".to_owned(), None));
    assert_eq!(world.update(&id).progress.as_ref().unwrap().held_revision, None);
    let said = &world.update(&id).history.last().unwrap().event;
    assert!(said.contains("promoted to step 1 of 1, without its barrier"), "{said}");
}

#[test]
fn a_session_that_leaves_while_calls_are_held_is_not_waited_for() {
    let (mut world, id) = holding();
    say(&mut world, "s1", Holding::able());
    world.round();
    assert_eq!(ratio(&world, &id), "0:1");
    close(&mut world, "s2");
    world.round();
    assert_eq!(ratio(&world, &id), "1:0");
    assert!(world.update(&id).progress.as_ref().unwrap().held_revision.is_some());
}

#[test]
fn without_any_session_there_is_nobody_to_wait_for() {
    let (mut world, id) = deployed(UpdateOptions::default());
    for name in ["s1", "s2"] {
        close(&mut world, name);
    }
    world.ok(promote(&id, false, false));
    world.rounds(2);
    assert_eq!(ratio(&world, &id), "1:0");
    assert!(world.update(&id).progress.as_ref().unwrap().held_revision.is_some());
    // One that comes between the look and the switch makes it look again.
    let (mut world, id) = deployed(UpdateOptions::default());
    for name in ["s1", "s2"] {
        close(&mut world, name);
    }
    world.sessions_work = false;
    world.ok(promote(&id, false, false));
    let hold = world.plan().commands;
    assert!(matches!(hold[..], [Command::HoldCalls { .. }]), "{hold:?}");
    world.propose(hold[0].clone()).unwrap();
    let switch = world.plan().commands;
    let come = open(&mut world, "s3");
    world.ok(come);
    assert!(matches!(world.propose(switch[0].clone()), Err(Refusal::Stale { .. })));
    assert_eq!(ratio(&world, &id), "0:1");
}

#[test]
fn calls_are_not_held_while_a_session_cannot_be_relied_on() {
    let unreachable = SessionView::Unreachable { since_ms: 0 };
    let unable = SessionView::Connected {
        applied: u64::MAX,
        busy: Default::default(),
        holding: Holding::default(),
    };
    for (view, said) in [
        (unreachable, "session s2 (caller s2): cannot be reached"),
        (SessionView::Awaited, "session s2 (caller s2): not heard from yet"),
        (unable, "session s2 (caller s2): of a release that cannot hold calls"),
    ] {
        let (mut world, id) = deployed(UpdateOptions::default());
        world.sessions_work = false;
        world.sessions.insert(session("s2"), view);
        world.ok(promote(&id, false, false));
        world.rounds(3);
        assert_eq!(route(&world).hold, None);
        let waits = world.plan().waits;
        let wait = &waits[&SLICE.parse().unwrap()][0];
        assert_eq!(wait.code, "barrier");
        assert!(wait.message.contains(said), "{}", wait.message);
        let deadline = world.update(&id).deadline.clone().unwrap();
        assert_eq!(deadline.at_ms, world.now_ms + Analysis::default().patience_ms);
        // A person may do without.
        world.ok(promote(&id, false, true));
        assert_eq!(ratio(&world, &id), "1:0");
        assert_eq!(world.update(&id).progress.as_ref().unwrap().held_revision, None);
    }
}

#[test]
fn a_session_that_comes_while_calls_are_held_is_waited_for_and_has_to_be_able() {
    let (mut world, id) = holding();
    let decided = |world: &World| Command::EnterStep {
        update: id.clone(),
        step: 1,
        if_modified: world.update(&id).modified,
        opened_max: world.state.sessions.values().map(|s| s.opened).max(),
    };
    let before = decided(&world);
    let come = open(&mut world, "s3");
    world.ok(come);
    assert!(matches!(world.propose(before), Err(Refusal::Stale { .. })), "nobody knew of it");
    both_hold(&mut world);
    world.round();
    assert_eq!(ratio(&world, &id), "0:1", "whether it is able is not known");
    say(&mut world, "s3", Holding::able());
    world.round();
    assert_eq!(ratio(&world, &id), "1:0");
    // One that is not ends it at once.
    let (mut world, id) = holding();
    let come = open(&mut world, "s3");
    world.ok(come);
    say(&mut world, "s3", Holding::default());
    world.round();
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "barrier_failed");
}

#[test]
fn calls_that_could_not_be_held_long_enough_are_written_down() {
    let (mut world, id) = holding();
    let held = route(&world).route_revision;
    both_hold(&mut world);
    world.round();
    assert_eq!(ratio(&world, &id), "1:0");
    world.now_ms += 400;
    let slice: SliceName = SLICE.parse().unwrap();
    let late = |route_revision, calls| Holding {
        is_able: true,
        late: [(slice.clone(), LateCalls { route_revision, calls })].into(),
    };
    say(&mut world, "s1", late(held, 3));
    // Of an earlier hold that came to nothing.
    say(&mut world, "s2", late(held - 1, 50));
    world.round();
    let progress = world.update(&id).progress.clone().unwrap();
    assert_eq!((progress.mixed_ms, progress.late_calls), (Some(400), Some(3)));
    let said = &world.update(&id).history.last().unwrap().event;
    assert!(said.contains("3 calls could not be held long enough"), "{said}");
}

#[test]
fn an_approval_comes_before_calls_are_held() {
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let (mut world, id) = deployed(options);
    world.ok(promote(&id, false, false));
    world.pass(MINUTE);
    assert_eq!((world.waits(), route(&world).hold.clone()), (vec!["approval"], None));
    let answer = world.ok(approve(&id));
    assert!(answer.note.unwrap().contains("every session holds its calls"));
    assert_eq!(ratio(&world, &id), "0:1");
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0");
    assert!(world.update(&id).progress.as_ref().unwrap().held_revision.is_some());
}

#[test]
fn the_hold_ends_when_the_new_set_is_not_whole_any_more() {
    let (mut world, id) = holding();
    let one = world.instances("2.0.0")[0].clone();
    let reason = aether_core::records::Reason::new("probe_failed", "503");
    use aether_core::records::Observed::Unready;
    world.broken.insert(one.to_string(), (Unready, 0, reason));
    world.agents_act();
    world.round();
    assert_eq!((ratio(&world, &id), route(&world).hold.clone()), ("0:1".to_owned(), None));
    let pause = world.update(&id).pause.clone().unwrap().reason;
    assert!(pause.message.contains("2 of 3 instances of 2.0.0 are ready"), "{}", pause.message);
}

/// Deployed, with a gate that nobody has asked yet.
fn gated(options: UpdateOptions) -> (World, UpdateId) {
    let webhook = GateSource::Webhook { url: "http://judge".into() };
    let gates = vec![Gate::new("judge", GateWhen::Before, webhook)];
    let Strategy::BlueGreen(switch) = behind_barrier(false) else { unreachable!() };
    let analysis = Analysis { gates, ..switch.analysis.clone() };
    let strategy = Strategy::BlueGreen(BlueGreen { analysis, ..switch });
    let mut world = World::deployed(3);
    let id = world.ok(start_with("2.0.0", options, strategy)).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    assert_eq!((world.state_of(&id), world.waits()), (UpdateState::Deployed, vec!["gate"]));
    (world, id)
}

fn answer(world: &mut World, verdict: GateVerdict) {
    let said = world.plan().measurements[0].answered(verdict, String::new());
    world.ok(said);
}

#[test]
fn gates_pass_before_calls_are_held() {
    let (mut world, id) = gated(UpdateOptions::default());
    world.ok(promote(&id, false, false));
    world.rounds(3);
    assert_eq!((world.waits(), route(&world).hold.clone()), (vec!["gate"], None));
    let early = Command::HoldCalls { update: id.clone(), if_modified: world.update(&id).modified };
    assert!(matches!(world.propose(early), Err(Refusal::Stale { .. })));
    answer(&mut world, GateVerdict::Pass);
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0");
    assert!(world.update(&id).progress.as_ref().unwrap().held_revision.is_some());
    // One that says no pauses, and nothing is ever held.
    let (mut world, id) = gated(UpdateOptions::default());
    world.ok(promote(&id, false, false));
    answer(&mut world, GateVerdict::Fail);
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "0:1");
    assert!(!world.log.iter().any(|(_, r)| matches!(r.command, Command::HoldCalls { .. })));
}

#[test]
fn a_promotion_past_gates_still_waits_for_sessions_and_outlives_a_barrier_that_failed() {
    let (mut world, id) = gated(UpdateOptions::default());
    world.ok(promote(&id, false, false));
    world.sessions_work = false;
    world.ok(promote(&id, true, false));
    let said = &world.update(&id).history.last().unwrap().event;
    assert!(said.contains("promoted, past the gate 'judge': step 1 of 1 follows"), "{said}");
    world.round();
    assert!(route(&world).hold.is_some());
    world.now_ms += BARRIER_MS;
    world.round();
    assert_eq!(world.update(&id).pause.as_ref().unwrap().reason.code, "barrier_failed");
    world.sessions_work = true;
    world.rounds(2);
    world.ok(resume(&id));
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0", "{:?}", world.waits());
}

#[test]
fn an_approval_past_gates_still_waits_for_sessions() {
    let options = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    let (mut world, id) = gated(options);
    world.ok(promote(&id, true, false));
    assert_eq!(world.waits(), ["approval"]);
    world.ok(approve(&id));
    assert!(world.update(&id).is_approved());
    assert!(world.ok(promote(&id, false, false)).note.unwrap().contains("is promoted already"));
    world.rounds(3);
    assert_eq!(ratio(&world, &id), "1:0");
    let progress = world.update(&id).progress.clone().unwrap();
    assert!(progress.held_revision.is_some() && !progress.approved && progress.pending.is_none());
}

#[test]
fn a_promoted_switch_that_no_session_lets_through_pauses_at_its_deadline_and_says_why() {
    let (mut world, id) = deployed(UpdateOptions::default());
    world.sessions_work = false;
    world.sessions.insert(session("s2"), SessionView::Unreachable { since_ms: 0 });
    world.ok(promote(&id, false, false));
    world.pass(Analysis::default().patience_ms);
    let pause = world.update(&id).pause.clone().unwrap().reason;
    assert_eq!(pause.code, "inconclusive");
    assert!(pause.message.contains("session s2 (caller s2): cannot be reached"), "{pause:?}");
}

#[test]
fn a_barrier_needs_its_feature_level() {
    let mut world = World::deployed_at(4, 3);
    let refused =
        world.propose(start_with("2.0.0", UpdateOptions::default(), behind_barrier(true)));
    assert!(matches!(refused, Err(Refusal::LevelTooLow { needs: 5, committed: 4, .. })));
}
