//! A caller: holds routing tables, picks by the real schedule, and says which
//! tables it has applied and which departed instances it still has calls on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use aether_core::coordinates::SliceName;
use aether_core::ids::{InstanceId, RevisionNo, SessionId};
use aether_core::planner::LateCalls;
use aether_core::records::SessionKind;
use aether_core::schedule::{Fraction, Schedule, Side};
use aether_core::state::State;
use aether_core::table::{Endpoint, SliceTable, VersionSet};

use crate::log::ReplicaId;
use crate::planted::Planted;
use crate::served::Counted;

/// Number of a call, never used twice in a run.
pub type CallId = u64;

/// How many instances one call may be tried on, as in the real invoker.
pub const ATTEMPTS_MAX: usize = 5;

/// Tables as they come: everything, or what changed.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Log index of the state that they are of.
    pub revision: u64,
    /// Whether these are all there are.
    pub is_snapshot: bool,
    /// Whole tables.
    pub tables: Vec<SliceTable>,
    /// Slices that have none any more.
    pub removed: Vec<SliceName>,
}

impl Tables {
    /// All tables of a state.
    pub fn snapshot(state: &State) -> Self {
        let tables = state.routes.keys().filter_map(|slice| state.slice_table(slice)).collect();
        Self { revision: state.meta.index, is_snapshot: true, tables, removed: Vec::new() }
    }

    /// The tables in which two states differ, as the server's feed finds them: by the
    /// table revision. One that came and went between them is in neither.
    pub fn change(before: &State, after: &State) -> Option<Self> {
        let (mut tables, mut removed) = (Vec::new(), Vec::new());
        for (slice, route) in &after.routes {
            let known = before.routes.get(slice).map(|known| known.table_revision);
            if known != Some(route.table_revision) {
                tables.extend(after.slice_table(slice));
            }
        }
        let gone = before.routes.keys().filter(|slice| !after.routes.contains_key(*slice));
        removed.extend(gone.cloned());
        let revision = after.meta.index;
        let differs = !tables.is_empty() || !removed.is_empty();
        let is_news = differs || after.has_left_since(before);
        is_news.then_some(Self { revision, is_snapshot: false, tables, removed })
    }
}

/// A table that an invoker holds, and where it is in its schedule.
#[derive(Debug, Clone)]
pub struct Held {
    /// The table.
    pub table: Arc<SliceTable>,
    /// How it splits; absent where no side has an endpoint.
    schedule: Option<Schedule>,
    /// The next ticket.
    ticket: u64,
    /// Where the next retry begins to look: retries take no ticket.
    retries: u64,
    /// The route that holds calls, and until when.
    hold: Option<(u64, u64)>,
}

/// What comes of the wish to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The table leads nowhere.
    Nowhere,
    /// It has to wait, until then at most.
    Held {
        /// Until when.
        until_ms: u64,
    },
    /// It begins.
    Begins(Picked),
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picked {
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its revision.
    pub revision: RevisionNo,
    /// The side that it was picked on.
    pub side: Side,
    /// The table by which it was picked.
    pub table: Arc<SliceTable>,
    /// The route that should have held it.
    pub late_for: Option<u64>,
}

impl Picked {
    fn of(set: &VersionSet, endpoint: &Endpoint, side: Side, table: &Arc<SliceTable>) -> Self {
        Self {
            instance: endpoint.instance.clone(),
            address: endpoint.address,
            revision: set.revision,
            side,
            table: Arc::clone(table),
            late_for: None,
        }
    }
}

/// A call that has begun and has no outcome yet.
#[derive(Debug, Clone)]
pub struct Call {
    /// Slice called.
    pub slice: SliceName,
    /// The revision that was picked.
    pub revision: RevisionNo,
    /// The instance that was picked.
    pub instance: InstanceId,
    /// When it began.
    pub began_ms: u64,
    /// Another endpoint did not get it before, which was counted then.
    pub is_retry: bool,
}

/// What a session says of itself.
#[derive(Debug, Clone)]
pub struct SessionReport {
    /// The session.
    pub session: SessionId,
    /// Log index at which the life that speaks was opened.
    pub life: u64,
    /// Its stream and its place on it.
    pub order: (u64, u64),
    /// It has applied the tables up to this log index.
    pub applied: u64,
    /// Departed instances with calls in flight.
    pub busy: BTreeSet<InstanceId>,
    /// Calls that it should have held and did not.
    pub late: BTreeMap<SliceName, LateCalls>,
    /// All its calls by version, since it began.
    pub counted: Counted,
    /// It ends in order.
    pub goodbye: bool,
}

