//! The node's figures in the Prometheus text format.

use std::fmt::Write;

use aether_core::records::{NodeLifecycle, UpdateState};
use aether_replica::VoterReport;

use crate::control::Control;
use crate::leader::LeaderView;

/// One line of a metric.
fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{name}{labels} {value}");
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Everything there is to say now.
pub(crate) fn text(control: &Control, leader: &LeaderView) -> String {
    let published = control.local();
    let state = &published.state;
    let replica = control.replica().status();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        head(&mut out, name, "gauge", help);
        line(&mut out, name, "", value);
    };
    gauge("aether_raft_term", "Term of the replicated log.", replica.term);
    gauge("aether_raft_leader", "1 if this node leads.", replica.is_leader.into());
    gauge(
        "aether_raft_committed_index",
        "Highest committed index known here.",
        replica.committed.unwrap_or(0),
    );
    gauge("aether_raft_applied_index", "Highest applied index.", state.meta.index);
    gauge(
        "aether_feature_level",
        "Committed feature level, as applied here.",
        state.meta.feature_level.into(),
    );
    gauge(
        "aether_read_rounds",
        "Rounds to the voters by which this leader confirmed reads, since the start.",
        replica.read_rounds,
    );
    gauge(
        "aether_read_voices",
        "Times that the voter which asked made up the majority, since the start.",
        replica.read_voices,
    );
    gauge(
        "aether_read_leases",
        "Times that a lease spared such a round, since the start.",
        replica.read_leases,
    );
    gauge("aether_wal_bytes", "Bytes of the log's files.", replica.wal_bytes);
    voter(&mut gauge, &control.replica().report());
    gauge("aether_sessions", "Committed sessions.", state.sessions.len() as u64);
    gauge("aether_nodes", "Known nodes.", state.nodes.len() as u64);
    let silent = |wanted| state.nodes.values().filter(|n| n.lifecycle == wanted).count() as u64;
    gauge(
        "aether_nodes_unreachable",
        "Nodes that are silent and not lost.",
        silent(NodeLifecycle::Unreachable),
    );
    gauge("aether_nodes_lost", "Nodes that are lost.", silent(NodeLifecycle::Lost));
    gauge(
        "aether_replacement_frozen",
        "1 while too many nodes are silent at once for any of them to count as lost.",
        state.meta.replacement_frozen_since_ms.is_some().into(),
    );
    gauge("aether_instances", "Instances of all slices.", state.instances.len() as u64);
    updates(&mut out, state);
    health(&mut out, control, leader);
    out
}

/// What this voter says about itself; `aether status --verbose` shows it of all.
fn voter(gauge: &mut impl FnMut(&str, &str, u64), report: &VoterReport) {
    let or_0 = |index: Option<u64>| index.unwrap_or(0);
    gauge("aether_raft_last_log_index", "Last index in the log.", or_0(report.last_log));
    gauge("aether_snapshot_index", "Index of the newest snapshot.", or_0(report.snapshot));
    gauge("aether_snapshot_bytes", "Size of the newest snapshot.", report.snapshot_bytes);
    gauge("aether_image_index", "Index of the KV image.", or_0(report.image.index));
    gauge("aether_image_bytes", "Size of the KV image.", report.image.bytes);
    gauge(
        "aether_image_off",
        "1 if the KV image is written no more until the next start.",
        report.image.off_because.is_some().into(),
    );
    let syncs = &report.syncs;
    gauge("aether_wal_syncs", "Syncs of the log in the last half to whole minute.", syncs.count);
    gauge("aether_wal_sync_p50_us", "Median time of these, microseconds.", syncs.p50_us);
    gauge("aether_wal_sync_p99_us", "99 of 100 of these took no longer.", syncs.p99_us);
    gauge("aether_wal_sync_max_us", "The longest of these.", syncs.max_us);
    gauge(
        "aether_feature_level_max",
        "Highest feature level that this node supports.",
        report.feature_level_max.into(),
    );
    gauge("aether_raft_elections", "Terms with a leader since the start.", report.elections);
    gauge(
        "aether_proposals_in_flight",
        "Writes of this node's clients that are under way.",
        report.proposals_in_flight,
    );
    let disk = &report.disk;
    gauge("aether_disk_free_bytes", "Space left to log and snapshots.", disk.free_bytes);
    gauge("aether_disk_floor_bytes", "Below so much the disk is low.", disk.floor_bytes);
    gauge("aether_disk_low", "1 while the disk is low.", disk.low.into());
    gauge(
        "aether_writes_refused",
        "1 while this leader takes no writes for want of space.",
        report.refuses_writes.is_some().into(),
    );
}

fn updates(out: &mut String, state: &aether_core::state::State) {
    let name = "aether_updates";
    head(out, name, "gauge", "Updates that are kept, by state.");
    for wanted in UpdateState::ALL {
        let count = state.updates.values().filter(|update| update.state == wanted).count();
        line(out, name, &format!("{{state=\"{wanted}\"}}"), count);
    }
}

/// Requests and errors by version of live updates; only the leader knows them.
fn health(out: &mut String, control: &Control, leader: &LeaderView) {
    let Some(now_ms) = control.replica().now_ms() else {
        return;
    };
    let published = control.local();
    let state = &published.state;
    let live: Vec<_> = state.slices.values().filter_map(|s| state.live_update(&s.slice)).collect();
    let views: Vec<_> = live
        .iter()
        .filter_map(|update| Some((update, leader.update_view(state, update, now_ms).health?)))
        .collect();
    for (name, help) in [
        ("aether_requests_total", "First attempts by version of a live update."),
        ("aether_request_errors_total", "Failed first attempts by version of a live update."),
    ] {
        head(out, name, "counter", help);
        for (update, health) in &views {
            let old = update.old.as_ref().zip(health.old_version.as_ref());
            let new = health.new_version.as_ref().map(|version| (&update.new, version));
            for (side, version) in old.into_iter().chain(new) {
                // Both sides may have one version; a series must be there once.
                let labels = format!(
                    "{{slice=\"{}\",version=\"{}\",revision=\"{}\"}}",
                    update.slice, version.version, side.revision.0
                );
                let value = match name {
                    "aether_requests_total" => version.request_count,
                    _ => version.error_count,
                };
                line(out, name, &labels, value);
            }
        }
    }
}
