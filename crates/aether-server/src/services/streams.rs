//! What the long streams of agents and sessions have in common: both begin
//! with a hello, both ways are open until one side ends them, and the node
//! shows that it lives. Those of mere readers are in `following` and `reading`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::Streamed;
use crate::hub::Hub;
use crate::status;

/// Version of the protocols in `routing.proto` and `agents.proto`.
const PROTOCOL: u32 = 1;

/// Refuses a hello of another protocol.
pub fn check_protocol(given: u32) -> Result<(), Status> {
    if given == PROTOCOL {
        return Ok(());
    }
    let problem = format!("{given} is not spoken here, {PROTOCOL} is");
    Err(status::invalid("protocol", problem))
}

/// How long a client may take for the first message of its stream, which it
/// sends before it waits for anything.
const FIRST_MAX: Duration = Duration::from_secs(10);

/// The first message of a client's stream; `None` if it ended without one.
///
/// # Errors
/// None came in time, or it cannot be read.
pub async fn first<M>(from: &mut Streaming<M>) -> Result<Option<M>, Status> {
    let late = |_| status::late(format!("the stream began without a message for {FIRST_MAX:?}"));
    tokio::time::timeout(FIRST_MAX, from.message()).await.map_err(late)?
}

/// Something else than a hello came first.
pub fn no_hello() -> Status {
    status::invalid("message", "the first one must be 'hello'")
}

/// A later stream of the same client is open at this node.
pub fn overtaken() -> Status {
    status::unavailable("a later stream of this client is open here")
}

/// Where messages to a client go.
pub type Down<T> = mpsc::Sender<Result<T, Status>>;

/// A stream down, written by a task of its own. The error with which that task
/// ends is the last that the client gets.
pub fn answer<T, F>(queued_max: usize, push: impl FnOnce(Down<T>) -> F) -> Response<Streamed<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (to, stream) = mpsc::channel(queued_max);
    let push = push(to.clone());
    tokio::spawn(async move {
        if let Err(status) = push.await {
            // Nobody listening is fine.
            let _ = to.send(Err(status)).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(stream)))
}

/// Says when a client has to be shown that the stream lives.
pub struct KeepAlive {
    hub: Arc<Hub>,
    lease: Duration,
    ticks: Interval,
}

impl KeepAlive {
    /// For clients with this lease, from now on.
    pub fn new(hub: Arc<Hub>, lease: Duration) -> Self {
        let period = lease / 3;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { hub, lease, ticks }
    }

    /// Waits until something has to be said.
    ///
    /// # Errors
    /// When this node has been cut off for a lease: the client is better served
    /// elsewhere.
    pub async fn due(&mut self) -> Result<(), Status> {
        self.ticks.tick().await;
        if self.hub.is_cut_off(self.lease) {
            return Err(status::unavailable("this node reaches no leader"));
        }
        Ok(())
    }
}
