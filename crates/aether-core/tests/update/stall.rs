//! No update stalls unseen: wherever people, the coordinator, agents, sessions and
//! strangers bring one, by any strategy, its record says when something happens by
//! itself and what, and the planner says what it does or what it waits for.
//!
//! What is looked at stands in `contract`; here is how states are reached.

mod contract;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aether_core::command::{Command, Request};
use aether_core::coordinates::SliceName;
use aether_core::evidence::{Side, Tallies};
use aether_core::ids::{NodeName, SessionId, UpdateId};
use aether_core::planner::{self, NodeView, SessionView, View};
use aether_core::records::{
    Analysis, BlueGreen, Canary, CleanupPolicy, DeadlineAction, Hold, Observed, Reason, Recreate,
    Step, Strategy as Way, Sums, UpdateOptions, UpdateRecord, UpdateState,
};
use aether_core::state::State;
use aether_core::weights::Weights;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, check};

use crate::fuzz::makers::{Dice, MAKERS};
use crate::fuzz::put;
use crate::world::{NODE_LOST_MS, SLICE, World, in_batches};

/// Makers of commands that have nothing to do with updates.
const BESIDE: [&str; 9] = [
    "PutConfig",
    "RemoveConfig",
    "ArtifactHeld",
    "ArtifactDropped",
    "InviteVoter",
    "AdmitVoter",
    "RemoveVoter",
    "EndVoterChange",
    "RaiseFeatureLevel",
];

/// An update that makes sense.
#[derive(Debug, Clone)]
struct Draft {
    strategy: Way,
    options: UpdateOptions,
    version: u8,
    supersede: bool,
}

/// What goes wrong.
#[derive(Debug, Clone)]
enum Fault {
    /// Processes of a version do this and nothing else.
    Break {
        version: u8,
        observed: Observed,
        restarts: u32,
    },
    /// Calls to the new version fail.
    Errs,
    Silence {
        node: u8,
    },
    LoseSession,
    StuckCalls,
    Room {
        node: u8,
        instances: u32,
    },
    /// A leader comes that has heard of nobody.
    FailOver,
    Heal,
}

/// Time, what goes wrong, what the cluster does, and what somebody asks for.
#[derive(Debug, Clone)]
struct Turn {
    wait_ms: u64,
    fault: Option<Fault>,
    rounds: u32,
    onward: bool,
    /// Who asks for what; nobody in some turns.
    stranger: Option<(Index, [u64; 8])>,
    next: Draft,
}

fn strategy() -> impl Strategy<Value = Way> {
    let analysis = (prop::bool::weighted(0.4), 1u64..20_000).prop_map(|(back, patience_ms)| {
        let on_failure = if back { DeadlineAction::Rollback } else { DeadlineAction::Pause };
        Analysis { on_failure, patience_ms, warm_up_ms: 0, gates: Vec::new() }
    });
    let one_way = prop::option::weighted(0.2, Just(1u32));
    let steps = prop::sample::select(vec![
        "1:9 1s, 1:1 1s, 1:0 1s",
        "1:3 pause, 1:0 0s",
        "1:1 evidence 5s, 1:0 evidence 5s",
        "1:0 30s",
    ]);
    let bounds = prop::sample::select(vec![
        ("1", "1", "0"),
        ("2", "1", "0"),
        ("1,2", "0", "1"),
        ("50%", "50%", "0"),
        ("3", "2", "3"),
    ]);
    let spans = (0u64..3_000, 0u64..3_000, any::<bool>());
    (0u8..5, analysis, one_way, steps, bounds, spans).prop_map(
        |(kind, analysis, one_way_from, steps, (batches, missing, surge), (one, other, flag))| {
            match kind {
                0 => Way::Manual {},
                1 => Way::Canary(Canary {
                    steps: Step::list(steps, 1_000).unwrap(),
                    analysis,
                    scale_with_weight: flag,
                    one_way_from,
                }),
                2 => Way::BlueGreen(BlueGreen {
                    verify_ms: one,
                    auto_promote: flag,
                    hold_ms: other,
                    analysis,
                    one_way: one_way_from.is_some(),
                    barrier: one % 2 == 0,
                }),
                3 => {
                    let mut rolling = in_batches(batches, missing, surge);
                    (rolling.stagger_ms, rolling.analysis) = (one, analysis);
                    rolling.hold_ms = if flag { other } else { 0 };
                    rolling.one_way_from = one_way_from;
                    Way::Rolling(rolling)
                }
                _ => Way::Recreate(Recreate { analysis }),
            }
        },
    )
}

