//! What each feature level wrote into the log, and the rows that came of it.
//!
//! `tests/frozen` has two files for each level. `level-N.log` has one entry per
//! line: its term, index, log time and wall clock, then the bytes of the request.
//! It goes on where that of the level before ends. `level-N.rows` has for each of
//! them each row as it became (`+`) or that it is gone (`-`); then a line with the
//! index of the entry, the hash over all rows, and what became of it. `more.rows`
//! has what a log comes to only after thousands of entries.
//!
//! So a command of a released level is read, written and carried out as it was
//! by the release that brought it, or a test here fails.

mod shapes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use aether_frozen::Frozen;
use serde_json::Value;

use self::shapes::Shapes;
use super::*;
use crate::apply::Position;
use crate::command::{Command, Request};
use crate::level::{FEATURE_LEVEL_MAX, level_of};
use crate::manifest::{ReloadSignal, StopSignal};
use crate::records::{
    CleanupPolicy, DeadlineAction, GateVerdict, GateWhen, NodeSchedule, SessionKind, VoterWanted,
};

const RULE: &str = "This is on disks and in logs. Replicas of two releases apply one log and \
    compare the hashes of what they make of it, so a command of a released level is never changed, \
    nor what it writes, to the last word: what is new is a new command, or a new field that needs a \
    new feature level. See 'Adding to it' in crates/aether-core/src/level.rs. Its entries go into \
    tests/frozen/level-N.log of the new level; with AETHER_FROZEN=write the rows are written.";

/// Types of commands that are parts of records too. They read past fields that
/// they do not know, so that a build without a new one would carry out the
/// command as if it were not there.
const SHARED: [(&str, &str); 4] = [
    (
        "OptionChanges",
        "cleanup deployTimeoutMs errorRatePpm graceMs healthyMs manualApproval onDeployFailure \
         p99Ms requestsMin",
    ),
    ("Reason", "code message"),
    ("Thresholds", "errorRatePpm p99Ms requestsMin"),
    (
        "UpdateOptions",
        "cleanup deployTimeoutMs graceMs healthyMs manualApproval onDeployFailure thresholds",
    ),
];

/// What is a map in a command, and may have any key.
const MAPS: [&str; 4] = ["env", "files", "labels", "require"];

fn file(name: &str) -> Frozen {
    Frozen::new(env!("CARGO_MANIFEST_DIR"), name, RULE)
}

/// Where each entry stands, and its bytes.
fn log(level: u32) -> Vec<(Position, String)> {
    let entry = |line: &str| {
        let mut parts = line.splitn(5, ' ');
        let mut next = || parts.next().expect("five parts");
        let mut number = || next().parse().expect("a number");
        let at =
            Position { term: number(), index: number(), log_time_ms: number(), wall_ms: number() };
        (at, next().to_owned())
    };
    file(&format!("level-{level}.log")).text().lines().map(entry).collect()
}

fn all_logs() -> impl Iterator<Item = (u32, Position, Request)> {
    let of = |level| {
        let read = move |(at, json): (Position, String)| {
            let request = serde_json::from_str(&json).unwrap_or_else(|error| {
                file(&format!("level-{level}.log"))
                    .broken(&format!("has an entry that cannot be read any more: {error}\n{json}"))
            });
            (level, at, request)
        };
        log(level).into_iter().map(read)
    };
    (1..=FEATURE_LEVEL_MAX).flat_map(of)
}

fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).expect("JSON is text")
}

/// One entry's part of a file of rows.
fn transcript(state: &mut State, at: Position, request: &Request) -> String {
    let outcome = state.apply(at, request);
    let mut changes = state.take_changes();
    changes.push(state.meta.change_from(&Meta::default()));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    let became = match outcome {
        Ok(answer) => format!("done {}", text(&encode(&answer))),
        // In which words is no matter of the state.
        Err(_) => "refused".to_owned(),
    };
    let mut said = String::new();
    for RowDiff { key, after, .. } in changes {
        let row = match &after {
            Some(value) => format!("+ {key}\t{}", text(value)),
            None => format!("- {key}"),
        };
        writeln!(said, "{row}").expect("a text takes it");
    }
    // After the rows: of what differs, they say more.
    said + &format!("{} {:032x} {became}\n", at.index, rows_hash(&state.rows()))
}

