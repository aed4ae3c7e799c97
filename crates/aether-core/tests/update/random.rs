//! Random walks: whatever people, agents, sessions and dying leaders do, the
//! invariants hold after every entry, and every update ends once faults heal.

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::health::Verdict;
use aether_core::ids::UpdateId;
use aether_core::planner::SessionView;
use aether_core::records::{CleanupPolicy, DeadlineAction, Observed, Reason, UpdateOptions};
use proptest::prelude::*;

use crate::world::{SLICE, World, register, start};

#[derive(Debug, Clone)]
enum Step {
    /// What a person does. Nothing if it names an update and none is live.
    Start {
        version: u8,
        instances: Option<u32>,
        options: UpdateOptions,
    },
    Routing {
        new: u32,
        old: u32,
        force: bool,
    },
    Approve,
    Resume,
    Complete {
        force: bool,
    },
    Rollback {
        now: bool,
        force: bool,
    },
    Deploy(u8),
    Undeploy,
    UndeployVersion(u8),
    Remove(u8),
    Push(u8),
    Scale(u32),
    /// What the cluster does.
    Round,
    HalfRound {
        agents: bool,
    },
    /// Only the first commands of a plan are committed; the leader dies.
    FailOver {
        committed: usize,
    },
    /// A plan is committed after what somebody else did meanwhile.
    Overtaken(Box<Step>),
    /// What goes wrong, and time.
    LoseNode(u8),
    LoseSession,
    Break {
        version: u8,
        observed: Observed,
    },
    End {
        instance: usize,
    },
    Room {
        node: u8,
        instances: u32,
    },
    Exceed,
    Heal,
    Wait(u64),
}

fn options() -> impl Strategy<Value = UpdateOptions> {
    let cleanup = prop_oneof![
        Just(CleanupPolicy::Immediate),
        Just(CleanupPolicy::GracePeriod),
        Just(CleanupPolicy::Manual)
    ];
    let on_failure = prop_oneof![
        Just(DeadlineAction::Rollback),
        Just(DeadlineAction::Pause),
        Just(DeadlineAction::Fail)
    ];
    (cleanup, on_failure, prop::bool::weighted(0.2)).prop_map(
        |(cleanup, on_deploy_failure, manual_approval)| UpdateOptions {
            cleanup,
            on_deploy_failure,
            manual_approval,
            ..UpdateOptions::default()
        },
    )
}

