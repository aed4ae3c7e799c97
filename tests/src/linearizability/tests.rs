//! The checks find what is planted, accept what a real register does, and agree
//! with one that tries every order.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::watch::{Change, Watched, check_equal};
use super::*;

/// An operation on key 1, called and returned at these milliseconds.
fn op(client: u32, times: (u64, u64), asked: Asked, outcome: Outcome) -> Operation {
    let (called, returned) = (times.0 * 1_000_000, times.1 * 1_000_000);
    Operation { client, key: 1, called, returned, asked, outcome }
}

fn put(client: u32, times: (u64, u64), value: Value, index: Index) -> Operation {
    op(client, times, Asked::Put(value, None), Outcome::Written(index))
}

fn read(client: u32, times: (u64, u64), record: Option<(Value, Index)>) -> Operation {
    op(client, times, Asked::Get, Outcome::Seen { record, as_of: None })
}

fn refused_by_both(history: &[Operation]) -> [String; 2] {
    let search = search::check(history).expect_err("the search has to find it").0;
    let order = order::check(history).expect_err("the order of the log has to show it").0;
    [search, order]
}

fn accepted(history: &[Operation]) {
    search::check(history).unwrap_or_else(|found| panic!("{found}"));
    order::check(history).unwrap_or_else(|found| panic!("{found}"));
}

#[test]
fn a_stale_read_is_found_and_shown_where_it_is() {
    let history = [put(1, (0, 1), 7, 10), put(1, (2, 3), 8, 11), read(2, (4, 5), Some((7, 10)))];
    let [search, _] = refused_by_both(&history);
    assert!(search.contains("key 1 is not linearizable"), "{search}");
    assert!(search.contains("The record is 7 then, modified at 10."), "{search}");
    assert!(search.contains("client  1 puts 8: done at 11"), "{search}");
    assert!(search.contains("client  2 reads: 7, modified at 10"), "{search}");
    accepted(&[history[0], history[1], read(2, (2, 5), Some((7, 10)))]);
}

#[test]
fn a_lost_write_is_found() {
    refused_by_both(&[put(1, (0, 1), 7, 10), read(2, (2, 3), None)]);
    let removed = op(3, (1, 3), Asked::Delete(None), Outcome::Written(11));
    accepted(&[put(1, (0, 1), 7, 10), removed, read(2, (2, 3), None)]);
    let open = op(3, (1, 2), Asked::Delete(None), Outcome::Unknown);
    accepted(&[put(1, (0, 1), 7, 10), open, read(2, (5, 6), None)]);
    let late = op(3, (7, 8), Asked::Delete(None), Outcome::Unknown);
    refused_by_both(&[put(1, (0, 1), 7, 10), late, read(2, (5, 6), None)]);
}

#[test]
fn a_value_that_nobody_put_is_found() {
    refused_by_both(&[put(1, (0, 1), 7, 10), read(2, (2, 3), Some((9, 11)))]);
    refused_by_both(&[put(1, (0, 1), 7, 10), read(2, (2, 3), Some((7, 11)))]);
    // Or not yet.
    refused_by_both(&[read(2, (0, 1), Some((7, 10))), put(1, (2, 3), 7, 10)]);
    let other_key = Operation { key: 2, ..put(1, (0, 1), 7, 10) };
    refused_by_both(&[other_key, read(2, (2, 3), Some((7, 10)))]);
}

#[test]
fn reads_that_go_backwards_are_found() {
    let history = [
        put(1, (0, 1), 7, 10),
        put(1, (2, 9), 8, 11),
        read(2, (3, 4), Some((8, 11))),
        read(3, (5, 6), Some((7, 10))),
    ];
    refused_by_both(&history);
    let concurrent = read(3, (3, 6), Some((7, 10)));
    accepted(&[history[0], history[1], history[2], concurrent]);
}

#[test]
fn only_one_of_two_that_compare_with_the_same_may_win() {
    let swap = |client, value, outcome| op(client, (2, 9), Asked::Put(value, Some(10)), outcome);
    let first = put(1, (0, 1), 7, 10);
    let won = swap(1, 8, Outcome::Written(11));
    refused_by_both(&[first, won, swap(2, 9, Outcome::Written(12))]);
    accepted(&[first, won, swap(2, 9, Outcome::Refused(11))]);
    // It was refused for what was there.
    let refused = [first, swap(2, 9, Outcome::Refused(10))];
    search::check(&refused).unwrap_err();
    let create = |client, value, index| {
        op(client, (2, 9), Asked::Put(value, Some(0)), Outcome::Written(index))
    };
    refused_by_both(&[create(1, 7, 10), create(2, 8, 11)]);
}

