//! Gates: what somebody outside is asked before a step is entered or left.

use aether_core::command::{Command, Refusal};
use aether_core::ids::UpdateId;
use aether_core::level::{FEATURE_LEVEL_MAX, since};
use aether_core::planner::{GATE, Measurement};
use aether_core::records::{
    Analysis, BlueGreen, Canary, DeadlineAction, GATES_MAX, Gate, GateSource, GateVerdict,
    GateWhen, Recreate, Rolling, Strategy, UpdateOptions, UpdateState,
};

use crate::world::{
    World, approve, canary, complete, in_batches, promote, resume, rollback, routing, start_with,
};

use GateVerdict::{Fail, Inconclusive, Pass};
use GateWhen::{After, Before};

const MINUTE: u64 = 60_000;

fn webhook(name: &str, when: GateWhen) -> Gate {
    Gate::new(name, when, GateSource::Webhook { url: "http://127.0.0.1:9/gate".to_owned() })
}

fn analysis(gates: Vec<Gate>) -> Analysis {
    Analysis { warm_up_ms: 0, gates, ..Analysis::default() }
}

/// Steps 1:1 and 1:0, a minute each, with these gates.
fn gated(gates: Vec<Gate>) -> Canary {
    let canary = canary("1:1, 1:0");
    Canary { analysis: analysis(gates), ..canary }
}

fn rolls_back(canary: Canary) -> Canary {
    let analysis = Analysis { on_failure: DeadlineAction::Rollback, ..canary.analysis.clone() };
    Canary { analysis, ..canary }
}

fn begin(strategy: Strategy) -> (World, UpdateId) {
    begin_at(FEATURE_LEVEL_MAX, strategy)
}

fn begin_at(level: u32, strategy: Strategy) -> (World, UpdateId) {
    let mut world = World::deployed_at(level, 4);
    let options = UpdateOptions::default();
    let id = world.ok(start_with("2.0.0", options, strategy)).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    world.rounds(5);
    (world, id)
}

fn asked(world: &World) -> Vec<Measurement> {
    world.plan().measurements
}

/// Names of the gates that are to be asked now, and for which step.
fn names(world: &World) -> Vec<String> {
    let of = |m: &Measurement| format!("{} {} {}", m.gate.name, m.gate.when, m.step);
    asked(world).iter().map(of).collect()
}

/// All gates that are to be asked now say the same; what follows happens.
fn answer(world: &mut World, verdict: GateVerdict) {
    let all = asked(world);
    assert!(!all.is_empty(), "nobody is asked: {:?}", world.waits());
    for one in all {
        world.ok(one.answered(verdict, format!("says {verdict}")));
    }
    world.rounds(3);
}

fn at(world: &World, id: &UpdateId) -> (UpdateState, String, u32) {
    let update = world.update(id);
    (update.state, update.weights.to_string(), update.step())
}

fn paused_over(world: &World, id: &UpdateId) -> Option<String> {
    world.update(id).pause.as_ref().map(|pause| pause.reason.code.clone())
}

