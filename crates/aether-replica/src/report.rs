//! What each voter says about itself, asked from any of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_proto::raft as pb;
use tonic::{Code, Request};

use crate::handle::Handle;
use crate::log_store::SyncFigures;
use crate::node::Node;
use crate::peers::Lane;
use crate::space::DiskStatus;
use crate::status::{self, ImageStatus, MemberStatus};

/// How a voter stands. Indices are `None` before there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VoterReport {
    /// Its term.
    pub term: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Last index that it applied.
    pub applied: Option<u64>,
    /// Last index that it knows to be committed.
    pub committed: Option<u64>,
    /// Last index in its log.
    pub last_log: Option<u64>,
    /// Index of its newest durable snapshot.
    pub snapshot: Option<u64>,
    /// Size of that.
    pub snapshot_bytes: u64,
    /// Bytes of its log's files.
    pub wal_bytes: u64,
    /// Its KV image.
    pub image: ImageStatus,
    /// Syncs of its log in the last half to whole minute.
    pub syncs: SyncFigures,
    /// Terms in which it saw a leader, since its start.
    pub elections: u64,
    /// Proposals of its own callers that are under way.
    pub proposals_in_flight: u64,
    /// Its disk. Without a path if it does not look.
    pub disk: DiskStatus,
    /// Why it takes no writes as the leader, if so.
    pub refuses_writes: Option<String>,
    /// Highest feature level that its machine supports; 0 if it does not say.
    pub feature_level_max: u32,
}

/// Counts the terms in which a leader was seen.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    last_term: AtomicU64,
    count: AtomicU64,
}

impl Elections {
    /// There is a leader of this term. Called by one task.
    pub fn saw(&self, term: u64) {
        if self.last_term.swap(term, Ordering::Relaxed) != term {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Of this node.
pub(crate) fn of(node: &Node) -> VoterReport {
    let status = status::of(node);
    let in_flight = node.config.proposals_in_flight_max - node.proposals.available_permits();
    let stores = node.stores.lock().expect("no panic while held");
    VoterReport {
        term: status.term,
        is_leader: status.is_leader,
        applied: status.applied,
        committed: status.committed,
        last_log: status.last_log,
        snapshot: status.snapshot,
        snapshot_bytes: node.snapshots.current().map_or(0, |snapshot| snapshot.bytes),
        wal_bytes: status.wal_bytes,
        image: status.image,
        syncs: stores.as_ref().map(|stores| stores.log.sync_figures()).unwrap_or_default(),
        elections: node.elections.count(),
        proposals_in_flight: in_flight as u64,
        disk: node.disk.lock().expect("no panic while held").clone(),
        refuses_writes: node.refusal.reason().filter(|_| status.is_leader),
        feature_level_max: node.config.feature_level_max,
    }
}

impl Handle {
    /// What this voter says about itself.
    pub fn report(&self) -> VoterReport {
        of(self.node())
    }

    /// Highest feature level that this node's machine supports.
    pub fn feature_level_max(&self) -> u32 {
        self.node().config.feature_level_max
    }

    /// What each member of `wanted` says about itself, or why it says nothing. All
    /// are asked at once, and waited for no longer than `patience`. One of an
    /// older release, which does not know the question, gives an empty answer.
    pub async fn reports(
        &self,
        patience: Duration,
        wanted: impl Fn(&MemberStatus) -> bool,
    ) -> Vec<(MemberStatus, Result<VoterReport, String>)> {
        let members = self.status().members;
        let asked = members.into_iter().filter(|member| wanted(member));
        let asked = asked.map(|member| async move {
            let report = self.report_of(&member, patience).await;
            (member, report)
        });
        futures::future::join_all(asked).await
    }

    async fn report_of(
        &self,
        of: &MemberStatus,
        patience: Duration,
    ) -> Result<VoterReport, String> {
        let node = self.node();
        if of.raft_id == node.identity.raft_id {
            return Ok(self.report());
        }
        let member = node.member(of.raft_id).ok_or("it is no member any more")?;
        let mut client = node.peers.client(of.raft_id, &member, Lane::Shared)?;
        let mut request = Request::new(pb::ReportRequest {});
        request.set_timeout(patience);
        let late = |_| format!("no answer within {} ms", patience.as_millis());
        match tokio::time::timeout(patience, client.report(request)).await.map_err(late)? {
            Ok(report) => Ok(from_wire(report.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => Ok(VoterReport::default()),
            Err(status) => Err(status.message().to_owned()),
        }
    }
}

pub(crate) fn to_wire(report: VoterReport) -> pb::ReportResponse {
    pb::ReportResponse {
        term: report.term,
        leader: report.is_leader,
        applied: report.applied,
        committed: report.committed,
        last_log: report.last_log,
        snapshot: report.snapshot,
        snapshot_bytes: report.snapshot_bytes,
        wal_bytes: report.wal_bytes,
        image: report.image.index,
        image_bytes: report.image.bytes,
        image_rebuilt_because: report.image.rebuilt_because,
        image_off_because: report.image.off_because,
        syncs: report.syncs.count,
        sync_p50_us: report.syncs.p50_us,
        sync_p99_us: report.syncs.p99_us,
        sync_max_us: report.syncs.max_us,
        elections: report.elections,
        proposals_in_flight: report.proposals_in_flight,
        disk_path: report.disk.path.display().to_string(),
        disk_free_bytes: report.disk.free_bytes,
        disk_floor_bytes: report.disk.floor_bytes,
        disk_low: report.disk.low,
        refuses_writes: report.refuses_writes,
        feature_level_max: report.feature_level_max,
    }
}

fn from_wire(report: pb::ReportResponse) -> VoterReport {
    VoterReport {
        term: report.term,
        is_leader: report.leader,
        applied: report.applied,
        committed: report.committed,
        last_log: report.last_log,
        snapshot: report.snapshot,
        snapshot_bytes: report.snapshot_bytes,
        wal_bytes: report.wal_bytes,
        image: ImageStatus {
            index: report.image,
            bytes: report.image_bytes,
            rebuilt_because: report.image_rebuilt_because,
            off_because: report.image_off_because,
        },
        syncs: SyncFigures {
            count: report.syncs,
            p50_us: report.sync_p50_us,
            p99_us: report.sync_p99_us,
            max_us: report.sync_max_us,
        },
        elections: report.elections,
        proposals_in_flight: report.proposals_in_flight,
        disk: DiskStatus {
            path: PathBuf::from(report.disk_path),
            free_bytes: report.disk_free_bytes,
            floor_bytes: report.disk_floor_bytes,
            low: report.disk_low,
        },
        refuses_writes: report.refuses_writes,
        feature_level_max: report.feature_level_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_from_the_wire() {
        let report = VoterReport {
            term: 3,
            is_leader: true,
            applied: Some(9),
            last_log: Some(11),
            image: ImageStatus { off_because: Some("broken".into()), ..Default::default() },
            syncs: SyncFigures { count: 4, p50_us: 1, p99_us: 2, max_us: 3 },
            disk: DiskStatus { path: "/x".into(), free_bytes: 5, floor_bytes: 6, low: true },
            refuses_writes: Some("full".into()),
            feature_level_max: 7,
            ..VoterReport::default()
        };
        assert_eq!(from_wire(to_wire(report.clone())), report);
    }

    #[test]
    fn a_leader_is_counted_once_in_its_term() {
        let elections = Elections::default();
        [1, 1, 2, 2, 5].iter().for_each(|term| elections.saw(*term));
        assert_eq!(elections.count(), 3);
    }
}
