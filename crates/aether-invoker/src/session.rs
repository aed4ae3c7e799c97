//! The session with the control plane: follows the routing tables at one node,
//! reports what is applied, and moves on to the next node when that one is
//! gone or silent.
//!
//! It decides only when to speak and with whom. What a message changes, and
//! what a report may claim, is the [`Applier`]'s.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1;
use aether_proto::v1::routing_client::RoutingClient;
use aether_proto::v1::routing_up::Message;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::applier::{Applier, ApplyError};
use crate::invoker::{CloseRequest, Shared};
use crate::keeper::Keeper;

/// Version of the protocol in `routing.proto`.
const PROTOCOL: u32 = 1;

/// What is known beyond its first release: calls are held where a table says so.
const FEATURES: [&str; 1] = ["hold"];

/// Lease until the control plane has named one, and the bounds of what it may
/// name: below, reports would be most of the traffic; above, a dead node would
/// go unnoticed.
const LEASE_AT_FIRST: Duration = Duration::from_secs(3);
const LEASE_MIN: Duration = Duration::from_millis(100);
const LEASE_MAX: Duration = Duration::from_secs(60);

/// Pause before the first further attempt; doubles with each failed one.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a control plane that comes back is found within it.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long a node may take to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a node may take to end the stream after a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest time between two looks whether calls are still in flight at the end.
const IDLE_LOOK: Duration = Duration::from_millis(100);

const TELEMETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Reports waiting for the network. They are cumulative, so one that finds no
/// room is not missed.
const UPLINK_MESSAGES_MAX: usize = 8;

/// HTTP/2 windows, so that a snapshot of thousands of endpoints does not need
/// a round trip for every 64 KiB.
const WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Why a node is not followed any more.
#[derive(Debug, Error)]
enum LinkError {
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{0}")]
    Refused(#[from] Box<tonic::Status>),
    #[error("it did not accept the stream within {} ms", OPEN_TIMEOUT.as_millis())]
    Slow,
    #[error("it ended the stream")]
    Ended,
    #[error("nothing heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("its first message was no snapshot")]
    NoSnapshot,
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why the session's loop was interrupted.
enum Interrupt {
    Lost(LinkError),
    /// To be told when it is done; `None` if nobody holds the invoker any more.
    Close(Option<CloseRequest>),
}

impl<E: Into<LinkError>> From<E> for Interrupt {
    fn from(error: E) -> Self {
        Self::Lost(error.into())
    }
}

/// An open stream.
struct Link {
    node: SocketAddr,
    up: mpsc::Sender<v1::RoutingUp>,
    down: tonic::Streaming<v1::RoutingDown>,
}

/// See the module.
pub(crate) struct Session {
    shared: Arc<Shared>,
    applier: Applier,
    close: mpsc::Receiver<CloseRequest>,
    lease: Duration,
    /// Attempts since a node last sent tables.
    failures: u32,
    /// Streams that were asked for.
    attached: u64,
    keeper: Keeper,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        applier: Applier,
        close: mpsc::Receiver<CloseRequest>,
    ) -> Self {
        let keeper = Keeper::new(&shared.config);
        Self { shared, applier, close, lease: LEASE_AT_FIRST, failures: 0, attached: 0, keeper }
    }

    /// Runs until the invoker is closed or dropped.
    pub(crate) async fn run(mut self) {
        let nodes = self.shared.config.control_plane.clone();
        for node in nodes.iter().copied().cycle() {
            let mut link = None;
            let interrupt = match self.open(node).await {
                Ok(opened) => self.follow(link.insert(opened)).await,
                Err(interrupt) => interrupt,
            };
            self.shared.set_node(None);
            let close = match interrupt {
                Interrupt::Lost(error) => self.pause(node, &error).await,
                Interrupt::Close(done) => Some(done),
            };
            if let Some(done) = close {
                self.end(link).await;
                // Whoever asked may have stopped waiting.
                let _ = done.map(|done| done.send(()));
                return;
            }
        }
    }

    /// After each node was tried once: takes the tables of the last process, if it left
    /// some that are of use. Later: lets go of them once they are too old.
    async fn by_file(&mut self) {
        let nodes = self.shared.config.control_plane.len();
        if let Some(age) = self.shared.cached_age() {
            if self.keeper.is_too_old(age) {
                tracing::warn!(?age, "the tables of the file are too old, and no node answers");
                self.applier.clear().await;
                self.shared.forget_applied();
            }
        } else if self.shared.applied().is_none()
            && self.failures as usize + 1 >= nodes
            && let Some(cached) = self.keeper.read().await
        {
            let age = cached.age;
            match self.applier.apply_cached(cached).await {
                Ok(()) => tracing::info!(?age, "no node answers; calling by the tables of a file"),
                Err(error) => tracing::warn!(%error, "the tables of the file cannot be applied"),
            }
        }
    }

    /// Waits before the next node is tried, unless the session is to end.
    async fn pause(&mut self, node: SocketAddr, error: &LinkError) -> Option<Option<CloseRequest>> {
        tracing::info!(%node, %error, failures = self.failures, "lost the routing tables' source");
        self.applier.sweep_connections();
        self.by_file().await;
        let pause = backoff(self.failures, rand::random_range(75..=125));
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            () = sleep(pause) => None,
            request = self.close.recv() => Some(request),
        }
    }

