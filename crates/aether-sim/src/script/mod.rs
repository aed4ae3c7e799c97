//! Scenarios that people write: a line is a command, and what came of all of
//! them is a transcript that is kept beside it. Together they read as the
//! engine's documentation.
//!
//! ```text
//! # A comment goes into the transcript.
//! push shop 1.0.0                     register a version of a slice
//! config shop bad                     push a configuration; 'bad' ends its processes
//! deploy shop 1.0.0 instances 3
//! start shop 2.0.0 [config latest|N] [instances N] [cleanup immediate|grace|manual]
//!       [grace 30s] [timeout 20s] [healthy 1s] [on-failure rollback|pause|fail]
//!       [approval] [min-requests 20] [supersede]
//!       [canary 1:9/5s,1:1/pause,1:0/5s [grow]]
//!       [blue-green 5s [hold 5s]]     verified for so long; 0s: until promoted
//!       [rolling 1,25% [unavailable 2] [surge 1] [stagger 5s] [hold 5s] [reload]]
//!       [recreate]
//!       [undo-on-failure] [patience 10s] [one-way 2]   after a strategy
//! routing shop 1:3 [force]            and: approve, complete [force], resume,
//! rollback shop [now] [force]              undo 1:0, cleanup, scale 5, undeploy,
//!                                          promote [full] [force], pause
//! kill leader 10s | depose leader 3s  it is gone, or goes on unheard for a while
//! kill agent n1 5s | silence n1 20s | power cut n1 10s
//! partition s1 20s | restart s1 | room n1 0 | ill n1 1m
//! behave 2.0.0 never-ready            how the processes of a version behave
//! run 5s | run until shop COMPLETED
//! show shop | show nodes
//! ```
//!
//! Nothing is drawn at random that need not be, so that a transcript changes
//! only when the engine does.

mod command;
mod show;
mod start;

use aether_core::ids::UpdateId;

use crate::leader::Waits;
use crate::log::Payload;
use crate::scenario::Settings;
use crate::world::World;

/// How long a command may wait for its answer before it counts as unknown.
const ANSWER_MS: u64 = 3_000;
/// How long `run until` waits at most.
const UNTIL_MS: u64 = 20 * 60_000;

/// Plays a script and gives its transcript.
///
/// # Errors
/// The line that cannot be read, and why; or an invariant that did not hold.
pub fn play(text: &str) -> Result<String, String> {
    let mut player = Player::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        player.said += &format!("{}{line}\n", if is_command(line) { "> " } else { "" });
        if is_command(line) {
            let place = |problem| format!("line {}: '{line}': {problem}", number + 1);
            player.line(line).map_err(place)?;
        }
    }
    match player.world.violation.take() {
        Some(violation) => Err(format!("{}: {}", violation.invariant, violation.detail)),
        None => Ok(player.said),
    }
}

