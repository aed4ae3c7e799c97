//! The `Updates` service: what `aether update …` and `/rolling-update…` speak.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aether_core::command::{Answer, Command};
use aether_core::coordinates::SliceName;
use aether_core::ids::UpdateId;
use aether_core::records::{CleanupPolicy, Remake, Strategy, UpdateRecord};
use aether_core::weights::Weights;
use aether_proto::v1;
use aether_proto::v1::updates_server::Updates;
use tonic::{Request, Response, Status};

use super::reading::{self, Handover};
use super::resolve::{Current, resolve};
use super::{Streamed, configs, foresight, options, strategy};
use crate::control::Read;
use crate::deadline::Deadline;
use crate::gates::GatePrograms;
use crate::page::Page;
use crate::status::Fields;
use crate::views::{Seen, Views};
use crate::{render, status};

/// Actual weight and waits change without a committed entry; a watcher looks
/// this often.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The `Updates` service.
#[derive(Clone)]
pub struct UpdatesService {
    views: Views,
    node: Arc<str>,
    programs: Arc<GatePrograms>,
}

/// The command of a start.
///
/// # Errors
/// All fields that make no sense.
fn start(request: &v1::StartUpdateRequest) -> Result<Command, Status> {
    let mut fields = Fields::default();
    let slice = fields.take("artifact_base", request.artifact_base.parse());
    let version = fields.take("version", request.version.parse());
    let mut options = options::of_start(request, &mut fields);
    let strategy = strategy::of_start(request, &mut fields);
    let config = fields.take("config", configs::pick(&request.config)).flatten();
    let remake = Remake { config, restart: request.restart };
    // One switch back is what it is chosen for.
    if matches!(strategy, Strategy::BlueGreen(_)) && request.cleanup_policy.is_empty() {
        options.cleanup = CleanupPolicy::GracePeriod;
    }
    let (Some(slice), Some(version), true) = (slice, version, fields.are_valid()) else {
        return Err(fields.refusal());
    };
    let (instances, supersede) = (request.instances, request.supersede);
    // What every release can carry out is asked for in its words.
    if strategy.is_manual() && !supersede && remake.is_nothing() {
        return Ok(Command::StartUpdate { slice, version, instances, options });
    }
    Ok(Command::StartWith { slice, version, instances, options, strategy, supersede, remake })
}

/// The place of an update in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ByStart {
    created_ms: u64,
    id: UpdateId,
}

impl ByStart {
    fn of(update: &UpdateRecord) -> Self {
        Self { created_ms: update.created_ms, id: update.id.clone() }
    }
}

impl fmt::Display for ByStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.created_ms, self.id)
    }
}

impl FromStr for ByStart {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (created_ms, id) = text.split_once('/').ok_or(())?;
        let created_ms = created_ms.parse().map_err(|_| ())?;
        Ok(Self { created_ms, id: id.parse().map_err(|_| ())? })
    }
}

impl UpdatesService {
    /// Over the node's views.
    pub fn new(views: Views) -> Self {
        Self { views, node: "".into(), programs: Arc::default() }
    }

    /// The same on a node on which gates may run these programs.
    pub fn running(self, node: &str, programs: GatePrograms) -> Self {
        Self { node: node.into(), programs: Arc::new(programs), ..self }
    }

    /// The command of a start, if this node would run its gates.
    ///
    /// # Errors
    /// All fields that make no sense.
    fn start_here(&self, request: &v1::StartUpdateRequest) -> Result<Command, Status> {
        let command = start(request)?;
        let Command::StartWith { strategy, .. } = &command else { return Ok(command) };
        let gates = strategy.analysis().map(|analysis| analysis.gates.as_slice());
        match self.programs.refused(&self.node, gates.unwrap_or_default()) {
            Some(problem) => Err(status::invalid("strategy.gates", problem)),
            None => Ok(command),
        }
    }

    /// Resolves what a write names. The leader must have been asked: on an old
    /// copy `current` could be another update.
    async fn target(
        &self,
        deadline: Deadline,
        text: &str,
        request_id: &str,
    ) -> Result<UpdateId, Status> {
        self.target_of(Current::Live, deadline, text, request_id).await
    }