#[test]
fn a_write_that_was_said_to_be_not_done_must_not_take_effect() {
    let lost = op(1, (2, 3), Asked::Put(8, None), Outcome::NotDone);
    let history = [put(1, (0, 1), 7, 10), lost, read(2, (4, 5), Some((8, 11)))];
    refused_by_both(&history);
    let unknown = Operation { outcome: Outcome::Unknown, ..lost };
    accepted(&[history[0], unknown, history[2]]);
    accepted(&[history[0], unknown, read(2, (4, 5), Some((7, 10)))]);
    // Long after it was given up, but once only.
    let later = [read(2, (4, 5), Some((7, 10))), read(2, (6, 7), Some((8, 11)))];
    accepted(&[history[0], unknown, later[0], later[1]]);
    let again = [put(3, (8, 9), 9, 12), read(2, (10, 11), Some((8, 11)))];
    refused_by_both(&[history[0], unknown, later[1], again[0], again[1]]);
}

#[test]
fn an_index_that_contradicts_real_time_is_found() {
    // Of one key the values fit, and only the indices do not.
    let swapped = [put(1, (0, 1), 7, 11), put(1, (2, 3), 8, 10)];
    search::check(&swapped).unwrap();
    order::check(&swapped).unwrap_err();
    order::check(&[put(1, (0, 1), 7, 10), put(2, (0, 3), 8, 10)]).unwrap_err();
    // Of two keys nothing but the log says in which order they were.
    let other = |operation: Operation| Operation { key: 2, ..operation };
    let as_of = |index| Outcome::Seen { record: None, as_of: Some(index) };
    let history = [put(1, (0, 1), 7, 10), other(op(2, (2, 3), Asked::Get, as_of(9)))];
    search::check(&history).unwrap();
    order::check(&history).unwrap_err();
    accepted(&[history[0], other(op(2, (2, 3), Asked::Get, as_of(10)))]);
}

/// What a real register does when its clients are slow and their answers get
/// lost; and what it tells a watcher.
struct Simulation {
    random: StdRng,
    records: BTreeMap<u32, (Value, Index)>,
    index: Index,
    changes: Vec<Change>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, records: BTreeMap::new(), index: 0, changes: Vec::new() }
    }

    fn history(&mut self, clients: u32, count: u64, keys: u32) -> Vec<Operation> {
        // When it takes effect, and the operation.
        let mut planned: Vec<(u64, Operation)> = Vec::new();
        for client in 0..clients {
            let mut now = self.random.random_range(0..100);
            for n in 0..count {
                let called = now + self.random.random_range(1..50);
                let mut effect = called + self.random.random_range(1..100);
                let returned = effect + self.random.random_range(1..100);
                let is_open = self.random.random_ratio(1, 12);
                if is_open {
                    effect += self.random.random_range(0..5_000);
                }
                let value = u64::from(client) * count + n + 1;
                let asked = match self.random.random_range(0..10) {
                    0..4 => Asked::Get,
                    4..7 => Asked::Put(value, None),
                    // The condition is chosen once it is known what there is.
                    7..9 => Asked::Put(value, Some(0)),
                    _ => Asked::Delete(None),
                };
                let outcome = if is_open { Outcome::Unknown } else { Outcome::NotDone };
                let key = self.random.random_range(0..keys);
                now = returned;
                let operation = Operation { client, key, called, returned, asked, outcome };
                planned.push((effect, operation));
            }
        }
        planned.sort_by_key(|(effect, _)| *effect);
        planned.into_iter().map(|(_, operation)| self.carry_out(operation)).collect()
    }

    fn carry_out(&mut self, mut operation: Operation) -> Operation {
        self.index += self.random.random_range(0..2);
        if self.random.random_ratio(1, 20) {
            return operation;
        }
        let now = self.records.get(&operation.key).copied();
        let actual = now.map_or(0, |(_, modified)| modified);
        if let Asked::Put(_, Some(condition)) = &mut operation.asked
            && self.random.random_ratio(2, 3)
        {
            *condition = actual;
        }
        let outcome = match operation.asked {
            Asked::Get => Outcome::Seen { record: now, as_of: Some(self.index) },
            Asked::Put(_, Some(condition)) if condition != actual => Outcome::Refused(actual),
            Asked::Delete(_) if actual == 0 => Outcome::Refused(0),
            Asked::Put(value, _) => self.write(operation.key, Some(value)),
            Asked::Delete(_) => self.write(operation.key, None),
        };
        if operation.outcome != Outcome::Unknown {
            operation.outcome = outcome;
        }
        operation
    }

    fn write(&mut self, key: u32, value: Option<Value>) -> Outcome {
        self.index += 1;
        match value {
            Some(value) => drop(self.records.insert(key, (value, self.index))),
            None => drop(self.records.remove(&key)),
        }
        self.changes.push(Change { index: self.index, key, value });
        Outcome::Written(self.index)
    }

    fn watched(self) -> Watched {
        Watched { changes: self.changes, up_to: self.index, ..Watched::default() }
    }
}

