//! What services show: the replicated state together with the leader's view.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aether_core::ids::UpdateId;
use aether_core::records::UpdateRecord;
use aether_proto::peer::peer_client::PeerClient;
use aether_proto::peer::{LeaderViewRequest, LeaderViewResponse, SessionView, UpdateView};
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

/// What is known beyond the replicated state when an answer is given.
pub struct Seen {
    /// Log time.
    pub now_ms: u64,
    /// What the leader told of updates; nothing if it could not be asked.
    updates: BTreeMap<String, UpdateView>,
}

impl Seen {
    /// What the leader told of an update.
    pub fn of(&self, update: &UpdateId) -> Option<&UpdateView> {
        self.updates.get(update.as_str())
    }
}

impl Views {
    /// Over the node's parts.
    pub fn new(control: Control, leader: Arc<LeaderView>) -> Self {
        Self { control, leader }
    }

    /// The leader's answer; `None` if it cannot be asked now.
    async fn ask(
        &self,
        request: LeaderViewRequest,
        deadline: Deadline,
    ) -> Option<LeaderViewResponse> {
        let replica = self.control.replica();
        let leadership = replica.leadership().borrow().clone();
        if leadership.is_leader {
            let published = self.control.local();
            return Some(self.leader.answer(&published.state, &request, replica.now_ms()?));
        }
        let wait = deadline.within(VIEW_MAX);
        let mut request = tonic::Request::new(request);
        request.set_timeout(wait);
        let mut client = PeerClient::new(replica.leader_channel()?);
        let answer = tokio::time::timeout(wait, client.leader_view(request)).await;
        answer.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// What the leader knows of the sessions.
    pub async fn sessions(&self, deadline: Deadline) -> Option<Vec<SessionView>> {
        let request = LeaderViewRequest { sessions: true, ..Default::default() };
        self.ask(request, deadline).await.map(|view| view.sessions)
    }

    /// The leader's time and what it knows of these updates, in one question;
    /// without the leader, this node's estimate of the time.
    pub async fn seen(
        &self,
        read: &Read,
        updates: impl Iterator<Item = &UpdateId>,
        deadline: Deadline,
    ) -> Seen {
        let update_ids = updates.map(ToString::to_string).collect();
        let request = LeaderViewRequest { update_ids, sessions: false };
        let Some(view) = self.ask(request, deadline).await else {
            return self.by_itself(read);
        };
        let updates = view.updates.into_iter().map(|update| (update.update_id.clone(), update));
        Seen { now_ms: view.now_ms, updates: updates.collect() }
    }

    /// What this node can tell without asking the leader.
    pub fn by_itself(&self, read: &Read) -> Seen {
        Seen { now_ms: read.published.now_ms(), updates: BTreeMap::new() }
    }

    /// Log time at which an answer is given. The leader is not asked again when
    /// it did not answer just now.
    pub async fn now_ms(&self, read: &Read, deadline: Deadline) -> u64 {
        match read.stale {
            true => self.by_itself(read).now_ms,
            false => self.seen(read, std::iter::empty(), deadline).await.now_ms,
        }
    }

    /// One update as it is shown.
    pub fn update(&self, read: &Read, record: &UpdateRecord, seen: &Seen) -> v1::Update {
        let as_of = self.control.as_of(read);
        render::update(&read.published.state, record, seen.of(&record.id), seen.now_ms, as_of)
    }

    /// Why an update is where it is.
    pub fn explanation(&self, read: &Read, record: &UpdateRecord, seen: &Seen) -> v1::Explanation {
        render::explanation(record, seen.of(&record.id), seen.now_ms, self.control.as_of(read))
    }
}
