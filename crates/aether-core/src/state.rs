//! The whole replicated state, and its view as rows of a KV store.
//!
//! The tables are persistent maps: a clone costs a few pointers, which makes
//! snapshots and planner views free. Only [`State::apply`] (in `apply/`) changes
//! them, and they note what it does to them.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::audit::AuditPosition;
use crate::coordinates::{Artifact, ArtifactBase, SliceName};
use crate::ids::{ConfigName, ConfigNo, InstanceId, NodeName, RevisionNo, SessionId, UpdateId};
use crate::level::since;
use crate::records::{
    ArtifactRecord, AuditRecord, Colour, ConfigRecord, ConfigRevisionRecord, Desired,
    EvidenceRecord, InputRecord, InstanceRecord, NodeLifecycle, NodeRecord, Observed,
    RequestRecord, RetainedRecord, RevisionRecord, RouteRecord, SessionRecord, SliceRecord,
    TargetRecord, UpdateRecord, UpdateState, VoterChange,
};
use crate::table::{Endpoint, SliceTable, VersionSet};

/// `meta/cluster`: where the state stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Rises when a cluster is restored from a backup.
    pub incarnation: u64,
    /// Which meanings of commands hold; raised when all members support it.
    pub feature_level: u32,
    /// Index of the last applied entry.
    pub index: u64,
    /// Monotonic log time of it, milliseconds.
    pub log_time_ms: u64,
    /// Wall clock at which it was stamped, for display.
    pub wall_ms: u64,
    /// Highest revision number of any slice that is forgotten. A slice without
    /// a record counts on from here, so that no name ever sees a number twice,
    /// and nothing has to be kept of each name.
    #[serde(default)]
    pub revisions_forgotten: RevisionNo,
    /// Log time since which too many nodes are silent at once for any of them
    /// to count as lost: more likely it is the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement_frozen_since_ms: Option<u64>,
    /// Log time at which that was over last: loss timers start anew then, for
    /// those that were silent come back one after the other.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replacement_resumed_ms: u64,
    /// The last audit record that was let go of; all later ones are kept.
    /// Absent before the first one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_forgotten: Option<AuditPosition>,
}

impl Meta {
    /// Key of its row.
    pub const KEY: &str = "meta/cluster";

    /// Its row's value.
    pub fn encoded(&self) -> Vec<u8> {
        encode(self)
    }

    /// How its row came to be what it is from what it was with `before`.
    pub fn change_from(&self, before: &Self) -> RowDiff {
        RowDiff::new(Self::KEY.to_owned(), Some(before), Some(self), &mut Vec::new())
    }

    /// Whether nothing but the position in the log and its times differs.
    pub fn differs_in_position_only(&self, other: &Self) -> bool {
        let Self { index, log_time_ms, wall_ms, .. } = *other;
        *other == Self { index, log_time_ms, wall_ms, ..self.clone() }
    }
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            incarnation: 1,
            feature_level: 1,
            index: 0,
            log_time_ms: 0,
            wall_ms: 0,
            revisions_forgotten: RevisionNo(0),
            replacement_frozen_since_ms: None,
            replacement_resumed_ms: 0,
            audit_forgotten: None,
        }
    }
}

/// How the key of every value of users begins.
pub const CONFIG_PREFIX: &str = "config/";

/// Key of a revision or a target.
pub type RevisionKey = (SliceName, RevisionNo);

/// Key of a configuration.
pub type ConfigKey = (SliceName, ConfigNo);

/// The whole replicated state.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Where it stands.
    pub meta: Meta,
    /// Pushed artifacts.
    pub artifacts: Table<Artifact, ArtifactRecord>,
    /// What is deployed.
    pub slices: Table<SliceName, SliceRecord>,
    /// Revisions in use.
    pub revisions: Table<RevisionKey, RevisionRecord>,
    /// Configurations of slice names.
    pub config_revisions: Table<ConfigKey, ConfigRevisionRecord>,
    /// Routes.
    pub routes: Table<SliceName, RouteRecord>,
    /// Instance targets.
    pub targets: Table<RevisionKey, TargetRecord>,
    /// Old sets kept warm.
    pub retained: Table<SliceName, RetainedRecord>,
    /// Instances.
    pub instances: Table<InstanceId, InstanceRecord>,
    /// Nodes that run instances.
    pub nodes: Table<NodeName, NodeRecord>,
    /// Voters that are to come or to go.
    pub voter_changes: Table<NodeName, VoterChange>,
    /// Holders of routing tables.
    pub sessions: Table<SessionId, SessionRecord>,
    /// Updates, live ones and the latest ended ones.
    pub updates: Table<UpdateId, UpdateRecord>,
    /// What the calls of updates showed.
    pub evidence: Table<UpdateId, EvidenceRecord>,
    /// What the planner saw of the latest updates.
    pub inputs: Table<(UpdateId, u32), InputRecord>,
    /// Values of others, by name.
    pub config: Table<ConfigName, ConfigRecord>,
    /// Who did what, latest entries.
    pub audit: Table<AuditPosition, AuditRecord>,
    /// Answers to the latest requests with an id.
    pub requests: Table<String, RequestRecord>,
    derived: Derived,
}

