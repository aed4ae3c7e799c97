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
use tokio::sync::{broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Streamed;
use crate::control::Control;
use crate::deadline::Deadline;
use crate::feed::Feed;
use crate::hub::Hub;
use crate::status;

/// Messages queued towards one watcher before it counts as stuck. Changes
/// beyond that wait in the feed, which has a bound of its own.
const QUEUED_MAX: usize = 16;

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

    /// Commits the session if it is new, and makes sure that what it is sent
    /// first is no older than what it, or an earlier life of it, has acked.
    async fn admit(&self, hello: &v1::SessionHello) -> Result<SessionId, Status> {
        if hello.protocol != 1 {
            let problem = format!("{} is not spoken here, 1 is", hello.protocol);
            return Err(status::invalid("protocol", problem));
        }
        let session: SessionId =
            hello.session_id.parse().map_err(|e| status::invalid("session_id", e))?;
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
        let local = self.control.local();
        let known = local.state.sessions.contains_key(&session);
        if !known {
            let name = hello.name.clone();
            let fresh = hello.revision == 0;
            let open = Command::OpenSession { session: session.clone(), kind, name, fresh };
            self.control.write(Deadline::default(), "session", "", open).await?;
            if !self.control.local().state.sessions.contains_key(&session) {
                return Err(status::unavailable("this node is catching up"));
            }
        }
        let meta = &local.state.meta;
        let caught_up = hello.revision > 0
            && hello.incarnation == meta.incarnation
            && hello.revision <= meta.index;
        if known && !caught_up {
            self.control.barrier(Deadline::default()).await?;
        }
        Ok(session)
    }

    /// Sends the snapshot and every change until the stream or the session ends.
    async fn push(self, session: SessionId, to: mpsc::Sender<Result<v1::RoutingDown, Status>>) {
        let mut states = self.control.watch();
        let mut subscription = self.feed.subscribe(self.control.local().state.clone());
        let mut first = subscription.snapshot;
        first.lease_ms = self.lease.as_millis() as u64;
        if to.send(Ok(first)).await.is_err() {
            return;
        }
        // Beside the loop, so that other events do not put it off.
        let mut alive = interval(self.lease / 3);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = subscription.changes.recv() => {
                    let message = match change {
                        Ok(change) => (*change).clone(),
                        Err(broadcast::error::RecvError::Lagged(_)) => {
                            subscription = self.feed.subscribe(self.control.local().state.clone());
                            subscription.snapshot.clone()
                        }
                        Err(broadcast::error::RecvError::Closed) => return,
                    };
                    if to.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                _ = states.changed() => {
                    if !states.borrow_and_update().state.sessions.contains_key(&session) {
                        let gone = status::unavailable("the session was closed; say hello again");
                        let _ = to.send(Err(gone)).await;
                        return;
                    }
                }
                () = to.closed() => return,
                // A message now and then shows the client that the stream lives.
                _ = alive.tick() => {
                    if self.hub.is_cut_off(self.lease) {
                        let cut_off = status::unavailable("this node reaches no leader");
                        let _ = to.send(Err(cut_off)).await;
                        return;
                    }
                    let local = self.control.local();
                    let alive = v1::RoutingDown {
                        incarnation: local.state.meta.incarnation,
                        ..Default::default()
                    };
                    if to.send(Ok(alive)).await.is_err() {
                        return;
                    }
                }
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
        let Some(v1::RoutingUp { message: Some(Message::Hello(hello)) }) = from.message().await?
        else {
            return Err(status::invalid("message", "the first one must be 'hello'"));
        };
        let session = self.admit(&hello).await?;
        let connection = self.hub.session_hello(hello);
        let (to, stream) = mpsc::channel(QUEUED_MAX);
        tokio::spawn(self.clone().push(session.clone(), to));
        tokio::spawn(self.clone().listen(session.to_string(), connection, from));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