/// The states that the frozen logs lead to, one after the other, and what
/// `more.rows` has.
fn all_states(mut see: impl FnMut(&State)) {
    let mut state = State::default();
    for (_, at, request) in all_logs() {
        drop(state.apply(at, &request));
        see(&state);
    }
    see(&State::from_rows(more_rows().into_iter()).expect("they are rows"));
}

fn row(line: &str) -> (String, Vec<u8>) {
    let (key, value) = line.split_once('\t').expect("a key and a value");
    (key.to_owned(), value.as_bytes().to_vec())
}

fn more_rows() -> Vec<(String, Vec<u8>)> {
    file("more.rows").text().lines().map(row).collect()
}

#[test]
fn every_entry_of_a_released_level_makes_of_the_state_what_it_made() {
    let mut state = State::default();
    for level in 1..=FEATURE_LEVEL_MAX {
        let mut rows = String::new();
        for (_, at, request) in all_logs().filter(|(of, ..)| *of == level) {
            rows += &transcript(&mut state, at, &request);
        }
        file(&format!("level-{level}.rows")).holds(rows.as_bytes());
    }
}

#[test]
fn requests_are_written_as_they_were() {
    for level in 1..=FEATURE_LEVEL_MAX {
        let read = all_logs().filter(|(of, ..)| *of == level);
        for ((_, _, request), (_, json)) in read.zip(log(level)) {
            let now = serde_json::to_string(&request).expect("it is written");
            if now != json {
                let how = format!("has\n  {json}\nwhich is now written as\n  {now}");
                file(&format!("level-{level}.log")).broken(&how);
            }
        }
    }
}

/// From the files alone: nothing is carried out.
#[test]
fn rows_and_their_hash_are_read_and_written_as_they_were() {
    let same = |name: &str, at: &str, rows: &BTreeMap<String, Vec<u8>>, hash: Option<&str>| {
        let rows: Vec<_> = rows.clone().into_iter().collect();
        let read = State::from_rows(rows.clone().into_iter());
        let read = read.unwrap_or_else(|error| file(name).broken(&format!("at {at}: {error}")));
        let now = read.rows();
        if let Some((was, is)) = rows.iter().zip(&now).find(|(was, is)| was != is) {
            let [was, is] = [was, is].map(|(key, value)| format!("{key}\t{}", text(value)));
            file(name).broken(&format!("at {at} has\n  {was}\nwhich is now written as\n  {is}"));
        }
        assert_eq!(now.len(), rows.len(), "{name} at {at}");
        if hash.is_some_and(|hash| format!("{:032x}", rows_hash(&now)) != hash) {
            file(name).broken(&format!("at {at} has another hash over the same rows"));
        }
    };
    let mut rows = BTreeMap::new();
    for level in 1..=FEATURE_LEVEL_MAX {
        let name = format!("level-{level}.rows");
        for line in file(&name).text().lines() {
            if let Some(line) = line.strip_prefix("+ ") {
                rows.extend([row(line)]);
            } else if let Some(key) = line.strip_prefix("- ") {
                assert!(rows.remove(key).is_some(), "{key} is there before it is not");
            } else {
                let mut parts = line.split(' ');
                let (at, hash) = parts.next().zip(parts.next()).expect("an index and a hash");
                same(&name, at, &rows, Some(hash));
            }
        }
    }
    same("more.rows", "the end", &more_rows().into_iter().collect(), None);
}