/// What follows from the tables, kept so that nobody has to look through them.
#[derive(Debug, Clone, Default)]
struct Derived {
    /// Instances by slice.
    by_slice: OrdSet<(SliceName, InstanceId)>,
    /// Instances by node.
    by_node: OrdSet<(NodeName, InstanceId)>,
    /// What `config` counts towards its bound.
    config_bytes: u64,
    /// What `config_revisions` counts towards its bound.
    config_revision_bytes: u64,
    /// Request ids by age.
    request_order: OrdMap<u64, String>,
}

/// What [`State::undo`] goes back to, beside what the tables know themselves.
pub(crate) struct Mark {
    meta: Meta,
    derived: Derived,
}

fn base_path(base: &ArtifactBase) -> String {
    format!("{}/{}", base.group(), base.artifact())
}

/// Key of a value of users.
pub(crate) fn config_key(name: &ConfigName) -> String {
    format!("{CONFIG_PREFIX}{name}")
}

/// The first record of an entry has the key that all had before there could be
/// several.
fn audit_key(record: &AuditRecord) -> String {
    match record.n {
        0 => format!("audit/{:020}", record.index),
        n => format!("audit/{:020}/{n}", record.index),
    }
}

/// Calls `$each!(field, key of a record)` for every replicated table: with
/// [`small_tables`] the one list of them.
macro_rules! tables {
    ($each:ident) => {
        small_tables!($each);
        $each!(config, |r: &ConfigRecord| config_key(&r.name));
    };
}

/// The same for those that can be looked through from end to end.
macro_rules! small_tables {
    ($each:ident) => {
        $each!(artifacts, |r: &ArtifactRecord| format!(
            "artifacts/{}/{}",
            base_path(&r.artifact.base),
            r.artifact.version
        ));
        $each!(slices, |r: &SliceRecord| format!("slice/{}", r.slice));
        $each!(revisions, |r: &RevisionRecord| format!("revision/{}/{}", r.slice, r.no.0));
        $each!(config_revisions, |r: &ConfigRevisionRecord| format!(
            "config-revision/{}/{}",
            r.slice, r.no.0
        ));
        $each!(routes, |r: &RouteRecord| format!("version-routing/{}", r.slice));
        $each!(targets, |r: &TargetRecord| format!("slice-target/{}/{}", r.slice, r.revision.0));
        $each!(retained, |r: &RetainedRecord| format!("retained/{}", r.slice));
        $each!(instances, |r: &InstanceRecord| format!("instances/{}/{}", r.node, r.id));
        $each!(nodes, |r: &NodeRecord| format!("nodes/{}", r.name));
        $each!(voter_changes, |r: &VoterChange| format!("voter-change/{}", r.node));
        $each!(sessions, |r: &SessionRecord| format!("session/{}", r.id));
        $each!(updates, |r: &UpdateRecord| format!("rolling-update/{}", r.id));
        $each!(evidence, |r: &EvidenceRecord| format!("evidence/{}", r.update));
        $each!(inputs, |r: &InputRecord| format!("inputs/{}/{:05}", r.update, r.n));
        $each!(audit, |r: &AuditRecord| audit_key(r));
        $each!(requests, |r: &RequestRecord| format!("request/{}", r.id));
    };
}

/// What a row holds, which knows its key.
trait Record {
    fn key(&self) -> String;
}