#[test]
fn a_step_is_entered_once_the_gates_before_it_and_after_the_last_one_passed() {
    let (mut world, id) =
        begin(Strategy::Canary(gated(vec![webhook("first", Before), webhook("last", After)])));
    assert_eq!(at(&world, &id), (UpdateState::Deployed, "0:1".into(), 0));
    assert_eq!((names(&world), world.waits()), (vec!["first before 1".into()], vec![GATE]));
    answer(&mut world, Pass);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:1".into(), 1));
    assert_eq!(names(&world), [""; 0], "the step holds first");
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(names(&world), ["last after 1", "first before 2"]);
    let all = asked(&world);
    world.ok(all[1].answered(Pass, String::new()));
    world.rounds(3);
    assert_eq!((names(&world), world.update(&id).step()), (vec!["last after 1".into()], 1));
    world.ok(all[0].answered(Pass, String::new()));
    world.rounds(3);
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
    world.count(&id, 1_500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(names(&world), ["last after 2"], "asked anew for each step");
    assert!(matches!(world.propose(complete(&id)), Err(Refusal::GateClosed { step: 2, .. })));
    answer(&mut world, Pass);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn a_gate_of_one_step_is_asked_for_that_one_only() {
    let gate = Gate { step: Some(2), ..webhook("second", Before) };
    let (mut world, id) = begin(Strategy::Canary(gated(vec![gate])));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:1".into(), 1));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(names(&world), ["second before 2"]);
}

#[test]
fn a_gate_that_fails_leads_to_the_action_of_a_failed_step() {
    let (mut world, id) = begin(Strategy::Canary(gated(vec![webhook("g", Before)])));
    answer(&mut world, Fail);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_failed"));
    let reason = &world.update(&id).pause.as_ref().unwrap().reason;
    assert_eq!(
        reason.message,
        "gate 'g' (webhook) before step 1 of 2: fail, 1 of 0 tolerated: says fail"
    );
    assert_eq!(names(&world), [""; 0], "nobody is asked in a pause");
    let (mut world, id) = begin(Strategy::Canary(rolls_back(gated(vec![webhook("g", After)]))));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    answer(&mut world, Fail);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
    assert_eq!(world.update(&id).outcome.as_ref().unwrap().code, "gate_failed");
}

#[test]
fn where_there_is_no_way_back_a_failed_gate_pauses() {
    let canary = Canary { one_way_from: Some(1), ..rolls_back(gated(vec![webhook("g", After)])) };
    let (mut world, id) = begin(Strategy::Canary(canary));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    answer(&mut world, Fail);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_failed"));
}

#[test]
fn tolerated_measurements_are_made_again_after_the_interval_and_one_more_pauses() {
    let gate = Gate { failures_max: 1, inconclusive_max: 1, ..webhook("g", Before) };
    let (mut world, id) = begin(Strategy::Canary(rolls_back(gated(vec![gate.clone()]))));
    answer(&mut world, Inconclusive);
    assert_eq!((names(&world), world.waits()), (vec![], vec![GATE]));
    let wake_at = world.plan().wake_at_ms.unwrap();
    world.pass(gate.interval_ms - 1);
    assert_eq!(wake_at, world.now_ms + 1);
    world.pass(1);
    answer(&mut world, Fail);
    world.pass(gate.interval_ms);
    assert_eq!(asked(&world)[0].number, 3);
    answer(&mut world, Inconclusive);
    // Nobody said that the version is bad.
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_inconclusive"));
    let state = world.update(&id).progress.as_ref().unwrap().gates[0].clone();
    assert_eq!((state.measured, state.failed, state.inconclusive), (3, 1, 2));
}

#[test]
fn a_resume_after_a_pause_asks_anew_and_what_was_asked_before_counts_for_nothing() {
    let gate = Gate { inconclusive_max: 0, ..webhook("g", Before) };
    let (mut world, id) = begin(Strategy::Canary(gated(vec![gate, webhook("other", Before)])));
    let before = asked(&world);
    world.ok(before[1].answered(Pass, String::new()));
    world.ok(before[0].answered(Inconclusive, String::new()));
    world.rounds(2);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_inconclusive"));
    world.now_ms += 10;
    world.ok(resume(&id));
    assert_eq!(names(&world), ["g before 1", "other before 1"]);
    let late = world.propose(before[0].answered(Pass, String::new()));
    assert!(matches!(late, Err(Refusal::Stale { .. })), "{late:?}");
    assert_ne!(before[0].key(), asked(&world)[0].key());
    answer(&mut world, Pass);
    assert_eq!(world.update(&id).step(), 1);
}

#[test]
fn the_next_leader_asks_what_is_open_under_the_same_key_and_a_passed_gate_not_again() {
    let gates = vec![webhook("a", Before), webhook("b", Before)];
    let (mut world, id) = begin(Strategy::Canary(gated(gates)));
    let before = asked(&world);
    world.ok(before[0].answered(Pass, "yes".into()));
    world.fail_over();
    world.sessions_ack();
    assert_eq!(asked(&world)[0].key(), before[1].key(), "a receiver can tell that it is the same");
    world.ok(before[1].answered(Inconclusive, String::new()));
    // The old leader's answer comes late.
    assert!(world.propose(before[1].answered(Pass, String::new())).is_err());
    let state = &world.update(&id).progress.as_ref().unwrap().gates[1];
    assert_eq!((state.measured, state.last), (1, Inconclusive));
    world.fail_over();
    assert_eq!(names(&world), [""; 0], "the interval counts from what is committed");
}

#[test]
fn a_rollback_is_held_by_no_gate() {
    let (mut world, id) =
        begin(Strategy::Canary(gated(vec![webhook("g", Before), webhook("h", After)])));
    answer(&mut world, Pass);
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(names(&world).len(), 2);
    world.ok(rollback(&id));
    assert_eq!((names(&world), world.update(&id).weights.to_string()), (vec![], "0:1".into()));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::RolledBack);
}

#[test]
fn a_person_promotes_past_gates_by_force_or_in_full_and_the_history_says_so() {
    let gates = || vec![webhook("g", Before), webhook("h", After)];
    let last =
        |world: &World, id: &UpdateId| world.update(id).history.last().unwrap().event.clone();
    let (mut world, id) = begin(Strategy::Canary(gated(gates())));
    // Without force it waits for them.
    let note = world.ok(promote(&id, false, false)).note.unwrap();
    assert!(note.contains("once its instances are ready and its gates pass"), "{note}");
    world.rounds(3);
    assert_eq!((world.update(&id).step(), world.waits()), (0, vec!["gate"]));
    world.ok(promote(&id, false, true));
    assert!(
        last(&world, &id).contains("step 1 of 2, past the gate 'g': "),
        "{}",
        last(&world, &id)
    );
    world.ok(promote(&id, false, true));
    assert!(last(&world, &id).contains("past the gates 'h', 'g'"), "{}", last(&world, &id));
    world.ok(promote(&id, false, false));
    assert_eq!((world.update(&id).step(), world.state_of(&id)), (2, UpdateState::Routing));
    world.ok(promote(&id, true, false));
    assert_eq!(last(&world, &id), "completing, past the gate 'h'");
    assert!(!world.update(&id).forced, "sessions are waited for all the same");
    let (mut world, id) = begin(Strategy::Canary(gated(gates())));
    world.ok(promote(&id, true, false));
    assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
    assert!(last(&world, &id).contains("past the gates 'g', 'h'"), "{}", last(&world, &id));
    world.settle();
    let (mut world, id) = begin(Strategy::Canary(gated(gates())));
    let mut by_hand = routing(&id, "1:0");
    if let Command::SetWeights { force, .. } = &mut by_hand {
        *force = true;
    }
    world.ok(by_hand);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("operator"));
}

