//! Reload by signal: instances stay, take calls all the time, and are counted as
//! updated once their agents have said so; forward and back, whoever leads.

use aether_core::command::{Command, Observation, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::ids::{ConfigNo, InstanceId, UpdateId};
use aether_core::level::{FEATURE_LEVEL_MAX, level_of};
use aether_core::preview;
use aether_core::records::{
    ConfigPick, DeadlineAction, NodeSchedule, Observed, Reason, Remake, Rolling, Strategy,
    UpdateOptions, UpdateState as S,
};

use crate::world::{
    SLICE, World, approve, in_batches, promote, registered, resume, rollback, start_with,
};

pub(crate) fn slice() -> SliceName {
    SLICE.parse().unwrap()
}

/// `SLICE` at 4.0.0, which reloads, with so many instances and configuration 1; number 2
/// has another value, 3 another variable, 4 one more file, and 5 one that is listed.
pub(crate) fn world(instances: u32) -> World {
    let mut world = World::empty();
    let run = "reload_signal = 'SIGHUP'\nconfig_files = ['app.conf', 'listed.conf']\n";
    world.ok(registered("4.0.0", run));
    world.ok(push(&[("app.conf", "one")], &[]));
    let version = "4.0.0".parse().unwrap();
    world.ok(Command::Deploy { slice: slice(), version, instances });
    world.settle();
    world.ok(push(&[("app.conf", "two")], &[]));
    world.ok(push(&[("app.conf", "two")], &[("MODE", "fast")]));
    world.ok(push(&[("app.conf", "two"), ("more.conf", "x")], &[]));
    world.ok(push(&[("app.conf", "two"), ("listed.conf", "x")], &[]));
    world
}

fn push(files: &[(&str, &str)], env: &[(&str, &str)]) -> Command {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).into()));
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Command::PushConfig {
        slice: slice(),
        files: files.collect(),
        env: env.collect(),
        if_latest: None,
    }
}

pub(crate) fn by_reload(batches: &str, max_unavailable: &str) -> Rolling {
    Rolling { reload: true, ..in_batches(batches, max_unavailable, "0") }
}

fn options() -> UpdateOptions {
    UpdateOptions { healthy_ms: 500, ..UpdateOptions::default() }
}

pub(crate) fn start(no: u32, rolling: Rolling) -> Command {
    let mut command = start_with("4.0.0", options(), Strategy::Rolling(rolling));
    let Command::StartWith { remake, .. } = &mut command else { unreachable!() };
    *remake = Remake { config: Some(ConfigPick::Number { no: ConfigNo(no) }), restart: false };
    command
}

pub(crate) fn begin(world: &mut World, no: u32, rolling: Rolling) -> UpdateId {
    world.ok(start(no, rolling)).update.unwrap()
}

pub(crate) fn ids(world: &World) -> Vec<InstanceId> {
    world.state.instances.keys().cloned().collect()
}

/// Number of the configuration of each instance, whose process has read it or not.
pub(crate) fn configs(world: &World) -> Vec<u32> {
    let of = |i: &aether_core::records::InstanceRecord| {
        world.state.revisions[&(slice(), i.revision)].config.unwrap().0
    };
    world.state.instances.values().map(|i| of(i)).collect()
}

/// Instances that calls reach at the present ratio.
pub(crate) fn called(world: &World) -> usize {
    let table = world.state.slice_table(&slice()).unwrap();
    let weights = table.effective_weights().expect("somebody is called");
    let count = |side: &Option<aether_core::table::VersionSet>, weight: u32| match weight {
        0 => 0,
        _ => side.as_ref().map_or(0, |set| set.endpoints.len()),
    };
    count(&table.new, weights.new_side()) + count(&table.old, weights.old_side())
}

/// Instances that were told to reload and have not said that they did.
pub(crate) fn under_way(world: &World) -> usize {
    world.state.instances.values().filter(|i| !i.has_reloaded()).count()
}

/// One round after the other until the update has ended. After each, everybody is
/// called, and no more are under way than may be.
fn walk(world: &mut World, id: &UpdateId, most: usize) {
    let before = ids(world);
    for round in 0..400 {
        assert_eq!(called(world), before.len(), "round {round}: {:#?}", world.update(id));
        assert!(under_way(world) <= most, "round {round}: {} reload", under_way(world));
        if world.update(id).state.is_terminal() {
            assert_eq!(ids(world), before, "they stay");
            return;
        }
        world.now_ms += 50;
        world.round();
    }
    panic!("does not end: {:#?} {:#?}", world.update(id), world.plan());
}

