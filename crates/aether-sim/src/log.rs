//! The replicated log as its users see it: one order of entries, replicas that
//! apply them with lag, a leader per term, and proposals whose fate nobody
//! hears.
//!
//! It is a model and no consensus algorithm: who wins an election is drawn, and
//! what Raft promises is taken as given. That Raft keeps its promises is shown
//! elsewhere (the simulation of replicas in `aether-replica`); here they are
//! what everything above is tried against.

use std::collections::VecDeque;
use std::sync::Arc;

use aether_core::apply::Position;
use aether_core::command::{Outcome, Request};
use aether_core::state::State;

use crate::clock::{LogClock, Readings};
use crate::planted::Planted;

/// A replica, by its place among them.
pub type ReplicaId = usize;

/// Number of a proposal, never used twice in a run.
pub type ProposalId = u64;

/// What an entry says: nothing, where a leader begins, or a request.
#[derive(Debug, Clone)]
pub enum Payload {
    /// The first entry of a leader.
    Blank,
    /// A request.
    Request(Arc<Request>),
}

/// A committed entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub at: Position,
    /// Whether the log had a later term when it took this one in: never, unless
    /// somebody's planted bug let a deposed leader write.
    pub is_late: bool,
    /// What it says.
    pub payload: Payload,
}

/// What a leader has appended and is not committed yet.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Its number.
    pub id: ProposalId,
    /// The term in which it was made.
    pub term: u64,
    /// The leader's log time.
    pub log_time_ms: u64,
    /// The leader's wall clock.
    pub wall_ms: u64,
    /// What it says.
    pub payload: Payload,
}

/// One voter.
#[derive(Debug)]
pub struct Replica {
    /// What it has applied.
    pub state: State,
    /// Whether its process runs.
    pub is_up: bool,
    /// Whether it is cut off from the others: it runs and applies nothing.
    pub is_cut_off: bool,
    /// Its clocks are off by so much: those of machines differ.
    pub wall_skew_ms: i64,
    /// Rows of its last snapshot, from which it begins after a crash.
    snapshot: Vec<(String, Vec<u8>)>,
}

/// The log and everyone that has a copy.
#[derive(Debug)]
pub struct Log {
    /// The latest term.
    pub term: u64,
    /// Who leads in it, once elected.
    pub leader: Option<ReplicaId>,
    /// Whether that leader has applied its own first entry.
    pub is_ready: bool,
    /// Log time of the present leader.
    pub clock: LogClock,
    /// Committed entries.
    pub entries: Vec<Entry>,
    /// What the leader has appended and is not committed.
    pub in_flight: VecDeque<Proposal>,
    /// The voters.
    pub replicas: Vec<Replica>,
    /// The state after all committed entries.
    pub newest: State,
    next_proposal: ProposalId,
    planted: Option<Planted>,
}

/// Entries after which a replica takes a snapshot: often enough that restarts
/// begin at different ones.
const SNAPSHOT_EVERY: u64 = 100;

impl Log {
    /// An empty log on `replicas` voters, without a leader.
    pub fn new(replicas: usize, planted: Option<Planted>) -> Self {
        let replica = || Replica {
            state: State::default(),
            is_up: true,
            is_cut_off: false,
            wall_skew_ms: 0,
            snapshot: State::default().rows(),
        };
        Self {
            term: 0,
            leader: None,
            is_ready: false,
            clock: LogClock::take_over(0, 0, Readings::default()),
            entries: Vec::new(),
            in_flight: VecDeque::new(),
            replicas: (0..replicas).map(|_| replica()).collect(),
            newest: State::default(),
            next_proposal: 1,
            planted,
        }
    }

