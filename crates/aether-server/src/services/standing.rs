//! How the voters stand, as each says itself: for the verbose status, and for
//! alerts about their disks.

use std::time::Duration;

use aether_core::level::{FEATURE_LEVEL_FIRST, Support, held_back_by};
use aether_core::state::State;
use aether_proto::v1;
use aether_replica::{DiskStatus, Handle, VoterReport};

use crate::levels;
use crate::status::DISK_LOW;

/// How long a voter is waited for, by people who want to know how it stands …
const PATIENCE: Duration = Duration::from_secs(1);
/// … and by a status that is complete without it.
const PATIENCE_IN_PASSING: Duration = Duration::from_millis(300);

/// What the voters said, by Raft id.
pub struct Standing(Vec<(u64, String, Result<VoterReport, String>)>);

impl Standing {
    /// Asks them: all, or in passing those that are known to answer.
    pub async fn ask(replica: &Handle, verbose: bool, is_alive: impl Fn(u64) -> bool) -> Self {
        let patience = if verbose { PATIENCE } else { PATIENCE_IN_PASSING };
        let reports =
            replica.reports(patience, |m| verbose || (m.voter && is_alive(m.raft_id))).await;
        let reports = reports.into_iter();
        Self(reports.map(|(member, report)| (member.raft_id, member.name, report)).collect())
    }

    /// What one said.
    pub fn detail(&self, raft_id: u64) -> v1::VoterDetail {
        let furthest = self.0.iter().filter_map(|(_, _, report)| report.as_ref().ok()?.last_log);
        let furthest = furthest.max();
        match self.0.iter().find(|(id, _, _)| *id == raft_id) {
            Some((_, _, Ok(report))) => detail(report, furthest),
            Some((_, _, Err(problem))) => silent(problem),
            None => silent("it was not asked"),
        }
    }

    /// Who keeps the feature level from rising though another member supports
    /// more; of those that were asked, and those that are admitted to vote.
    pub fn hold_back(&self, state: &State) -> Vec<String> {
        let asked = self.0.iter().map(|(_, name, report)| Support {
            node: name.clone(),
            supports: report.as_ref().ok().map(|r| r.feature_level_max.max(FEATURE_LEVEL_FIRST)),
        });
        let members: Vec<Support> = asked.chain(levels::joining(state)).collect();
        let highest = members.iter().filter_map(|member| member.supports).max();
        match highest.filter(|highest| *highest > state.meta.feature_level) {
            Some(highest) => held_back_by(highest, &members),
            None => Vec::new(),
        }
    }

    /// What a person should know of the disks.
    pub fn alerts(&self) -> Vec<v1::Reason> {
        let disks = self.0.iter().filter_map(|(_, name, report)| {
            let report = report.as_ref().ok()?;
            Some((name.as_str(), &report.disk, report.refuses_writes.as_deref()))
        });
        alerts(disks)
    }
}

fn alerts<'a>(
    disks: impl Iterator<Item = (&'a str, &'a DiskStatus, Option<&'a str>)>,
) -> Vec<v1::Reason> {
    let alert = |message| v1::Reason { code: DISK_LOW.to_owned(), message };
    let mut alerts = Vec::new();
    for (name, disk, refuses) in disks {
        if disk.low {
            let figures = disk.figures();
            alerts.push(alert(format!(
                "the disk of voter {name} is nearly full: {figures}; free some space, or it ends \
                 when there is none left"
            )));
        }
        if let Some(reason) = refuses {
            alerts.push(alert(format!("no writes are taken: {reason}")));
        }
    }
    alerts
}

fn silent(problem: &str) -> v1::VoterDetail {
    v1::VoterDetail { problem: problem.to_owned(), ..Default::default() }
}

fn detail(report: &VoterReport, furthest: Option<u64>) -> v1::VoterDetail {
    let image = &report.image;
    let (state, problem) = match (&image.off_because, &image.rebuilt_because) {
        (Some(problem), _) => ("OFF", problem.as_str()),
        (None, Some(problem)) => ("REBUILT", problem.as_str()),
        (None, None) => ("OK", ""),
    };
    v1::VoterDetail {
        problem: String::new(),
        term: report.term,
        applied: report.applied,
        committed: report.committed,
        last_log: report.last_log,
        lag: furthest.zip(report.last_log).map(|(furthest, last)| furthest - last),
        wal_bytes: report.wal_bytes,
        snapshot: report.snapshot,
        snapshot_bytes: report.snapshot_bytes,
        image: image.index,
        image_bytes: image.bytes,
        image_state: state.to_owned(),
        image_problem: problem.to_owned(),
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
        feature_level_max: report.feature_level_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(last_log: u64) -> VoterReport {
        VoterReport { last_log: Some(last_log), ..VoterReport::default() }
    }

    #[test]
    fn who_lags_shows_it_and_who_is_silent_says_nothing() {
        let standing = Standing(vec![
            (1, "a".into(), Ok(report(40))),
            (2, "b".into(), Ok(report(37))),
            (3, "c".into(), Err("no answer within 1000 ms".into())),
        ]);
        assert_eq!(standing.detail(1).lag, Some(0));
        assert_eq!(standing.detail(2).lag, Some(3));
        let silent = standing.detail(3);
        assert_eq!((silent.last_log, &*silent.problem), (None, "no answer within 1000 ms"));
        assert!(!standing.detail(4).problem.is_empty());
    }

    #[test]
    fn who_holds_the_level_back_is_named_only_while_somebody_supports_more() {
        let supporting = |level| VoterReport { feature_level_max: level, ..report(1) };
        let mut state = State::default();
        let standing = Standing(vec![
            (1, "a".into(), Ok(supporting(2))),
            (2, "b".into(), Ok(supporting(0))),
            (3, "c".into(), Err("no answer".into())),
        ]);
        assert_eq!(standing.hold_back(&state), ["b supports 1", "c does not answer"]);
        state.meta.feature_level = 2;
        assert_eq!(standing.hold_back(&state), Vec::<String>::new());
    }

    #[test]
    fn a_full_disk_is_told_with_its_figures() {
        let disk = DiskStatus { path: "/x/wal".into(), free_bytes: 9, floor_bytes: 64, low: true };
        let well = DiskStatus::default();
        let told = alerts([("a", &disk, Some("too few")), ("b", &well, None)].into_iter());
        assert!(told.iter().all(|alert| alert.code == "disk_low") && told.len() == 2);
        let text = &told[0].message;
        assert!(text.contains("voter a") && text.contains("9 bytes are free in /x/wal"), "{text}");
        assert!(told[1].message.contains("no writes are taken: too few"), "{told:?}");
    }
}