    async fn target_of(
        &self,
        current: Current,
        deadline: Deadline,
        text: &str,
        request_id: &str,
    ) -> Result<UpdateId, Status> {
        let published = self.views.control.barrier(deadline).await?;
        // A retry means what the first try meant, whatever is live by now.
        let done = published.state.requests.get(request_id);
        let answer = done.map(|record| &record.answer);
        if let Some(update) = answer.and_then(|a| a.named.clone().or_else(|| a.update.clone())) {
            return Ok(update);
        }
        resolve(&published.state, text, current).map(|update| update.id.clone())
    }

    /// The same of an update whose old set is kept warm.
    async fn kept(
        &self,
        deadline: Deadline,
        text: &str,
        request_id: &str,
    ) -> Result<UpdateId, Status> {
        self.target_of(Current::Kept, deadline, text, request_id).await
    }

    async fn write(
        &self,
        deadline: Deadline,
        actor: &str,
        request_id: &str,
        command: Command,
    ) -> Result<Response<v1::Update>, Status> {
        let answer = self.views.control.write(deadline, actor, request_id, command).await?;
        self.show(deadline, answer).await
    }

    /// The update as a write left it.
    async fn show(
        &self,
        deadline: Deadline,
        answer: Answer,
    ) -> Result<Response<v1::Update>, Status> {
        let read = Read::after_write(self.views.control.local());
        let id = answer.update.ok_or_else(|| status::internal("the answer names no update"))?;
        let record = read.published.state.updates.get(&id).cloned();
        let record = record.ok_or_else(|| status::internal(format!("update {id} is gone")))?;
        let seen = self.views.seen(&read, std::iter::once(&record.id), deadline).await;
        let mut update = self.views.update(&read, &record, &seen);
        update.note = answer.note.unwrap_or_default();
        Ok(Response::new(update))
    }

    async fn look(
        &self,
        deadline: Deadline,
        text: &str,
        stale: bool,
    ) -> Result<(Read, Arc<UpdateRecord>, Seen), Status> {
        let read = self.views.control.read(stale, deadline).await;
        let record =
            resolve(&read.published.state, text, Current::Live).map_err(|p| read.missing(p))?;
        let seen = match stale {
            true => self.views.by_itself(&read),
            false => self.views.seen(&read, std::iter::once(&record.id), deadline).await,
        };
        Ok((read, record, seen))
    }

    /// Sends the update whenever something about it changes.
    async fn follow(self, id: UpdateId, to: Handover<v1::Update>) -> Result<(), Status> {
        let mut states = self.views.control.watch();
        let mut last: Option<v1::Update> = None;
        loop {
            drop(states.borrow_and_update());
            let read = self.views.control.read(false, Deadline::default()).await;
            let Some(record) = read.published.state.updates.get(&id).cloned() else {
                let gone = format!("update {id} is gone");
                return Err(status::no_such("update", id.as_str(), gone));
            };
            let once = std::iter::once(&id);
            let seen = self.views.seen(&read, once, Deadline::default()).await;
            let update = self.views.update(&read, &record, &seen);
            if last.as_ref().is_none_or(|last| differs(last, &update)) {
                to.tell(update.clone()).await;
                last = Some(update);
            }
            if record.state.is_terminal() {
                return Ok(());
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(WATCH_EVERY) => {}
            }
        }
    }
}

/// Whether two views of an update differ in more than passing time.
fn differs(before: &v1::Update, after: &v1::Update) -> bool {
    let timeless = |update: &v1::Update| {
        let mut update = update.clone();
        // Whether it is old matters, not how old.
        if let Some(as_of) = &mut update.as_of {
            as_of.index = 0;
        }
        update.deadline = None;
        update.actual_requests = 0;
        update.counted_ms = None;
        update.paused_ms = update.paused_ms.map(|_| 0);
        if let Some(progress) = &mut update.progress {
            progress.held_ms = 0;
        }
        let all = update.new_instances_state.iter_mut().chain(&mut update.old_instances_state);
        all.for_each(|instance| instance.since_ms = 0);
        update
    };
    timeless(before) != timeless(after)
}

