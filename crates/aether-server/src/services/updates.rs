//! The `Updates` service: what `aether update …` and `/rolling-update…` speak.

use std::sync::Arc;
use std::time::Duration;

use aether_core::command::{Answer, Command};
use aether_core::coordinates::SliceName;
use aether_core::ids::UpdateId;
use aether_core::records::{CleanupPolicy, DeadlineAction, UpdateOptions, UpdateRecord};
use aether_core::state::State;
use aether_core::weights::Weights;
use aether_proto::v1;
use aether_proto::v1::updates_server::Updates;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Streamed;
use crate::control::Read;
use crate::deadline::Deadline;
use crate::status;
use crate::views::{Seen, Views};

/// Actual weight and waits change without a committed entry; a watcher looks
/// this often.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// Updates queued towards one watcher.
const QUEUED_MAX: usize = 4;

/// The `Updates` service.
#[derive(Clone)]
pub struct UpdatesService {
    views: Views,
}

/// Finds an update by id, unique prefix, or `current`.
fn resolve(state: &State, text: &str) -> Result<Arc<UpdateRecord>, Status> {
    let id: UpdateId = text.parse().map_err(|e| status::invalid("update_id", e))?;
    let live = || state.slices.values().filter_map(|s| state.live_update(&s.slice));
    let listed = |updates: Vec<&Arc<UpdateRecord>>| {
        let names = updates.iter().map(|u| format!("{} ({})", u.id, u.slice));
        names.collect::<Vec<_>>().join(", ")
    };
    if text == "current" {
        let live: Vec<_> = live().collect();
        return match live.as_slice() {
            [only] => Ok(Arc::clone(only)),
            [] => Err(status::not_found(
                "unknown_update",
                "no update is live; 'aether update list --all' shows the ended ones".to_owned(),
            )),
            _ => Err(status::invalid(
                "update_id",
                format!("'current' is ambiguous, name one of {}", listed(live)),
            )),
        };
    }
    if let Some(update) = state.updates.get(&id) {
        return Ok(Arc::clone(update));
    }
    let matching = |updates: &mut dyn Iterator<Item = &Arc<UpdateRecord>>| {
        updates.filter(|u| u.id.as_str().starts_with(text)).cloned().collect::<Vec<_>>()
    };
    let mut found = matching(&mut live());
    if found.is_empty() {
        found = matching(&mut state.updates.values());
    }
    match found.as_slice() {
        [only] => Ok(Arc::clone(only)),
        [] => Err(status::not_found(
            "unknown_update",
            format!("update '{id}' does not exist; 'aether update list' shows the live ones"),
        )),
        several => Err(status::invalid(
            "update_id",
            format!("'{text}' is ambiguous, name one of {}", listed(several.iter().collect())),
        )),
    }
}

