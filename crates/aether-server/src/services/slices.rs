//! Slices and their instances.

use aether_core::command::Command;
use aether_core::coordinates::{SliceName, SliceReference};
use aether_core::planner;
use aether_core::records::SliceRecord;
use aether_proto::v1;
use aether_proto::v1::slices_server::Slices;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Streamed;
use super::configs;
use super::logs::logs;
use crate::control::Read;
use crate::deadline::Deadline;
use crate::page::Page;
use crate::views::Views;
use crate::{render, status};

/// The `Slices` service.
#[derive(Clone)]
pub struct SlicesService {
    views: Views,
}

pub(super) fn unknown(slice: &SliceName) -> Status {
    status::refused(&aether_core::command::Refusal::UnknownSlice { slice: slice.clone() })
}

impl SlicesService {
    /// Over the node's views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// The slice as a write left it; an empty one if nothing is left of it.
    async fn show(&self, deadline: Deadline, slice: &SliceName) -> Response<v1::Slice> {
        let read = Read::after_write(self.views.control.local());
        let now_ms = self.views.now_ms(&read, deadline).await;
        let state = &read.published.state;
        let record = state.slices.get(slice).map(|record| (**record).clone());
        let record = record.unwrap_or_else(|| SliceRecord::empty(slice.clone()));
        let waits = planner::placement_waits(state, now_ms);
        Response::new(render::slice(state, &record, &waits, now_ms))
    }
}

#[tonic::async_trait]
impl Slices for SlicesService {
    type LogsStream = Streamed<v1::LogLine>;

    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let (deadline, request) = Deadline::split(request);
        let reference: SliceReference = status::parsed("artifact", &request.artifact)?;
        let version = reference.version.ok_or_else(|| {
            status::invalid("artifact", "names no version; write group:artifact:version[@env]")
        })?;
        let slice = reference.slice;
        let instances = request.instances.unwrap_or(1);
        let command = Command::Deploy { slice: slice.clone(), version, instances };
        let control = &self.views.control;
        let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
        let mut shown = self.show(deadline, &slice).await;
        shown.get_mut().note = answer.note.unwrap_or_default();
        Ok(shown)
    }

    async fn scale(
        &self,
        request: Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let (deadline, request) = Deadline::split(request);
        let slice: SliceName = status::parsed("slice", &request.slice)?;
        let command = Command::Scale { slice: slice.clone(), instances: request.instances };
        let control = &self.views.control;
        let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
        let mut shown = self.show(deadline, &slice).await;
        shown.get_mut().note = answer.note.unwrap_or_default();
        Ok(shown)
    }

    async fn set_current(
        &self,
        request: Request<v1::SetCurrentRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let (deadline, request) = Deadline::split(request);
        let slice: SliceName = status::parsed("slice", &request.slice)?;
        let version = status::parsed("version", &request.version)?;
        let command = Command::SetCurrent { slice: slice.clone(), version };
        let control = &self.views.control;
        let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
        let mut shown = self.show(deadline, &slice).await;
        shown.get_mut().note = answer.note.unwrap_or_default();
        Ok(shown)
    }

    async fn undeploy(
        &self,
        request: Request<v1::UndeployRequest>,
    ) -> Result<Response<v1::UndeployResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let SliceReference { slice, version } = status::parsed("slice", &request.slice)?;
        let command = Command::Undeploy { slice, version };
        let answer = self
            .views
            .control
            .write(deadline, &request.actor, &request.request_id, command)
            .await?;
        let note = answer.note.unwrap_or_else(|| {
            format!("{} is being removed; 'aether slices' shows what is left", request.slice)
        });
        Ok(Response::new(v1::UndeployResponse { note }))
    }

    async fn push_config(
        &self,
        request: Request<v1::PushConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        let (deadline, request) = Deadline::split(request);
        configs::push(&self.views, deadline, request).await.map(Response::new)
    }

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        let (deadline, request) = Deadline::split(request);
        configs::get(&self.views, deadline, request).await.map(Response::new)
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        configs::list(&self.views, deadline, request).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::ListSlicesRequest>,
    ) -> Result<Response<v1::ListSlicesResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let only: Option<SliceName> = status::parsed_if_any("slice", &request.slice)?;
        let (size, token) = (request.page_size, &*request.page_token);
        let page = Page::of("Slices.List", &request.slice, size, token)?;
        let read: Read = self.views.control.read(request.stale, deadline).await;
        let state = &read.published.state;
        if let Some(slice) = only.as_ref().filter(|slice| !state.slices.contains_key(*slice)) {
            return Err(read.missing(unknown(slice)));
        }
        let now_ms = self.views.now_ms(&read, deadline).await;
        let wanted = state.slices.values().filter(|r| only.as_ref().is_none_or(|s| r.slice == *s));
        let rows = wanted.map(|record| (record.slice.clone(), record));
        let rows = rows.filter(|(slice, _)| page.wants(slice));
        let waits = planner::placement_waits(state, now_ms);
        let (slices, next_page_token) =
            page.cut(rows, |record| render::slice(state, record, &waits, now_ms));
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::ListSlicesResponse { slices, as_of, next_page_token }))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let lines = logs(self.views.control.clone(), deadline, request).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(lines))))
    }
}
