//! What services show: the replicated state together with the leader's view.

use std::sync::Arc;
use std::time::Duration;

use aether_core::ids::UpdateId;
use aether_core::records::UpdateRecord;
use aether_proto::peer::peer_client::PeerClient;
use aether_proto::peer::{LeaderViewRequest, LeaderViewResponse};
use aether_proto::v1;

use crate::control::{Control, Read};
use crate::deadline::Deadline;
use crate::leader::LeaderView;
use crate::render;

/// How long the leader's view may take before an answer goes without it.
const VIEW_MAX: Duration = Duration::from_millis(500);

/// The replicated state together with the leader's view.
#[derive(Clone)]
pub struct Views {
    /// The replicated state.
    pub control: Control,
    leader: Arc<LeaderView>,
}

impl Views {
    /// Over the node's parts.
    pub fn new(control: Control, leader: Arc<LeaderView>) -> Self {
        Self { control, leader }
    }

    /// What the leader knows of sessions and of one update; `None` if it cannot
    /// be asked now.
    pub async fn leader_view(
        &self,
        update: Option<&UpdateId>,
        deadline: Deadline,
    ) -> Option<LeaderViewResponse> {
        let replica = self.control.replica();
        let leadership = replica.leadership().borrow().clone();
        if leadership.is_leader {
            let published = self.control.local();
            let record = update.and_then(|id| published.state.updates.get(id));
            let now_ms = replica.now_ms()?;
            return Some(self.leader.view(&published.state, record.map(|r| &**r), now_ms));
        }
        let update_id = update.map(ToString::to_string).unwrap_or_default();
        let mut request = tonic::Request::new(LeaderViewRequest { update_id });
        let wait = deadline.within(VIEW_MAX);
        request.set_timeout(wait);
        let mut client = PeerClient::new(replica.leader_channel()?);
        let answer = tokio::time::timeout(wait, client.leader_view(request)).await;
        answer.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// One update as it is shown.
    pub fn update(
        &self,
        read: &Read,
        record: &UpdateRecord,
        view: Option<&LeaderViewResponse>,
    ) -> v1::Update {
        render::update(&read.published.state, record, view, self.control.as_of(read))
    }

    /// Why an update is where it is.
    pub fn explanation(
        &self,
        read: &Read,
        record: &UpdateRecord,
        view: Option<&LeaderViewResponse>,
    ) -> v1::Explanation {
        let now_ms = view.map_or(read.published.state.meta.log_time_ms, |view| view.now_ms);
        render::explanation(record, view, now_ms, self.control.as_of(read))
    }
}