#[test]
fn what_waits_for_approval_past_a_gate_is_not_paused_over_it_again() {
    let approved = UpdateOptions { manual_approval: true, ..UpdateOptions::default() };
    for is_paused_before in [true, false] {
        let gate = Gate { step: Some(2), ..webhook("g", Before) };
        // There is no way back, so that the way on is all there is.
        let canary = Canary { one_way_from: Some(1), ..gated(vec![gate]) };
        let mut world = World::deployed(4);
        let start = start_with("2.0.0", approved.clone(), Strategy::Canary(canary));
        let id = world.ok(start).update.unwrap();
        world.settle();
        world.ok(approve(&id));
        world.settle();
        world.count(&id, 500, 0, 0);
        world.pass(MINUTE);
        for one in asked(&world) {
            world.ok(one.answered(GateVerdict::Fail, "says no".to_owned()));
        }
        if is_paused_before {
            world.rounds(3);
            assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_failed"));
        }
        // Or the person is faster than the planner.
        world.ok(promote(&id, true, is_paused_before));
        if is_paused_before {
            world.ok(resume(&id));
        }
        world.rounds(3);
        assert_eq!(paused_over(&world, &id), None, "somebody went past the gate");
        assert_eq!(world.waits(), ["approval"]);
        world.ok(approve(&id));
        assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
    }
}

#[test]
fn a_gate_that_never_answers_pauses_at_the_deadline_of_the_step() {
    let mut canary = gated(vec![webhook("g", Before)]);
    canary.analysis.patience_ms = 5 * MINUTE;
    let (mut world, id) = begin(Strategy::Canary(canary));
    world.pass(4 * MINUTE);
    assert_eq!((names(&world).len(), paused_over(&world, &id)), (1, None));
    world.pass(2 * MINUTE);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_inconclusive"));
    let reason = world.update(&id).pause.clone().unwrap().reason.message;
    assert!(reason.contains("not entered in time: gate 'g' (webhook) before step 1"), "{reason}");
}

