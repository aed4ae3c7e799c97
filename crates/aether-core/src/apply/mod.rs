//! `apply`: the only place where replicated state changes.
//!
//! A pure function of (state, entry): no clock, randomness, float, or order
//! that isn't the maps'. A refused command leaves no trace but the log position.

mod artifacts;
mod barrier;
mod config;
mod configuration;
mod evidence;
mod gates;
mod in_place;
mod ingress;
mod inputs;
mod instances;
mod level;
mod members;
mod progress;
mod reload;
mod restore;
mod slices;
mod strategy;
mod undo;
mod updates;
mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::audit::{AuditPosition, Subject};
use crate::command::{Answer, Command, Outcome, Refusal, Request};
use crate::coordinates::SliceName;
use crate::ids::{Fence, InstanceId, RevisionNo, UpdateId};
use crate::records::{
    AuditRecord, HistoryEntry, InstanceRecord, Reason, Remake, RequestRecord, RouteRecord,
    SliceRecord, Strategy, TargetRecord, UpdateRecord, UpdateState,
};
use crate::state::State;
use crate::table::Endpoint;
use crate::transition;
use crate::weights::Weights;

pub use restore::RESTORE_INDEX_GAP;

/// Where and when an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Raft term.
    pub term: u64,
    /// Log index.
    pub index: u64,
    /// Log time as the leader proposed it, milliseconds.
    pub log_time_ms: u64,
    /// The leader's wall clock, milliseconds, for display.
    pub wall_ms: u64,
}

/// Audit records kept: at a hundred updates a day about ten days of them.
pub const AUDIT_MAX: usize = 10_000;
/// Ended updates kept.
pub const ENDED_UPDATES_MAX: usize = 1_000;
/// Revisions kept per slice beyond those in use.
pub const REVISIONS_MAX: usize = 10;
/// Most instances of one target.
pub const INSTANCES_MAX: u32 = 10_000;
/// Longest accepted request id, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl State {
    /// Applies one committed request.
    ///
    /// # Errors
    /// A [`Refusal`] says why the request changed nothing.
    pub fn apply(&mut self, at: Position, request: &Request) -> Outcome {
        self.skip(at);
        let mark = self.mark();
        let outcome = self.apply_once(request, at.term);
        if outcome.is_err() {
            self.undo(mark);
        }
        outcome
    }

    /// Moves to a position without a request: a blank or membership entry, or
    /// one that cannot be read.
    pub fn skip(&mut self, at: Position) {
        self.settle();
        self.meta.index = at.index;
        self.meta.log_time_ms = self.meta.log_time_ms.max(at.log_time_ms);
        self.meta.wall_ms = at.wall_ms;
    }

    fn apply_once(&mut self, request: &Request, term: u64) -> Outcome {
        // First of all: a build that cannot read it remembers no request id.
        crate::level::check(&request.command, self.meta.feature_level)?;
        let remembered = request.request_id.as_ref().map(|id| (id, command_hash(&request.command)));
        if let Some((id, hash)) = &remembered {
            if id.is_empty() || id.len() > REQUEST_ID_BYTES_MAX {
                return Err(Refusal::BadOption {
                    what: "request id".to_owned(),
                    given: format!("{} bytes", id.len()),
                    expected: format!("1 to {REQUEST_ID_BYTES_MAX} bytes long"),
                });
            }
            if let Some(known) = self.requests.get(*id) {
                if known.command_hash == *hash {
                    return Ok(known.answer.clone());
                }
                return Err(Refusal::RequestReused { request_id: id.to_string() });
            }
        }
        let mut tx = Tx { state: self, term, actor: &request.actor, touched: BTreeMap::new() };
        let mut answer = tx.carry_out(&request.command)?;
        tx.refresh_tables();
        answer.index = self.meta.index;
        if let Some((id, hash)) = remembered {
            self.put_request(RequestRecord {
                id: id.clone(),
                index: self.meta.index,
                command_hash: hash,
                answer: answer.clone(),
            });
        }
        Ok(answer)
    }
}