/// What serde would have taken in the place of a word that it does not know.
fn known<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> BTreeSet<String> {
    let error = serde_json::from_str::<T>(json).expect_err("it is no word of any").to_string();
    let (_, expected) = error.split_once("expected ").expect("it says what it knows");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_command_is_in_the_log_of_its_level() {
    let mut seen = BTreeSet::new();
    for (level, _, request) in all_logs() {
        let json = serde_json::to_value(&request.command).expect("it is written");
        if level_of(&request.command) == level {
            seen.insert(json["type"].as_str().expect("a word").to_owned());
        }
    }
    let all = known::<Command>(r#"{"type": "?"}"#);
    assert!(all.len() > 40, "{all:?}");
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "not in the log of their level: {missing:?}. {RULE}");
}

#[test]
fn every_field_and_word_of_commands_and_records_is_frozen() {
    let mut shapes = Shapes::default();
    all_logs().for_each(|(_, _, request)| shapes.see(&request));
    let mut tables: BTreeMap<&str, bool> = BTreeMap::new();
    all_states(|state| {
        shapes.see(&state.meta);
        macro_rules! each {
            ($field:ident, $key:expr) => {
                *tables.entry(stringify!($field)).or_default() |= !state.$field.is_empty();
                state.$field.values().for_each(|record| shapes.see(&**record));
            };
        }
        tables!(each);
        // The fields of one that is a part of another are not named as such.
        for change in state.voter_changes.values() {
            let VoterChange { node: _, wanted, since_ms: _, modified: _ } = &**change;
            shapes.see(wanted);
        }
    });
    let empty: Vec<_> = tables.iter().filter(|(_, has_rows)| !**has_rows).collect();
    assert!(empty.is_empty(), "no entry writes into {empty:?}. {RULE}");

    let never = shapes.never_filled();
    assert!(never.is_empty(), "in no frozen entry or row: {}. {RULE}", never.join(", "));

    let all = [
        ("CleanupPolicy", known::<CleanupPolicy>("\"?\"")),
        // BLUE is what a record without one has.
        ("Colour", ["GREEN".to_owned()].into()),
        ("DeadlineAction", known::<DeadlineAction>("\"?\"")),
        ("Desired", known::<Desired>("\"?\"")),
        ("GateVerdict", known::<GateVerdict>("\"?\"")),
        ("GateWhen", known::<GateWhen>("\"?\"")),
        ("NodeLifecycle", known::<NodeLifecycle>("\"?\"")),
        ("NodeSchedule", known::<NodeSchedule>("\"?\"")),
        ("Observed", known::<Observed>("\"?\"")),
        ("ReloadSignal", known::<ReloadSignal>("\"?\"")),
        ("SessionKind", known::<SessionKind>("\"?\"")),
        ("StopSignal", known::<StopSignal>("\"?\"")),
        ("UpdateState", known::<UpdateState>("\"?\"")),
    ];
    let words = shapes.words.iter().map(|(name, words)| {
        let words: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
        (*name, words)
    });
    assert_eq!(words.collect::<Vec<_>>(), all, "right: all there are. {RULE}");
    let wanted = known::<VoterWanted>(r#"{"wanted": "?"}"#);
    let seen = |word: &String| shapes.structs.contains_key(&format!("VoterWanted::{word}"));
    assert!(wanted.iter().all(seen), "all of {wanted:?} are to be frozen. {RULE}");
}

/// Paths of all objects in a value.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    let mut inside = |key: &str, part: &Value| objects(part, &format!("{path}/{key}"), found);
    match value {
        Value::Object(parts) => {
            parts.iter().for_each(|(key, part)| inside(key, part));
            found.push(path.to_owned());
        }
        Value::Array(parts) => {
            parts.iter().enumerate().for_each(|(k, part)| inside(&k.to_string(), part));
        }
        _ => {}
    }
}

#[test]
fn a_command_is_not_read_past_a_field_of_a_newer_release() {
    let mut shapes = Shapes::default();
    let mut lenient = BTreeMap::new();
    for (_, _, request) in all_logs() {
        shapes.see(&request);
        let json = serde_json::to_value(&request).expect("it is written");
        let mut paths = Vec::new();
        objects(&json, "", &mut paths);
        let is_map = |path: &String| MAPS.iter().any(|map| path.ends_with(map));
        for path in paths.into_iter().filter(|path| !is_map(path)) {
            let mut newer = json.clone();
            let object = newer.pointer_mut(&path).and_then(Value::as_object_mut).expect("there");
            let fields: Vec<String> = object.keys().cloned().collect();
            object.insert("ofANewerRelease".to_owned(), Value::Bool(true));
            if serde_json::from_value::<Request>(newer).is_ok() {
                lenient.insert(path, fields);
            }
        }
    }
    for (name, fields) in SHARED {
        let now: Vec<&str> = shapes.structs[name].keys().copied().collect();
        let frozen: Vec<&str> = fields.split(' ').collect();
        assert_eq!(
            now, frozen,
            "{name} is a part of commands and of records, and takes no new field: a build that does \
             not know it would read the command without it. Make it a field of a new variant of the \
             command, of a new feature level; see 'Adding to it' in level.rs"
        );
    }
    for (path, fields) in lenient {
        let known = |(_, all): &(_, &str)| {
            fields.iter().all(|field| all.split(' ').any(|known| known == field))
        };
        assert!(
            SHARED.iter().any(known),
            "{path} of a command, with {fields:?}, reads past fields that it does not know; it is \
             to deny them"
        );
    }
}