impl Record for Meta {
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

macro_rules! record {
    ($field:ident, |$record:ident: &$type:ty| $key:expr) => {
        impl Record for $type {
            fn key(&self) -> String {
                let $record = self;
                $key
            }
        }
    };
}
tables!(record);

fn decode<T: DeserializeOwned + Record>(key: &str, value: &[u8]) -> Result<Arc<T>, RowError> {
    let bad = |problem: String| RowError { key: key.chars().take(80).collect(), problem };
    let record: T = serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
    // A row in another's place would replace it, or be found nowhere.
    match record.key() {
        own if own == key => Ok(Arc::new(record)),
        own => Err(bad(format!("its record belongs at '{own}'"))),
    }
}

mod configs;
#[cfg(test)]
mod frozen;
mod leaving;
mod pages;
mod rows;
mod stream;
mod table;

use rows::encode;

pub use pages::Page;
pub use rows::{RowDiff, RowError, row_hash, rows_hash};
pub use stream::{RowStream, value_hash};
pub use table::Table;

impl State {
    /// Every row, ordered by key.
    pub fn rows(&self) -> Vec<(String, Vec<u8>)> {
        let mut rows = vec![(Meta::KEY.to_owned(), encode(&self.meta))];
        macro_rules! each {
            ($field:ident, $key:expr) => {
                rows.extend(self.$field.values().map(|r| (($key)(r), encode(&**r))));
            };
        }
        tables!(each);
        rows.sort_unstable();
        rows
    }

    /// The rows that changed since this was last asked, other than
    /// `meta/cluster`, which every entry changes; all of them after the last
    /// entry, as each entry forgets what was not asked for.
    pub fn take_changes(&mut self) -> Vec<RowDiff> {
        let mut rows = Vec::new();
        // Longer than most rows, and made once for all.
        let mut buffer = Vec::with_capacity(1_024);
        macro_rules! each {
            ($field:ident, $key:expr) => {
                rows.extend(self.$field.take_changes().filter_map(|(before, after)| {
                    let key = ($key)(after.as_deref().or(before.as_deref())?);
                    Some(RowDiff::new(key, before.as_deref(), after.as_deref(), &mut buffer))
                }));
            };
        }
        tables!(each);
        rows
    }

    /// Forgets what changed: it stays.
    pub(crate) fn settle(&mut self) {
        macro_rules! each {
            ($field:ident, $key:expr) => {
                self.$field.settle();
            };
        }
        tables!(each);
    }

    /// A way back to the state as it is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { meta: self.meta.clone(), derived: self.derived.clone() }
    }

    /// Takes back everything since `mark`, after which nothing was settled.
    pub(crate) fn undo(&mut self, mark: Mark) {
        macro_rules! each {
            ($field:ident, $key:expr) => {
                self.$field.undo();
            };
        }
        tables!(each);
        (self.meta, self.derived) = (mark.meta, mark.derived);
    }

    /// The rows in which two states differ, other than `meta/cluster`, which
    /// every entry changes. Costs what changed, not what is there, when `after`
    /// came from `before`.
    pub fn diff(before: &Self, after: &Self) -> Vec<RowDiff> {
        let mut rows = Vec::new();
        let mut buffer = Vec::new();
        macro_rules! each {
            ($field:ident, $key:expr) => {
                // Most entries change one table or two.
                if !before.$field.ptr_eq(&after.$field) {
                    rows.extend(before.$field.diff(&after.$field).map(|item| {
                        let (before, after) = match item {
                            DiffItem::Add(_, new) => (None, Some(&**new)),
                            DiffItem::Remove(_, old) => (Some(&**old), None),
                            DiffItem::Update { old, new } => (Some(&**old.1), Some(&**new.1)),
                        };
                        let key = after.or(before).map($key).expect("one of them is there");
                        RowDiff::new(key, before, after, &mut buffer)
                    }));
                }
            };
        }
        tables!(each);
        rows
    }

    /// Rebuilds a state from its rows.
    ///
    /// # Errors
    /// A row of an unknown table, one that cannot be decoded, or one whose key
    /// is not that of its record.
    pub fn from_rows(rows: impl Iterator<Item = (String, Vec<u8>)>) -> Result<Self, RowError> {
        let mut state = Self::default();
        for (key, value) in rows {
            state.insert_row(&key, &value)?;
            state.settle();
        }
        Ok(state)
    }