#[test]
fn instances_reload_batch_by_batch_and_all_are_called_all_the_time() {
    for (instances, batches, unavailable) in
        [(6, "2", "2"), (6, "1, 100%", "3"), (1, "1", "1"), (5, "100%", "100%"), (4, "1", "25%")]
    {
        let mut world = world(instances);
        let rolling = by_reload(batches, unavailable);
        let most = instances - rolling.bounds(instances).floor;
        let id = begin(&mut world, 2, rolling);
        walk(&mut world, &id, most as usize);
        assert_eq!(world.state_of(&id), S::Completed);
        assert_eq!(configs(&world), vec![2; instances as usize]);
        let asked = world.started.values().all(|times| *times == 1);
        assert!(asked && world.started.len() == instances as usize, "nothing was started");
        // And back to the one before by another one.
        let id = begin(&mut world, 1, by_reload(batches, unavailable));
        walk(&mut world, &id, most as usize);
        assert_eq!(configs(&world), vec![1; instances as usize]);
    }
}

#[test]
fn each_batch_gets_its_share_of_the_calls_once_it_was_healthy_for_long_enough() {
    let mut world = world(6);
    let id = begin(&mut world, 2, by_reload("2", "2"));
    walk(&mut world, &id, 2);
    let history = &world.update(&id).history;
    let told: Vec<u64> = history
        .iter()
        .filter(|entry| entry.event.starts_with("reloading: "))
        .map(|entry| entry.log_time_ms)
        .collect();
    let mut admitted = history.iter().filter(|e| e.event.contains("routing"));
    let ratios: Vec<String> = admitted.clone().map(|entry| entry.weights.to_string()).collect();
    assert_eq!(ratios, ["1:2", "2:1", "1:0"]);
    for told in told {
        let next = admitted.next().unwrap().log_time_ms;
        assert!(next >= told + options().healthy_ms, "told at {told}, admitted at {next}");
    }
    assert!(history[0].event.contains("ROLLING by reload"), "{}", history[0].event);
}

#[test]
fn one_that_says_nothing_is_not_counted_and_one_that_cannot_fails_the_update() {
    for (step, paused) in [(0, false), (1, true)] {
        let mut world = world(4);
        let id = begin(&mut world, 2, by_reload("1", "1"));
        for _ in 0..200 {
            if world.update(&id).step() == step && under_way(&world) > 0 {
                break;
            }
            world.deaf = ids(&world).into_iter().filter(|_| step == 0).collect();
            world.now_ms += 50;
            for command in world.plan().commands {
                drop(world.propose(command));
            }
            if world.update(&id).step() < step || under_way(&world) == 0 {
                world.agents_act();
                world.sessions_ack();
            }
        }
        world.deaf = ids(&world).into_iter().collect();
        world.pass(2_000);
        assert_eq!((world.update(&id).step(), under_way(&world)), (step, 1), "it is waited for");
        let waits = &world.plan().waits[&slice()];
        let said = waits.iter().any(|wait| wait.message.contains("has not said that it reloaded"));
        assert!(said, "{waits:?}");
        // A report of an earlier reload says nothing of this one.
        let late = world.state.instances.values().find(|i| !i.has_reloaded()).unwrap().clone();
        let mut seen = Observation {
            instance: late.id.clone(),
            observed: Observed::Ready,
            endpoint: late.endpoint,
            restarts: 0,
            reason: None,
            reloaded: Some(late.reload.as_ref().unwrap().at - 1),
        };
        assert!(!seen.is_news(&late));
        let other = Observation { restarts: 1, ..seen.clone() };
        assert_eq!(other.news_of(&late).unwrap().reloaded, None, "only of the reload it is in");
        world.ok(Command::Observe { node: late.node.clone(), observations: vec![seen.clone()] });
        assert!(!world.state.instances[&late.id].has_reloaded());
        seen.reason = Some(Reason::new(Reason::RELOAD_FAILED, "it does not catch SIGHUP"));
        seen.reloaded = None;
        assert!(seen.is_news(&late));
        world.ok(Command::Observe { node: late.node.clone(), observations: vec![seen] });
        world.round();
        let update = world.update(&id);
        let reason = match paused {
            true => &update.pause.as_ref().expect("a pause").reason,
            false => update.outcome.as_ref().expect("it goes back"),
        };
        assert_eq!(reason.code, "reload_failed");
        assert!(reason.message.contains("does not catch SIGHUP"), "{reason:?}");
        world.deaf.clear();
        if paused {
            world.ok(rollback(&id));
        }
        world.settle();
        assert_eq!(world.state_of(&id), S::RolledBack);
        assert_eq!(configs(&world), [1; 4]);
    }
}

