//! Any commands, in any order, from anybody: sensible ones, stale ones, and ones
//! that no coordinator would send. What is refused changes nothing, the
//! invariants hold after every entry, and every replica gets the same state,
//! however it came to it. And rows that are not what was written.

pub mod makers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aether_core::apply::Position;
use aether_core::command::{Command, Outcome, Request};
use aether_core::lint::lint;
use aether_core::planner::{self, View};
use aether_core::state::{Meta, State};
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, Mutation, check, mutations};

use crate::world::{SLICE, World};
use makers::{Dice, MAKERS};

/// A command before it is known on what state: who makes it, and its dice.
#[derive(Debug, Clone)]
pub struct Draft {
    maker: Index,
    dice: [u64; 8],
    /// Repeats an earlier request id.
    request: Option<u8>,
    /// How often the coordinator, agents and sessions have their turn first.
    rounds: u32,
}

pub fn drafts(most: usize) -> impl Strategy<Value = Vec<Draft>> {
    let request = prop::option::weighted(0.05, 0u8..4);
    let rounds = prop_oneof![3 => Just(0u32), 2 => 1u32..4, 1 => Just(20u32)];
    let draft = (any::<Index>(), any::<[u64; 8]>(), request, rounds);
    prop::collection::vec(
        draft.prop_map(|(maker, dice, request, rounds)| Draft { maker, dice, request, rounds }),
        1..most,
    )
}

fn request(state: &State, draft: &Draft) -> Request {
    // What people do comes up more often: it is what everything begins with.
    let all: usize = MAKERS.iter().map(|(_, weight, _)| weight).sum();
    let mut left = draft.maker.index(all);
    let maker = MAKERS.iter().find(|(_, weight, _)| {
        let found = left < *weight;
        left = left.saturating_sub(*weight);
        found
    });
    let (_, _, make) = maker.expect("the number is below the sum");
    let command = make(&mut Dice::new(state, draft.dice));
    let request_id = draft.request.map(|number| format!("request-{number}"));
    Request { request_id, actor: "test".to_owned(), command }
}

fn position(state: &State, now_ms: u64) -> Position {
    Position { term: 1, index: state.meta.index + 1, log_time_ms: now_ms, wall_ms: now_ms }
}

/// Applies one entry, and asserts what holds of every entry.
fn apply(state: &mut State, at: Position, request: &Request) -> Outcome {
    let before = state.clone();
    let outcome = state.apply(at, request);
    let rows = State::diff(&before, state);
    assert_eq!(state.take_changes(), rows, "what {request:?} changed is not what it noted");
    assert_eq!(state.take_changes(), [], "changes are told once");
    if outcome.is_err() {
        assert_eq!(rows, [], "a refused {request:?} changed something");
        assert!(state.meta.differs_in_position_only(&before.meta));
    }
    assert_eq!(lint(state), Vec::<String>::new(), "after {request:?}");
    // What the one who asked is told is what was answered.
    let told = serde_json::to_vec(&outcome).unwrap();
    assert_eq!(serde_json::from_slice::<Outcome>(&told).unwrap(), outcome, "to {request:?}");
    outcome
}

/// Walks on from a deployed slice; `seen` gets every draft's request and what
/// came of it.
fn walk(drafts: &[Draft], seen: impl FnMut(&Request, &Outcome)) -> World {
    walk_from(World::deployed(2), drafts, seen)
}

/// Likewise from a world as it is.
pub fn walk_from(
    mut world: World,
    drafts: &[Draft],
    mut seen: impl FnMut(&Request, &Outcome),
) -> World {
    for draft in drafts {
        for _ in 0..draft.rounds {
            world.now_ms += draft.dice[1] % 300;
            // What strangers did meanwhile may be in the coordinator's way.
            for command in world.plan().commands {
                let _ =
                    put(&mut world, Request { request_id: None, actor: "c".to_owned(), command });
            }
            world.agents_report().into_iter().for_each(|command| {
                let _ =
                    put(&mut world, Request { request_id: None, actor: "c".to_owned(), command });
            });
            world.sessions_ack();
        }
        let request = request(&world.state, draft);
        let outcome = put(&mut world, request.clone());
        seen(&request, &outcome);
    }
    world
}

pub fn put(world: &mut World, request: Request) -> Outcome {
    let at = position(&world.state, world.now_ms);
    let outcome = apply(&mut world.state, at, &request);
    world.log.push((at, request));
    outcome
}

#[test]
fn the_invariants_hold_whoever_commands_what() {
    check(CASES, drafts(120), |drafts| drop(walk(&drafts, |_, _| {})));
}

