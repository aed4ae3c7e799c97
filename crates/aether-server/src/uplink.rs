//! Brings what clients of this node reported to the leader, whoever that is.

use std::sync::Arc;
use std::time::Duration;

use aether_core::ids::SessionId;
use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::peer::ReportRequest;
use aether_proto::peer::peer_client::PeerClient;
use tracing::debug;

use crate::control::Control;
use crate::hub::Hub;
use crate::leader::LeaderView;

/// How long one report may take. A leader that needs longer is no longer one,
/// or will get the next report.
const REPORT_MAX: Duration = Duration::from_millis(500);
/// Size of one report: a small part of what a link of 100 Mbit/s carries in the
/// time that it may take, so that a great deal of telemetry is late and not lost.
const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// Pause before a failed report is repeated.
const RETRY: Duration = Duration::from_millis(20);
/// Reports are state: when nothing changed for this long, a look at whether
/// the leader is another one suffices.
const IDLE: Duration = Duration::from_millis(250);

/// What the reports go from and to.
struct Uplink {
    control: Control,
    hub: Arc<Hub>,
    leader: Arc<LeaderView>,
    node: String,
}

/// Runs until the process ends.
pub async fn run(control: Control, hub: Arc<Hub>, leader: Arc<LeaderView>, node: String) {
    let uplink = Uplink { control, hub, leader, node };
    let mut leadership = uplink.control.replica().leadership();
    let mut reported_to = None;
    loop {
        tokio::select! {
            () = uplink.hub.changed.notified() => {}
            _ = leadership.changed() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
        let now = leadership.borrow_and_update().clone();
        let to = now.leader.as_ref().map(|leader| (now.term, leader.raft_id));
        if to != reported_to {
            uplink.hub.mark_all();
            reported_to = to;
        }
        if to.is_none() {
            uplink.hub.undelivered();
        } else if let Err(problem) = uplink.report(now.is_leader.then_some(now.term)).await {
            debug!(problem, "the report of connected clients did not reach the leader");
            tokio::time::sleep(RETRY).await;
        }
        uplink.forget_ended();
    }
}

impl Uplink {
    /// Delivers all that is there, part by part, up to the first that fails.
    /// `leading` is the term in which this node leads, if it does.
    async fn report(&self, leading: Option<u64>) -> Result<(), String> {
        let mut batch = self.hub.batch();
        while let Some(request) = self.hub.take(&mut batch, &self.node, REPORT_BYTES_MAX) {
            let delivered = match leading {
                Some(term) if self.leader.absorb(term, request.clone()) => Ok(()),
                Some(_) => Err("not taken over yet".to_owned()),
                None => self.send(request.clone()).await,
            };
            if let Err(problem) = delivered {
                self.hub.undelivered();
                self.hub.put_back(&request);
                return Err(problem);
            }
            self.hub.delivered();
        }
        // Also when there was nothing to say: what did not reach the leader is
        // gone with the clients that said it, and others may come.
        self.hub.delivered();
        Ok(())
    }

    async fn send(&self, report: ReportRequest) -> Result<(), String> {
        let channel = self.control.replica().leader_channel().ok_or("no leader is known")?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(report);
        request.set_timeout(REPORT_MAX);
        client.report(request).await.map(drop).map_err(|status| status.to_string())
    }

    fn forget_ended(&self) {
        let published = self.control.local();
        let opened = |id: SessionId| Some(published.state.sessions.get(&id)?.opened);
        self.hub.forget_ended(|id, life| id.parse().ok().and_then(opened) == Some(life));
    }
}