fn person() -> impl Strategy<Value = Step> {
    let force = || prop::bool::weighted(0.2);
    let few = prop::option::weighted(0.3, 1u32..5);
    prop_oneof![
        3 => (1u8..4, few, options())
            .prop_map(|(version, instances, options)| Step::Start { version, instances, options }),
        4 => (0u32..4, 0u32..4, force())
            .prop_map(|(new, old, force)| Step::Routing { new, old, force }),
        1 => force().prop_map(|force| Step::Routing { new: 10_000, old: 1, force }),
        3 => force().prop_map(|force| Step::Routing { new: 1, old: 0, force }),
        1 => Just(Step::Approve),
        1 => Just(Step::Resume),
        3 => force().prop_map(|force| Step::Complete { force }),
        2 => (force(), force()).prop_map(|(now, force)| Step::Rollback { now, force }),
        1 => (1u8..4).prop_map(Step::Deploy),
        1 => Just(Step::Undeploy),
        1 => (1u8..4).prop_map(Step::UndeployVersion),
        1 => (1u8..4).prop_map(Step::Remove),
        2 => (1u8..4).prop_map(Step::Push),
        1 => (1u32..6).prop_map(Step::Scale),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let observed =
        prop_oneof![Just(Observed::Starting), Just(Observed::Unready), Just(Observed::Crashed)];
    prop_oneof![
        15 => person(),
        12 => Just(Step::Round),
        4 => any::<bool>().prop_map(|agents| Step::HalfRound { agents }),
        2 => (0usize..3).prop_map(|committed| Step::FailOver { committed }),
        2 => person().prop_map(|step| Step::Overtaken(Box::new(step))),
        1 => (1u8..4).prop_map(Step::LoseNode),
        1 => Just(Step::LoseSession),
        1 => (1u8..4, observed).prop_map(|(version, observed)| Step::Break { version, observed }),
        1 => (0usize..8).prop_map(|instance| Step::End { instance }),
        1 => (1u8..4, 0u32..4).prop_map(|(node, instances)| Step::Room { node, instances }),
        1 => Just(Step::Exceed),
        3 => Just(Step::Heal),
        2 => (1u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Wait(400_000)),
    ]
}

fn slice() -> SliceName {
    SLICE.parse().unwrap()
}

/// What a person's step asks for.
fn command(step: &Step, live: Option<UpdateId>) -> Option<Command> {
    let slice = slice();
    Some(match (step.clone(), live) {
        (Step::Start { version, instances, options }, _) => {
            start(&format!("{version}.0.0"), instances, options)
        }
        (Step::Deploy(version), _) => {
            let version = format!("{version}.0.0").parse().unwrap();
            Command::Deploy { slice, version, instances: 2 }
        }
        (Step::Undeploy, _) => Command::Undeploy { slice, version: None },
        (Step::UndeployVersion(version), _) => {
            let version = Some(format!("{version}.0.0").parse().unwrap());
            Command::Undeploy { slice, version }
        }
        (Step::Remove(version), _) => Command::RemoveArtifact {
            artifact: slice.base().at(format!("{version}.0.0").parse().unwrap()),
        },
        (Step::Push(version), _) => register(&format!("{version}.0.0")),
        (Step::Scale(instances), _) => Command::Scale { slice, instances },
        (Step::Routing { new, old, force }, Some(update)) if new + old > 0 => {
            let weights = format!("{new}:{old}").parse().unwrap();
            Command::SetWeights { update, weights, force, if_modified: None }
        }
        (Step::Approve, Some(update)) => {
            Command::Approve { update, weights: None, if_modified: None }
        }
        (Step::Resume, Some(update)) => Command::Resume { update, if_modified: None },
        (Step::Complete { force }, Some(update)) => {
            Command::Complete { update, force, if_modified: None }
        }
        (Step::Rollback { now, force }, Some(update)) => {
            Command::Rollback { update, now, reason: None, force, if_modified: None }
        }
        _ => return None,
    })
}

fn take(world: &mut World, step: &Step) {
    let live = world.state.live_update(&slice()).map(|u| u.id.clone());
    if let Some(command) = command(step, live.clone()) {
        drop(world.propose(command));
        return;
    }
    match step {
        Step::Round => world.rounds(1),
        Step::HalfRound { agents } => {
            (world.agents_work, world.sessions_work) = (*agents, !*agents);
            world.round();
            (world.agents_work, world.sessions_work) = (true, true);
        }
        Step::FailOver { committed } => {
            for command in world.plan().commands.into_iter().take(*committed) {
                drop(world.propose(command));
            }
            world.fail_over();
        }
        Step::Overtaken(step) => {
            let planned = world.plan().commands;
            take(world, step);
            planned.into_iter().for_each(|command| drop(world.propose(command)));
        }
        Step::LoseNode(node) => {
            world.silent_nodes.insert(format!("n{node}").parse().unwrap());
        }
        Step::LoseSession => {
            let since_ms = world.now_ms;
            world.sessions.insert("s2".parse().unwrap(), SessionView::Unreachable { since_ms });
        }
        Step::Break { version, observed } => {
            let reason = Reason::new("broken", "by the test");
            let restarts = if *observed == Observed::Crashed { 3 } else { 0 };
            world.broken.insert(format!("{version}.0.0"), (*observed, restarts, reason));
        }
        Step::End { instance } => {
            let id = world.state.instances.keys().nth(*instance).cloned();
            id.iter().for_each(|id| world.end_unasked(id));
        }
        Step::Room { node, instances } => world.set_room(*node, *instances),
        Step::Exceed => {
            let detail = "by the test".to_owned();
            live.map(|id| world.verdicts.insert(id, Verdict::Exceeded { detail }));
        }
        Step::Heal => heal(world),
        Step::Wait(ms) => world.now_ms += ms,
        _ => {}
    }
}

fn heal(world: &mut World) {
    world.silent_nodes.clear();
    world.broken.clear();
    world.verdicts.clear();
    let s2 = "s2".parse().unwrap();
    if world.state.sessions.contains_key(&s2) {
        world.sessions.insert(s2, SessionView::Awaited);
    }
    (1..=3).for_each(|node| world.set_room(node, 100));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_every_update_ends(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::deployed(3);
        for step in &steps {
            take(&mut world, step);
        }
        // Faults heal, and whatever is live is taken back.
        heal(&mut world);
        world.settle();
        if let Some(update) = world.state.live_update(&slice()) {
            let id = update.id.clone();
            drop(world.propose(Command::Rollback {
                update: id.clone(),
                now: false,
                reason: None,
                force: false, if_modified: None
            }));
            world.settle();
            prop_assert!(world.state_of(&id).is_terminal(), "{:#?}", world.plan());
        }
        prop_assert!(world.started.values().all(|count| *count == 1), "{:?}", world.started);
        // What runs is what is deployed and what is kept, and nothing else.
        let deployed = world.state.slices.get(&slice()).map_or(0, |record| {
            let ready = world.state.ready_count(&record.slice, record.current.unwrap());
            assert_eq!(ready, record.instances);
            ready
        });
        let kept = world.state.retained.get(&slice()).map_or(0, |retained| retained.instances);
        prop_assert_eq!(world.state.instances.len(), (deployed + kept) as usize);
    }
}
