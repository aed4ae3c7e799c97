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
/// Pause before a failed report is repeated.
const RETRY: Duration = Duration::from_millis(20);
/// Reports are state: when nothing changed for this long, a look at whether
/// the leader is another one suffices.
const IDLE: Duration = Duration::from_millis(250);

/// Runs until the process ends.
pub async fn run(control: Control, hub: Arc<Hub>, leader: Arc<LeaderView>, node: String) {
    let mut leadership = control.replica().leadership();
    let mut reported_to = None;
    loop {
        tokio::select! {
            () = hub.changed.notified() => {}
            _ = leadership.changed() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
        let now = leadership.borrow_and_update().clone();
        let to = now.leader.as_ref().map(|leader| (now.term, leader.raft_id));
        if to != reported_to {
            hub.mark_all();
            reported_to = to;
        }
        if to.is_none() {
            hub.undelivered();
            continue;
        }
        let Some(request) = hub.take_changes(&node) else {
            continue;
        };
        let delivered = if now.is_leader {
            leader.absorb(now.term, request).then_some(()).ok_or("not taken over yet".to_owned())
        } else {
            send(&control, request).await
        };
        if let Err(problem) = delivered {
            debug!(problem, "the report of connected clients did not reach the leader");
            hub.undelivered();
            hub.mark_all();
            tokio::time::sleep(RETRY).await;
        } else {
            hub.delivered();
        }
        let published = control.local();
        hub.forget_ended(|id| {
            id.parse::<SessionId>().is_ok_and(|id| published.state.sessions.contains_key(&id))
        });
    }
}

async fn send(control: &Control, report: ReportRequest) -> Result<(), String> {
    let channel = control.replica().leader_channel().ok_or("no leader is known")?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut request = tonic::Request::new(report);
    request.set_timeout(REPORT_MAX);
    client.report(request).await.map(drop).map_err(|status| status.to_string())
}