#[test]
fn what_a_register_does_is_accepted() {
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed);
        let keys = 1 + (seed % 3) as u32;
        let history = simulation.history(3 + (seed % 8) as u32, 60, keys);
        search::check(&history).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        order::check(&history).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        let watched = simulation.watched();
        watch::check(&history, &watched).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        check_equal(&watched, &watched).unwrap();
    }
}

#[test]
fn a_long_history_is_searched_in_about_one_step_for_each_operation() {
    let mut simulation = Simulation::new(1);
    let history = simulation.history(12, 2_500, 8);
    let found = search::check(&history).unwrap_or_else(|found| panic!("{found}"));
    assert!(found.open > 1_000 && found.operations > 25_000, "{found:?}");
    assert!(found.steps < 40 * found.operations as u64, "{found:?}");
    // A violation in the middle is found, however many writes are open.
    let mut stale = history.clone();
    let seen = |o: &&mut Operation| matches!(o.outcome, Outcome::Seen { record: Some(_), .. });
    let mut reads: Vec<&mut Operation> = stale.iter_mut().filter(seen).collect();
    let (early, late) = (reads.len() / 4, reads.len() / 2);
    let old = (reads[early].key, reads[early].outcome);
    let fresh = reads[late..].iter_mut().find(|o| o.key == old.0).unwrap();
    fresh.outcome = old.1;
    refused_by_both(&stale);
}

/// Tries every order, and remembers nothing.
fn fits_in_some_order(history: &[Operation]) -> bool {
    type Record = Option<(Value, Option<Index>)>;
    fn told(history: &[Operation], index: Index) -> bool {
        history.iter().any(|other| match other.outcome {
            Outcome::Written(of) => of == index,
            Outcome::Seen { record: Some((_, of)), .. } => of == index,
            _ => false,
        })
    }
    fn is_at(history: &[Operation], now: Record, index: Index) -> bool {
        match now {
            None => index == 0,
            Some((_, Some(modified))) => index == modified,
            Some((_, None)) => index != 0 && !told(history, index),
        }
    }
    fn after(history: &[Operation], now: Record, operation: &Operation) -> Option<Record> {
        let (Asked::Put(_, condition) | Asked::Delete(condition)) = operation.asked else {
            let Outcome::Seen { record, .. } = operation.outcome else { return None };
            let fits = match (now, record) {
                (None, None) => true,
                (Some((value, at)), Some((seen, modified))) => {
                    value == seen && at == Some(modified)
                }
                _ => false,
            };
            return fits.then_some(now);
        };
        if let Outcome::Refused(actual) = operation.outcome {
            let is_gone = actual == 0 && matches!(operation.asked, Asked::Delete(_));
            let differs = condition.is_some_and(|condition| condition != actual);
            let bound = now.map(|(value, _)| (value, Some(actual)));
            return ((is_gone || differs) && is_at(history, now, actual)).then_some(bound);
        }
        if condition.is_some_and(|index| !is_at(history, now, index)) {
            return None;
        }
        let index = match operation.outcome {
            Outcome::Written(index) => Some(index),
            _ => None,
        };
        match operation.asked {
            Asked::Put(value, _) => {
                let seen = history.iter().find_map(|other| match other.outcome {
                    Outcome::Seen { record: Some((v, at)), .. } if v == value => Some(at),
                    _ => None,
                });
                Some(Some((value, index.or(seen))))
            }
            _ => now.map(|_| None),
        }
    }
    fn go(all: &[Operation], left: &[Operation], now: Record) -> bool {
        let is_open = |operation: &Operation| operation.outcome == Outcome::Unknown;
        if left.iter().all(is_open) {
            return true;
        }
        let may_come = |operation: &Operation| {
            left.iter().all(|other| is_open(other) || operation.called <= other.returned)
        };
        (0..left.len()).any(|k| {
            let rest = [&left[..k], &left[k + 1..]].concat();
            may_come(&left[k]) && after(all, now, &left[k]).is_some_and(|next| go(all, &rest, next))
        })
    }
    let counted: Vec<Operation> = history.iter().copied().filter(Operation::counts).collect();
    // What no order could mend: an index that is not that of the value's write.
    let is_true = |operation: &Operation| match operation.outcome {
        Outcome::Seen { record: Some((value, index)), .. } => history.iter().any(|other| {
            matches!(other.asked, Asked::Put(v, _) if v == value)
                && match other.outcome {
                    Outcome::Written(at) => at == index,
                    Outcome::Unknown => history.iter().all(|third| match third.outcome {
                        Outcome::Seen { record: Some((v, at)), .. } => v != value || at == index,
                        _ => true,
                    }),
                    _ => false,
                }
        }),
        _ => true,
    };
    let mut indices: Vec<Index> = history
        .iter()
        .filter_map(|operation| match (operation.asked, operation.outcome) {
            (_, Outcome::Written(index)) => Some(index),
            (Asked::Put(value, _), Outcome::Unknown) => {
                history.iter().find_map(|other| match other.outcome {
                    Outcome::Seen { record: Some((v, at)), .. } if v == value => Some(at),
                    _ => None,
                })
            }
            _ => None,
        })
        .collect();
    let count = indices.len();
    indices.sort_unstable();
    indices.dedup();
    count == indices.len() && counted.iter().all(is_true) && go(&counted, &counted, None)
}

