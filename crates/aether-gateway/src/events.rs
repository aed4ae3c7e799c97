//! `/events` and `/api/events`: what happens, as Server-Sent Events.
//!
//! The id of an event is its position in the log, so a client that sends the
//! last one it got, which browsers do by themselves, goes on exactly there, at
//! any node. Between events comes a comment with the position up to which there
//! were none, so that neither client nor proxy takes the stream for dead.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aether_core::audit::AuditPosition;
use aether_proto::json::to_json;
use aether_proto::v1;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, request};
use crate::extract::Params;
use crate::problem::{Kind, Problem};
use crate::serve::Stopping;

/// Streams at a time: an eighth of the places for connections, so that however
/// many dashboards are left open, requests get through.
const STREAMS_MAX: usize = 64;

/// After how long a client whose stream broke comes back: an election later.
const RETRY: Duration = Duration::from_secs(1);

/// Longest silence. The service breaks it earlier, unless it hangs.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Header with which a client says where it was.
const LAST_EVENT_ID: &str = "last-event-id";

/// Where events come from, and the places for those who read them. Its clones
/// share the places.
#[derive(Clone)]
pub(crate) struct Source {
    services: Services,
    places: Arc<Semaphore>,
}

impl Source {
    /// With all places free.
    pub(crate) fn of(services: &Services) -> Self {
        Self { services: services.clone(), places: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    /// The route.
    pub(crate) fn routes(&self) -> OpenApiRouter<Services> {
        OpenApiRouter::new().routes(routes!(events)).with_state(self.clone())
    }
}

/// Which events are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsParams {
    /// The position after which to go on; `Last-Event-ID` is the newer word.
    #[param(required = false)]
    after: Option<String>,
    /// How many of the latest to begin with, without a position.
    #[param(required = false)]
    last: Option<u32>,
    /// `kind/id` or `kind`.
    #[serde(default)]
    #[param(required = false)]
    subject: String,
    /// Go on with those to come, which is what a stream is for.
    #[param(required = false)]
    follow: Option<bool>,
}

/// What happens, as Server-Sent Events.
///
/// The id of an event is its position in the log: whoever sends the last one it
/// got goes on exactly there, at any node.
#[utoipa::path(
    get, path = "/events", tag = "cluster", operation_id = "events",
    params(
        EventsParams,
        ("Last-Event-ID" = Option<String>, Header, description = "The position to go on after."),
    ),
    responses((
        status = 200, description = "The events, each with its position, its kind and its record.",
        content((serde_json::Value = "text/event-stream"))
    ))
)]
async fn events(
    State(source): State<Source>,
    headers: HeaderMap,
    Params(params): Params<EventsParams>,
    stopping: Stopping,
) -> Result<Response, Problem> {
    let message = v1::EventsRequest {
        after: position(&headers, params.after.as_deref())?,
        last: params.last,
        subject: params.subject,
        follow: params.follow.unwrap_or(true),
    };
    let place = Arc::clone(&source.places).try_acquire_owned().map_err(|_| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{STREAMS_MAX} event streams are open at this node; end one, or ask another"),
        )
    })?;
    let told = answer(Kind::Read, source.services.cluster.events(request(message))).await?;
    let reading = Reading { told: Box::pin(told), stopping, _place: place };
    let keep_alive = KeepAlive::new().interval(SILENCE_MAX).text("nothing new");
    Ok(Sse::new(reading.into_stream()).keep_alive(keep_alive).into_response())
}

fn position(
    headers: &HeaderMap,
    after: Option<&str>,
) -> Result<Option<v1::EventPosition>, Problem> {
    // Empty is what a reader has that has seen none.
    let id = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
    let (what, text) = match (id, after.filter(|after| !after.is_empty())) {
        (Some(id), _) => ("Last-Event-ID", id.to_str().unwrap_or("?")),
        (None, Some(after)) => ("after", after),
        (None, None) => return Ok(None),
    };
    let at: AuditPosition =
        text.parse().map_err(|e| Problem::bad_request("bad_position", format!("{what}: {e}")))?;
    Ok(Some(v1::EventPosition { index: at.index, n: at.n }))
}

/// One stream that is being read.
struct Reading<S> {
    told: Pin<Box<S>>,
    stopping: Stopping,
    _place: OwnedSemaphorePermit,
}

impl<S> Reading<S>
where
    S: Stream<Item = Result<v1::EventsResponse, Status>> + Send,
{
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        let first = Event::default().retry(RETRY).comment("the id of an event is its position");
        let rest = stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            let next = tokio::select! {
                next = reading.told.next() => next?,
                () = reading.stopping.wait() => Err(Status::unavailable("this node is stopping")),
            };
            Some(match next {
                Ok(told) => (shown(told), Some(reading)),
                // Where it was is the client's knowledge: it asks again, and is
                // told then if it cannot go on.
                Err(status) => (Event::default().comment(line(status.message())), None),
            })
        });
        stream::once(std::future::ready(first)).chain(rest).map(Ok)
    }
}

fn shown(told: v1::EventsResponse) -> Event {
    let v1::EventPosition { index, n } = told.position.unwrap_or_default();
    let at = AuditPosition::new(index, n).to_string();
    let Some(event) = told.event else {
        // Clients take the id from a message without data, and show nothing.
        return Event::default().comment(format!("all up to {at}")).id(at);
    };
    let kind = if event.kind.is_empty() { "other" } else { &event.kind };
    Event::default().id(at).event(line(kind)).data(to_json(&event).to_string())
}

/// A text of a service as one line: a second one would be something else.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
