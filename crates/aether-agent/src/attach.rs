//! Keeps the node attached to some voter: directives down, reports up.
//!
//! While no voter answers everything keeps running; this only tries again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aether_core::command::Observation;
use aether_core::records::Observed;
use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1::agent_up::Message;
use aether_proto::v1::agents_client::AgentsClient;
use aether_proto::v1::{AgentDown, AgentHello, AgentReport, AgentUp, InstanceObservation};
use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::artifact::ArtifactStore;
use crate::collect::Listed;
use crate::directive::Directive;
use crate::fetch::root_cause;
use crate::instance::Shared;

/// Version of the protocol that the hello names.
const PROTOCOL: u32 = 1;

/// Longest wait for a connection, and for the answer to the attachment.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A silent connection is asked for a sign of life this often, and given up
/// after as long again: within one lease of 3 s.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// First wait after a failure; doubles with every round over all voters.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest wait: a cluster that comes back finds its nodes within it.
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Shortest time between two reports: a node on which everything changes at
/// once says so a few hundred times a second at most.
const REPORT_GAP: Duration = Duration::from_millis(3);

/// The connection of a node to the control plane.
pub(crate) struct Attachment {
    shared: Arc<Shared>,
    store: Arc<ArtifactStore>,
    directives: mpsc::Sender<Directive>,
    /// What was last said of the archives that this node holds.
    listed: watch::Sender<Option<Listed>>,
    lease: Duration,
    /// Orders this process after earlier ones: the wall clock of its start.
    life_ms: u64,
    /// Streams that were asked for.
    attached: u64,
}