fn draft() -> impl Strategy<Value = Draft> {
    let on_failure = prop::sample::select(vec![
        DeadlineAction::Rollback,
        DeadlineAction::Pause,
        DeadlineAction::Fail,
    ]);
    let cleanup = prop::sample::select(vec![
        CleanupPolicy::Immediate,
        CleanupPolicy::GracePeriod,
        CleanupPolicy::Manual,
    ]);
    let options = (on_failure, cleanup, prop::bool::weighted(0.25), 1u64..60_000);
    let healthy_ms = prop::sample::select(vec![0, 500]);
    (strategy(), options, healthy_ms, 1u8..4, prop::bool::weighted(0.2)).prop_map(
        |(
            strategy,
            (on_deploy_failure, cleanup, approval, timeout_ms),
            healthy_ms,
            version,
            supersede,
        )| {
            let in_place = strategy.is_in_place();
            let options = UpdateOptions {
                // No old set is left of what is replaced where it is.
                cleanup: if in_place { CleanupPolicy::Immediate } else { cleanup },
                manual_approval: approval && !matches!(strategy, Way::Recreate(_)),
                on_deploy_failure,
                deploy_timeout_ms: timeout_ms + healthy_ms,
                healthy_ms,
                grace_ms: timeout_ms,
                ..UpdateOptions::default()
            };
            Draft { strategy, options, version, supersede }
        },
    )
}

fn fault() -> impl Strategy<Value = Fault> {
    let observed =
        prop::sample::select(vec![Observed::Starting, Observed::Unready, Observed::Crashed]);
    prop_oneof![
        2 => (1u8..4, observed, 0u32..5)
            .prop_map(|(version, observed, restarts)| Fault::Break { version, observed, restarts }),
        1 => Just(Fault::Errs),
        1 => (1u8..4).prop_map(|node| Fault::Silence { node }),
        1 => Just(Fault::LoseSession),
        1 => Just(Fault::StuckCalls),
        1 => (1u8..4, 0u32..4).prop_map(|(node, instances)| Fault::Room { node, instances }),
        2 => Just(Fault::FailOver),
        4 => Just(Fault::Heal),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    let wait_ms = prop_oneof![
        12 => 0u64..1_000,
        4 => 1_000u64..10_000,
        1 => Just(70_000u64),
        1 => Just(11 * 60_000),
    ];
    let stranger = prop::option::weighted(0.3, (any::<Index>(), any::<[u64; 8]>()));
    let fault = prop::option::weighted(0.15, fault());
    (wait_ms, fault, 0u32..5, prop::bool::weighted(0.4), stranger, draft()).prop_map(
        |(wait_ms, fault, rounds, onward, stranger, next)| Turn {
            wait_ms,
            fault,
            rounds,
            onward,
            stranger,
            next,
        },
    )
}

/// A walk, what it has told as evidence, and where updates were seen.
struct Walk<'a> {
    world: World,
    errs: bool,
    told: Tallies,
    seen: &'a RefCell<BTreeSet<String>>,
    /// Has the contract broken on purpose.
    sabotage: fn(&mut State),
}

