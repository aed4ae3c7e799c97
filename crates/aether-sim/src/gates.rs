//! Those who are asked by gates, as a leader has them under way.
//!
//! They take a while, and say something: mostly that all is well, sometimes that it
//! is not, and sometimes nothing. The answers come from the question and the term
//! alone, so that nothing is drawn for them; a leader that goes takes its questions
//! with it, and the next one may hear something else.

use std::collections::{BTreeMap, BTreeSet};

use aether_core::command::Command;
use aether_core::planner::Measurement;
use aether_core::records::GateVerdict;

use crate::rng::Rng;

/// Longest that somebody takes to answer.
const ANSWER_MS_MAX: u64 = 3_000;

/// Questions of a leader: when each is answered, and what it comes to.
#[derive(Debug, Default)]
pub struct Asked {
    under_way: BTreeMap<String, (u64, Command)>,
    /// Those that were proposed: a plan on an older state lists them still.
    answered: BTreeSet<String>,
}

impl Asked {
    /// Begins what a plan lists and is not under way.
    pub fn look(&mut self, measurements: &[Measurement], term: u64, now_ms: u64) {
        let listed: BTreeSet<String> = measurements.iter().map(Measurement::key).collect();
        self.answered.retain(|key| listed.contains(key));
        for measurement in measurements {
            let key = measurement.key();
            if self.under_way.contains_key(&key) || self.answered.contains(&key) {
                continue;
            }
            let seed = key.bytes().fold(term, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
            let mut rng = Rng::new(seed, 7);
            let verdict = match rng.below(100) {
                0..70 => GateVerdict::Pass,
                70..90 => GateVerdict::Inconclusive,
                _ => GateVerdict::Fail,
            };
            let due_ms = now_ms + rng.between(1, ANSWER_MS_MAX);
            let command = measurement.answered(verdict, format!("said {verdict}"));
            self.under_way.insert(key, (due_ms, command));
        }
    }

    /// Answers that have come.
    pub fn due(&mut self, now_ms: u64) -> Vec<Command> {
        let all = std::mem::take(&mut self.under_way).into_iter();
        let (due, rest): (Vec<_>, Vec<_>) = all.partition(|(_, (due_ms, _))| *due_ms <= now_ms);
        self.under_way = rest.into_iter().collect();
        let (keys, answers): (Vec<_>, Vec<_>) =
            due.into_iter().map(|(key, (_, told))| (key, told)).unzip();
        self.answered.extend(keys);
        answers
    }

    /// When the next one comes.
    pub fn next_ms(&self) -> Option<u64> {
        self.under_way.values().map(|(due_ms, _)| *due_ms).min()
    }
}