impl Attachment {
    /// Every directive that can be read goes to `directives`.
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<ArtifactStore>,
        directives: mpsc::Sender<Directive>,
        listed: watch::Sender<Option<Listed>>,
    ) -> Self {
        let lease = Directive::default().lease();
        let life = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let life_ms = life.map_or(0, |life| life.as_millis() as u64);
        Self { shared, store, directives, listed, lease, life_ms, attached: 0 }
    }

    /// Attaches, again and again, to one voter after the other.
    pub async fn run(mut self) {
        let voters = self.shared.config.control_plane.clone();
        let mut failures = 0;
        for voter in voters.iter().cycle() {
            let ended = match self.attach(*voter).await {
                Ok(()) => {
                    failures = 0;
                    "the voter ended the stream".to_owned()
                }
                Err(Ended { was_attached, problem }) => {
                    failures = if was_attached { 0 } else { failures + 1 };
                    problem
                }
            };
            let wait = retry_wait(failures, voters.len(), rand::rng().random_range(0.5..1.0));
            tracing::info!(%voter, problem = ended, ?wait, "not attached");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attach(&mut self, voter: SocketAddr) -> Result<(), Ended> {
        let failed = |problem: String| Ended { was_attached: false, problem };
        let channel = Endpoint::from_shared(format!("http://{voter}"))
            .map_err(|error| failed(error.to_string()))?
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .map_err(|error| failed(root_cause(&error)))?;
        self.attached += 1;
        // One report under way, one ready: a voter that does not read gets the
        // newest when it does.
        let (up, messages) = mpsc::channel(2);
        let hello = Message::Hello(self.hello());
        let _ = up.try_send(AgentUp { message: Some(hello) }); // The channel is empty.
        let mut client = AgentsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let attaching = client.attach(ReceiverStream::new(messages));
        let down = tokio::time::timeout(CONNECT_MAX, attaching)
            .await
            .map_err(|_| failed("no answer to the attachment".to_owned()))?
            .map_err(|status| failed(status.message().to_owned()))?
            .into_inner();
        tracing::info!(%voter, "attached");
        self.converse(down, up).await
    }

    async fn converse(
        &mut self,
        mut down: Streaming<AgentDown>,
        up: mpsc::Sender<AgentUp>,
    ) -> Result<(), Ended> {
        let mut observed = self.shared.board.changes();
        let mut held = self.store.changes();
        let mut regularly = self.interval();
        let mut due = true;
        let mut earliest = Instant::now();
        let mut was_attached = false;
        // A stream's first report is confirmed: with it the node is there.
        let mut confirm = true;
        loop {
            tokio::select! {
                message = down.message() => match message {
                    Ok(Some(message)) => {
                        was_attached = true;
                        if self.pass_on(message).await {
                            regularly = self.interval();
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        let problem = status.message().to_owned();
                        return Err(Ended { was_attached, problem });
                    }
                },
                permit = ready(&up, earliest), if due => match permit {
                    Some(permit) => {
                        // What changes from here on makes another one due.
                        observed.borrow_and_update();
                        held.borrow_and_update();
                        due = false;
                        let report = Message::Report(self.report(confirm));
                        confirm = self.shared.board.is_leaving();
                        permit.send(AgentUp { message: Some(report) });
                        earliest = Instant::now() + REPORT_GAP;
                    }
                    None => return Ok(()),
                },
                _ = observed.changed(), if !due => {
                    confirm |= self.shared.board.is_leaving();
                    due = true;
                }
                _ = held.changed(), if !due => due = true,
                _ = regularly.tick() => due = true,
            }
        }
    }

    /// True when the lease changed.
    async fn pass_on(&mut self, message: AgentDown) -> bool {
        self.shared.board.set_taken(message.taken);
        if let Some(listed) = Listed::read(&message) {
            self.listed.send_if_modified(|last| {
                let news = last.as_ref() != Some(&listed);
                *last = Some(listed);
                news
            });
        }
        match Directive::read(message) {
            Ok(directive) => {
                let lease = directive.lease();
                let _ = self.directives.send(directive).await; // Fails at shutdown only.
                std::mem::replace(&mut self.lease, lease) != lease
            }
            Err(problem) => {
                tracing::error!(problem, "a directive cannot be read and is not followed");
                false
            }
        }
    }

    fn interval(&self) -> tokio::time::Interval {
        let mut interval = tokio::time::interval((self.lease / 3).max(Duration::from_millis(10)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    fn hello(&self) -> AgentHello {
        let config = &self.shared.config;
        AgentHello {
            node: config.node.to_string(),
            address: config.advertise.to_string(),
            labels: config.labels.clone().into_iter().collect(),
            instances_max: config.instances_max,
            protocol: PROTOCOL,
            life: self.life_ms,
            attach: self.attached,
            takes_configs: true,
        }
    }

    /// With `confirm` it asks for a receipt.
    fn report(&self, confirm: bool) -> AgentReport {
        // Before the rest: what it confirms must be in the report.
        let receipt = if confirm { self.shared.board.receipt() } else { 0 };
        AgentReport {
            receipt,
            instances: self.shared.board.all().into_iter().map(to_wire).collect(),
            holds_sha256: self.store.holds().iter().map(ToString::to_string).collect(),
            dropped_sha256: self.store.dropped().iter().map(ToString::to_string).collect(),
        }
    }
}

/// How an attachment ended.
struct Ended {
    /// Something was heard of the voter, so the next failure is the first.
    was_attached: bool,
    problem: String,
}

/// Room for a report, but not too early. `None`: the stream is closed.
async fn ready(up: &mpsc::Sender<AgentUp>, earliest: Instant) -> Option<mpsc::Permit<'_, AgentUp>> {
    tokio::time::sleep_until(earliest).await;
    up.reserve().await.ok()
}

/// The wait after `failures` in a row. All voters are tried once before it
/// grows; `jitter` is between 0.5 and 1.
fn retry_wait(failures: u32, voters: usize, jitter: f64) -> Duration {
    let rounds = failures as usize / voters.max(1);
    let doublings = u32::try_from(rounds.min(16)).unwrap_or(16);
    RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MOST).mul_f64(jitter)
}

fn to_wire(observation: Observation) -> InstanceObservation {
    let (reason_code, reason_message) =
        observation.reason.map_or_else(Default::default, |reason| (reason.code, reason.message));
    InstanceObservation {
        instance_id: observation.instance.to_string(),
        observed: observed_text(observation.observed).to_owned(),
        endpoint: observation.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        restarts: observation.restarts,
        reason_code,
        reason_message,
        reloaded: observation.reloaded.unwrap_or_default(),
    }
}

fn observed_text(observed: Observed) -> &'static str {
    match observed {
        Observed::Assigned => "ASSIGNED",
        Observed::Fetching => "FETCHING",
        Observed::Starting => "STARTING",
        Observed::Ready => "READY",
        Observed::Unready => "UNREADY",
        Observed::Crashed => "CRASHED",
        Observed::Stopping => "STOPPING",
        Observed::Stopped => "STOPPED",
        // Nothing that an agent sees is unknown to it.
        Observed::Unknown => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::iter::successors;

    use aether_core::records::Reason;

    use super::*;
    use crate::frozen::{attached, hex};

    #[test]
    fn what_is_reported_of_an_instance_is_written_as_it_was() {
        let next = |observed: &Observed| match observed {
            Observed::Assigned => Some(Observed::Fetching),
            Observed::Fetching => Some(Observed::Starting),
            Observed::Starting => Some(Observed::Ready),
            Observed::Ready => Some(Observed::Unready),
            Observed::Unready => Some(Observed::Crashed),
            Observed::Crashed => Some(Observed::Stopping),
            Observed::Stopping => Some(Observed::Stopped),
            Observed::Stopped => Some(Observed::Unknown),
            Observed::Unknown => None,
        };
        let seen = |observed, endpoint: Option<&str>, reason| Observation {
            instance: "a-1-0".parse().unwrap(),
            observed,
            endpoint: endpoint.map(|endpoint| endpoint.parse().unwrap()),
            restarts: u32::MAX,
            reason,
            reloaded: None,
        };
        let reason = || Some(Reason::new("crashed", "exited with status 3"));
        let all = successors(Some(Observed::Assigned), next);
        let all = all.map(|observed| seen(observed, Some("[::1]:10000"), reason()));
        let all = all.chain([seen(Observed::Ready, None, None)]);
        let lines: String = all.map(|seen| hex(&to_wire(seen)) + "\n").collect();
        attached("reported.txt").holds(lines.as_bytes());
        let reloaded = Observation {
            reloaded: Some(u64::MAX),
            ..seen(Observed::Ready, Some("[::1]:10000"), None)
        };
        attached("reported-reload.txt").holds((hex(&to_wire(reloaded)) + "\n").as_bytes());
    }

    #[test]
    fn the_first_retries_are_quick_and_later_ones_bounded() {
        let wait = |failures| retry_wait(failures, 3, 1.0).as_millis();
        let waits: Vec<_> = [0, 1, 2, 3, 5, 6, 9, 100, u32::MAX].map(wait).into();
        assert_eq!(waits, [50, 50, 50, 100, 100, 200, 400, 2_000, 2_000]);
        assert_eq!(retry_wait(0, 0, 0.5).as_millis(), 25);
    }
}