    fn insert_row(&mut self, key: &str, value: &[u8]) -> Result<(), RowError> {
        match key.split('/').next().unwrap_or_default() {
            "meta" => self.meta = (*decode::<Meta>(key, value)?).clone(),
            "artifacts" => {
                let r = decode::<ArtifactRecord>(key, value)?;
                self.artifacts.insert(r.artifact.clone(), r);
            }
            "slice" => {
                let r = decode::<SliceRecord>(key, value)?;
                self.slices.insert(r.slice.clone(), r);
            }
            "revision" => {
                let r = decode::<RevisionRecord>(key, value)?;
                self.revisions.insert((r.slice.clone(), r.no), r);
            }
            "config-revision" => {
                self.put_config_revision(decode::<ConfigRevisionRecord>(key, value)?);
            }
            "version-routing" => {
                let r = decode::<RouteRecord>(key, value)?;
                self.routes.insert(r.slice.clone(), r);
            }
            "slice-target" => {
                let r = decode::<TargetRecord>(key, value)?;
                self.targets.insert((r.slice.clone(), r.revision), r);
            }
            "retained" => {
                let r = decode::<RetainedRecord>(key, value)?;
                self.retained.insert(r.slice.clone(), r);
            }
            "instances" => self.put_instance((*decode::<InstanceRecord>(key, value)?).clone()),
            "nodes" => {
                let r = decode::<NodeRecord>(key, value)?;
                self.nodes.insert(r.name.clone(), r);
            }
            "voter-change" => {
                let r = decode::<VoterChange>(key, value)?;
                self.voter_changes.insert(r.node.clone(), r);
            }
            "session" => {
                let r = decode::<SessionRecord>(key, value)?;
                self.sessions.insert(r.id.clone(), r);
            }
            "evidence" => {
                let r = decode::<EvidenceRecord>(key, value)?;
                self.evidence.insert(r.update.clone(), r);
            }
            "inputs" => {
                let r = decode::<InputRecord>(key, value)?;
                self.inputs.insert((r.update.clone(), r.n), r);
            }
            "rolling-update" => {
                let r = decode::<UpdateRecord>(key, value)?;
                self.updates.insert(r.id.clone(), r);
            }
            "config" => self.put_config(decode::<ConfigRecord>(key, value)?),
            "audit" => {
                let r = decode::<AuditRecord>(key, value)?;
                self.audit.insert(r.position(), r);
            }
            "request" => {
                let r = decode::<RequestRecord>(key, value)?;
                self.put_request((*r).clone());
            }
            table => {
                return Err(RowError {
                    key: key.to_owned(),
                    problem: format!("table '{table}' is unknown to this version"),
                });
            }
        }
        Ok(())
    }

    /// What the planner saw of an update, the earliest first.
    pub fn inputs_of(&self, update: &UpdateId) -> impl DoubleEndedIterator<Item = &InputRecord> {
        let all = self.inputs.range((update.clone(), 0)..=(update.clone(), u32::MAX));
        all.map(|(_, input)| &**input)
    }