/// What makes two commands the same request. The node that took an archive in
/// is no part of it, as a retry may reach another one; the digest says the rest.
fn command_hash(command: &Command) -> String {
    let text = match command {
        Command::RegisterArtifact { artifact, digest, .. } => {
            serde_json::to_vec(&("RegisterArtifact", artifact, digest))
        }
        _ => serde_json::to_vec(command),
    };
    let text = text.expect("commands have text keys only");
    Sha256::digest(&text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One command being carried out. All writes go through it, so that routing
/// tables and their revisions follow from what changed.
struct Tx<'a> {
    state: &'a mut State,
    term: u64,
    actor: &'a str,
    /// Slices whose route or instances were written, and the endpoints that
    /// their tables had before.
    touched: BTreeMap<SliceName, Endpoints>,
}

/// Which instances a routing table has, and where they listen.
#[derive(PartialEq, Eq)]
struct Endpoints {
    /// Whoever can be called.
    all: BTreeSet<(InstanceId, SocketAddr)>,
    /// As one of which revision: a reload moves one from side to side.
    called_as: BTreeMap<InstanceId, RevisionNo>,
}

fn endpoints(state: &State, slice: &SliceName) -> Endpoints {
    let table = state.slice_table(slice);
    let sides = table.iter().flat_map(|table| [&table.new, &table.old]).flatten();
    let called = |e: &Endpoint| (e.instance.clone(), e.address);
    let of_side = |set: &crate::table::VersionSet| -> Vec<(InstanceId, RevisionNo)> {
        set.endpoints.iter().map(|e| (e.instance.clone(), set.revision)).collect()
    };
    let called_as = sides.clone().flat_map(of_side).collect();
    Endpoints { all: sides.flat_map(|set| &set.endpoints).map(called).collect(), called_as }
}

impl Tx<'_> {
    fn carry_out(&mut self, command: &Command) -> Outcome {
        match command {
            Command::RegisterArtifact {
                artifact,
                digest,
                size_bytes,
                manifest,
                holder,
                others,
            } => {
                let holders = others.iter().chain([holder]).cloned().collect();
                self.register_artifact(artifact, digest, *size_bytes, manifest, holders)
            }
            Command::RemoveArtifact { artifact } => self.remove_artifact(artifact),
            Command::ArtifactDropped { artifact, digest, holder } => {
                self.artifact_dropped(artifact, digest, holder)
            }
            Command::ArtifactHeld { artifact, digest, holder } => {
                self.artifact_held(artifact, digest, [holder.clone()].into())
            }
            Command::Deploy { slice, version, instances } => {
                self.deploy(slice, version, *instances)
            }
            Command::RecordInput { update, rows, seen, decided } => {
                self.record_input(update, rows, seen, decided)
            }
            Command::SetCurrent { slice, version } => self.set_current(slice, version),
            Command::Scale { slice, instances } => self.scale(slice, *instances),
            Command::Undeploy { slice, version } => self.undeploy(slice, version.as_ref()),
            Command::StartUpdate { slice, version, instances, options } => {
                self.start_update(updates::Start {
                    slice,
                    version,
                    instances: *instances,
                    options,
                    strategy: &Strategy::Manual {},
                    supersede: false,
                    remake: Remake::default(),
                })
            }
            Command::StartWith {
                slice,
                version,
                instances,
                options,
                strategy,
                supersede,
                remake,
            } => self.start_update(updates::Start {
                slice,
                version,
                instances: *instances,
                options,
                strategy,
                supersede: *supersede,
                remake: *remake,
            }),
            Command::PushConfig { slice, files, env, if_latest } => {
                self.push_config(slice, files, env, *if_latest)
            }
            Command::Promote { update, full, force, if_modified } => {
                self.promote(update, *full, *force, *if_modified)
            }
            Command::Suspend { update, why, if_modified } => {
                self.suspend(update, why.as_deref(), *if_modified)
            }
            Command::EnterStep { update, step, if_modified, opened_max } => {
                self.enter_step(update, *step, *if_modified, *opened_max)
            }
            Command::HoldCalls { update, if_modified } => self.hold_calls(update, *if_modified),
            Command::ScaleNew { update, instances, if_modified } => {
                self.scale_new(update, *instances, *if_modified)
            }
            Command::MoveInPlace { update, new, old, if_modified } => {
                self.move_in_place(update, *new, *old, *if_modified)
            }
            Command::MarkSwitched { update, mixed_ms, if_modified, late_calls } => {
                self.mark_switched(update, *mixed_ms, *late_calls, *if_modified)
            }
            Command::RecordEvidence { update, measure, sums, instances } => {
                self.record_evidence(update, *measure, sums, instances)
            }
            Command::RecordGate {
                update,
                gate,
                when,
                step,
                since_ms,
                number,
                verdict,
                message,
            } => {
                self.record_gate(update, gate, *when, *step, *since_ms, *number, *verdict, message)
            }
            Command::SetWeights { update, weights, force, if_modified } => {
                self.set_weights(update, *weights, *force, *if_modified)
            }
            Command::Approve { update, weights, if_modified } => {
                self.approve(update, *weights, *if_modified)
            }
            Command::Complete { update, force, if_modified } => {
                self.complete(update, *force, *if_modified)
            }
            Command::Rollback { update, now, reason, force, if_modified } => {
                self.rollback(update, *now, reason.as_ref(), *force, *if_modified)
            }
            Command::Resume { update, if_modified } => self.resume(update, *if_modified),
            Command::Undo { update, weights, force, cleanup, grace_ms, if_modified } => {
                self.undo(update, *weights, *force, *cleanup, *grace_ms, *if_modified)
            }
            Command::Cleanup { update, if_modified } => self.cleanup(update, *if_modified),
            Command::SetOptions { update, changes, if_modified } => {
                self.set_options(update, changes, *if_modified)
            }
            Command::Pause { update, reason, if_modified } => {
                self.pause(update, reason, *if_modified)
            }
            Command::BeginDeploy { update, placements } => self.begin_deploy(update, placements),
            Command::MarkDeployed { update } => self.mark_deployed(update),
            Command::ShiftBack { update, weights } => self.shift_back(update, *weights),
            Command::RemoveLosingSide { update, if_modified } => {
                self.remove_losing_side(update, *if_modified)
            }
            Command::Finish { update } => self.finish(update),
            Command::Fail { update, reason } => self.fail(update, reason),
            Command::Rearm { update } => self.rearm(update),
            Command::Retire { slice } => self.retire(slice),
            Command::Assign { slice, revision, placements, target_modified } => {
                self.assign(slice, *revision, placements, *target_modified)
            }
            Command::MarkUnplaced { slice, revision, why } => {
                self.mark_unplaced(slice, *revision, why.as_deref())
            }
            Command::Drain { instances, target_modified } => {
                self.drain(instances, *target_modified)
            }
            Command::Stop { instances, waived } => self.stop(instances, waived.as_deref()),
            Command::Observe { node, observations } => self.observe(node, observations),
            Command::RegisterNode { node, address, labels, instances_max } => {
                self.register_node(node, *address, labels, *instances_max)
            }
            Command::SetNodeLifecycle { node, lifecycle } => {
                self.set_node_lifecycle(node, *lifecycle)
            }
            Command::SetNodeSchedule { node, schedule } => self.set_node_schedule(node, *schedule),
            Command::ForgetNode { node, force } => self.forget_node(node, *force),
            Command::FreezeReplacement { frozen, silent } => {
                self.freeze_replacement(*frozen, *silent)
            }
            Command::OpenSession { session, kind, name, fresh, follows } => {
                self.open_session(session, *kind, name, *fresh, *follows)
            }
            Command::CloseSession { session, opened, reason } => {
                self.close_session(session, *opened, reason)
            }
            Command::InviteVoter { node, peer_addr, replaces } => {
                self.invite_voter(node, peer_addr, *replaces)
            }
            Command::AdmitVoter { node, dir_id, feature_level } => {
                self.admit_voter(node, dir_id, *feature_level)
            }
            Command::RemoveVoter { node, raft_id } => self.remove_voter(node, *raft_id),
            Command::EndVoterChange { node, modified } => self.end_voter_change(node, *modified),
            Command::PutConfig { name, value, if_modified } => {
                self.put_config(name, value, *if_modified)
            }
            Command::RemoveConfig { name, if_modified } => self.remove_config(name, *if_modified),
            Command::RaiseFeatureLevel { to } => self.raise_feature_level(*to),
            Command::Tick {} => Ok(Answer::default()),
        }
    }

    fn index(&self) -> u64 {
        self.state.meta.index
    }

    fn now_ms(&self) -> u64 {
        self.state.meta.log_time_ms
    }

    fn fence(&self) -> Fence {
        Fence {
            incarnation: self.state.meta.incarnation,
            term: self.term,
            index: self.state.meta.index,
        }
    }

    fn update(&self, id: &UpdateId) -> Result<UpdateRecord, Refusal> {
        let unknown = || Refusal::UnknownUpdate { update: id.to_string() };
        self.state.updates.get(id).map(|record| (**record).clone()).ok_or_else(unknown)
    }

    fn slice(&self, slice: &SliceName) -> Result<SliceRecord, Refusal> {
        let unknown = || Refusal::UnknownSlice { slice: slice.clone() };
        self.state.slices.get(slice).map(|record| (**record).clone()).ok_or_else(unknown)
    }

    fn put_slice(&mut self, mut record: SliceRecord) {
        record.modified = self.index();
        self.state.slices.insert(record.slice.clone(), Arc::new(record));
    }

    /// To be said before a slice's route or one of its instances is written.
    fn touch(&mut self, slice: &SliceName) {
        if !self.touched.contains_key(slice) {
            self.touched.insert(slice.clone(), endpoints(self.state, slice));
        }
    }

    fn put_instance(&mut self, record: InstanceRecord) {
        self.touch(&record.slice);
        self.state.put_instance(record);
    }

    fn remove_instance(&mut self, record: &InstanceRecord) {
        self.touch(&record.slice);
        self.state.remove_instance(&record.id);
    }

    /// Writes a route, by which calls go at once.
    fn put_route(&mut self, record: RouteRecord) {
        self.write_route(RouteRecord { hold: None, ..record });
    }

    fn write_route(&mut self, mut record: RouteRecord) {
        record.route_revision = self.index();
        record.table_revision = self.index();
        record.ingress = self.claims(&record);
        self.touch(&record.slice);
        self.state.routes.insert(record.slice.clone(), Arc::new(record));
    }

    fn remove_route(&mut self, slice: &SliceName) {
        self.touch(slice);
        self.state.routes.remove(slice);
    }

    fn put_target(&mut self, slice: &SliceName, revision: RevisionNo, instances: u32) {
        let modified = self.index();
        let key = (slice.clone(), revision);
        let known = self.state.targets.get(&key);
        let unplaced_since_ms = known.and_then(|known| known.unplaced_since_ms);
        let slice = slice.clone();
        let record = TargetRecord { slice, revision, instances, modified, unplaced_since_ms };
        self.state.targets.insert(key, Arc::new(record));
    }

    /// Writes an update's record with what happened to it: the one way in which
    /// an update changes. Adds to its history and to the audit.
    fn put_update(&mut self, mut update: UpdateRecord, event: String) {
        update.modified = self.index();
        self.end_hold(&update);
        let reason = self.new_reason(&update);
        update.note(HistoryEntry {
            index: self.index(),
            log_time_ms: self.now_ms(),
            wall_ms: self.state.meta.wall_ms,
            actor: self.actor.to_owned(),
            state: update.state,
            weights: update.weights,
            event: event.clone(),
            reason,
        });
        self.audit(Subject::update(&update.id), event);
        self.state.updates.insert(update.id.clone(), Arc::new(update));
    }

    /// The reason that an update has now and did not have before.
    fn new_reason(&self, update: &UpdateRecord) -> Option<Reason> {
        let before = self.state.updates.get(&update.id);
        let had = |reason: &Reason| {
            before.is_some_and(|before| {
                let pause = before.pause.as_ref().map(|pause| &pause.reason);
                [pause, before.outcome.as_ref()].contains(&Some(reason))
            })
        };
        let pause = update.pause.as_ref().map(|pause| &pause.reason);
        pause.into_iter().chain(&update.outcome).find(|reason| !had(reason)).cloned()
    }

    /// Moves an update to another state and writes it.
    ///
    /// # Panics
    /// If the transition table has no such transition: handlers check first.
    fn transition(&mut self, mut update: UpdateRecord, to: UpdateState, event: String) {
        assert!(
            transition::is_allowed(update.state, to),
            "update {}: {} -> {to} is not in the transition table",
            update.id,
            update.state
        );
        update.state = to;
        update.state_since_ms = self.now_ms();
        update.state_index = self.index();
        if to == UpdateState::Deployed
            && let Some(progress) = &mut update.progress
        {
            progress.since_ms = self.now_ms();
        }
        update.deadline = transition::deadline_of(&update, self.now_ms());
        // A pause stands until somebody resumes, or traffic no longer rises. One
        // that a person asked for holds what would go on by itself.
        let by_person = update.pause.as_ref().is_some_and(|p| p.reason.code == Reason::OPERATOR);
        if to != UpdateState::Routing && !(to == UpdateState::Deployed && by_person) {
            update.pause = None;
        }
        if update.pause.is_some() {
            Self::pause_deadline(&mut update, self.now_ms());
        }
        update.forget_pending();
        let (slice, ended) = (update.slice.clone(), to.is_terminal());
        if ended {
            self.close_evidence(&update.id);
        }
        self.put_update(update, event);
        if ended {
            self.release(&slice);
        }
    }

    /// After an update ended: the slice is free, and old history is let go.
    fn release(&mut self, slice: &SliceName) {
        if let Ok(mut record) = self.slice(slice) {
            record.live_update = None;
            self.put_slice(record);
        }
        let mut ended: Vec<(u64, UpdateId)> = self
            .state
            .updates
            .values()
            .filter(|update| update.state.is_terminal())
            .map(|update| (update.state_index, update.id.clone()))
            .collect();
        ended.sort_unstable();
        for (_, id) in ended.iter().rev().skip(ENDED_UPDATES_MAX) {
            self.state.updates.remove(id);
            self.state.evidence.remove(id);
            self.drop_inputs(id);
        }
    }

    /// Writes down what happened to a subject, after what this entry has
    /// written down already.
    fn audit(&mut self, subject: Subject, event: String) {
        let index = self.index();
        let last = self.state.audit.get_max().map(|(position, _)| *position);
        let n = last.filter(|last| last.index == index).map_or(0, |last| last.n + 1);
        let record = AuditRecord {
            index,
            n,
            log_time_ms: self.now_ms(),
            wall_ms: self.state.meta.wall_ms,
            actor: self.actor.to_owned(),
            subject,
            event,
        };
        self.state.audit.insert(AuditPosition::new(index, n), Arc::new(record));
        while self.state.audit.len() > AUDIT_MAX {
            let Some(oldest) = self.state.audit.get_min().map(|(position, _)| *position) else {
                break;
            };
            self.state.audit.remove(&oldest);
            self.state.meta.audit_forgotten = Some(oldest);
        }
    }

    /// Brings the table revision of every touched slice up to date, and notes
    /// on each instance that left a table when it did. The removal fence is
    /// built on these two numbers.
    fn refresh_tables(&mut self) {
        let index = self.index();
        for (slice, before_set) in std::mem::take(&mut self.touched) {
            let after_set = endpoints(self.state, &slice);
            for (id, _) in before_set.all.difference(&after_set.all) {
                if let Some(record) = self.state.instances.get(id) {
                    let record = InstanceRecord { left_table: index, ..(**record).clone() };
                    self.state.put_instance(record);
                }
            }
            if before_set != after_set
                && let Some(route) = self.state.routes.get(&slice)
            {
                let route = RouteRecord { table_revision: index, ..(**route).clone() };
                self.state.routes.insert(slice.clone(), Arc::new(route));
            }
        }
    }
}

/// Instances that a side needs so that it can carry its weight, by the
/// capacity guard of the design: `w * B <= ready * T`.
pub(crate) fn instances_needed(weight: u32, weights: Weights, base: u32) -> u32 {
    let needed = (u64::from(weight) * u64::from(base)).div_ceil(u64::from(weights.total()));
    u32::try_from(needed).unwrap_or(u32::MAX)
}

/// The weights that give the old side all that its ready instances carry.
pub(crate) fn back_as_far_as(ready_old: u32, base: u32) -> Weights {
    if ready_old >= base {
        return Weights::ALL_OLD;
    }
    // Beyond 10,000 instances the ratio would leave the accepted range; no
    // target is that large.
    Weights::new(u64::from(base - ready_old), u64::from(ready_old)).unwrap_or(Weights::ALL_NEW)
}