impl Walk<'_> {
    fn put(&mut self, command: Command) -> bool {
        let request = Request { request_id: None, actor: "test".to_owned(), command };
        let is_done = put(&mut self.world, request).is_ok();
        (self.sabotage)(&mut self.world.state);
        is_done
    }

    fn live(&self) -> Option<UpdateRecord> {
        let slice: SliceName = SLICE.parse().unwrap();
        self.world.state.live_update(&slice).map(|update| (**update).clone())
    }

    fn start(&mut self, draft: &Draft) -> bool {
        self.put(Command::StartWith {
            slice: SLICE.parse().unwrap(),
            version: format!("{}.0.0", draft.version).parse().unwrap(),
            instances: None,
            options: draft.options.clone(),
            strategy: draft.strategy.clone(),
            supersede: draft.supersede,
            remake: Default::default(),
        })
    }

    /// The coordinator, agents and sessions have a turn each.
    fn round(&mut self) {
        self.world.now_ms += 100;
        for command in self.world.plan().commands {
            self.put(command);
        }
        self.look();
        for command in self.world.agents_report() {
            self.put(command);
        }
        self.world.sessions_ack();
        self.tell();
        self.look();
    }

    /// Sessions count calls, and the leader commits them.
    fn tell(&mut self) {
        let session: SessionId = "s1".parse().unwrap();
        let life = self.world.state.sessions.get(&session).map(|record| record.opened);
        let update = self.live().filter(|update| update.state == UpdateState::Routing);
        let (Some(life), Some(update)) = (life, update) else { return };
        let Some(record) = self.world.state.evidence.get(&update.id) else { return };
        let measure = record.measure;
        let more = |side: &mut Side, errs: bool| {
            side.requests += 400;
            side.errors += if errs { 80 } else { 0 };
        };
        more(&mut self.told.new, self.errs);
        more(&mut self.told.old, false);
        let sums = [(session, Sums { life, tallies: self.told, late: 0 })].into();
        self.put(Command::RecordEvidence {
            update: update.id,
            measure,
            sums,
            instances: Default::default(),
        });
    }

    fn go_wrong(&mut self, fault: &Fault) {
        let world = &mut self.world;
        match fault {
            Fault::Break { version, observed, restarts } => {
                let reason = Reason::new("broken", "by the test");
                world.broken.insert(format!("{version}.0.0"), (*observed, *restarts, reason));
            }
            Fault::Errs => self.errs = true,
            Fault::Silence { node } => {
                world.heard_since_ms = world.now_ms;
                world.silent_nodes.insert(format!("n{node}").parse().unwrap());
            }
            Fault::LoseSession => {
                let since_ms = world.now_ms;
                world.sessions.insert("s2".parse().unwrap(), SessionView::Unreachable { since_ms });
            }
            Fault::StuckCalls => {
                world.stuck_calls = world.state.instances.keys().cloned().collect()
            }
            Fault::Room { node, instances } => world.set_room(*node, *instances),
            Fault::FailOver => world.fail_over(),
            Fault::Heal => self.heal(),
        }
    }

    fn heal(&mut self) {
        self.errs = false;
        let world = &mut self.world;
        world.silent_nodes.clear();
        world.broken.clear();
        world.stuck_calls.clear();
        for view in world.sessions.values_mut() {
            *view = SessionView::Awaited;
        }
        (1..=3).for_each(|node| world.set_room(node, 100));
    }

    /// What a person does who wants an update to go on, or starts one.
    fn onward(&mut self, next: &Draft) {
        let Some(update) = self.live() else {
            let kept = self.world.state.retained.values().next().map(|kept| kept.update.clone());
            let _ = match kept.filter(|_| next.supersede) {
                Some(kept) => self.put(undo(kept)),
                None => self.start(next),
            };
            return;
        };
        if next.supersede {
            self.start(next);
            return;
        }
        let (id, if_modified) = (update.id.clone(), None);
        let is_idle = update.weights == Weights::ALL_OLD && update.old.is_some();
        self.put(if update.pending_weights.is_some() {
            Command::Approve { update: id, weights: None, if_modified }
        } else if update.pause.is_some() {
            Command::Resume { update: id, if_modified }
        } else if !update.strategy.is_manual() {
            Command::Promote { update: id, full: false, force: false, if_modified }
        } else if update.weights == Weights::ALL_NEW {
            Command::Complete { update: id, force: false, if_modified }
        } else {
            let weights = if is_idle { "1:1" } else { "1:0" }.parse().unwrap();
            Command::SetWeights { update: id, weights, force: false, if_modified }
        });
    }

    fn turn(&mut self, turn: &Turn) {
        self.world.now_ms += turn.wait_ms;
        turn.fault.iter().for_each(|fault| self.go_wrong(fault));
        self.look();
        for _ in 0..turn.rounds {
            self.round();
        }
        if turn.onward {
            self.onward(&turn.next);
            self.look();
        }
        if let Some((maker, dice)) = &turn.stranger {
            let known = MAKERS.iter().filter(|(name, _, _)| !BESIDE.contains(name));
            let known: Vec<_> =
                known.flat_map(|maker| std::iter::repeat_n(maker, maker.1)).collect();
            let (_, _, make) = known[maker.index(known.len())];
            let command = make(&mut Dice::new(&self.world.state, *dice));
            self.put(command);
            self.look();
        }
    }

    /// Looks at every live update as its leader sees it, as one that has heard of
    /// nobody would, and as one that reaches nobody.
    fn look(&self) {
        let (state, now_ms) = (&self.world.state, self.world.now_ms);
        let silent = SessionView::Unreachable { since_ms: now_ms };
        let unreached = state.sessions.keys().map(|id| (id.clone(), silent.clone())).collect();
        let all = |view: NodeView| -> BTreeMap<NodeName, NodeView> {
            state.nodes.keys().map(|name| (name.clone(), view)).collect()
        };
        let reporting = all(NodeView::Reporting);
        let away = all(NodeView::Silent { since_ms: now_ms });
        let (awaited, unheard) = Default::default();
        let as_seen =
            [(&self.world.sessions, &reporting), (&awaited, &unheard), (&unreached, &away)];
        let verdicts = &self.world.verdicts;
        for update in state.updates.values() {
            contract::of_record(update, now_ms).unwrap_or_else(|why| panic!("{why}: {update:#?}"));
            if update.state.is_terminal() {
                continue;
            }
            self.note(update);
            for (sessions, nodes) in as_seen {
                let (table_age_max_ms, node_lost_ms) = (600_000, NODE_LOST_MS);
                let view = View {
                    state,
                    now_ms,
                    sessions,
                    nodes,
                    verdicts,
                    table_age_max_ms,
                    node_lost_ms,
                };
                let plan = planner::plan_slice(&view, &update.slice);
                let found = contract::of_pass(&view, update, &plan);
                let found = found.and_then(|()| contract::of_deadline(&view, update));
                found.unwrap_or_else(|why| panic!("{why}: {update:#?}"));
            }
        }
    }

    /// Remembers where an update was seen.
    fn note(&self, update: &UpdateRecord) {
        let strategy = match &update.strategy {
            Way::Manual {} => "manual",
            Way::Canary(_) => "canary",
            Way::BlueGreen(_) => "blue-green",
            Way::Rolling(_) => "rolling",
            Way::Recreate(_) => "recreate",
        };
        let mut seen = self.seen.borrow_mut();
        let mut note = |what: &str| seen.insert(format!("{strategy} {what}"));
        note(&format!("{}", update.state));
        let kinds = [
            (update.old.is_none(), "first"),
            (update.is_undo(), "undo"),
            (update.is_one_way(), "one-way"),
            (update.pause.is_some(), "paused"),
            (update.pending_weights.is_some(), "pending"),
            (update.forced, "forced"),
            (update.ends_failed, "failing"),
        ];
        for (_, kind) in kinds.iter().filter(|(is, _)| *is) {
            note(&format!("{} {kind}", update.state));
        }
    }
}

