//! Any commands, in any order, from anybody: sensible ones, stale ones, and ones
//! that no coordinator would send. What is refused changes nothing, the
//! invariants hold after every entry, and every replica gets the same state,
//! however it came to it. And rows that are not what was written.

mod makers;

use std::collections::BTreeSet;

use aether_core::apply::Position;
use aether_core::command::{Command, Outcome, Refusal, Request};
use aether_core::lint::lint;
use aether_core::planner::{self, View};
use aether_core::state::State;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::Index;
use aether_fuzz::{CASES, Mutation, check, mutations};

use crate::world::{SLICE, World};
use makers::{Dice, MAKERS};

/// A command before it is known on what state: who makes it, and its dice.
#[derive(Debug, Clone)]
struct Draft {
    maker: Index,
    dice: [u64; 8],
    /// Repeats an earlier request id.
    request: Option<u8>,
    /// The coordinator works, and agents and sessions do.
    round: bool,
}

fn drafts(most: usize) -> impl Strategy<Value = Vec<Draft>> {
    let request = prop::option::weighted(0.1, 0u8..4);
    let draft = (any::<Index>(), any::<[u64; 8]>(), request, prop::bool::weighted(0.3));
    prop::collection::vec(
        draft.prop_map(|(maker, dice, request, round)| Draft { maker, dice, request, round }),
        1..most,
    )
}

fn request(state: &State, draft: &Draft) -> Request {
    let (_, make) = MAKERS[draft.maker.index(MAKERS.len())];
    let command = make(&mut Dice::new(state, draft.dice));
    let request_id = draft.request.map(|number| format!("request-{number}"));
    Request { request_id, actor: "test".to_owned(), command }
}

fn position(state: &State, ms: u64) -> Position {
    let log_time_ms = state.meta.log_time_ms + ms;
    Position { term: 1, index: state.meta.index + 1, log_time_ms, wall_ms: log_time_ms }
}

/// Applies one entry, and asserts what holds of every entry.
fn apply(state: &mut State, at: Position, request: &Request) -> Outcome {
    let before = state.clone();
    let outcome = state.apply(at, request);
    if outcome.is_err() {
        let rows = State::diff(&before, state);
        let keys: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, ["meta/cluster"], "a refused {request:?} changed something");
    }
    assert_eq!(lint(state), Vec::<String>::new(), "after {request:?}");
    // What the one who asked is told is what was answered.
    let told = serde_json::to_vec(&outcome).unwrap();
    assert_eq!(serde_json::from_slice::<Outcome>(&told).unwrap(), outcome, "to {request:?}");
    outcome
}

/// A state in the middle of things, by walking from a deployed slice.
fn walk(drafts: &[Draft], mut entry: impl FnMut(Position, &Request)) -> State {
    let mut world = World::deployed(2);
    for draft in drafts {
        if draft.round {
            // The entries of the world are its own; only the state goes on.
            world.round();
            continue;
        }
        let request = request(&world.state, draft);
        let at = position(&world.state, draft.dice[0] % 5_000);
        entry(at, &request);
        drop(apply(&mut world.state, at, &request));
        world.now_ms = world.now_ms.max(at.log_time_ms);
    }
    world.state
}

/// Without the world's rounds, whose entries are not recorded.
fn alone(mut drafts: Vec<Draft>) -> Vec<Draft> {
    drafts.iter_mut().for_each(|draft| draft.round = false);
    drafts
}

#[test]
fn the_invariants_hold_whoever_commands_what() {
    check(CASES / 2, drafts(60), |drafts| drop(walk(&drafts, |_, _| {})));
}

