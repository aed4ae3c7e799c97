//! Random walks: whatever people, agents, sessions and dying leaders do, the
//! invariants hold after every entry, and every update ends once faults heal.

use aether_core::command::Command;
use aether_core::planner::SessionView;
use aether_core::records::{CleanupPolicy, UpdateOptions};
use proptest::prelude::*;

use crate::world::{SLICE, World, complete, rollback, routing, start};

#[derive(Debug, Clone)]
enum Step {
    Start(u8, CleanupPolicy),
    Routing(u32, u32),
    Complete,
    Rollback(bool),
    Undeploy,
    Deploy(u8),
    Scale(u32),
    Round,
    HalfRound(bool),
    FailOver,
    Lose(bool),
    Find,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cleanup = prop_oneof![
        Just(CleanupPolicy::Immediate),
        Just(CleanupPolicy::GracePeriod),
        Just(CleanupPolicy::Manual)
    ];
    prop_oneof![
        2 => (1u8..4, cleanup).prop_map(|(v, c)| Step::Start(v, c)),
        4 => (0u32..4, 0u32..4).prop_map(|(n, o)| Step::Routing(n, o)),
        3 => Just(Step::Routing(1, 0)),
        3 => Just(Step::Complete),
        1 => any::<bool>().prop_map(Step::Rollback),
        1 => Just(Step::Undeploy),
        2 => (1u8..4).prop_map(Step::Deploy),
        1 => (1u32..6).prop_map(Step::Scale),
        12 => Just(Step::Round),
        4 => any::<bool>().prop_map(Step::HalfRound),
        2 => Just(Step::FailOver),
        1 => any::<bool>().prop_map(Step::Lose),
        2 => Just(Step::Find),
        2 => (1u64..20_000).prop_map(Step::Wait),
    ]
}

fn take(world: &mut World, step: &Step) {
    let live = world.state.live_update(&SLICE.parse().unwrap()).map(|u| u.id.clone());
    match (step, live) {
        (Step::Start(version, cleanup), _) => {
            let options = UpdateOptions { cleanup: *cleanup, ..UpdateOptions::default() };
            drop(world.propose(start(&format!("{version}.0.0"), None, options)));
        }
        (Step::Routing(new, old), Some(id)) if new + old > 0 => {
            drop(world.propose(routing(&id, &format!("{new}:{old}"))));
        }
        (Step::Complete, Some(id)) => drop(world.propose(complete(&id))),
        (Step::Rollback(force), Some(id)) => {
            let reason = None;
            let command = if *force {
                Command::Rollback { update: id, now: false, reason, force: true }
            } else {
                rollback(&id)
            };
            drop(world.propose(command));
        }
        (Step::Undeploy, None) => {
            let slice = SLICE.parse().unwrap();
            drop(world.propose(Command::Undeploy { slice, version: None }));
        }
        (Step::Deploy(version), _) => {
            let (slice, version) = (SLICE.parse().unwrap(), format!("{version}.0.0"));
            let version = version.parse().unwrap();
            drop(world.propose(Command::Deploy { slice, version, instances: 2 }));
        }
        (Step::Scale(instances), _) => {
            let slice = SLICE.parse().unwrap();
            drop(world.propose(Command::Scale { slice, instances: *instances }));
        }
        (Step::Round, _) => world.rounds(1),
        (Step::HalfRound(agents), _) => {
            (world.agents_work, world.sessions_work) = (*agents, !*agents);
            world.round();
            (world.agents_work, world.sessions_work) = (true, true);
        }
        (Step::FailOver, _) => world.fail_over(),
        (Step::Lose(node), _) => {
            if *node {
                world.silent_nodes.insert("n3".parse().unwrap());
            } else {
                let since_ms = world.now_ms;
                let view = SessionView::Unreachable { since_ms };
                world.sessions.insert("s2".parse().unwrap(), view);
            }
        }
        (Step::Find, _) => {
            world.silent_nodes.clear();
            world.sessions.insert("s2".parse().unwrap(), SessionView::Awaited);
        }
        (Step::Wait(ms), _) => world.now_ms += ms,
        _ => {}
    }
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
        take(&mut world, &Step::Find);
        world.settle();
        if let Some(update) = world.state.live_update(&SLICE.parse().unwrap()) {
            let id = update.id.clone();
            drop(world.propose(rollback(&id)));
            world.settle();
            prop_assert!(world.state_of(&id).is_terminal(), "{:#?}", world.plan());
        }
        prop_assert!(world.started.values().all(|count| *count == 1), "{:?}", world.started);
        let name: aether_core::coordinates::SliceName = SLICE.parse().unwrap();
        if let Some(slice) = world.state.slices.get(&name) {
            let ready = world.state.ready_count(&slice.slice, slice.current.unwrap());
            prop_assert_eq!(ready, slice.instances);
        }
    }
}
