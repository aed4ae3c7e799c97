//! Reads the lines of a script.

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::UpdateId;
use aether_core::state::State;

use super::start::start;
use crate::instance::Behaviour;
use crate::operator;
use crate::scenario::Incident;

/// The full name of a slice that scripts call by its artifact.
pub fn slice(word: &str) -> Result<SliceName, String> {
    format!("org.example:{word}").parse().map_err(|e| format!("{e}"))
}

/// A span such as `5s`, `300ms` or `2m`, in milliseconds.
pub fn span(word: &str) -> Result<u64, String> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("'{word}' is no span"))?;
    match &word[digits.len()..] {
        "ms" => Ok(number),
        "s" => Ok(number * 1_000),
        "m" => Ok(number * 60_000),
        _ => Err(format!("'{word}' is no span: ms, s or m")),
    }
}

/// How processes behave.
pub fn behaviour(word: &str) -> Result<Behaviour, String> {
    let all = Behaviour::FAULTS.into_iter().chain([Behaviour::Well]);
    let mut named = all.filter(|behaves| behaves.as_str() == word);
    named.next().ok_or_else(|| format!("no process behaves '{word}'"))
}

/// The update that was started last.
pub fn latest_update(state: &State, slice: &SliceName) -> Option<UpdateId> {
    let of = state.updates.values().filter(|update| update.slice == *slice);
    of.max_by_key(|update| (update.created_ms, update.modified)).map(|update| update.id.clone())
}

/// A number after a letter: node `n1`, caller `s2`. They count from 1.
fn place(word: &str) -> Result<usize, String> {
    let number = word.get(1..).and_then(|digits| digits.parse::<usize>().ok());
    number.and_then(|n| n.checked_sub(1)).ok_or_else(|| format!("'{word}' names nobody"))
}

/// Something that goes wrong.
pub fn incident(words: &[&str]) -> Result<Incident, String> {
    Ok(match words {
        ["kill", "leader", down] => Incident::LeaderCrashes { down_ms: span(down)?, survive: 0 },
        ["depose", "leader", unheard] => {
            Incident::LeaderDeposed { knows_after_ms: span(unheard)?, survive: usize::MAX }
        }
        ["kill", "agent", node, down] => {
            Incident::AgentCrashes { agent: place(node)?, down_ms: span(down)? }
        }
        ["ill", node, span_] => Incident::Ill { agent: place(node)?, for_ms: span(span_)? },
        ["silence", node, span_] => Incident::Silence { agent: place(node)?, for_ms: span(span_)? },
        ["power", "cut", node, down] => {
            Incident::PowerCut { agent: place(node)?, down_ms: span(down)? }
        }
        ["partition", caller, span_] => {
            Incident::Partition { caller: place(caller)?, for_ms: span(span_)? }
        }
        ["room", node, instances] => {
            let instances_max = instances.parse().map_err(|_| "no number of instances")?;
            Incident::Room { agent: place(node)?, instances_max }
        }
        ["restart", caller] => Incident::CallerVanishes { caller: place(caller)?, for_ms: 1_000 },
        _ => return Err("nothing of this kind goes wrong".to_owned()),
    })
}

/// What a person asks for.
pub fn command(words: &[&str], state: &State) -> Result<Command, String> {
    let [verb, name, rest @ ..] = words else { return Err("a slice is missing".to_owned()) };
    let slice = slice(name)?;
    // People name updates by their slice here: the live one, or the last.
    let update = || {
        let live = state.live_update(&slice).map(|update| update.id.clone());
        live.or_else(|| latest_update(state, &slice)).ok_or("no update was started".to_owned())
    };
    let number = |word: &str| word.parse::<u32>().map_err(|_| format!("'{word}' is no number"));
    let ratio = |word: &str| word.parse().map_err(|e| format!("{e}"));
    let is = |flag: &str| rest.contains(&flag);
    let if_modified = None;
    Ok(match (*verb, rest) {
        ("push", [version]) => operator::push(&slice, version, state.meta.feature_level),
        ("config", [text]) => operator::configuration(slice, text),
        ("deploy", [version, "instances", instances]) => Command::Deploy {
            slice,
            version: version.parse().map_err(|e| format!("{e}"))?,
            instances: number(instances)?,
        },
        ("start", [version, options @ ..]) => start(slice, version, options)?,
        ("routing", [weights, ..]) => Command::SetWeights {
            update: update()?,
            weights: ratio(weights)?,
            force: is("force"),
            if_modified,
        },
        ("promote", _) => Command::Promote {
            update: update()?,
            full: is("full"),
            force: is("force"),
            if_modified,
        },
        ("pause", []) => Command::Suspend { update: update()?, why: None, if_modified },
        ("approve", []) => Command::Approve { update: update()?, weights: None, if_modified },
        ("complete", _) => Command::Complete { update: update()?, force: is("force"), if_modified },
        ("rollback", _) => Command::Rollback {
            update: update()?,
            now: is("now"),
            reason: None,
            force: is("force"),
            if_modified,
        },
        ("resume", []) => Command::Resume { update: update()?, if_modified },
        ("undo", [weights, ..]) => Command::Undo {
            update: update()?,
            weights: ratio(weights)?,
            force: is("force"),
            cleanup: None,
            grace_ms: None,
            if_modified,
        },
        ("cleanup", []) => Command::Cleanup { update: update()?, if_modified },
        ("scale", [instances]) => Command::Scale { slice, instances: number(instances)? },
        ("undeploy", []) => Command::Undeploy { slice, version: None },
        _ => return Err("there is no such command".to_owned()),
    })
}