/// A caller and its session.
#[derive(Debug)]
pub struct Invoker {
    /// Its session's id: another process gets another one, unless it is an
    /// ingress, which goes by its node.
    pub session: SessionId,
    /// Its kind.
    pub kind: SessionKind,
    /// How many processes there were before.
    pub process: u64,
    /// Whether it runs.
    pub is_up: bool,
    /// Whether it cannot reach the control plane, nor be reached. It goes on
    /// calling.
    pub is_partitioned: bool,
    /// Its tables come so much later than those of others.
    pub lag_ms: u64,
    /// Log index at which its life was opened, once it was told.
    pub life: u64,
    /// The life in which it was last given tables.
    pub told_life: u64,
    /// Number of the attempt to find a node that counts.
    pub attempt: u64,
    /// The replica that it follows.
    pub attached: Option<ReplicaId>,
    /// Number of its stream; what was sent on an earlier one is void.
    pub stream: u64,
    /// When the last message of its stream arrives: they stay in order.
    pub stream_due_ms: u64,
    /// Reports on this stream.
    pub seq: u64,
    /// Log index up to which it has applied tables.
    pub applied: Option<u64>,
    /// What it says that it has applied.
    acked: u64,
    /// Its tables.
    pub held: BTreeMap<SliceName, Held>,
    /// Tables before the last change: what a planted bug picks by.
    stale: BTreeMap<SliceName, Held>,
    /// Calls in flight.
    pub calls: BTreeMap<CallId, Call>,
    /// Calls that it should have held and did not.
    pub late: BTreeMap<SliceName, LateCalls>,
    /// All calls by version.
    pub counted: Counted,
    phase: u64,
    planted: Option<Planted>,
}

impl Invoker {
    /// One that holds no tables yet. `phase` spreads the fleet.
    pub fn new(name: &str, kind: SessionKind, phase: u64, planted: Option<Planted>) -> Self {
        Self {
            session: name.parse().expect("names of simulated sessions are valid"),
            kind,
            process: 0,
            is_up: true,
            is_partitioned: false,
            lag_ms: 0,
            life: 0,
            told_life: 0,
            attempt: 0,
            attached: None,
            stream: 0,
            stream_due_ms: 0,
            seq: 0,
            applied: None,
            acked: 0,
            held: BTreeMap::new(),
            stale: BTreeMap::new(),
            calls: BTreeMap::new(),
            late: BTreeMap::new(),
            counted: Counted::new(),
            phase,
            planted,
        }
    }

    /// Whether what it holds may be replaced by `tables`. A snapshot of before
    /// is an error of its node; a change of before says nothing new.
    pub fn accepts(&self, tables: &Tables) -> bool {
        let is_older = self.applied.is_some_and(|applied| tables.revision < applied);
        !is_older || self.planted == Some(Planted::InvokerTakesOlderTable)
    }

    /// Applies tables. When this returns no call begins by an earlier one.
    pub fn apply(&mut self, tables: &Tables, now_ms: u64) {
        if self.planted == Some(Planted::InvokerPicksByOldTable) {
            self.stale = self.held.clone();
        }
        if tables.is_snapshot {
            let named: BTreeSet<&SliceName> = tables.tables.iter().map(|t| &t.slice).collect();
            self.held.retain(|slice, _| named.contains(slice));
        }
        tables.removed.iter().for_each(|slice| drop(self.held.remove(slice)));
        for table in &tables.tables {
            if self.held.get(&table.slice).is_none_or(|held| *held.table != *table) {
                self.replace(table, now_ms);
            }
        }
        self.applied = Some(tables.revision);
        self.told_life = self.life;
        self.acked = self.acked.max(tables.revision);
    }

    /// Says that tables are applied which are not: a planted bug.
    pub fn ack_early(&mut self, revision: u64) {
        self.acked = self.acked.max(revision);
    }

    fn replace(&mut self, table: &SliceTable, now_ms: u64) {
        let weights = table.effective_weights();
        let known = self.held.get(&table.slice);
        let ticket = known.map_or(0, |held| held.ticket);
        let retries = known.map_or(0, |held| held.retries);
        let restarts = self.planted == Some(Planted::InvokerRestartsSplit);
        let schedule = match (known.and_then(|held| held.schedule), weights) {
            (_, None) => known.and_then(|held| held.schedule),
            (Some(schedule), Some(weights)) if !restarts => Some(schedule.carried(ticket, weights)),
            (_, Some(weights)) => {
                let start = Schedule::starting(weights, Fraction::from_seed(self.phase));
                Some(start)
            }
        };
        let ticket = if restarts { 0 } else { ticket };
        let hold = (table.hold_ms > 0).then_some(table.route_revision).map(|route| {
            let standing = known.and_then(|held| held.hold).filter(|(of, _)| *of == route);
            // Until it holds calls again, it says what it let go the last time.
            if standing.is_none() {
                self.late.remove(&table.slice);
            }
            standing.unwrap_or((route, now_ms + table.hold_ms))
        });
        let table = Arc::new(table.clone());
        self.held.insert(table.slice.clone(), Held { table, schedule, ticket, retries, hold });
    }

    /// What comes of the wish to call. One that finds the queue full is not held.
    pub fn wish(&mut self, slice: &SliceName, now_ms: u64, is_queue_full: bool) -> Wish {
        let hold = self.held.get(slice).and_then(|held| held.hold);
        let hold = hold.filter(|_| self.planted != Some(Planted::InvokerHoldsNothing));
        if let Some((_, until_ms)) = hold.filter(|(_, until_ms)| now_ms < *until_ms)
            && !is_queue_full
        {
            return Wish::Held { until_ms };
        }
        let Some(mut picked) = self.pick(slice) else { return Wish::Nowhere };
        if let Some((route_revision, _)) = hold {
            picked.late_for = Some(route_revision);
            let none = LateCalls { route_revision, calls: 0 };
            self.late.entry(slice.clone()).or_insert(none).calls += 1;
        }
        Wish::Begins(picked)
    }