    /// Opens a stream at `node` and says hello.
    async fn open(&mut self, node: SocketAddr) -> Result<Link, Interrupt> {
        self.attached += 1;
        let (up, outbound) = mpsc::channel(UPLINK_MESSAGES_MAX);
        up.try_send(wire(Message::Hello(self.hello()))).expect("the channel is new");
        let open = open_stream(node, self.shared.config.connect_timeout, self.lease, outbound);
        tokio::select! {
            down = open => Ok(Link { node, up, down: down? }),
            request = self.close.recv() => Err(Interrupt::Close(request)),
        }
    }

    fn hello(&self) -> v1::SessionHello {
        // Of the tables of a file nobody was told.
        let applied = self.shared.applied().filter(|_| self.shared.cached_age().is_none());
        v1::SessionHello {
            session_id: self.shared.session.to_string(),
            kind: self.shared.config.kind.as_wire().to_owned(),
            name: self.shared.config.name.clone(),
            protocol: PROTOCOL,
            incarnation: applied.map_or(0, |applied| applied.incarnation),
            revision: applied.map_or(0, |applied| applied.revision),
            attach: self.attached,
            features: FEATURES.map(str::to_owned).into(),
        }
    }

    /// Follows one stream until it is interrupted.
    async fn follow(&mut self, link: &mut Link) -> Interrupt {
        match self.first_tables(link).await {
            Ok(()) => {}
            Err(interrupt) => return interrupt,
        }
        self.failures = 0;
        self.shared.set_node(Some(link.node));
        self.applier.forget_reported();
        self.report(&link.up, true);
        tracing::info!(node = %link.node, applied = ?self.shared.applied(), "following routing tables");

        let became_idle = Arc::clone(&self.shared.became_idle);
        let mut reports = ticks(self.lease / 3);
        let mut telemetry = ticks(TELEMETRY_INTERVAL);
        let mut silence = pin!(sleep_until(Instant::now() + self.lease));
        loop {
            tokio::select! {
                // A message that has arrived goes before a silence that is over:
                // the process may have been stopped in between.
                biased;
                request = self.close.recv() => return Interrupt::Close(request),
                message = link.down.message() => {
                    silence.as_mut().reset(Instant::now() + self.lease);
                    let before = self.shared.applied();
                    match self.applied(message).await {
                        Ok(()) if self.shared.applied() != before => self.report(&link.up, false),
                        Ok(()) => {}
                        Err(error) => return error.into(),
                    }
                }
                () = became_idle.notified() => self.report(&link.up, false),
                _ = telemetry.tick() => {
                    self.applier.sweep_connections();
                    self.report(&link.up, true);
                    reports.reset();
                    self.keep();
                }
                _ = reports.tick() => self.report(&link.up, false),
                () = &mut silence => return LinkError::Silent(self.lease).into(),
            }
        }
    }

    /// Waits for the first message, applies it and takes its lease.
    async fn first_tables(&mut self, link: &mut Link) -> Result<(), Interrupt> {
        let message = tokio::select! {
            message = timeout(self.lease, link.down.message()) => message,
            request = self.close.recv() => return Err(Interrupt::Close(request)),
        };
        let message = message.map_err(|_| LinkError::Silent(self.lease))?;
        if let Ok(Some(first)) = &message {
            if !first.snapshot {
                return Err(LinkError::NoSnapshot.into());
            }
            if first.lease_ms > 0 {
                self.lease = Duration::from_millis(first.lease_ms).clamp(LEASE_MIN, LEASE_MAX);
            }
        }
        Ok(self.applied(message).await?)
    }