/// Changes one thing about a history, such as no register would do it.
fn mutate(history: &mut [Operation], random: &mut StdRng) {
    let (one, other) =
        (random.random_range(0..history.len()), random.random_range(0..history.len()));
    let from = history[other];
    let operation = &mut history[one];
    match random.random_range(0..5) {
        0 if operation.is_write() == from.is_write() => operation.outcome = from.outcome,
        1 => {
            let shift = random.next_u64() % 200;
            operation.called = operation.called.saturating_sub(shift);
            operation.returned = operation.returned.saturating_sub(shift).max(operation.called + 1);
        }
        2 if operation.is_write() => operation.outcome = Outcome::NotDone,
        3 if operation.is_write() => operation.outcome = Outcome::Unknown,
        _ => {
            if let Outcome::Seen { record, .. } = &mut operation.outcome {
                *record = None;
            } else {
                operation.called = from.called;
                operation.returned = from.returned.max(operation.called + 1);
            }
        }
    }
}

#[test]
fn the_search_agrees_with_one_that_tries_every_order() {
    let (mut fit, mut unfit) = (0, 0);
    for seed in 0..6_000 {
        let mut simulation = Simulation::new(seed);
        let mut history = simulation.history(3, 2 + seed % 2, 1);
        if seed % 8 > 0 {
            (0..=seed % 3).for_each(|_| mutate(&mut history, &mut simulation.random));
        }
        let expected = fits_in_some_order(&history);
        let found = search::check(&history);
        let shown = || history.iter().map(|o| format!("\n  {o}")).collect::<String>();
        assert_eq!(found.is_ok(), expected, "seed {seed}: {found:?}{}", shown());
        *(if expected { &mut fit } else { &mut unfit }) += 1;
    }
    assert!(fit > 1_000 && unfit > 1_000, "{fit} fit and {unfit} do not");
}

#[test]
fn what_a_watcher_was_told_wrongly_is_found() {
    let mut simulation = Simulation::new(5);
    let history = simulation.history(6, 50, 3);
    let right = simulation.watched();
    watch::check(&history, &right).unwrap();
    let acked =
        |change: &Change| history.iter().position(|o| o.outcome == Outcome::Written(change.index));
    let at = (10..right.changes.len()).find(|at| acked(&right.changes[*at]).is_some()).unwrap();
    let wrong = |change: &dyn Fn(&mut Vec<Change>)| {
        let mut watched = right.clone();
        change(&mut watched.changes);
        watch::check(&history, &watched).unwrap_err();
        check_equal(&right, &watched).unwrap_err()
    };
    wrong(&|changes| {
        changes.remove(at);
    });
    wrong(&|changes| changes.insert(at, changes[at]));
    wrong(&|changes| changes.swap(at, at + 1));
    wrong(&|changes| changes[at].value = Some(1_000_000));
    wrong(&|changes| changes[at].key += 1);
    let last = Change { index: right.up_to + 1, key: 0, value: Some(1_000_000) };
    let mut longer = right.clone();
    longer.changes.push(last);
    watch::check(&history, &longer).unwrap_err();
    // What was said to be not done was told.
    let mut undone = history.clone();
    undone[acked(&right.changes[at]).unwrap()].outcome = Outcome::NotDone;
    watch::check(&undone, &right).unwrap_err();
    // A write of unknown outcome may be told once.
    let put = right.changes.iter().find(|c| c.value.is_some() && acked(c).is_some()).unwrap();
    let mut open = history.clone();
    open[acked(put).unwrap()].outcome = Outcome::Unknown;
    watch::check(&open, &right).unwrap();
    let mut twice = right.clone();
    twice.changes.push(Change { index: right.up_to + 1, ..*put });
    watch::check(&open, &twice).unwrap_err();
    // A gap excuses what is missing in it, and nothing else.
    let mut missing = right.clone();
    let index = missing.changes.remove(at).index;
    missing.gaps.push((index - 1, index));
    watch::check(&history, &missing).unwrap();
    check_equal(&right, &missing).unwrap();
    missing.gaps = vec![(index, index + 1)];
    watch::check(&history, &missing).unwrap_err();
}