#[test]
fn a_switch_asks_after_its_verification_and_before_its_completion() {
    let switch = |auto_promote| BlueGreen {
        verify_ms: 30_000,
        auto_promote,
        hold_ms: MINUTE,
        analysis: analysis(vec![webhook("before", Before), webhook("after", After)]),
        one_way: false,
        barrier: false,
    };
    let (mut world, id) = begin(Strategy::BlueGreen(switch(true)));
    assert_eq!((names(&world), world.waits()), (vec![], vec!["verification"]));
    world.pass(30_000);
    answer(&mut world, Pass);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    assert_eq!(names(&world), ["after after 1"]);
    answer(&mut world, Pass);
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
    // One that a person switches is gated first, and then theirs.
    let (mut world, id) = begin(Strategy::BlueGreen(switch(false)));
    world.pass(30_000);
    assert_eq!(names(&world), ["before before 1"]);
    answer(&mut world, Pass);
    assert_eq!(world.waits(), ["promotion"]);
    world.ok(promote(&id, false, false));
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
    // Or the person first, and then the gates.
    let (mut world, id) = begin(Strategy::BlueGreen(switch(false)));
    world.ok(promote(&id, false, false));
    world.rounds(3);
    assert_eq!((names(&world), world.waits()), (vec!["before before 1".to_owned()], vec!["gate"]));
    answer(&mut world, Pass);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
}

#[test]
fn a_step_that_too_few_calls_reach_is_promoted_and_its_gates_are_asked_all_the_same() {
    let (mut world, id) = begin(Strategy::Canary(gated(vec![webhook("h", After)])));
    world.rounds(3);
    assert_eq!((world.update(&id).step(), names(&world).len()), (1, 0));
    world.pass(2 * MINUTE);
    assert_eq!(world.waits(), ["evidence"], "nothing was counted, and the gate comes after it");
    world.ok(promote(&id, false, false));
    world.rounds(3);
    assert_eq!((world.update(&id).step(), world.waits()), (1, vec!["gate"]));
    let asked = world.plan().measurements.remove(0);
    assert!(asked.is_of_update(&asked.key()) && !asked.is_of_update(&format!("{id}0.after-1")));
    answer(&mut world, Pass);
    world.rounds(3);
    assert_eq!(world.update(&id).step(), 2);
}

/// At its last step, too, a promotion ends the hold, and the gates after it are asked. Before
/// the level that brought this only force led past both.
#[test]
fn a_last_step_that_too_few_calls_reach_says_by_which_promotion_it_ends() {
    let [below, at_level] = [since::PROMOTION_TO_END - 1, since::PROMOTION_TO_END];
    for (level, has_gate, how) in
        [(at_level, false, ""), (at_level, true, ""), (below, false, ""), (below, true, " --force")]
    {
        let gates = if has_gate { vec![webhook("g", After)] } else { vec![] };
        let (mut world, id) = begin_at(level, Strategy::Canary(gated(gates)));
        world.count(&id, 500, 0, 0);
        world.pass(MINUTE);
        if has_gate {
            answer(&mut world, Pass);
        }
        world.rounds(3);
        assert_eq!(at(&world, &id), (UpdateState::Routing, "1:0".into(), 2));
        for ms in [1_000, MINUTE] {
            world.pass(ms);
            let waits = world.plan().waits.into_values().flatten();
            let ways_out: Vec<String> = waits.map(|wait| wait.unblock).collect();
            let way_out = format!("or 'aether update promote {id}{how}'");
            assert!(ways_out.iter().all(|said| said.ends_with(&way_out)), "{ways_out:?}");
            assert_eq!(ways_out.len(), 1, "{ways_out:?}");
        }
        let promoted = world.propose(promote(&id, false, false));
        if !how.is_empty() {
            assert!(matches!(promoted, Err(Refusal::GateClosed { .. })), "{promoted:?}");
            world.ok(promote(&id, false, true));
        } else if has_gate {
            let note = promoted.unwrap().note.unwrap();
            assert!(
                note.contains(
                    "the end follows once its instances are ready and the gates after step 2"
                ),
                "{note}"
            );
            let again = world.ok(promote(&id, false, false)).note.unwrap();
            assert!(again.contains("the end after step 2 is promoted already"), "{again}");
            world.rounds(3);
            assert_eq!((world.state_of(&id), world.waits()), (UpdateState::Routing, vec!["gate"]));
            answer(&mut world, Pass);
        }
        world.settle();
        assert_eq!(world.state_of(&id), UpdateState::Completed);
    }
}