fn is_command(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

struct Player {
    world: World,
    said: String,
    /// Up to which log index it was told what happened.
    told: u64,
    /// Calls and errors by version, as they were shown last.
    shown: std::collections::BTreeMap<String, (u64, u64)>,
}

impl Player {
    fn new() -> Self {
        let settings = Settings {
            seed: 1,
            replicas: 3,
            nodes: 3,
            callers: 2,
            waits: Waits { lease_ms: 3_000, table_age_max_ms: 60_000, node_lost_ms: 10_000 },
            latency_ms_max: 1,
            call_every_ms: 100,
            keeps_inputs: true,
            is_quiet: true,
            has_caretaker: false,
        };
        let mut world = World::new(settings, None, false);
        world.slices.truncate(1);
        world.run_until(3_000);
        let mut player = Self { world, said: String::new(), told: 0, shown: Default::default() };
        player.ask(crate::operator::raise_level()).expect("a new cluster takes its level");
        player.said.clear();
        player.told = player.world.log.index();
        player
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["run", "until", slice, state] => self.run_until(slice, state)?,
            ["run", span] => {
                let until_ms = self.world.now_ms + command::span(span)?;
                self.world.run_until(until_ms);
            }
            ["show", "nodes"] => self.said += &show::nodes(&self.world),
            ["show", slice] => {
                let name = command::slice(slice)?;
                self.said += &show::slice(&self.world, &name, &mut self.shown);
            }
            ["behave", version, behaves] => {
                let behaves = command::behaviour(behaves)?;
                self.world.behaviours.insert((*version).to_owned(), behaves);
            }
            [
                "kill" | "depose" | "silence" | "ill" | "power" | "partition" | "restart" | "room",
                ..,
            ] => {
                let incident = command::incident(&words)?;
                self.world.schedule(self.world.now_ms, incident);
                self.world.run_until(self.world.now_ms);
            }
            _ => self.ask(command::command(&words, &self.world.log.newest)?)?,
        }
        self.tell();
        match &self.world.violation {
            Some(violation) => Err(format!("{}: {}", violation.invariant, violation.detail)),
            None => Ok(()),
        }
    }

    /// Asks for something, and waits for what comes of it.
    fn ask(&mut self, command: aether_core::command::Command) -> Result<(), String> {
        let number = self.world.ask(command, None);
        let until_ms = self.world.now_ms + ANSWER_MS;
        let answered = |world: &World| world.answers.get(&number).is_some_and(Option::is_some);
        while !answered(&self.world) && self.world.now_ms < until_ms {
            self.world.run_until(self.world.now_ms + 1);
            if let Some(violation) = &self.world.violation {
                return Err(format!("{}: {}", violation.invariant, violation.detail));
            }
        }
        match self.world.answers.get(&number).cloned().flatten() {
            Some(Ok(answer)) => {
                if let Some(note) = answer.note {
                    self.said += &format!("  note: {note}\n");
                }
            }
            Some(Err(refusal)) => self.said += &format!("  refused: {refusal}\n"),
            None if self.world.not_done.contains(&number) => {
                self.said += "  not done: nobody leads\n";
            }
            None => self.said += "  no answer: it may have been done, or not\n",
        }
        Ok(())
    }

    fn run_until(&mut self, slice: &str, state: &str) -> Result<(), String> {
        let name = command::slice(slice)?;
        let until_ms = self.world.now_ms + UNTIL_MS;
        let from = self.world.log.index();
        // A state may last for no longer than a pass of the planner.
        let is_there = |world: &World| {
            let id = command::latest_update(&world.log.newest, &name);
            let update = id.and_then(|id: UpdateId| world.log.newest.updates.get(&id).cloned());
            update.is_some_and(|update| {
                let mut since = update.history.iter().filter(|entry| entry.index > from);
                update.state.as_str() == state || since.any(|entry| entry.state.as_str() == state)
            })
        };
        while !is_there(&self.world) {
            if self.world.now_ms > until_ms || self.world.violation.is_some() {
                let why = self.world.violation.as_ref().map(|violation| &violation.detail);
                return Err(format!("{slice} does not become {state}: {why:?}\n{}", self.said));
            }
            self.world.run_until(self.world.now_ms + 1);
        }
        Ok(())
    }

    /// What was written down since it was last told: new terms and audit records.
    fn tell(&mut self) {
        let newest = &self.world.log.newest;
        for entry in self.world.log.entries.iter().skip(self.told as usize) {
            let index = entry.at.index;
            let at = format!("{:>10.3}", entry.at.log_time_ms as f64 / 1_000.0);
            if matches!(entry.payload, Payload::Blank) {
                self.said += &format!("{at}  leader of term {} begins\n", entry.at.term);
            }
            let records = newest.audit.values().filter(|record| record.index == index);
            for record in records {
                self.said += &format!("{at}  {}: {}\n", record.subject, record.event);
            }
        }
        self.told = self.world.log.index();
    }
}
