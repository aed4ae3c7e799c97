//! The sessions and agents connected to this node, as they last reported.
//!
//! What is kept is state, not messages: it may be sent to a leader again and
//! again, to a new one too, and nothing is lost or counted twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_proto::{peer, v1};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use prost::Message;
use tokio::sync::Notify;

use crate::order::Heard;

/// Slice, revision and instance of a telemetry counter.
type Counter = (String, u32, String);

/// Most telemetry counters kept per session. Beyond it those that changed
/// longest ago are forgotten: they come back when they change.
const COUNTERS_MAX: usize = 20_000;
/// Counters left when some are forgotten, so that this is rare.
const COUNTERS_KEPT: usize = COUNTERS_MAX / 4 * 3;

/// Room for the tags and lengths around a nested message, at its deepest.
const FRAME_BYTES: usize = 16;

/// A client's stream, and what was heard on it last.
struct Stream {
    connection: u64,
    heard: Heard,
    /// Something is there to be sent to the leader.
    dirty: bool,
}

struct CounterRow {
    /// Number of the report that changed it last.
    changed: u64,
    latest: v1::EndpointTelemetry,
}

struct SessionEntry {
    stream: Stream,
    hello: v1::SessionHello,
    goodbye: bool,
    incarnation: u64,
    applied: u64,
    busy: Vec<v1::BusyInstance>,
    late: Vec<v1::LateCalls>,
    telemetry: BTreeMap<Counter, CounterRow>,
    telemetry_dirty: BTreeSet<Counter>,
}

struct AgentEntry {
    stream: Stream,
    hello: v1::AgentHello,
    /// `None` until it has said anything of its instances.
    report: Option<v1::AgentReport>,
}

/// The sessions and agents connected to this node.
pub struct Hub {
    sessions: DashMap<String, SessionEntry>,
    agents: DashMap<String, AgentEntry>,
    session_lease: Duration,
    agent_lease: Duration,
    connections: AtomicU64,
    /// Since when reports do not reach a leader; `None` while they do.
    undelivered_since: Mutex<Option<Instant>>,
    /// Woken when something is there to be sent to the leader.
    pub changed: Notify,
}

/// Clients of which something is to be sent, each named once: one that never
/// stops talking does not keep the others waiting.
pub struct Batch {
    sessions: VecDeque<String>,
    agents: VecDeque<String>,
}

impl Hub {
    /// Nobody is connected.
    pub fn new(session_lease: Duration, agent_lease: Duration) -> Self {
        Self {
            sessions: DashMap::new(),
            agents: DashMap::new(),
            session_lease,
            agent_lease,
            connections: AtomicU64::new(0),
            undelivered_since: Mutex::new(None),
            changed: Notify::new(),
        }
    }

    /// All there is has reached the leader, or a part of it just now.
    pub fn delivered(&self) {
        *self.undelivered_since() = None;
    }

    /// A report did not reach a leader.
    pub fn undelivered(&self) {
        self.undelivered_since().get_or_insert_with(Instant::now);
    }

    /// Whether no report has reached a leader for this long: then clients are
    /// better served by another node, which may not be cut off.
    pub fn is_cut_off(&self, for_longer_than: Duration) -> bool {
        self.undelivered_since().is_some_and(|since| since.elapsed() > for_longer_than)
    }