    /// Instances of a slice, ordered by id.
    pub fn instances_of<'a>(
        &'a self,
        slice: &'a SliceName,
    ) -> impl Iterator<Item = &'a Arc<InstanceRecord>> + 'a {
        let first: (SliceName, InstanceId) = (slice.clone(), InstanceId::lowest());
        self.derived
            .by_slice
            .range(first..)
            .take_while(move |(name, _)| name == slice)
            .filter_map(|(_, id)| self.instances.get(id))
    }

    /// Instances on a node, ordered by id.
    pub fn instances_on<'a>(
        &'a self,
        node: &'a NodeName,
    ) -> impl Iterator<Item = &'a Arc<InstanceRecord>> + 'a {
        let first: (NodeName, InstanceId) = (node.clone(), InstanceId::lowest());
        self.derived
            .by_node
            .range(first..)
            .take_while(move |(name, _)| name == node)
            .filter_map(|(_, id)| self.instances.get(id))
    }

    /// How many instances of a revision take calls now, and have read its files.
    pub fn ready_count(&self, slice: &SliceName, revision: RevisionNo) -> u32 {
        let ready = self.instances_of(slice).filter(|i| i.revision == revision && i.is_updated());
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    /// Whether so many new instances of an update in place are ready, but for those that
    /// may fail while others serve. The last batch takes the calls of all old instances:
    /// what is left then has to be the floor.
    pub fn is_batch_whole(&self, update: &UpdateRecord, goal: u32) -> bool {
        let (slice, revision) = (&update.slice, update.new.revision);
        let ready = self.ready_count(slice, revision);
        let may_fail = if update.step() > 0 { update.strategy.max_failures() } else { 0 };
        let failed = || self.failed_count(slice, revision).min(may_fail);
        let has_floor = self.meta.feature_level >= since::FLOOR_OF_LAST_BATCH;
        let floor = || match update.way().and_then(|way| way.in_place) {
            _ if !has_floor => 0,
            Some(bounds) if goal >= update.base_instances => bounds.floor.max(1),
            _ => 1,
        };
        ready >= goal || (may_fail > 0 && ready + failed() >= goal && ready >= floor())
    }

    /// The colour of a revision's instances.
    pub fn colour(&self, slice: &SliceName, revision: RevisionNo) -> Option<Colour> {
        self.revisions.get(&(slice.clone(), revision)).map(|record| record.colour)
    }

    /// How many instances of a revision do not stay up.
    pub fn failed_count(&self, slice: &SliceName, revision: RevisionNo) -> u32 {
        let of_revision = self.instances_of(slice).filter(|i| i.revision == revision);
        let has_failed = |i: &&Arc<InstanceRecord>| {
            i.desired == Desired::Run && !i.is_updated() && i.failure().is_some()
        };
        let failed = of_revision.filter(has_failed);
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    /// Whether an instance of this revision still has to be waited for before
    /// its update ends. One that was told to stop on a node that is lost has not
    /// (with `forced`, on any that is silent): its record stays, and the node
    /// stops it on return.
    pub fn has_instances_left(
        &self,
        slice: &SliceName,
        revision: RevisionNo,
        forced: bool,
    ) -> bool {
        let is_given_up = |i: &InstanceRecord| match self.nodes.get(&i.node).map(|n| n.lifecycle) {
            Some(NodeLifecycle::Ready) => false,
            Some(NodeLifecycle::Unreachable) => forced,
            Some(NodeLifecycle::Lost) | None => true,
        };
        self.instances_of(slice)
            .filter(|i| i.revision == revision)
            .any(|i| !(i.desired == Desired::Stop && is_given_up(i)))
    }

    /// Whether the new side can carry everything: the instances that were asked
    /// for, or as many as there were before if that is fewer. A smaller new
    /// side got to 1:0 by --force, which need not be said twice.
    pub fn is_new_side_whole(&self, update: &UpdateRecord) -> bool {
        let ready = self.ready_count(&update.slice, update.new.revision);
        ready >= update.base_instances.min(update.instances)
    }

    /// Whether all of the old side of an update is wanted and ready; so it is where
    /// there is none.
    pub fn is_old_side_whole(&self, update: &UpdateRecord) -> bool {
        update.old.as_ref().is_none_or(|old| {
            let target = self.targets.get(&(update.slice.clone(), old.revision));
            let ready = self.ready_count(&update.slice, old.revision);
            target.map_or(0, |target| target.instances).min(ready) >= update.base_instances
        })
    }

    /// Whether the old side of an update is still wanted, or has an instance
    /// that was not told to stop: a rollback would get it back at once.
    pub fn has_way_back(&self, update: &UpdateRecord) -> bool {
        update.old.as_ref().is_some_and(|old| {
            let target = self.targets.get(&(update.slice.clone(), old.revision));
            target.is_some_and(|target| target.instances > 0)
                || self.instances_of(&update.slice).any(|i| {
                    i.revision == old.revision && (i.desired == Desired::Run || i.is_revivable())
                })
        })
    }

    /// Whether an instance is kept from being stopped though it drains: it is
    /// of the old side of an update in COMPLETING whose new side is not whole.
    pub fn is_kept_for_rollback(&self, instance: &InstanceRecord) -> bool {
        let Some(update) = self.live_update(&instance.slice) else { return false };
        let old = update.old.as_ref().map(|side| side.revision);
        update.state == UpdateState::Completing
            && !update.forced
            && old == Some(instance.revision)
            && !matches!(instance.observed, Observed::Stopped | Observed::Unknown)
            && !self.is_new_side_whole(update)
    }

    /// The live update of a slice.
    pub fn live_update(&self, slice: &SliceName) -> Option<&Arc<UpdateRecord>> {
        self.slices.get(slice)?.live_update.as_ref().and_then(|id| self.updates.get(id))
    }

    /// The routing table of a slice, as invokers get it. `None` without a route.
    pub fn slice_table(&self, slice: &SliceName) -> Option<SliceTable> {
        let route = self.routes.get(slice)?;
        let set = |side: &crate::records::Side| VersionSet {
            revision: side.revision,
            version: side.version.clone(),
            endpoints: self
                .instances_of(slice)
                .filter(|i| i.called_as() == side.revision && i.is_routable())
                .filter_map(|i| Some(Endpoint { instance: i.id.clone(), address: i.endpoint? }))
                .collect(),
        };
        Some(SliceTable {
            slice: slice.clone(),
            table_revision: route.table_revision,
            route_revision: route.route_revision,
            weights: route.weights,
            new: route.new.as_ref().map(set),
            old: route.old.as_ref().map(set),
            ingress: route.ingress.clone(),
            hold_ms: route.hold.as_ref().map_or(0, |_| crate::records::CALL_HOLD_MS),
        })
    }

    /// Inserts or replaces an instance, and keeps the derived indices true.
    pub(crate) fn put_instance(&mut self, record: InstanceRecord) {
        let keys = index_keys(&record);
        let replaced = self.instances.insert(record.id.clone(), Arc::new(record));
        if let Some(replaced) = replaced {
            let before = index_keys(&replaced);
            if before == keys {
                return;
            }
            self.derived.by_slice.remove(&before.0);
            self.derived.by_node.remove(&before.1);
        }
        self.derived.by_slice.insert(keys.0);
        self.derived.by_node.insert(keys.1);
    }

    /// Removes an instance, and keeps the derived indices true.
    pub(crate) fn remove_instance(&mut self, id: &InstanceId) {
        if let Some(record) = self.instances.remove(id) {
            let (by_slice, by_node) = index_keys(&record);
            self.derived.by_slice.remove(&by_slice);
            self.derived.by_node.remove(&by_node);
        }
    }

    /// Bytes of all names and values under `config/`.
    pub fn config_bytes(&self) -> u64 {
        self.derived.config_bytes
    }

    /// Inserts or replaces a value, and keeps their sum true.
    pub(crate) fn put_config(&mut self, record: impl Into<Arc<ConfigRecord>>) {
        let record = record.into();
        self.derived.config_bytes += record.bytes();
        if let Some(replaced) = self.config.insert(record.name.clone(), record) {
            self.derived.config_bytes -= replaced.bytes();
        }
    }

    /// Removes a value, and keeps their sum true.
    pub(crate) fn remove_config(&mut self, name: &ConfigName) {
        if let Some(removed) = self.config.remove(name) {
            self.derived.config_bytes -= removed.bytes();
        }
    }

    /// Removes every target and revision of a slice.
    pub(crate) fn remove_revisions(&mut self, slice: &SliceName) {
        let all = (slice.clone(), RevisionNo(0))..=(slice.clone(), RevisionNo(u32::MAX));
        let targets: Vec<RevisionKey> =
            self.targets.range(all.clone()).map(|(key, _)| key.clone()).collect();
        targets.iter().for_each(|key| drop(self.targets.remove(key)));
        let revisions: Vec<RevisionKey> =
            self.revisions.range(all).map(|(key, _)| key.clone()).collect();
        revisions.iter().for_each(|key| drop(self.revisions.remove(key)));
    }

    /// Remembers an answer; forgets the oldest beyond `REQUESTS_MAX`.
    pub(crate) fn put_request(&mut self, record: RequestRecord) {
        self.derived.request_order.insert(record.index, record.id.clone());
        self.requests.insert(record.id.clone(), Arc::new(record));
        while self.requests.len() > REQUESTS_MAX {
            let Some((index, oldest)) = self.derived.request_order.get_min().cloned() else {
                break;
            };
            self.derived.request_order.remove(&index);
            self.requests.remove(&oldest);
        }
    }
}

/// What the derived indices know an instance by.
fn index_keys(record: &InstanceRecord) -> ((SliceName, InstanceId), (NodeName, InstanceId)) {
    let id = &record.id;
    ((record.slice.clone(), id.clone()), (record.node.clone(), id.clone()))
}

/// Request ids remembered. A client retries within seconds; at 1,000 requests
/// with an id per second this is ten seconds of them.
pub const REQUESTS_MAX: usize = 10_000;