    async fn applied(
        &mut self,
        message: Result<Option<v1::RoutingDown>, tonic::Status>,
    ) -> Result<(), LinkError> {
        let message = message.map_err(Box::new)?.ok_or(LinkError::Ended)?;
        self.applier.apply(&message).await?;
        self.shared.heard();
        Ok(())
    }

    /// Keeps the tables for the next start.
    fn keep(&mut self) {
        let Some((applied, confirmed)) = self.shared.applied().zip(self.shared.heard_ago()) else {
            return;
        };
        let applier = &self.applier;
        self.keeper.keep(applied, confirmed, || applier.snapshot());
    }

    /// Says what is applied, what is busy, and what has been measured.
    fn report(&mut self, up: &mpsc::Sender<v1::RoutingUp>, with_telemetry: bool) {
        let busy = self.applier.busy();
        let Some(applied) = self.shared.applied() else { return };
        // Without room nothing is taken down as reported; the next report
        // repeats it.
        let Ok(permit) = up.try_reserve() else { return };
        let telemetry = if with_telemetry { self.applier.telemetry() } else { Vec::new() };
        permit.send(wire(Message::Report(v1::SessionReport {
            incarnation: applied.incarnation,
            applied: applied.revision,
            busy,
            telemetry,
            late: self.applier.late(),
        })));
    }

    /// Ends the session: no more calls, a last report, and a goodbye if none
    /// is in flight.
    async fn end(&mut self, link: Option<Link>) {
        self.shared.set_closed();
        self.applier.clear().await;
        let became_idle = Arc::clone(&self.shared.became_idle);
        let deadline = Instant::now() + self.shared.config.close_timeout;
        let mut next_report = Instant::now();
        while self.applier.in_flight() > 0 && Instant::now() < deadline {
            if let Some(link) = &link
                && Instant::now() >= next_report
            {
                self.report(&link.up, false);
                next_report = Instant::now() + self.lease / 3;
            }
            let look_again = deadline.min(Instant::now() + IDLE_LOOK);
            // A moment's notice may have been for another endpoint, or have been missed.
            let _ = tokio::time::timeout_at(look_again, became_idle.notified()).await;
        }
        let is_idle = self.applier.in_flight() == 0;
        let Some(Link { up, mut down, .. }) = link else { return };
        self.report(&up, true);
        if is_idle {
            // A node that takes no messages will end the session by its lease.
            let _ =
                timeout(GOODBYE_TIMEOUT, up.send(wire(Message::Goodbye(v1::SessionGoodbye {}))))
                    .await;
        }
        drop(up);
        // The stream has to live until the node has read it.
        let read = async { while let Ok(Some(_)) = down.message().await {} };
        let _ = timeout(GOODBYE_TIMEOUT, read).await;
    }
}

fn wire(message: Message) -> v1::RoutingUp {
    v1::RoutingUp { message: Some(message) }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The pause after `failures` failed attempts in a row, times a jitter.
fn backoff(failures: u32, jitter_percent: u32) -> Duration {
    (BACKOFF_MIN * (1 << failures.min(10))).min(BACKOFF_MAX) * jitter_percent / 100
}

async fn open_stream(
    node: SocketAddr,
    connect_timeout: Duration,
    lease: Duration,
    outbound: mpsc::Receiver<v1::RoutingUp>,
) -> Result<tonic::Streaming<v1::RoutingDown>, LinkError> {
    let channel = Endpoint::from_shared(format!("http://{node}"))?
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(lease / 3)
        .keep_alive_timeout(lease)
        .keep_alive_while_idle(true)
        .connect()
        .await?;
    let mut client = RoutingClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opened = timeout(OPEN_TIMEOUT, client.watch(ReceiverStream::new(outbound))).await;
    Ok(opened.map_err(|_| LinkError::Slow)?.map_err(Box::new)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<_> = (0..8).map(|failures| backoff(failures, 100).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(backoff(u32::MAX, 125), Duration::from_millis(2_500));
    }
}