    fn undelivered_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.undelivered_since.lock().expect("nothing panics while it holds this lock")
    }

    fn stream(&self, life: u64, attach: u64) -> Stream {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        Stream { connection, heard: Heard::now(life, attach), dirty: false }
    }

    /// A session said hello on a new stream, in the life that was opened at
    /// this log index; earlier streams of it are void. Returns the number of
    /// the connection; `None` if it is this stream that is void, because a
    /// later one is open here.
    pub fn session_hello(&self, life: u64, hello: v1::SessionHello) -> Option<u64> {
        let stream = Stream { dirty: true, ..self.stream(life, hello.attach) };
        let connection = stream.connection;
        let id = hello.session_id.clone();
        let entry = SessionEntry {
            stream,
            goodbye: false,
            incarnation: hello.incarnation,
            // Its acks count from its first report on this stream.
            applied: 0,
            busy: Vec::new(),
            late: Vec::new(),
            telemetry: BTreeMap::new(),
            telemetry_dirty: BTreeSet::new(),
            hello,
        };
        let lease = self.session_lease;
        let yields = |e: &SessionEntry| e.stream.heard.yields_to(life, entry.hello.attach, lease);
        match self.sessions.entry(id) {
            Entry::Occupied(known) if !yields(known.get()) => return None,
            place => drop(place.insert(entry)),
        }
        self.changed.notify_one();
        Some(connection)
    }

    /// A session reported. `false` if its stream is void.
    pub fn session_report(&self, id: &str, connection: u64, report: v1::SessionReport) -> bool {
        let Some(mut entry) =
            self.sessions.get_mut(id).filter(|e| e.stream.connection == connection)
        else {
            return false;
        };
        entry.take_in(report);
        drop(entry);
        self.changed.notify_one();
        true
    }

    /// A session ended in order.
    pub fn session_goodbye(&self, id: &str, connection: u64) {
        let entry = self.sessions.get_mut(id).filter(|e| e.stream.connection == connection);
        if let Some(mut entry) = entry {
            entry.goodbye = true;
            entry.stream.hear();
        }
        self.changed.notify_one();
    }

    /// A session's stream ended without a goodbye: what the leader heard last
    /// stands until the lease is over.
    pub fn session_lost(&self, id: &str, connection: u64) {
        self.sessions.remove_if(id, |_, e| e.stream.connection == connection && !e.goodbye);
    }

    /// An agent said hello on a new stream. Returns as [`Self::session_hello`].
    pub fn agent_hello(&self, hello: v1::AgentHello) -> Option<u64> {
        let (life, attach) = (hello.life, hello.attach);
        let stream = self.stream(life, attach);
        let connection = stream.connection;
        let node = hello.node.clone();
        let yields = |e: &AgentEntry| e.stream.heard.yields_to(life, attach, self.agent_lease);
        match self.agents.entry(node) {
            Entry::Occupied(known) if !yields(known.get()) => None,
            place => {
                place.insert(AgentEntry { stream, report: None, hello });
                Some(connection)
            }
        }
    }

    /// An agent reported. `false` if its stream is void.
    pub fn agent_report(&self, node: &str, connection: u64, report: v1::AgentReport) -> bool {
        let Some(mut entry) =
            self.agents.get_mut(node).filter(|e| e.stream.connection == connection)
        else {
            return false;
        };
        entry.stream.hear();
        entry.report = Some(report);
        drop(entry);
        self.changed.notify_one();
        true
    }

    /// An agent's stream ended.
    pub fn agent_lost(&self, node: &str, connection: u64) {
        self.agents.remove_if(node, |_, e| e.stream.connection == connection);
    }

    /// Everything has to be sent again: the leader is another one.
    pub fn mark_all(&self) {
        for mut entry in self.sessions.iter_mut() {
            entry.stream.dirty = true;
            entry.telemetry_dirty = entry.telemetry.keys().cloned().collect();
        }
        for mut entry in self.agents.iter_mut() {
            entry.stream.dirty = entry.report.is_some();
        }
        self.changed.notify_one();
    }

    /// Everybody of whom something is to be sent now.
    pub fn batch(&self) -> Batch {
        let sessions = self.sessions.iter().filter(|e| e.stream.dirty);
        let agents = self.agents.iter().filter(|e| e.stream.dirty);
        Batch {
            sessions: sessions.map(|e| e.key().clone()).collect(),
            agents: agents.map(|e| e.key().clone()).collect(),
        }
    }

    /// The next request of a batch, as the report of `node`; `None` after the
    /// last. It is encoded in at most `bytes_max`, unless the indivisible part
    /// of a single client alone takes more.
    pub fn take(
        &self,
        batch: &mut Batch,
        node: &str,
        bytes_max: usize,
    ) -> Option<peer::ReportRequest> {
        let mut request = peer::ReportRequest { node: node.to_owned(), ..Default::default() };
        let mut room = bytes_max.saturating_sub(request.encoded_len());
        while let Some(node) = batch.agents.pop_front() {
            let Some(mut entry) = self.agents.get_mut(&node).filter(|e| e.stream.dirty) else {
                continue;
            };
            let state = entry.state();
            let bytes = state.encoded_len() + FRAME_BYTES;
            if bytes > room && !request.agents.is_empty() {
                batch.agents.push_front(node);
                return Some(request);
            }
            entry.stream.dirty = false;
            room = room.saturating_sub(bytes);
            request.agents.push(state);
        }
        while let Some(id) = batch.sessions.pop_front() {
            let Some(mut entry) = self.sessions.get_mut(&id).filter(|e| e.stream.dirty) else {
                continue;
            };
            let is_alone = request.agents.is_empty() && request.sessions.is_empty();
            let Some((state, bytes)) = entry.take(room, is_alone) else {
                batch.sessions.push_front(id);
                return Some(request);
            };
            room = room.saturating_sub(bytes);
            request.sessions.push(state);
            if entry.stream.dirty {
                // The rest of its telemetry, when the others had their turn.
                batch.sessions.push_back(id);
                return Some(request);
            }
        }
        (!request.sessions.is_empty() || !request.agents.is_empty()).then_some(request)
    }

    /// A request that was taken did not reach the leader: what is in it has to
    /// be sent again.
    pub fn put_back(&self, request: &peer::ReportRequest) {
        for state in &request.sessions {
            let Some(mut entry) =
                state.hello.as_ref().and_then(|h| self.sessions.get_mut(&h.session_id))
            else {
                continue;
            };
            let entry = &mut *entry;
            entry.stream.dirty = true;
            let sent = state.report.iter().flat_map(|report| &report.telemetry).map(counter);
            entry.telemetry_dirty.extend(sent.filter(|key| entry.telemetry.contains_key(key)));
        }
        for state in &request.agents {
            if let Some(mut entry) = state.hello.as_ref().and_then(|h| self.agents.get_mut(&h.node))
            {
                entry.stream.dirty = entry.report.is_some();
            }
        }
        self.changed.notify_one();
    }

    /// Whether nothing is known of any session.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Forgets lives that said goodbye and of which `is_open` does not hold:
    /// the leader has committed their end, or another life has begun.
    pub fn forget_ended(&self, is_open: impl Fn(&str, u64) -> bool) {
        self.sessions
            .retain(|id, entry| !entry.goodbye || is_open(id, entry.stream.heard.order.life));
    }
}