#[tonic::async_trait]
impl Updates for UpdatesService {
    type WatchStream = Streamed<v1::Update>;

    async fn start(
        &self,
        request: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let command = self.start_here(&request)?;
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn get(
        &self,
        request: Request<v1::GetUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (read, record, seen) = self.look(deadline, &request.update_id, request.stale).await?;
        Ok(Response::new(self.views.update(&read, &record, &seen)))
    }

    async fn list(
        &self,
        request: Request<v1::ListUpdatesRequest>,
    ) -> Result<Response<v1::ListUpdatesResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let filter = if request.all { "all" } else { "live" };
        let page = Page::of("Updates.List", filter, request.page_size, &request.page_token)?;
        let read = self.views.control.read(request.stale, deadline).await;
        let state = &read.published.state;
        let wanted = state.updates.values().filter(|u| request.all || !u.state.is_terminal());
        let rows = wanted.map(|update| (ByStart::of(update), update));
        let mut rows: Vec<_> = rows.filter(|(key, _)| page.wants(key)).collect();
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        let shown = rows.iter().take(page.rows_max()).map(|(_, update)| update);
        let live = shown.filter(|u| !u.state.is_terminal()).map(|u| &u.id);
        let seen = match read.stale {
            true => self.views.by_itself(&read),
            false => self.views.seen(&read, live, deadline).await,
        };
        let (updates, next_page_token) =
            page.cut(rows.into_iter(), |record| self.views.update(&read, record, &seen));
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::ListUpdatesResponse { updates, as_of, next_page_token }))
    }

    async fn set_routing(
        &self,
        request: Request<v1::SetRoutingRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let weights: Weights = status::parsed("routing", &request.routing)?;
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (force, if_modified) = (request.force, request.if_modified);
        let command = Command::SetWeights { update, weights, force, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let weights: Option<Weights> = status::parsed_if_any("routing", &request.routing)?;
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let if_modified = request.if_modified;
        let command = Command::Approve { update, weights, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (force, if_modified) = (request.force, request.if_modified);
        let command = Command::Complete { update, force, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (now, force, if_modified) = (request.now, request.force, request.if_modified);
        let command = Command::Rollback { update, now, reason: None, force, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn resume(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let command = Command::Resume { update, if_modified: request.if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let why = (!request.why.is_empty()).then_some(request.why);
        let command = Command::Suspend { update, why, if_modified: request.if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (full, force, if_modified) = (request.full, request.force, request.if_modified);
        let command = Command::Promote { update, full, force, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn health(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHealth>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (read, record, seen) = self.look(deadline, &request.update_id, false).await?;
        let health = seen.of(&record.id).and_then(|view| view.health.clone());
        let health = health.ok_or_else(|| {
            status::unavailable(format!(
                "the leader could not be asked for the health of update {}",
                record.id
            ))
        })?;
        let as_of = Some(self.views.control.as_of(&read));
        let progress = self.views.update(&read, &record, &seen).progress;
        let gates = progress.map(|progress| progress.gate_states).unwrap_or_default();
        let mut health = v1::UpdateHealth { as_of, gates, ..health };
        for version in health.old_version.iter_mut().chain(&mut health.new_version) {
            render::name_nodes(&read.published.state, &mut version.instances);
        }
        Ok(Response::new(health))
    }

    async fn explain(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (read, record, seen) = self.look(deadline, &request.update_id, false).await?;
        Ok(Response::new(self.views.explanation(&read, &record, &seen)))
    }

    async fn undo(
        &self,
        request: Request<v1::UndoRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let weights = match request.routing.as_str() {
            "" => Weights::ALL_NEW,
            text => status::parsed("routing", text)?,
        };
        let cleanup = options::cleanup(&request.cleanup_policy);
        let cleanup = cleanup.map_err(|problem| status::invalid("cleanup_policy", problem))?;
        let id = &request.update_id;
        let update = self.kept(deadline, id, &request.request_id).await?;
        let (force, grace_ms, if_modified) = (request.force, request.grace_ms, request.if_modified);
        let command = Command::Undo { update, weights, force, cleanup, grace_ms, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn cleanup(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.kept(deadline, &request.update_id, &request.request_id).await?;
        let command = Command::Cleanup { update, if_modified: request.if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn set_options(
        &self,
        request: Request<v1::SetOptionsRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let mut fields = Fields::default();
        let changes = options::of_set(&request, &mut fields);
        if !fields.are_valid() {
            return Err(fields.refusal());
        }
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let if_modified = request.if_modified;
        let command = Command::SetOptions { update, changes, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn plan(
        &self,
        request: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::UpdatePlan>, Status> {
        let (deadline, request) = Deadline::split(request);
        let command = self.start_here(&request)?;
        let read = self.views.control.read(false, deadline).await;
        let now_ms = self.views.now_ms(&read, deadline).await;
        let published = Arc::clone(&read.published);
        let planned = tokio::task::spawn_blocking(move || {
            let request =
                aether_core::command::Request { request_id: None, actor: request.actor, command };
            foresight::plan(&published.state, &request, now_ms)
        });
        let plan = planned.await.ok().flatten();
        let plan = plan.ok_or_else(|| Status::internal("the plan was not made"))??;
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::UpdatePlan { as_of, ..plan }))
    }

    async fn history(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHistory>, Status> {
        let (deadline, request) = Deadline::split(request);
        let read = self.views.control.read(false, deadline).await;
        let record = resolve(&read.published.state, &request.update_id, Current::Live);
        let record = record.map_err(|problem| read.missing(problem))?;
        Ok(Response::new(v1::UpdateHistory {
            update_id: record.id.to_string(),
            artifact_base: record.slice.to_string(),
            entries: render::history(&record),
            left_out: record.history_left_out,
            as_of: Some(self.views.control.as_of(&read)),
        }))
    }

    async fn diff(
        &self,
        request: Request<v1::DiffRequest>,
    ) -> Result<Response<v1::RevisionDiff>, Status> {
        let (deadline, request) = Deadline::split(request);
        let slice: Option<SliceName> = status::parsed_if_any("slice", &request.slice)?;
        if slice.is_some() != request.update_id.is_empty() {
            return Err(status::invalid("update_id", "name either an update or a slice"));
        }
        let read = self.views.control.read(false, deadline).await;
        let state = &read.published.state;
        let found = match &slice {
            Some(slice) => {
                let no = aether_core::ids::RevisionNo;
                foresight::diff(
                    state,
                    slice,
                    Some(no(request.from_revision)),
                    no(request.to_revision),
                )
            }
            None => resolve(state, &request.update_id, Current::Live).and_then(|update| {
                let old = update.old.as_ref().map(|side| side.revision);
                foresight::diff(state, &update.slice, old, update.new.revision)
            }),
        };
        let diff = found.map_err(|problem| read.missing(problem))?;
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::RevisionDiff { as_of, ..diff }))
    }

    async fn watch(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (_, record, _) = self.look(deadline, &request.update_id, false).await?;
        Ok(reading::answer(|to| self.clone().follow(record.id.clone(), to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_passes_is_no_news_to_a_watcher() {
        let seen_at = |ms: u64, step| v1::Update {
            deadline: Some(v1::Deadline { in_ms: 90_000 - ms as i64, action: "PAUSE".to_owned() }),
            paused_ms: Some(ms),
            counted_ms: Some(ms),
            progress: Some(v1::Progress { step, held_ms: ms, ..Default::default() }),
            new_instances_state: vec![v1::Instance { since_ms: ms, ..Default::default() }],
            ..Default::default()
        };
        assert!(!differs(&seen_at(1_000, 1), &seen_at(1_500, 1)));
        assert!(differs(&seen_at(1_000, 1), &seen_at(1_000, 2)));
        let resumed = v1::Update { paused_ms: None, ..seen_at(1_000, 1) };
        assert!(differs(&seen_at(1_000, 1), &resumed));
    }
}