#[test]
fn replicas_are_equal_whether_they_replay_or_take_a_snapshot() {
    check(CASES / 4, (drafts(60), any::<Index>()), |(drafts, taken)| {
        let drafts = alone(drafts);
        let taken = taken.index(drafts.len());
        let mut first = World::deployed(2).state;
        let mut second = first.clone();
        for (number, draft) in drafts.iter().enumerate() {
            let (at, request) = (position(&first, draft.dice[0] % 5_000), request(&first, draft));
            // What travels in the log is what was asked.
            let entry = serde_json::to_vec(&request).unwrap();
            let read: Request = serde_json::from_slice(&entry).unwrap();
            assert_eq!(read, request);
            let before = first.clone();
            assert_eq!(apply(&mut first, at, &request), second.apply(at, &read));
            // The image follows by differences.
            let changed = State::diff(&before, &first);
            let changed: BTreeSet<_> = changed.into_iter().map(|row| (row.key, row.after)).collect();
            let now: BTreeSet<_> = first.rows().into_iter().collect();
            let all_there = changed.iter().all(|(key, after)| match after {
                Some(value) => now.contains(&(key.clone(), value.clone())),
                None => !now.iter().any(|(other, _)| other == key),
            });
            assert!(all_there, "{changed:?}");
            if number == taken {
                second = State::from_rows(second.rows().into_iter()).unwrap();
            }
        }
        assert_eq!(first.rows(), second.rows());
    });
}

#[test]
fn an_entry_that_was_changed_on_its_way_is_unreadable_or_a_command_like_any() {
    check(2 * CASES, (drafts(12), mutations(3)), |(drafts, changes)| {
        let drafts = alone(drafts);
        let mut state = walk(&drafts[..drafts.len() - 1], |_, _| {});
        let mut entry = serde_json::to_vec(&request(&state, drafts.last().unwrap())).unwrap();
        changes.iter().for_each(|change: &Mutation| change.apply(&mut entry));
        if let Ok(request) = serde_json::from_slice::<Request>(&entry) {
            let at = position(&state, 1);
            drop(apply(&mut state, at, &request));
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
        silent_nodes: &Default::default(),
        verdicts: &Default::default(),
        table_age_max_ms: 600_000,
    }));
}

#[test]
fn a_row_is_read_as_what_it_says_or_not_at_all() {
    let change = (any::<Index>(), any::<bool>(), mutations(3));
    check(CASES, (drafts(20), change), |(drafts, (at, in_key, changes))| {
        let mut rows = walk(&drafts, |_, _| {}).rows();
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
        let mut rows = walk(&drafts, |_, _| {}).rows();
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
    let made: BTreeSet<&str> = MAKERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(made, known, "add the command to tests/update/fuzz/makers.rs");
    let state = World::deployed(1).state;
    for (name, make) in MAKERS {
        for number in 0..20u64 {
            let command = make(&mut Dice::new(&state, [number; 8]));
            assert_eq!(serde_json::to_value(&command).unwrap()["type"], *name);
        }
    }
}

#[test]
fn most_commands_are_carried_out_at_times() {
    let counts = std::cell::RefCell::new(std::collections::BTreeMap::<String, (u32, u32)>::new());
    check(CASES / 2, drafts(60), |drafts| {
        let mut world = World::deployed(2);
        for draft in &drafts {
            if draft.round {
                world.round();
                continue;
            }
            let request = request(&world.state, draft);
            let at = position(&world.state, draft.dice[0] % 5_000);
            let outcome = apply(&mut world.state, at, &request);
            world.now_ms = world.now_ms.max(at.log_time_ms);
            let kind = serde_json::to_value(&request.command).unwrap()["type"].to_string();
            let mut counts = counts.borrow_mut();
            let (done, refused) = counts.entry(kind).or_default();
            *(if outcome.is_ok() { done } else { refused }) += 1;
            assert!(!matches!(outcome, Err(Refusal::Unreadable { .. })));
        }
    });
    let never: Vec<_> = counts.into_inner().into_iter().filter(|(_, (done, _))| *done == 0).collect();
    assert!(never.len() <= 3, "commands that the dice never bring about: {never:?}");
}
