//! Configurations are pushed, kept, and moved to as a version is: the same version
//! with another configuration, or started anew, is another revision.

use aether_core::command::{Answer, Command, Outcome, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::ids::{ConfigNo, UpdateId};
use aether_core::preview;
use aether_core::records::{
    CONFIG_FILE_BYTES_MAX, CONFIGURATIONS_KEPT, CleanupPolicy, ConfigPick, Desired, Observed,
    Reason, Remake, Strategy, UpdateOptions, UpdateState,
};
use aether_core::state::State;
use aether_core::weights::Weights;

use crate::world::{SLICE, World, complete, in_batches, register, rollback, routing, start_with};

fn slice() -> SliceName {
    SLICE.parse().unwrap()
}

fn push(value: &str) -> Command {
    Command::PushConfig {
        slice: slice(),
        files: [("app.conf".to_owned(), format!("value = {value}\n").into())].into(),
        env: [("VALUE".to_owned(), value.to_owned())].into(),
        if_latest: None,
    }
}

fn pushed(answer: &Answer) -> u32 {
    answer.config.expect("it names a configuration").0
}

fn number(no: u32) -> Remake {
    Remake { config: Some(ConfigPick::Number { no: ConfigNo(no) }), restart: false }
}

const LATEST: Remake = Remake { config: Some(ConfigPick::Latest {}), restart: false };
const RESTART: Remake = Remake { config: None, restart: true };

fn start(version: &str, strategy: Strategy, with: Remake) -> Command {
    let mut command = start_with(version, UpdateOptions::default(), strategy);
    let Command::StartWith { remake, .. } = &mut command else { unreachable!() };
    *remake = with;
    command
}

fn manual(version: &str, with: Remake) -> Command {
    start(version, Strategy::Manual {}, with)
}

fn begin(world: &mut World, command: Command) -> UpdateId {
    world.ok(command).update.unwrap()
}

/// The value that every running instance has, and how many there are.
fn values(world: &World) -> Vec<String> {
    let runs =
        |i: &&std::sync::Arc<aether_core::records::InstanceRecord>| i.desired == Desired::Run;
    let instances = world.state.instances.values().filter(runs);
    instances.map(|i| value_of(&world.state, i.revision)).collect()
}

fn value_of(state: &State, no: aether_core::ids::RevisionNo) -> String {
    let revision = &state.revisions[&(slice(), no)];
    let config = state.config_of(revision);
    config.map_or_else(|| "none".to_owned(), |config| config.content.env["VALUE"].clone())
}

fn current_value(world: &World) -> String {
    value_of(&world.state, world.state.slices[&slice()].current.unwrap())
}

fn walk(world: &mut World, id: &UpdateId) {
    world.settle();
    world.ok(routing(id, "1:0"));
    world.ok(complete(id));
    world.settle();
    assert_eq!(world.update(id).state, UpdateState::Completed);
}

#[test]
fn the_same_version_moves_to_another_configuration_and_back() {
    let mut world = World::deployed(3);
    assert_eq!(pushed(&world.ok(push("a"))), 1);
    let id = begin(&mut world, manual("1.0.0", LATEST));
    let update = world.update(&id);
    assert_eq!(update.old.as_ref().unwrap().version, update.new.version);
    let said = &update.history[0].event;
    assert!(said.contains("1.0.0 to 1.0.0, no configuration -> configuration c1"), "{said}");
    world.settle();
    let mut both = values(&world);
    both.sort();
    assert_eq!(both, ["a", "a", "a", "none", "none", "none"]);
    world.ok(routing(&id, "1:1"));
    world.settle();
    world.ok(rollback(&id));
    world.settle();
    assert_eq!(values(&world), ["none"; 3]);
    let id = begin(&mut world, manual("1.0.0", LATEST));
    walk(&mut world, &id);
    assert_eq!((values(&world), current_value(&world)), (vec!["a".to_owned(); 3], "a".to_owned()));

    world.ok(push("b"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    world.settle();
    world.ok(routing(&id, "3:1"));
    world.settle();
    world.ok(rollback(&id));
    world.settle();
    assert_eq!((values(&world), current_value(&world)), (vec!["a".to_owned(); 3], "a".to_owned()));
}

#[test]
fn nothing_new_is_refused_and_says_what_would_be() {
    let mut world = World::deployed(2);
    world.ok(push("a"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    walk(&mut world, &id);
    for same in [LATEST, number(1), Remake::default()] {
        let refused = world.propose(manual("1.0.0", same)).unwrap_err();
        assert!(matches!(refused, Refusal::SameRevision { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("--config") && text.contains("--restart"), "{text}");
    }
    // Under another number, but nothing would differ.
    world.ok(push("b"));
    assert_eq!(pushed(&world.ok(push("a"))), 3);
    let refused = world.propose(manual("1.0.0", LATEST)).unwrap_err();
    assert!(matches!(refused, Refusal::SameRevision { .. }), "{refused}");
    let refused = world.propose(manual("1.0.0", number(9))).unwrap_err();
    assert_eq!(
        refused,
        Refusal::UnknownConfig { slice: slice(), config: Some(ConfigNo(9)) },
        "{refused}"
    );
}

#[test]
fn none_was_pushed_is_not_an_empty_one() {
    let mut world = World::deployed(2);
    let refused = world.propose(manual("1.0.0", LATEST)).unwrap_err();
    assert_eq!(refused, Refusal::UnknownConfig { slice: slice(), config: None });
    let nothing = Command::PushConfig {
        slice: slice(),
        files: Default::default(),
        env: Default::default(),
        if_latest: None,
    };
    world.ok(nothing);
    let refused = world.propose(manual("1.0.0", LATEST)).unwrap_err();
    assert!(matches!(refused, Refusal::SameRevision { .. }), "it changes nothing: {refused}");
}

#[test]
fn a_restart_is_a_revision_of_its_own() {
    let mut world = World::deployed(2);
    let before: Vec<_> = world.state.instances.keys().cloned().collect();
    for round in 1..=2 {
        let rolling = Strategy::Rolling(in_batches("1", "1", "0"));
        let id = begin(&mut world, start("1.0.0", rolling, RESTART));
        assert!(world.update(&id).history[0].event.contains("restart"));
        world.settle();
        assert_eq!(world.update(&id).state, UpdateState::Completed);
        let current = world.state.slices[&slice()].current.unwrap();
        assert_eq!(world.state.revisions[&(slice(), current)].restarts, round);
    }
    assert!(before.iter().all(|id| !world.state.instances.contains_key(id)));
    let id = begin(&mut world, manual("2.0.0", Remake::default()));
    let new = world.update(&id).new.revision;
    assert_eq!(world.state.revisions[&(slice(), new)].restarts, 0, "it is another version");
}

#[test]
fn another_version_keeps_the_configuration_unless_told_otherwise() {
    let mut world = World::deployed(2);
    world.ok(push("a"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    walk(&mut world, &id);
    world.ok(push("b"));
    let id = begin(&mut world, manual("2.0.0", Remake::default()));
    walk(&mut world, &id);
    assert_eq!(current_value(&world), "a", "what was pushed since was not asked for");
    let id = begin(&mut world, manual("3.0.0", LATEST));
    let said = world.update(&id).history[0].event.clone();
    assert!(said.contains("configuration c1 -> configuration c2"), "{said}");
    walk(&mut world, &id);
    assert_eq!(current_value(&world), "b");
}

#[test]
fn what_was_pushed_before_the_first_deployment_is_deployed_with_it() {
    let mut world = World::empty();
    world.ok(push("a"));
    let deploy =
        Command::Deploy { slice: slice(), version: "1.0.0".parse().unwrap(), instances: 2 };
    world.ok(deploy);
    world.settle();
    assert_eq!(values(&world), ["a", "a"]);

    let mut world = World::empty();
    world.ok(push("a"));
    world.broken.insert(
        "1.0.0".to_owned(),
        (Observed::Crashed, 9, Reason::new(Reason::CRASH_LOOP, "it ends")),
    );
    let id = begin(&mut world, manual("1.0.0", Remake::default()));
    world.settle();
    assert_eq!(world.update(&id).state, UpdateState::RolledBack);
    assert_eq!(world.state.latest_config(&slice()).unwrap().no, ConfigNo(1), "it is still there");
    world.broken.clear();
    let id = begin(&mut world, manual("1.0.0", Remake::default()));
    walk(&mut world, &id);
    assert_eq!(values(&world), ["a"]);
}

#[test]
fn what_replaces_a_lost_instance_has_the_configuration_of_its_slot() {
    let mut world = World::deployed(3);
    world.ok(push("a"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    world.settle();
    for wanted in ["none", "a"] {
        let lost =
            world.state.instances.values().find(|i| {
                i.desired == Desired::Run && value_of(&world.state, i.revision) == wanted
            });
        let lost = lost.unwrap().id.clone();
        world.end_unasked(&lost);
        world.settle();
        assert!(!world.state.instances.contains_key(&lost) || world.ready_of(wanted) == 3);
        assert_eq!(world.ready_of(wanted), 3, "{wanted}");
    }
    assert_eq!(world.update(&id).state, UpdateState::Deployed);
}

impl World {
    /// Instances that are ready and have this value.
    fn ready_of(&self, value: &str) -> usize {
        let ready = self.state.instances.values().filter(|i| i.is_routable());
        ready.filter(|i| value_of(&self.state, i.revision) == value).count()
    }
}

#[test]
fn a_rolling_update_whose_configuration_does_not_work_goes_back_everywhere() {
    let mut world = World::deployed(4);
    world.ok(push("good"));
    let rolling = || Strategy::Rolling(in_batches("1", "1", "0"));
    let id = begin(&mut world, start("1.0.0", rolling(), LATEST));
    world.settle();
    assert_eq!(world.update(&id).state, UpdateState::Completed);
    world.ok(push("bad"));
    let id = begin(&mut world, start("1.0.0", rolling(), LATEST));
    world.agents_work = false;
    // Until the first batch begins to start; it then never gets ready.
    while !values(&world).contains(&"bad".to_owned()) {
        world.now_ms += 100;
        world.round();
        world.agents_end_what_stops();
    }
    world.now_ms += UpdateOptions::default().deploy_timeout_ms;
    world.round();
    world.agents_work = true;
    world.settle();
    let update = world.update(&id);
    assert_eq!(update.state, UpdateState::RolledBack, "{:#?}", update.history);
    assert_eq!(values(&world), ["good"; 4]);
    assert_eq!(world.ready_of("good"), 4);
}

impl World {
    /// Of agents that do not work, only this.
    fn agents_end_what_stops(&mut self) {
        let stopping = self.state.instances.values().filter(|i| i.desired == Desired::Stop);
        let stopping: Vec<_> = stopping.map(|i| i.id.clone()).collect();
        stopping.iter().for_each(|id| self.end_unasked(id));
    }
}

#[test]
fn a_set_that_was_kept_warm_comes_back_with_its_own_configuration() {
    let mut world = World::deployed(2);
    world.ok(push("a"));
    let mut command = manual("1.0.0", LATEST);
    let Command::StartWith { options, .. } = &mut command else { unreachable!() };
    options.cleanup = CleanupPolicy::Manual;
    let id = begin(&mut world, command);
    walk(&mut world, &id);
    let undo = Command::Undo {
        update: id,
        weights: Weights::ALL_NEW,
        force: false,
        cleanup: None,
        grace_ms: None,
        if_modified: None,
    };
    let id = begin(&mut world, undo);
    world.settle();
    world.ok(complete(&id));
    world.settle();
    assert_eq!(
        (values(&world), current_value(&world)),
        (vec!["none".to_owned(); 2], "none".into())
    );
}

#[test]
fn a_push_is_repeatable_and_takes_the_place_only_of_what_was_expected() {
    let mut world = World::deployed(2);
    let mut push_over = |value: &str, latest: u32| -> Outcome {
        let mut command = push(value);
        let Command::PushConfig { if_latest, .. } = &mut command else { unreachable!() };
        *if_latest = Some(ConfigNo(latest));
        world.propose(command)
    };
    assert_eq!(pushed(&push_over("a", 0).unwrap()), 1);
    let stale = push_over("b", 0).unwrap_err();
    let (expected, actual) = (ConfigNo(0), ConfigNo(1));
    assert_eq!(stale, Refusal::ConfigPushed { slice: slice(), expected, actual });
    let again = push_over("a", 1).unwrap();
    assert_eq!(pushed(&again), 1);
    assert!(again.note.unwrap().contains("says the same already"));
    assert_eq!(pushed(&push_over("b", 1).unwrap()), 2);
    let strange = Command::PushConfig {
        slice: "org.example:unknown".parse().unwrap(),
        files: Default::default(),
        env: Default::default(),
        if_latest: None,
    };
    let refused = world.propose(strange).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownSlice { .. }), "{refused}");
    let long = Command::PushConfig {
        slice: slice(),
        files: [("a".to_owned(), "x".repeat(CONFIG_FILE_BYTES_MAX + 1).into())].into(),
        env: Default::default(),
        if_latest: None,
    };
    let refused = world.propose(long).unwrap_err();
    assert!(matches!(refused, Refusal::BadConfig { .. }), "{refused}");
}

#[test]
fn the_oldest_are_forgotten_unless_a_revision_refers_to_them() {
    let mut world = World::deployed(1);
    world.ok(push("first"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    walk(&mut world, &id);
    for value in 0..CONFIGURATIONS_KEPT + 5 {
        world.ok(push(&value.to_string()));
    }
    let known: Vec<u32> = world.state.configs_of(&slice()).map(|config| config.no.0).collect();
    assert_eq!(known.len(), CONFIGURATIONS_KEPT + 1);
    assert_eq!(known[..2], [1, 7], "the first is in use, the ones after it were not");
    let copy = State::from_rows(world.state.rows().into_iter()).unwrap();
    assert_eq!(copy.config_revision_bytes(), world.state.config_revision_bytes());
}

#[test]
fn with_the_slice_goes_what_was_pushed_and_its_numbers_do_not_come_back() {
    let mut world = World::deployed(1);
    world.ok(push("a"));
    world.ok(push("b"));
    world.ok(Command::Undeploy { slice: slice(), version: None });
    assert!(world.state.latest_config(&slice()).is_none());
    world.settle();
    assert!(world.state.slices.is_empty() && world.state.config_revisions.is_empty());
    assert_eq!(world.state.config_revision_bytes(), 0);
    assert_eq!(pushed(&world.ok(push("c"))), 3);
    let refused = world
        .propose(Command::Undeploy { slice: slice(), version: Some("1.0.0".parse().unwrap()) });
    assert!(matches!(refused, Err(Refusal::UnknownSlice { .. })));
    world.ok(Command::Undeploy { slice: slice(), version: None });
    assert!(world.state.slices.is_empty() && world.state.config_revisions.is_empty());
}

#[test]
fn a_plan_shows_which_lines_of_which_files_would_differ() {
    let mut world = World::deployed(2);
    world.ok(push("a"));
    world.ok(register("1.0.0"));
    let id = begin(&mut world, manual("1.0.0", LATEST));
    walk(&mut world, &id);
    world.ok(push("b"));
    let request = aether_core::command::Request {
        request_id: None,
        actor: "test".to_owned(),
        command: manual("1.0.0", Remake { restart: true, ..LATEST }),
    };
    let preview = preview::preview(&world.state, &request, world.now_ms).unwrap();
    assert_eq!(preview.refusal, None);
    let changed: Vec<_> = preview
        .changes
        .iter()
        .map(|c| (&*c.path, c.before.as_deref().unwrap_or("-"), c.after.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        changed,
        [
            ("config", "\"c1\"", "\"c2\""),
            ("config.env.VALUE", "\"a\"", "\"b\""),
            ("config.files.app.conf", r#""value = a\n""#, r#""value = b\n""#),
            ("restarts", "-", "1"),
        ]
    );
    assert!(preview.steps.last().is_some_and(|step| step.state == UpdateState::Completed));
}