    /// Index of the last committed entry.
    pub fn index(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Voters that run and reach each other.
    pub fn connected(&self) -> Vec<ReplicaId> {
        let connected = |(_, replica): &(_, &Replica)| replica.is_up && !replica.is_cut_off;
        self.replicas.iter().enumerate().filter(connected).map(|(id, _)| id).collect()
    }

    /// Whether enough voters reach each other to elect and to commit.
    pub fn has_quorum(&self) -> bool {
        self.connected().len() > self.replicas.len() / 2
    }

    /// The clocks of a replica's machine at a moment.
    pub fn readings(&self, replica: ReplicaId, now_ms: u64) -> Readings {
        let wall_ms = now_ms.saturating_add_signed(self.replicas[replica].wall_skew_ms);
        // Nobody's boot clock began when another's did.
        Readings { boot_ms: now_ms + 1_000 * replica as u64, wall_ms }
    }

    /// The leader's log time.
    pub fn log_time_ms(&self, now_ms: u64) -> Option<u64> {
        let leader = self.leader.filter(|_| self.is_ready)?;
        Some(self.clock.at(self.readings(leader, now_ms)))
    }

    /// Takes a proposal in if it is the leader's, of this term. `None` is what a
    /// deposed leader hears.
    pub fn propose(
        &mut self,
        replica: ReplicaId,
        term: u64,
        payload: Payload,
        now_ms: u64,
    ) -> Option<ProposalId> {
        let is_leader = self.leader == Some(replica) && self.term == term;
        if !is_leader && self.planted != Some(Planted::DeposedLeaderWrites) {
            return None;
        }
        let readings = self.readings(replica, now_ms);
        let id = self.next_proposal;
        self.next_proposal += 1;
        let log_time_ms = self.clock.at(readings);
        let wall_ms = readings.wall_ms;
        self.in_flight.push_back(Proposal { id, term, log_time_ms, wall_ms, payload });
        Some(id)
    }

    /// The leader is gone. So many of what it had in flight are on a majority
    /// and will be committed by the next one, though nobody hears; the rest is
    /// lost.
    pub fn depose(&mut self, survive: usize) {
        self.term += 1;
        self.leader = None;
        self.is_ready = false;
        self.in_flight.truncate(survive);
    }

    /// `replica` is elected in the present term. What its predecessor left comes
    /// first, then its own first entry.
    pub fn elect(&mut self, replica: ReplicaId, now_ms: u64) -> ProposalId {
        let left: Vec<Proposal> = self.in_flight.drain(..).collect();
        self.in_flight.extend(left);
        self.leader = Some(replica);
        self.is_ready = false;
        // The time of what it inherits counts, committed or not.
        let last_ms = self.in_flight.back().map(|p| (p.log_time_ms, p.wall_ms));
        let meta = &self.newest.meta;
        let (log_ms, wall_ms) = last_ms.unwrap_or((meta.log_time_ms, meta.wall_ms));
        let readings = self.readings(replica, now_ms);
        let clamps = self.planted != Some(Planted::BelievesEveryClock);
        self.clock = match clamps {
            true => LogClock::take_over(log_ms.max(meta.log_time_ms), wall_ms, readings),
            false => LogClock::unclamped(log_ms.max(meta.log_time_ms), wall_ms, readings),
        };
        self.propose(replica, self.term, Payload::Blank, now_ms).expect("it has just been elected")
    }

    /// Commits the oldest of what is in flight and applies it to `newest`. Gives
    /// its number and what came of it.
    pub fn commit(&mut self) -> Option<(ProposalId, Outcome)> {
        let Proposal { id, term, log_time_ms, wall_ms, payload } = self.in_flight.pop_front()?;
        let at = Position { term, index: self.index() + 1, log_time_ms, wall_ms };
        let is_late = self.entries.last().is_some_and(|last| last.at.term > term);
        let entry = Entry { at, is_late, payload };
        let outcome = apply(&mut self.newest, &entry, self.planted);
        self.entries.push(entry);
        Some((id, outcome))
    }

    /// Has a replica apply what is committed, up to and including `index`. The
    /// leader takes the state that was just made: it is the same function.
    pub fn catch_up(&mut self, replica: ReplicaId, index: u64) {
        let Self { replicas, entries, newest, planted, .. } = self;
        let Replica { state, snapshot, .. } = &mut replicas[replica];
        while state.meta.index < index {
            let entry = &entries[state.meta.index as usize];
            let twice = *planted == Some(Planted::AppliesTwice) && entry.at.index % 13 == 0;
            let _ = apply(state, entry, *planted);
            if twice {
                let _ = apply(state, entry, *planted);
            }
            if *planted == Some(Planted::ReplicaDiverges) && replica == 1 {
                crate::planted::diverge(state, entry.at.index);
            }
            if state.meta.index.is_multiple_of(SNAPSHOT_EVERY) {
                *snapshot = state.rows();
            }
        }
        debug_assert!(state.meta.index <= newest.meta.index);
    }

    /// The leader's own copy is the newest.
    pub fn lead_state(&mut self, replica: ReplicaId) {
        self.replicas[replica].state = self.newest.clone();
    }

    /// A replica's process ends, and begins again with its last snapshot.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn restart(&mut self, replica: ReplicaId) -> Result<(), String> {
        let rows = self.replicas[replica].snapshot.clone();
        let state = State::from_rows(rows.into_iter()).map_err(|e| e.to_string())?;
        self.replicas[replica].state = state;
        self.replicas[replica].is_up = true;
        Ok(())
    }
}

/// Applies one entry to a state, as every replica does.
fn apply(state: &mut State, entry: &Entry, planted: Option<Planted>) -> Outcome {
    let before = planted.map(|_| state.clone());
    let outcome = match &entry.payload {
        Payload::Blank => {
            state.skip(entry.at);
            Ok(aether_core::command::Answer { index: entry.at.index, ..Default::default() })
        }
        Payload::Request(request) => state.apply(entry.at, request),
    };
    match (planted, before) {
        (Some(bug), Some(before)) => {
            crate::planted::after_apply(bug, &before, state, entry, outcome)
        }
        _ => outcome,
    }
}