#[test]
fn replicas_are_equal_whether_they_replay_or_take_a_snapshot() {
    check(CASES / 2, (drafts(80), any::<Index>()), |(drafts, taken)| {
        let first = walk(&drafts, |_, _| {});
        let taken = taken.index(first.log.len());
        let mut second = State::default();
        let mut image: BTreeMap<String, Vec<u8>> = second.rows().into_iter().collect();
        for (number, (at, request)) in first.log.iter().enumerate() {
            // What travels in the log is what was asked.
            let entry = serde_json::to_vec(request).unwrap();
            let read: Request = serde_json::from_slice(&entry).unwrap();
            assert_eq!(read, *request);
            let before = second.clone();
            drop(second.apply(*at, &read));
            // The image follows by differences.
            for row in State::diff(&before, &second) {
                match row.after {
                    Some(value) => drop(image.insert(row.key, value)),
                    None => drop(image.remove(&row.key)),
                }
            }
            image.insert(Meta::KEY.to_owned(), second.meta.encoded());
            if number == taken {
                second = State::from_rows(second.rows().into_iter()).unwrap();
            }
        }
        assert_eq!(first.state.rows(), second.rows());
        assert_eq!(image.into_iter().collect::<Vec<_>>(), second.rows());
    });
}

#[test]
fn an_entry_that_was_changed_on_its_way_is_unreadable_or_a_command_like_any() {
    check(2 * CASES, (drafts(12), mutations(3)), |(drafts, changes)| {
        let mut world = walk(&drafts[..drafts.len() - 1], |_, _| {});
        let draft = request(&world.state, drafts.last().unwrap());
        let mut entry = serde_json::to_vec(&draft).unwrap();
        changes.iter().for_each(|change: &Mutation| change.apply(&mut entry));
        if let Ok(request) = serde_json::from_slice::<Request>(&entry) {
            drop(put(&mut world, request));
        }
    });
}

/// Plans and tables, which every driver asks for, of whatever was read.
fn look_at(state: &State) {
    drop(lint(state));
    drop(state.slice_table(&SLICE.parse().unwrap()));
    drop(planner::plan(&View {
        state,
        now_ms: state.meta.log_time_ms,
        sessions: &Default::default(),
        nodes: &Default::default(),
        verdicts: &Default::default(),
        table_age_max_ms: 600_000,
        node_lost_ms: 30_000,
    }));
}

#[test]
fn a_row_is_read_as_what_it_says_or_not_at_all() {
    let change = (any::<Index>(), any::<bool>(), mutations(3));
    check(CASES, (drafts(20), change), |(drafts, (at, in_key, changes))| {
        let mut rows = walk(&drafts, |_, _| {}).state.rows();
        let at = at.index(rows.len());
        let (key, value) = &mut rows[at];
        if in_key {
            let mut bytes = std::mem::take(key).into_bytes();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            *key = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            changes.iter().for_each(|change| change.apply(value));
        }
        if let Ok(state) = State::from_rows(rows.clone().into_iter()) {
            let read = state.rows();
            let keys = |rows: &[(String, Vec<u8>)]| -> Vec<String> {
                let mut keys: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
                keys.sort_unstable();
                keys
            };
            assert_eq!(keys(&read), keys(&rows), "each row is where it was");
            let again = State::from_rows(read.clone().into_iter()).unwrap();
            assert_eq!(again.rows(), read);
            look_at(&state);
        }
    });
}

#[test]
fn missing_rows_break_nothing_that_reads_the_others() {
    let missing = prop::collection::vec(any::<Index>(), 1..4);
    check(CASES / 2, (drafts(20), missing), |(drafts, missing)| {
        let mut rows = walk(&drafts, |_, _| {}).state.rows();
        for at in missing {
            drop(rows.remove(at.index(rows.len())));
        }
        look_at(&State::from_rows(rows.into_iter()).unwrap());
    });
}

#[test]
fn every_command_is_made() {
    let none = serde_json::from_str::<Command>(r#"{"type":"?"}"#).unwrap_err().to_string();
    let known: BTreeSet<&str> = none.split('`').skip(3).step_by(2).collect();
    let made: BTreeSet<&str> = MAKERS.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(made, known, "add the command to tests/update/fuzz/makers.rs");
    let state = World::deployed(1).state;
    for (name, _, make) in MAKERS {
        for number in 0..20u64 {
            assert_eq!(kind(&make(&mut Dice::new(&state, [number; 8]))), *name);
        }
    }
}

pub fn kind(command: &Command) -> String {
    serde_json::to_value(command).unwrap()["type"].as_str().unwrap().to_owned()
}

/// A walk that is refused everything shows nothing.
#[test]
fn every_command_is_carried_out_at_times_and_refused_at_times() {
    let outcomes = RefCell::new(BTreeSet::new());
    check(CASES * 6, drafts(120), |drafts| {
        drop(walk(&drafts, |request, outcome| {
            outcomes.borrow_mut().insert((kind(&request.command), outcome.is_ok()));
        }));
    });
    let outcomes = outcomes.into_inner();
    let names = MAKERS.iter().map(|(name, _, _)| name);
    let never: Vec<_> =
        names.filter(|name| !outcomes.contains(&((**name).to_owned(), true))).collect();
    // These need a state that rarely lasts until a stranger asks.
    assert!(never.len() <= 6, "commands that the dice never bring about: {never:?}");
}