/// What a gate says then is as good as ever.
#[test]
fn a_gate_that_fails_after_a_promotion_to_the_end_pauses() {
    let (mut world, id) = begin(Strategy::Canary(gated(vec![webhook("g", After)])));
    world.count(&id, 500, 0, 0);
    world.pass(MINUTE);
    answer(&mut world, Pass);
    world.rounds(3);
    world.ok(Command::Suspend { update: id.clone(), why: None, if_modified: None });
    let paused = world.propose(promote(&id, false, false)).unwrap_err();
    assert!(matches!(paused, Refusal::Paused { .. }), "{paused}");
    world.ok(resume(&id));
    world.ok(promote(&id, false, false));
    world.rounds(3);
    answer(&mut world, Fail);
    world.rounds(3);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_failed"));
}

#[test]
fn in_place_no_old_instance_goes_before_the_gate_of_its_batch_passed() {
    let rolling =
        Rolling { analysis: analysis(vec![webhook("g", Before)]), ..in_batches("2", "2", "0") };
    let recreate = Recreate { analysis: analysis(vec![webhook("g", Before)]) };
    for strategy in [Strategy::Rolling(rolling), Strategy::Recreate(recreate)] {
        let is_rolling = matches!(strategy, Strategy::Rolling(_));
        let (mut world, id) = begin(strategy);
        assert_eq!((world.state_of(&id), world.ready("1.0.0")), (UpdateState::Deploying, 4));
        assert_eq!((names(&world), world.waits()), (vec!["g before 1".into()], vec![GATE]));
        let forward = Command::MoveInPlace {
            update: id.clone(),
            new: 0,
            old: 3,
            if_modified: world.update(&id).modified,
        };
        assert!(world.propose(forward).is_err(), "not even if the coordinator wants it");
        answer(&mut world, Pass);
        world.pass(2_000);
        world.pass(2_000);
        if is_rolling {
            assert_eq!((world.update(&id).step(), world.ready("1.0.0")), (1, 2));
            assert_eq!(names(&world), ["g before 2"]);
            answer(&mut world, Pass);
        }
        world.settle();
        assert_eq!(world.state_of(&id), UpdateState::Completed);
    }
}

#[test]
fn in_place_a_forced_promotion_lets_the_batch_come() {
    let rolling =
        Rolling { analysis: analysis(vec![webhook("g", Before)]), ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(Strategy::Rolling(rolling));
    world.ok(promote(&id, false, true));
    world.pass(2_000);
    world.pass(2_000);
    assert_eq!(world.update(&id).step(), 1);
    let history = &world.update(&id).history;
    assert!(history.iter().any(|entry| entry.event == "promoted, past the gate 'g'"));
    answer(&mut world, Fail);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("gate_failed"));
    world.ok(promote(&id, false, true));
    world.settle();
    assert_eq!(world.state_of(&id), UpdateState::Completed);
}

#[test]
fn a_first_deployment_asks_the_gates_of_all_steps_for_its_only_one() {
    let gate = Gate { step: Some(2), ..webhook("second", Before) };
    let mut world = World::empty();
    let canary = Strategy::Canary(gated(vec![webhook("each", Before), gate]));
    let id = world.ok(start_with("1.0.0", UpdateOptions::default(), canary)).update.unwrap();
    world.pass(100);
    world.pass(2_000);
    assert_eq!(names(&world), ["each before 1", "second before 1"]);
    answer(&mut world, Pass);
    assert_eq!(world.update(&id).weights.to_string(), "1:0");
}

