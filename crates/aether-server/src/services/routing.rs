//! Routing tables down, acknowledgements and telemetry up.

use std::sync::Arc;
use std::time::Duration;

use aether_core::command::Command;
use aether_core::ids::SessionId;
use aether_core::records::SessionKind;
use aether_proto::v1;
use aether_proto::v1::routing_server::Routing;
use aether_proto::v1::routing_up::Message;
use futures::StreamExt;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status, Streaming};

use super::Streamed;
use super::streams::{self, Down, KeepAlive};
use crate::control::Control;
use crate::deadline::Deadline;
use crate::feed::Feed;
use crate::hub::Hub;
use crate::status;

/// Messages queued towards one watcher before it counts as stuck. Changes
/// beyond that wait in the feed, which has a bound of its own.
const QUEUED_MAX: usize = 16;

/// Attempts to open a session whose record changes meanwhile.
const OPEN_ATTEMPTS: u32 = 3;

/// The `Routing` service.
#[derive(Clone)]
pub struct RoutingService {
    control: Control,
    hub: Arc<Hub>,
    feed: Arc<Feed>,
    lease: Duration,
}

impl RoutingService {
    /// Over the node's parts; `lease` is what sessions are told.
    pub fn new(control: Control, hub: Arc<Hub>, feed: Arc<Feed>, lease: Duration) -> Self {
        Self { control, hub, feed, lease }
    }

    /// Commits the session if it is new or starts anew, and makes sure that
    /// what it is sent first is no older than what it, or an earlier life of
    /// it, has acked. Gives the index at which its life was opened.
    async fn admit(&self, hello: &v1::SessionHello) -> Result<(SessionId, u64), Status> {
        streams::check_protocol(hello.protocol)?;
        let session: SessionId = status::parsed("session_id", &hello.session_id)?;
        let kind = match hello.kind.as_str() {
            "INVOKER" => SessionKind::Invoker,
            "INGRESS" => SessionKind::Ingress,
            other => {
                return Err(status::invalid(
                    "kind",
                    format!("'{other}' is neither INVOKER nor INGRESS"),
                ));
            }
        };
        let holds_tables = hello.revision > 0;
        let mut local = self.control.local();
        let meta = &local.state.meta;
        let caught_up = hello.incarnation == meta.incarnation && hello.revision <= meta.index;
        if holds_tables && !caught_up {
            local = self.control.barrier(Deadline::default()).await?;
        }
        for _ in 0..OPEN_ATTEMPTS {
            let known = local.state.sessions.get(&session).map(|record| record.opened);
            if let Some(opened) = known.filter(|_| holds_tables) {
                return Ok((session, opened));
            }
            let open = Command::OpenSession {
                session: session.clone(),
                kind,
                name: hello.name.clone(),
                fresh: !holds_tables,
                follows: known.unwrap_or(0),
            };
            let index = self.control.write(Deadline::default(), "session", "", open).await?.index;
            local = self.control.local();
            // Another index: it was opened elsewhere since we looked.
            if local.state.sessions.get(&session).is_some_and(|record| record.opened == index) {
                return Ok((session, index));
            }
        }
        Err(status::unavailable("this node is catching up"))
    }

    /// Sends the snapshot and every change until the stream or this life of the
    /// session ends.
    async fn push(
        self,
        session: SessionId,
        life: u64,
        to: Down<v1::RoutingDown>,
    ) -> Result<(), Status> {
        let mut states = self.control.watch();
        let mut subscription = self.feed.subscribe(self.control.local().state.clone());
        let mut first = subscription.snapshot;
        first.lease_ms = self.lease.as_millis() as u64;
        if to.send(Ok(first)).await.is_err() {
            return Ok(());
        }
        // Beside the loop, so that other events do not put it off.
        let mut alive = KeepAlive::new(Arc::clone(&self.hub), self.lease);
        loop {
            let message = tokio::select! {
                change = subscription.changes.recv() => match change {
                    Ok(change) => (*change).clone(),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        subscription = self.feed.subscribe(self.control.local().state.clone());
                        subscription.snapshot.clone()
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                _ = states.changed() => {
                    let sessions = &states.borrow_and_update().state.sessions;
                    if sessions.get(&session).is_none_or(|record| record.opened != life) {
                        let problem = "the session was closed or opened anew; say hello again";
                        return Err(status::unavailable(problem));
                    }
                    continue;
                }
                () = to.closed() => return Ok(()),
                due = alive.due() => {
                    due?;
                    let incarnation = self.control.local().state.meta.incarnation;
                    v1::RoutingDown { incarnation, ..Default::default() }
                }
            };
            if to.send(Ok(message)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn listen(self, session: String, connection: u64, mut from: Streaming<v1::RoutingUp>) {
        while let Some(Ok(up)) = from.next().await {
            match up.message {
                Some(Message::Report(report)) => {
                    if !self.hub.session_report(&session, connection, report) {
                        return;
                    }
                }
                Some(Message::Goodbye(_)) => {
                    self.hub.session_goodbye(&session, connection);
                    return;
                }
                Some(Message::Hello(_)) | None => {}
            }
        }
        self.hub.session_lost(&session, connection);
    }
}

#[tonic::async_trait]
impl Routing for RoutingService {
    type WatchStream = Streamed<v1::RoutingDown>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::RoutingUp>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut from = request.into_inner();
        let Some(v1::RoutingUp { message: Some(Message::Hello(hello)) }) =
            streams::first(&mut from).await?
        else {
            return Err(streams::no_hello());
        };
        let (session, life) = self.admit(&hello).await?;
        let connection = self.hub.session_hello(life, hello).ok_or_else(streams::overtaken)?;
        tokio::spawn(self.clone().listen(session.to_string(), connection, from));
        Ok(streams::answer(QUEUED_MAX, |to| self.clone().push(session, life, to)))
    }
}

#[cfg(test)]
mod tests;