#[test]
fn a_configuration_that_ends_its_process_goes_back_everywhere() {
    for on_failure in [DeadlineAction::Rollback, DeadlineAction::Pause] {
        let mut world = world(6);
        let analysis =
            aether_core::records::Analysis { on_failure, ..by_reload("1", "1").analysis };
        let id = begin(&mut world, 2, Rolling { analysis, ..by_reload("2", "2") });
        until_begun(&mut world, &id);
        until_told(&mut world);
        let crashed = world.state.instances.values().find(|i| !i.has_reloaded()).unwrap().clone();
        let reason = Reason::new(Reason::CRASH_LOOP, "exited with status 2");
        world.broken.insert(crashed.id.to_string(), (Observed::Crashed, 4, reason));
        world.rounds(3);
        if on_failure == DeadlineAction::Pause {
            let reason = &world.update(&id).pause.as_ref().expect("a pause").reason;
            assert!(reason.message.contains("exited with status 2"), "{reason:?}");
            world.broken.clear();
            world.round();
            world.ok(resume(&id));
            world.settle();
            assert_eq!(world.state_of(&id), S::Completed);
            continue;
        }
        assert_eq!(world.state_of(&id), S::RollingBack);
        // With its old files it starts again.
        world.broken.clear();
        world.settle();
        assert_eq!(world.state_of(&id), S::RolledBack);
        assert_eq!((configs(&world), under_way(&world)), (vec![1; 6], 0));
    }
}

#[test]
fn a_restart_of_before_is_no_failure_of_the_reload() {
    let mut world = world(2);
    let restarted = ids(&world)[0].clone();
    let reason = Reason::new("crashed", "exited with status 1");
    world.broken.insert(restarted.to_string(), (Observed::Crashed, 7, reason));
    world.rounds(2);
    let id = begin(&mut world, 2, by_reload("1", "1"));
    world.rounds(6);
    // It does not serve, so that it is told first; its process ends once more.
    assert!(!world.state.instances[&restarted].has_reloaded());
    assert_eq!(world.state_of(&id), S::Deploying);
    world.broken.clear();
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);
}

#[test]
fn a_rollback_from_wherever_it_begins_takes_all_back_and_all_are_called() {
    let mut seen = Vec::new();
    for rounds in 0..120 {
        let mut world = world(6);
        let id = begin(&mut world, 2, by_reload("2", "2"));
        for _ in 0..rounds {
            world.now_ms += 50;
            world.round();
        }
        if world.update(&id).state.is_terminal() {
            break;
        }
        if rounds % 3 == 1 {
            world.fail_over();
        }
        let from = world.state_of(&id);
        if !seen.contains(&from) {
            seen.push(from);
        }
        if rounds % 4 == 1
            && world
                .propose(Command::Suspend { update: id.clone(), why: None, if_modified: None })
                .is_ok()
        {
            let before = (configs(&world), world.update(&id).step());
            world.pass(20_000);
            assert_eq!((configs(&world), world.update(&id).step()), before, "it is paused");
        }
        world.ok(rollback(&id));
        if rounds % 3 == 2 {
            world.fail_over();
            world.sessions_ack();
        }
        walk(&mut world, &id, 2);
        assert_eq!(world.state_of(&id), S::RolledBack, "after {rounds} rounds");
        assert_eq!((configs(&world), under_way(&world)), (vec![1; 6], 0));
        assert_eq!(world.update(&id).weights.to_string(), "0:1");
    }
    assert!(seen.contains(&S::Deploying) && seen.contains(&S::Routing));
}

#[test]
fn a_leader_dies_after_every_round_and_nothing_is_lost() {
    let mut world = world(6);
    let id = begin(&mut world, 2, by_reload("2", "2"));
    for _ in 0..600 {
        assert_eq!(called(&world), 6);
        if world.update(&id).state.is_terminal() {
            break;
        }
        world.fail_over();
        world.sessions_ack();
        world.now_ms += 50;
        world.round();
    }
    assert_eq!((world.state_of(&id), configs(&world)), (S::Completed, vec![2; 6]));
}