    /// Where the next call goes; `None` where the table has no endpoint.
    fn pick(&mut self, slice: &SliceName) -> Option<Picked> {
        let tables = match self.planted == Some(Planted::InvokerPicksByOldTable) {
            true if self.stale.contains_key(slice) => &mut self.stale,
            _ => &mut self.held,
        };
        let held = tables.get_mut(slice)?;
        held.table.effective_weights()?;
        let slot = held.schedule?.slot(held.ticket);
        held.ticket += 1;
        let set: Option<&VersionSet> = match slot.side {
            Side::New => held.table.new.as_ref(),
            Side::Old => held.table.old.as_ref(),
        };
        let set = set.filter(|set| !set.endpoints.is_empty())?;
        let endpoint = &set.endpoints[(slot.rank % set.endpoints.len() as u64) as usize];
        Some(Picked::of(set, endpoint, slot.side, &held.table))
    }

    /// Where a call goes that provably reached none of `tried`: to another endpoint
    /// of its side, and where that has none left, to one of the other side. A side
    /// without a weight gets none.
    pub fn pick_other(
        &mut self,
        slice: &SliceName,
        side: Side,
        tried: &[InstanceId],
    ) -> Option<Picked> {
        let held = self.held.get_mut(slice)?;
        let weights = held.table.effective_weights()?;
        held.retries += 1;
        let sides = match self.planted {
            Some(Planted::RetryStaysInVersion) => vec![side],
            Some(Planted::RetryCrossesAtOnce) => vec![side.other(), side],
            _ => vec![side, side.other()],
        };
        for side in sides {
            let (weight, set) = match side {
                Side::New => (weights.new_side(), &held.table.new),
                Side::Old => (weights.old_side(), &held.table.old),
            };
            let takes_calls = weight > 0 || self.planted == Some(Planted::RetryIgnoresWeights);
            let Some(set) = set.as_ref().filter(|set| takes_calls && !set.endpoints.is_empty())
            else {
                continue;
            };
            let at = (held.retries % set.endpoints.len() as u64) as usize;
            let (before, after) = set.endpoints.split_at(at);
            let mut all = after.iter().chain(before);
            if let Some(endpoint) = all.find(|endpoint| !tried.contains(&endpoint.instance)) {
                return Some(Picked::of(set, endpoint, side, &held.table));
            }
        }
        None
    }

    /// Whether a table of it has the instance.
    pub fn names(&self, instance: &InstanceId) -> bool {
        let sides = self.held.values().flat_map(|held| [&held.table.new, &held.table.old]);
        sides.flatten().any(|set| set.endpoints.iter().any(|e| e.instance == *instance))
    }

    /// Whether it has a call in flight on the instance.
    pub fn is_busy_on(&self, instance: &InstanceId) -> bool {
        self.calls.values().any(|call| call.instance == *instance)
    }

    /// Departed instances with calls in flight.
    pub fn busy(&self) -> BTreeSet<InstanceId> {
        if self.planted == Some(Planted::InvokerHidesBusy) {
            return BTreeSet::new();
        }
        let called = self.calls.values().map(|call| &call.instance);
        called.filter(|instance| !self.names(instance)).cloned().collect()
    }

    /// Counts an answered call.
    pub fn count(&mut self, call: &Call, is_error: bool, latency_ms: u64) {
        let served = self.counted.entry((call.slice.clone(), call.revision)).or_default();
        Arc::make_mut(served).count(&call.instance, is_error, latency_ms);
    }

    /// Its next report; none before it holds tables.
    pub fn report(&mut self, goodbye: bool) -> Option<SessionReport> {
        self.applied?;
        self.seq += 1;
        Some(SessionReport {
            session: self.session.clone(),
            life: self.life,
            order: (self.stream, self.seq),
            applied: self.acked,
            busy: self.busy(),
            late: self.late.clone(),
            counted: self.counted.clone(),
            goodbye,
        })
    }

    /// Another process takes its place: it holds no tables and has called
    /// nobody. Gives the calls that died with the old one.
    pub fn restart(&mut self) -> BTreeMap<CallId, Call> {
        self.process += 1;
        if self.kind == SessionKind::Invoker {
            let name = self.session.as_str().split('-').next().unwrap_or_default().to_owned();
            let id = format!("{name}-{}", self.process);
            self.session = id.parse().expect("names of simulated sessions are valid");
        }
        self.attached = None;
        self.stream += 1;
        (self.life, self.told_life) = (0, 0);
        self.applied = None;
        self.acked = 0;
        self.held.clear();
        self.stale.clear();
        self.counted.clear();
        self.late.clear();
        std::mem::take(&mut self.calls)
    }
}