fn options(request: &v1::StartUpdateRequest) -> Result<UpdateOptions, Status> {
    let mut options = UpdateOptions::default();
    if let Some(rate) = request.max_error_rate {
        if !(0.0..=1.0).contains(&rate) {
            return Err(status::invalid(
                "max_error_rate",
                format!("{rate} is not a share between 0 and 1, such as 0.01"),
            ));
        }
        options.thresholds.error_rate_ppm = (rate * 1_000_000.0).round() as u32;
    }
    if let Some(ms) = request.max_latency_ms {
        options.thresholds.p99_ms = ms;
    }
    options.manual_approval = request.manual_approval;
    options.cleanup = match request.cleanup_policy.to_ascii_uppercase().as_str() {
        "" | "IMMEDIATE" => CleanupPolicy::Immediate,
        "GRACE_PERIOD" => CleanupPolicy::GracePeriod,
        "MANUAL" => CleanupPolicy::Manual,
        _ => {
            return Err(status::invalid(
                "cleanup_policy",
                format!(
                    "'{}' is none of IMMEDIATE, GRACE_PERIOD, MANUAL",
                    short(&request.cleanup_policy)
                ),
            ));
        }
    };
    options.on_deploy_failure = match request.on_deploy_failure.to_ascii_uppercase().as_str() {
        "" | "ROLLBACK" => DeadlineAction::Rollback,
        "PAUSE" => DeadlineAction::Pause,
        "FAIL" => DeadlineAction::Fail,
        _ => {
            return Err(status::invalid(
                "on_deploy_failure",
                format!("'{}' is none of ROLLBACK, PAUSE, FAIL", short(&request.on_deploy_failure)),
            ));
        }
    };
    options.grace_ms = request.grace_ms.unwrap_or(options.grace_ms);
    options.deploy_timeout_ms = request.deploy_timeout_ms.unwrap_or(options.deploy_timeout_ms);
    options.healthy_ms = request.healthy_ms.unwrap_or(options.healthy_ms);
    Ok(options)
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

impl UpdatesService {
    /// Over the node's views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Resolves what a write names. The leader must have been asked: on an old
    /// copy `current` could be another update.
    async fn target(
        &self,
        deadline: Deadline,
        text: &str,
        request_id: &str,
    ) -> Result<UpdateId, Status> {
        let published = self.views.control.barrier(deadline).await?;
        // A retry means what the first try meant, whatever is live by now.
        let done = published.state.requests.get(request_id);
        if let Some(update) = done.and_then(|record| record.answer.update.clone()) {
            return Ok(update);
        }
        resolve(&published.state, text).map(|update| update.id.clone())
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
        let read = Read { published: self.views.control.local(), stale: false };
        let id = answer.update.ok_or_else(|| Status::internal("the answer names no update"))?;
        let record = read.published.state.updates.get(&id).cloned();
        let record = record.ok_or_else(|| Status::internal(format!("update {id} is gone")))?;
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
        let record = resolve(&read.published.state, text).map_err(|p| read.missing(p))?;
        let seen = match stale {
            true => self.views.by_itself(&read),
            false => self.views.seen(&read, std::iter::once(&record.id), deadline).await,
        };
        Ok((read, record, seen))
    }

    /// Sends the update whenever something about it changes.
    async fn follow(self, id: UpdateId, to: mpsc::Sender<Result<v1::Update, Status>>) {
        let mut states = self.views.control.watch();
        let mut last: Option<v1::Update> = None;
        loop {
            drop(states.borrow_and_update());
            let read = self.views.control.read(false, Deadline::default()).await;
            let Some(record) = read.published.state.updates.get(&id).cloned() else {
                let _ = to
                    .send(Err(status::not_found("unknown_update", format!("update {id} is gone"))))
                    .await;
                return;
            };
            let once = std::iter::once(&id);
            let seen = self.views.seen(&read, once, Deadline::default()).await;
            let update = self.views.update(&read, &record, &seen);
            if last.as_ref().is_none_or(|last| differs(last, &update)) {
                if to.send(Ok(update.clone())).await.is_err() {
                    return;
                }
                last = Some(update);
            }
            if record.state.is_terminal() {
                return;
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(WATCH_EVERY) => {}
                () = to.closed() => return,
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
        let slice: SliceName =
            request.artifact_base.parse().map_err(|e| status::invalid("artifact_base", e))?;
        let version = request.version.parse().map_err(|e| status::invalid("version", e))?;
        let options = options(&request)?;
        let command =
            Command::StartUpdate { slice, version, instances: request.instances, options };
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
        let read = self.views.control.read(request.stale, deadline).await;
        let state = &read.published.state;
        let mut records: Vec<_> =
            state.updates.values().filter(|u| request.all || !u.state.is_terminal()).collect();
        records.sort_by_key(|update| update.created_ms);
        let live = records.iter().filter(|u| !u.state.is_terminal()).map(|u| &u.id);
        let seen = match read.stale {
            true => self.views.by_itself(&read),
            false => self.views.seen(&read, live, deadline).await,
        };
        let updates = records.into_iter().map(|record| self.views.update(&read, record, &seen));
        Ok(Response::new(v1::ListUpdatesResponse {
            updates: updates.collect(),
            as_of: Some(self.views.control.as_of(&read)),
        }))
    }

    async fn set_routing(
        &self,
        request: Request<v1::SetRoutingRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let weights: Weights =
            request.routing.parse().map_err(|e| status::invalid("routing", e))?;
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (force, if_modified) = (request.force, request.if_modified);
        let command = Command::SetWeights { update, weights, force, if_modified };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn approve(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        self.write(deadline, &request.actor, &request.request_id, Command::Approve { update }).await
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let command = Command::Complete { update, force: request.force };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        let (now, force) = (request.now, request.force);
        let command = Command::Rollback { update, now, reason: None, force };
        self.write(deadline, &request.actor, &request.request_id, command).await
    }

    async fn resume(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        let (deadline, request) = Deadline::split(request);
        let update = self.target(deadline, &request.update_id, &request.request_id).await?;
        self.write(deadline, &request.actor, &request.request_id, Command::Resume { update }).await
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
        Ok(Response::new(v1::UpdateHealth { as_of, ..health }))
    }

    async fn explain(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (read, record, seen) = self.look(deadline, &request.update_id, false).await?;
        Ok(Response::new(self.views.explanation(&read, &record, &seen)))
    }

    async fn watch(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let (_, record, _) = self.look(deadline, &request.update_id, false).await?;
        let (to, stream) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(self.clone().follow(record.id.clone(), to));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