#[test]
fn an_instance_that_is_lost_is_replaced_with_the_configuration_of_its_slot() {
    let mut world = world(4);
    let id =
        begin(&mut world, 2, Rolling { hold_ms: 0, stagger_ms: 60_000, ..by_reload("2", "2") });
    until_begun(&mut world, &id);
    for no in [1, 2] {
        let at = configs(&world).iter().position(|config| *config == no).unwrap();
        world.end_unasked(&ids(&world)[at]);
        world.rounds(8);
        let mut now = configs(&world);
        now.sort_unstable();
        assert_eq!((now, called(&world)), (vec![1, 1, 2, 2], 4));
    }
    world.ok(rollback(&id));
    world.settle();
    assert_eq!(configs(&world), [1; 4]);
}

/// One that is told to reload is all that the old side has, and its node is drained: a
/// stand-in that came up as one of the new side is called by nobody yet.
#[test]
fn who_reloads_on_a_draining_node_stays_until_the_batch_is_admitted() {
    for (deaf, back_at) in [(false, 0), (false, 40), (true, 0), (true, 40)] {
        let mut world = world(1);
        let only = ids(&world).remove(0);
        let home = world.state.instances[&only].node.clone();
        let mut command = start(2, by_reload("1", "1"));
        let Command::StartWith { options, .. } = &mut command else { unreachable!() };
        (options.healthy_ms, options.deploy_timeout_ms) = (3_000, 20_000);
        let id = world.ok(command).update.unwrap();
        world.deaf.extend(deaf.then(|| only.clone()));
        until_told(&mut world);
        let schedule = |world: &mut World, schedule| {
            world.ok(Command::SetNodeSchedule { node: home.clone(), schedule });
        };
        schedule(&mut world, NodeSchedule::Draining);
        let mut waited = false;
        for round in 1..=600 {
            // Called by nobody at all it would panic.
            assert!(called(&world) >= 1, "round {round}");
            waited |= world.plan().waits.values().flatten().any(|wait| {
                wait.message.starts_with("the batch of 1 instance of ") && wait.code == "node_drain"
            });
            if round == back_at {
                schedule(&mut world, NodeSchedule::Open);
            }
            if world.update(&id).state.is_terminal() {
                break;
            }
            world.now_ms += 50;
            world.round();
        }
        // With its node open again it stays if it reloads; otherwise its stand-in does.
        let is_it = back_at > 0 && !deaf;
        world.deaf.clear();
        world.settle();
        assert!(waited && world.state_of(&id) == S::Completed, "{:#?}", world.update(&id));
        assert_eq!(ids(&world).len(), 1);
        assert_eq!(world.state.instances.contains_key(&only), is_it);
    }
}

#[test]
fn with_approval_each_batch_waits_and_with_a_promotion_none() {
    let mut world = world(4);
    let mut command = start(2, by_reload("2", "2"));
    let Command::StartWith { options, .. } = &mut command else { unreachable!() };
    options.manual_approval = true;
    let id = world.ok(command).update.unwrap();
    for step in 1..=2 {
        world.settle();
        let update = world.update(&id);
        assert_eq!((update.step(), update.pending_weights.is_some()), (step - 1, true));
        assert_eq!(called(&world), 4);
        world.ok(approve(&id));
    }
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);

    let rolling = Rolling { stagger_ms: 3_600_000, ..by_reload("2", "2") };
    let id = begin(&mut world, 1, rolling);
    until_begun(&mut world, &id);
    world.ok(promote(&id, false, false));
    world.pass(1_000);
    world.pass(1_000);
    assert_eq!((world.update(&id).step(), configs(&world)), (2, vec![1; 4]));
}

