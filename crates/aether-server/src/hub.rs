//! The sessions and agents connected to this node, as they last reported.
//!
//! What is kept is state, not messages: it may be sent to a leader again and
//! again, to a new one too, and nothing is lost or counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_proto::{peer, v1};
use dashmap::DashMap;
use tokio::sync::Notify;

/// Slice, revision and instance of a telemetry counter.
type Counter = (String, u32, String);

struct SessionEntry {
    connection: u64,
    hello: v1::SessionHello,
    heard: Instant,
    goodbye: bool,
    dirty: bool,
    incarnation: u64,
    applied: u64,
    busy: Vec<v1::BusyInstance>,
    telemetry: BTreeMap<Counter, v1::EndpointTelemetry>,
    telemetry_dirty: BTreeSet<Counter>,
}

struct AgentEntry {
    connection: u64,
    hello: v1::AgentHello,
    heard: Instant,
    dirty: bool,
    /// `None` until it has said anything of its instances.
    report: Option<v1::AgentReport>,
}

/// The sessions and agents connected to this node.
#[derive(Default)]
pub struct Hub {
    sessions: DashMap<String, SessionEntry>,
    agents: DashMap<String, AgentEntry>,
    connections: AtomicU64,
    /// Since when reports do not reach a leader; `None` while they do.
    undelivered_since: Mutex<Option<Instant>>,
    /// Woken when something is there to be sent to the leader.
    pub changed: Notify,
}

/// Most telemetry counters kept per session: a session that names more loses
/// the surplus, the control plane does not grow.
const COUNTERS_MAX: usize = 20_000;

impl Hub {
    /// A report reached the leader.
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

    /// A session said hello on a new stream; earlier streams of it are void.
    /// Returns the number of the connection.
    pub fn session_hello(&self, hello: v1::SessionHello) -> u64 {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = SessionEntry {
            connection,
            heard: Instant::now(),
            goodbye: false,
            dirty: true,
            incarnation: hello.incarnation,
            // Its acks count from its first report on this stream.
            applied: 0,
            busy: Vec::new(),
            telemetry: BTreeMap::new(),
            telemetry_dirty: BTreeSet::new(),
            hello,
        };
        self.sessions.insert(entry.hello.session_id.clone(), entry);
        self.changed.notify_one();
        connection
    }

    /// A session reported. `false` if its stream is void.
    pub fn session_report(&self, id: &str, connection: u64, report: v1::SessionReport) -> bool {
        let Some(mut entry) = self.sessions.get_mut(id).filter(|e| e.connection == connection)
        else {
            return false;
        };
        entry.heard = Instant::now();
        entry.dirty = true;
        entry.incarnation = report.incarnation;
        entry.applied = report.applied;
        entry.busy = report.busy;
        for telemetry in report.telemetry {
            let key = (telemetry.slice.clone(), telemetry.revision, telemetry.instance_id.clone());
            if entry.telemetry.len() < COUNTERS_MAX || entry.telemetry.contains_key(&key) {
                entry.telemetry_dirty.insert(key.clone());
                entry.telemetry.insert(key, telemetry);
            }
        }
        drop(entry);
        self.changed.notify_one();
        true
    }

    /// A session ended in order.
    pub fn session_goodbye(&self, id: &str, connection: u64) {
        if let Some(mut entry) = self.sessions.get_mut(id).filter(|e| e.connection == connection) {
            entry.goodbye = true;
            entry.dirty = true;
        }
        self.changed.notify_one();
    }

    /// A session's stream ended without a goodbye: what the leader heard last
    /// stands until the lease is over.
    pub fn session_lost(&self, id: &str, connection: u64) {
        self.sessions.remove_if(id, |_, e| e.connection == connection && !e.goodbye);
    }

    /// An agent said hello on a new stream.
    pub fn agent_hello(&self, hello: v1::AgentHello) -> u64 {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let entry =
            AgentEntry { connection, heard: Instant::now(), dirty: false, report: None, hello };
        self.agents.insert(entry.hello.node.clone(), entry);
        connection
    }

    /// An agent reported. `false` if its stream is void.
    pub fn agent_report(&self, node: &str, connection: u64, report: v1::AgentReport) -> bool {
        let Some(mut entry) = self.agents.get_mut(node).filter(|e| e.connection == connection)
        else {
            return false;
        };
        entry.heard = Instant::now();
        entry.dirty = true;
        entry.report = Some(report);
        drop(entry);
        self.changed.notify_one();
        true
    }

    /// An agent's stream ended.
    pub fn agent_lost(&self, node: &str, connection: u64) {
        self.agents.remove_if(node, |_, e| e.connection == connection);
    }

    /// Everything has to be sent again: the leader is another one, or the last
    /// message to it may have been lost.
    pub fn mark_all(&self) {
        for mut entry in self.sessions.iter_mut() {
            entry.dirty = true;
            entry.telemetry_dirty = entry.telemetry.keys().cloned().collect();
        }
        for mut entry in self.agents.iter_mut() {
            entry.dirty = entry.report.is_some();
        }
        self.changed.notify_one();
    }

    /// What changed since the last call, as the report of `node`.
    pub fn take_changes(&self, node: &str) -> Option<peer::ReportRequest> {
        let silent_ms = |heard: Instant| heard.elapsed().as_millis() as u64;
        let mut request = peer::ReportRequest { node: node.to_owned(), ..Default::default() };
        for mut entry in self.sessions.iter_mut().filter(|e| e.dirty) {
            entry.dirty = false;
            let dirty = std::mem::take(&mut entry.telemetry_dirty);
            let telemetry = dirty.iter().filter_map(|key| entry.telemetry.get(key).cloned());
            let report = v1::SessionReport {
                incarnation: entry.incarnation,
                applied: entry.applied,
                busy: entry.busy.clone(),
                telemetry: telemetry.collect(),
            };
            request.sessions.push(peer::SessionState {
                hello: Some(entry.hello.clone()),
                silent_ms: silent_ms(entry.heard),
                report: Some(report),
                goodbye: entry.goodbye,
            });
        }
        for mut entry in self.agents.iter_mut().filter(|e| e.dirty) {
            entry.dirty = false;
            request.agents.push(peer::AgentState {
                hello: Some(entry.hello.clone()),
                silent_ms: silent_ms(entry.heard),
                report: entry.report.clone(),
            });
        }
        (!request.sessions.is_empty() || !request.agents.is_empty()).then_some(request)
    }

    /// Forgets sessions whose goodbye the leader has committed.
    pub fn forget_ended(&self, is_open: impl Fn(&str) -> bool) {
        self.sessions.retain(|id, entry| !entry.goodbye || is_open(id));
    }
}