fn undo(update: UpdateId) -> Command {
    Command::Undo {
        update,
        weights: "1:1".parse().unwrap(),
        force: false,
        cleanup: None,
        grace_ms: None,
        if_modified: None,
    }
}

/// Walks from an update or a first deployment through what the turns say.
fn walk(
    is_first: bool,
    first: &Draft,
    turns: &[Turn],
    seen: &RefCell<BTreeSet<String>>,
    sabotage: fn(&mut State),
) {
    let world = if is_first { World::empty() } else { World::deployed(3) };
    let mut walk = Walk { world, errs: false, told: Tallies::default(), seen, sabotage };
    let first = Draft { version: 2, supersede: false, ..first.clone() };
    assert!(walk.start(&first) || is_first, "{first:?} makes no sense");
    walk.look();
    turns.iter().for_each(|turn| walk.turn(turn));
}

#[test]
fn every_live_update_has_a_deadline_that_acts_and_says_what_it_waits_for() {
    let seen = RefCell::new(BTreeSet::new());
    let turns = prop::collection::vec(turn(), 1..40);
    check(CASES, (any::<bool>(), draft(), turns), |(is_first, first, turns)| {
        walk(is_first, &first, &turns, &seen, |_| {});
    });
    let seen = seen.into_inner();
    // A walk that gets nowhere shows nothing.
    let mut missed = Vec::new();
    let mut want = |place: String| {
        if !seen.contains(&place) {
            missed.push(place);
        }
    };
    for strategy in ["manual", "canary", "blue-green", "rolling", "recreate"] {
        for state in UpdateState::ALL.into_iter().filter(|state| !state.is_terminal()) {
            want(format!("{strategy} {state}"));
        }
        for place in
            ["DEPLOYING first", "ROUTING first", "DEPLOYING paused", "ROLLING_BACK failing"]
        {
            want(format!("{strategy} {place}"));
        }
        if strategy != "manual" && strategy != "recreate" {
            want(format!("{strategy} ROUTING one-way"));
        }
        if strategy != "recreate" {
            want(format!("{strategy} DEPLOYED pending"));
        }
    }
    want("manual ROUTING undo".to_owned());
    assert!(missed.is_empty(), "no update was seen there: {missed:?}; but {seen:#?}");
}

/// What the walk is for: it finds a pause whose deadline was forgotten, as if a
/// handler had left it to the state that it paused.
#[test]
#[should_panic(expected = "cannot PAUSE")]
fn a_pause_that_keeps_the_deadline_of_its_step_is_found() {
    let seen = RefCell::new(BTreeSet::new());
    let turns = prop::collection::vec(turn(), 1..40);
    check(CASES, (any::<bool>(), draft(), turns), |(is_first, first, turns)| {
        walk(is_first, &first, &turns, &seen, |state| {
            let paused = state.updates.values().filter(|update| update.pause.is_some());
            for update in paused.cloned().collect::<Vec<_>>() {
                let mut update = (*update).clone();
                let waits =
                    matches!(update.way().map(|w| w.hold(update.step())), Some(Hold::For { .. }));
                if let Some(deadline) = update.deadline.as_mut().filter(|_| waits) {
                    deadline.action = DeadlineAction::Pause;
                }
                state.updates.insert(update.id.clone(), update.into());
            }
            drop(state.take_changes());
        });
    });
}