#[test]
fn what_a_reload_cannot_carry_is_refused_and_says_why() {
    let mut world = world(3);
    let refused = |world: &mut World, command: Command, what: &str| {
        let request = aether_core::command::Request {
            request_id: None,
            actor: "test".to_owned(),
            command: command.clone(),
        };
        let plan = preview::preview(&world.state, &request, world.now_ms).unwrap();
        let refusal = world.propose(command).unwrap_err();
        assert!(refusal.to_string().contains(what), "{what}: {refusal}");
        assert_eq!(plan.refusal.as_ref(), Some(&refusal), "a plan says the same");
        refusal
    };
    let reload = || by_reload("1", "1");
    for (command, what) in [
        (start(3, reload()), "environment of a process stays what it was, and MODE would differ"),
        (start(4, reload()), "run.config_files does not list: more.conf"),
        (start_with("2.0.0", options(), Strategy::Rolling(reload())), "4.0.0 runs, not 2.0.0"),
    ] {
        let refusal = refused(&mut world, command, what);
        assert!(matches!(refusal, Refusal::CannotReload { .. }), "{refusal}");
    }
    let mut restart = start(2, reload());
    let Command::StartWith { remake, .. } = &mut restart else { unreachable!() };
    remake.restart = true;
    refused(&mut world, restart, "a restart replaces");
    refused(&mut world, start(1, reload()), "same revision");
    refused(&mut world, start(9, reload()), "no configuration");
    refused(&mut world, start(2, by_reload("1", "0")), "max unavailable of a reload");
    refused(&mut world, start(2, by_reload("1", "25%")), "max unavailable of a reload");
    let surge = Rolling { max_surge: "1".parse().unwrap(), ..reload() };
    refused(&mut world, start(2, surge), "max surge of a reload must be 0");
    // A file that the manifest lists is always there, whoever it is of.
    let id = begin(&mut world, 5, reload());
    world.settle();
    assert_eq!(world.state_of(&id), S::Completed);

    let mut silent = World::deployed(3);
    silent.ok(push(&[], &[]));
    let mut command = start_with("1.0.0", options(), Strategy::Rolling(reload()));
    let Command::StartWith { remake, .. } = &mut command else { unreachable!() };
    silent.ok(push(&[("a", "b")], &[]));
    remake.config = Some(ConfigPick::Latest {});
    refused(&mut silent, command, "manifest of 1.0.0 names no run.reload_signal");
    let first = start_with("2.0.0", options(), Strategy::Rolling(reload()));
    refused(&mut World::empty(), first, "nothing of it is deployed");
}

#[test]
fn a_plan_has_every_batch_and_starts_nothing() {
    let world = world(6);
    let request = aether_core::command::Request {
        request_id: None,
        actor: "test".to_owned(),
        command: start(2, by_reload("2", "2")),
    };
    let plan = preview::preview(&world.state, &request, world.now_ms).unwrap();
    assert_eq!((plan.refusal, plan.stuck), (None, None));
    assert_eq!((plan.instances_before, plan.instances_peak, plan.instances_after), (6, 6, 6));
    let batches = plan.steps.iter().filter(|step| step.event.starts_with("reloading: ")).count();
    assert_eq!(batches, 3, "{:#?}", plan.steps);
    assert!(plan.least_ms >= 3 * options().healthy_ms);
}

#[test]
fn all_that_is_new_of_it_needs_the_level_that_brought_it() {
    let report = |reloaded| Command::Observe {
        node: "n1".parse().unwrap(),
        observations: vec![Observation {
            instance: "a-1-0".parse().unwrap(),
            observed: Observed::Ready,
            endpoint: None,
            restarts: 0,
            reason: None,
            reloaded,
        }],
    };
    for (new, before) in [
        (start(2, by_reload("1", "1")), start(2, in_batches("1", "1", "0"))),
        (registered("1.0.0", "reload_signal = 'SIGUSR1'\n"), registered("1.0.0", "")),
        (report(Some(1)), report(None)),
    ] {
        assert!(level_of(&new) > level_of(&before));
        let mut world = World::deployed_at(level_of(&new) - 1, 2);
        let refused = world.propose(new.clone()).unwrap_err();
        assert!(matches!(refused, Refusal::LevelTooLow { .. }), "{new:?}: {refused}");
        assert!(level_of(&new) <= FEATURE_LEVEL_MAX);
    }
}

/// The first batch is entered.
fn until_begun(world: &mut World, id: &UpdateId) {
    for _ in 0..200 {
        if world.update(id).step() > 0 {
            return;
        }
        world.pass(50);
    }
    panic!("does not begin: {:#?}", world.plan());
}

/// Whoever decides goes on until one is told to reload, and nobody acts on it.
pub(crate) fn until_told(world: &mut World) {
    for _ in 0..200 {
        if under_way(world) > 0 {
            return;
        }
        world.now_ms += 50;
        world.decide();
    }
    panic!("nobody is told: {:#?}", world.plan());
}