#[test]
fn gates_that_make_no_sense_are_refused_at_the_start() {
    let mut world = World::deployed(4);
    let mut refused = |gates: Vec<Gate>| {
        let start = start_with("2.0.0", UpdateOptions::default(), Strategy::Canary(gated(gates)));
        match world.propose(start) {
            Err(refusal @ Refusal::BadOption { .. }) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let good = || webhook("g", Before);
    let of = |source| Gate { source, ..good() };
    let hook = |url: &str| of(GateSource::Webhook { url: url.to_owned() });
    let ask = |query: &str, condition: &str| {
        let (query, condition) = (query.to_owned(), condition.to_owned());
        of(GateSource::Prometheus { url: "http://p".to_owned(), query, condition })
    };
    let run = |program: &str, arguments: Vec<String>| {
        of(GateSource::Command { program: program.to_owned(), arguments })
    };
    for (gate, said) in [
        (hook("https://p"), "no TLS client"),
        (hook("http://u:secret@p"), "without a password"),
        (hook("p:9090"), "http:// URL"),
        (ask("", "< 1"), "PromQL"),
        (ask(&"a".repeat(5_000), "< 1"), "PromQL"),
        (ask("up", "small"), "one of < <="),
        (
            of(GateSource::Prometheus {
                url: "http://p/?a".into(),
                query: "up".into(),
                condition: "< 1".into(),
            }),
            "without a query",
        ),
        (run("true", vec![]), "absolute path"),
        (run("/bin/true", vec!["a".to_owned(); 33]), "at most 32"),
        (run("/bin/true", vec!["a\0".to_owned()]), "NUL"),
        (Gate { name: "No".to_owned(), ..good() }, "a-z"),
        (Gate { step: Some(0), ..good() }, "1 or later"),
        (Gate { step: Some(3), ..good() }, "1 to 2"),
        (Gate { timeout_ms: 0, ..good() }, "above zero"),
        (Gate { timeout_ms: 300_001, ..good() }, "5 minutes"),
        (Gate { interval_ms: 99, ..good() }, "100 ms"),
        (Gate { failures_max: 101, ..good() }, "at most 100"),
    ] {
        let text = refused(vec![gate]);
        assert!(text.contains(said) && !text.contains("secret"), "{text}");
    }
    assert!(refused(vec![good(), good()]).contains("unique"));
    let many = (0..=GATES_MAX).map(|k| webhook(&format!("g{k}"), After)).collect();
    assert!(refused(many).contains("at most 16"));
}

#[test]
fn below_their_level_gates_are_refused_and_the_rest_goes_on() {
    let mut world = World::deployed_at(3, 4);
    let options = UpdateOptions::default;
    let start = start_with("2.0.0", options(), Strategy::Canary(gated(vec![webhook("g", Before)])));
    let refused = world.propose(start).unwrap_err();
    assert!(matches!(refused, Refusal::LevelTooLow { needs: 4, committed: 3, .. }), "{refused}");
    world.ok(start_with("2.0.0", options(), Strategy::Canary(gated(vec![]))));
}

#[test]
fn a_plan_lists_the_gates_of_each_step() {
    let world = World::deployed(4);
    let request = aether_core::command::Request {
        request_id: None,
        actor: "test".to_owned(),
        command: start_with(
            "2.0.0",
            UpdateOptions::default(),
            Strategy::Canary(gated(vec![webhook("g", Before), webhook("h", After)])),
        ),
    };
    let preview = aether_core::preview::preview(&world.state, &request, world.now_ms).unwrap();
    assert_eq!((preview.refusal, preview.stuck), (None, None));
    let steps: Vec<&str> = preview.steps.iter().map(|step| step.event.as_str()).collect();
    assert_eq!(
        steps,
        [
            "started: org.example:my-slice from 1.0.0 to 2.0.0, 4 instances, CANARY",
            "deploying 4 instances",
            "4 instances are ready",
            "gate 'g' before step 1: pass",
            "step 1 of 2: routing 0:1 -> 1:1",
            "gate 'h' after step 1: pass",
            "gate 'g' before step 2: pass",
            "step 2 of 2: routing 1:1 -> 1:0",
            "gate 'h' after step 2: pass",
            "completing",
            "removing the instances of 1.0.0",
            "2.0.0 is the current version",
        ]
    );
}

#[test]
fn in_place_a_forced_promotion_ends_the_pause_over_what_was_counted() {
    let rolling =
        Rolling { analysis: analysis(vec![webhook("g", Before)]), ..in_batches("2", "2", "0") };
    let (mut world, id) = begin(Strategy::Rolling(rolling));
    answer(&mut world, Pass);
    world.pass(2_000);
    world.pass(2_000);
    assert_eq!(world.update(&id).step(), 1);
    world.count(&id, 500, 200, 0);
    world.rounds(2);
    assert_eq!(paused_over(&world, &id).as_deref(), Some("threshold_exceeded"));
    world.ok(promote(&id, false, true));
    world.rounds(3);
    assert_eq!(paused_over(&world, &id), None, "the same calls do not pause it again");
    world.pass(2_000);
    world.pass(2_000);
    assert_eq!(world.update(&id).step(), 2);
}