impl Stream {
    fn hear(&mut self) {
        self.heard.again();
        self.dirty = true;
    }

    fn silent_ms(&self) -> u64 {
        self.heard.at.elapsed().as_millis() as u64
    }
}

impl AgentEntry {
    fn state(&self) -> peer::AgentState {
        peer::AgentState {
            hello: Some(self.hello.clone()),
            silent_ms: self.stream.silent_ms(),
            report: self.report.clone(),
            seq: self.stream.heard.order.seq,
        }
    }
}

impl SessionEntry {
    fn take_in(&mut self, report: v1::SessionReport) {
        self.stream.hear();
        self.incarnation = report.incarnation;
        self.applied = report.applied;
        self.busy = report.busy;
        self.late = report.late;
        let changed = self.stream.heard.order.seq;
        for latest in report.telemetry {
            let key = counter(&latest);
            self.telemetry_dirty.insert(key.clone());
            self.telemetry.insert(key, CounterRow { changed, latest });
        }
        self.forget_oldest_counters();
    }

    /// What has been sent goes before what has not.
    fn forget_oldest_counters(&mut self) {
        if self.telemetry.len() <= COUNTERS_MAX {
            return;
        }
        let surplus = self.telemetry.len() - COUNTERS_KEPT;
        let age = |(key, row): (&Counter, &CounterRow)| {
            (self.telemetry_dirty.contains(key), row.changed, key.clone())
        };
        let mut by_age: Vec<_> = self.telemetry.iter().map(age).collect();
        by_age.sort_unstable();
        for (_, _, key) in &by_age[..surplus] {
            self.telemetry.remove(key);
            self.telemetry_dirty.remove(key);
        }
    }

    /// What is to be sent, with as much telemetry as there is room for, and its
    /// size in a request. `None` if there is no room. One that is alone gets as
    /// much as it must, so that there is an end to it.
    fn take(&mut self, room: usize, is_alone: bool) -> Option<(peer::SessionState, usize)> {
        let mut report = v1::SessionReport {
            incarnation: self.incarnation,
            applied: self.applied,
            busy: self.busy.clone(),
            telemetry: Vec::new(),
            late: self.late.clone(),
        };
        let mut state = peer::SessionState {
            hello: Some(self.hello.clone()),
            silent_ms: self.stream.silent_ms(),
            report: None,
            goodbye: self.goodbye,
            life: self.stream.heard.order.life,
            seq: self.stream.heard.order.seq,
            partial: false,
        };
        let mut bytes = state.encoded_len() + report.encoded_len() + 2 * FRAME_BYTES;
        if bytes > room && !is_alone {
            return None;
        }
        while let Some(key) = self.telemetry_dirty.first() {
            let Some(row) = self.telemetry.get(key) else {
                self.telemetry_dirty.pop_first();
                continue;
            };
            let row_bytes = row.latest.encoded_len() + FRAME_BYTES;
            let must = is_alone && report.telemetry.is_empty();
            if bytes + row_bytes > room && !must {
                break;
            }
            bytes += row_bytes;
            report.telemetry.push(row.latest.clone());
            self.telemetry_dirty.pop_first();
        }
        self.stream.dirty = !self.telemetry_dirty.is_empty();
        state.partial = self.stream.dirty;
        state.report = Some(report);
        Some((state, bytes))
    }
}

fn counter(telemetry: &v1::EndpointTelemetry) -> Counter {
    (telemetry.slice.clone(), telemetry.revision, telemetry.instance_id.clone())
}

#[cfg(test)]
mod tests;