#[test]
fn a_crash_loop_of_the_old_files_is_none_of_the_new() {
    let mut world = world(6);
    let id = begin(&mut world, 2, by_reload("2", "2"));
    until_begun(&mut world, &id);
    let at = configs(&world).iter().position(|config| *config == 1).unwrap();
    let old = ids(&world)[at].clone();
    let reason = Reason::new(Reason::CRASH_LOOP, "exited with status 1: old files");
    world.broken.insert(old.to_string(), (Observed::Crashed, 5, reason));
    world.agents_act();
    for _ in 0..200 {
        world.now_ms += 50;
        world.decide();
        if world.state.instances[&old].reload.is_some() {
            break;
        }
        world.agents_act();
        world.sessions_ack();
    }
    assert!(!world.state.instances[&old].has_reloaded(), "who does not serve is told first");
    world.decide();
    assert_eq!((world.update(&id).pause.clone(), world.state_of(&id)), (None, S::Routing));
    // With the new files it stays up.
    world.broken.clear();
    world.settle();
    assert_eq!((world.state_of(&id), configs(&world)), (S::Completed, vec![2; 6]));
}

#[test]
fn a_process_that_ends_at_the_signal_is_the_last_that_is_told() {
    for (step, ends) in [(0, S::RolledBack), (1, S::Routing)] {
        let mut world = world(6);
        let id = begin(&mut world, 2, by_reload("2", "2"));
        for _ in 0..200 {
            world.now_ms += 50;
            world.decide();
            if world.update(&id).step() == step && under_way(&world) > 0 {
                break;
            }
            world.agents_act();
            world.sessions_ack();
        }
        let told = world.state.instances.values().find(|i| !i.has_reloaded()).unwrap().clone();
        // Its shim has started it again, with the new files.
        let seen = Observation {
            instance: told.id.clone(),
            observed: Observed::Ready,
            endpoint: told.endpoint,
            restarts: told.restarts + 1,
            reason: None,
            reloaded: told.reload.as_ref().map(|reload| reload.at),
        };
        world.ok(Command::Observe { node: told.node.clone(), observations: vec![seen] });
        world.round();
        let update = world.update(&id);
        let reason = match (&update.pause, &update.outcome) {
            (Some(pause), _) => pause.reason.clone(),
            (None, outcome) => outcome.clone().expect("it stopped"),
        };
        assert_eq!(reason.code, Reason::RELOAD_ENDED);
        assert!(reason.message.contains(told.id.as_str()), "{reason:?}");
        assert!(reason.message.contains("ended when it was told to reload"), "{reason:?}");
        world.settle();
        let new = configs(&world).iter().filter(|config| **config == 2).count();
        assert!(world.state_of(&id) == ends && new <= 4, "{new}: {:#?}", world.update(&id));
    }
}

#[test]
fn one_that_cannot_go_back_is_replaced_in_a_rollback() {
    let mut world = world(4);
    let id = begin(&mut world, 2, by_reload("1", "1"));
    until_told(&mut world);
    let late = world.state.instances.values().find(|i| !i.has_reloaded()).unwrap().clone();
    world.deaf.insert(late.id.clone());
    let seen = Observation {
        instance: late.id.clone(),
        observed: Observed::Ready,
        endpoint: late.endpoint,
        restarts: 0,
        reason: Some(Reason::new(Reason::RELOAD_FAILED, "it does not catch SIGHUP")),
        reloaded: None,
    };
    let observations = vec![seen];
    let cannot = Command::Observe { node: late.node.clone(), observations };
    world.ok(cannot.clone());
    for _ in 0..100 {
        if configs(&world) == [1; 4] {
            break;
        }
        world.now_ms += 50;
        world.round();
    }
    assert_eq!(configs(&world), [1; 4], "{:?} {:#?}", world.state_of(&id), world.plan());
    world.pass(60_000);
    assert_eq!(world.state_of(&id), S::RollingBack, "it may say yet that it has the old files");
    world.ok(cannot);
    let mut waits = Vec::new();
    for round in 0..600 {
        assert!(called(&world) >= 4, "round {round}: its stand-in is ready before it goes");
        if world.state_of(&id).is_terminal() {
            break;
        }
        world.now_ms += 50;
        world.decide();
        waits.extend(world.plan().waits.into_values().flatten());
        world.agents_act();
        world.sessions_ack();
    }
    world.settle();
    assert_eq!((world.state_of(&id), configs(&world)), (S::RolledBack, vec![1; 4]));
    assert!(!world.state.instances.contains_key(&late.id), "another one came up in its place");
    let said = waits.iter().find(|wait| wait.code == "reload").expect("it is said");
    assert!(said.message.contains("1 instance of r1 that cannot reload"), "{said:?}");
    assert!(!said.unblock.contains("uncordon"), "{said:?}");
}
