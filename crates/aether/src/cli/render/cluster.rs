//! The cluster and its nodes.

use aether_proto::v1;

use super::update::as_of;
use super::{fields, or_dash, span, table, voters};

/// The cluster as one node sees it.
pub fn status(status: &v1::ClusterStatus) -> String {
    let quorum = if status.quorum { "yes" } else { "no: writes wait, running slices go on" };
    let alerts: Vec<&str> = status.alerts.iter().map(|alert| alert.message.as_str()).collect();
    let mut text = fields(&[
        ("cluster", status.cluster.clone()),
        ("answered by", format!("{} (version {})", status.node, status.version)),
        ("leader", status.leader.clone().unwrap_or_else(|| "none known".to_owned())),
        ("quorum", quorum.to_owned()),
        ("term", status.term.to_string()),
        ("log", format!("committed {}, applied {}", status.committed, status.applied)),
        ("state hash", status.state_hash.clone()),
        ("level", feature_level(status)),
        ("slices", status.slices.to_string()),
        ("live updates", status.live_updates.to_string()),
        ("sessions", status.sessions.to_string()),
        ("ALERT", alerts.join("\n")),
    ]);
    let voter = |voter: &v1::Voter| {
        let role = match (voter.leader, voter.alive) {
            (true, _) => "leader",
            (_, Some(false)) => "does not answer",
            _ => "follower",
        };
        vec![
            voter.name.clone(),
            voter.raft_id.to_string(),
            voter.peer_address.clone(),
            role.to_owned(),
        ]
    };
    text.push_str("\n\n");
    let rows = status.voters.iter().map(voter).collect();
    text.push_str(&table(&["VOTER", "ID", "PEER ADDRESS", "ROLE"], rows));
    if status.voters.iter().any(|voter| voter.detail.is_some()) {
        text.push_str(&format!("\n\n{}", voters::details(&status.voters)));
    }
    for change in &status.voter_changes {
        text.push_str(&format!("\n\n{}", voter_change(change)));
    }
    if !status.session_states.is_empty() {
        let session = |session: &v1::Session| {
            vec![
                session.id.clone(),
                session.kind.clone(),
                session.name.clone(),
                session.state.clone(),
                session.applied.to_string(),
            ]
        };
        let rows = status.session_states.iter().map(session).collect();
        text.push_str("\n\n");
        text.push_str(&table(&["SESSION", "KIND", "NAME", "STATE", "APPLIED"], rows));
    }
    text
}

/// The committed level, and who holds it back; only if details were asked for.
fn feature_level(status: &v1::ClusterStatus) -> String {
    let committed = status.feature_level;
    match status.feature_level_held_back_by.as_slice() {
        _ if status.voters.iter().all(|voter| voter.detail.is_none()) => String::new(),
        [] => committed.to_string(),
        held => format!("{committed}, held back: {}", held.join(", ")),
    }
}

/// How far a change of the voters is, in a line.
pub fn voter_change(change: &v1::VoterChange) -> String {
    let node = &change.node;
    let what = match (change.kind.as_str(), change.stage.as_str()) {
        ("JOIN", "DONE") => format!("{node} votes"),
        (_, "DONE") => format!("{node} votes no more"),
        ("JOIN", _) => format!("{node} is to vote"),
        _ => format!("{node} is to vote no more"),
    };
    match change.note.is_empty() {
        true if change.stage == "DONE" => what,
        true => format!("{what}: the others are told"),
        false => format!("{what}: waits {}", change.note),
    }
}

/// The nodes that run instances, and how fresh that is.
pub fn nodes(response: &v1::NodesResponse) -> String {
    let mut text = node_table(&response.nodes);
    let fresh = response.as_of.as_ref().map(as_of).unwrap_or_default();
    if !fresh.is_empty() {
        text.push_str(&format!("\n\nas of {fresh}"));
    }
    text
}

/// Nodes, a row each.
pub fn node_table(nodes: &[v1::Node]) -> String {
    let row = |node: &v1::Node| {
        let mut labels: Vec<String> =
            node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        vec![
            node.name.clone(),
            node.address.clone(),
            node.lifecycle.clone(),
            span(node.since_ms),
            or_dash(&node.schedule),
            format!("{}/{}", node.instances, node.instances_max),
            or_dash(&labels.join(",")),
        ]
    };
    let header = ["NODE", "ADDRESS", "STATE", "SINCE", "SCHEDULE", "INSTANCES", "LABELS"];
    table(&header, nodes.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_a_leader_says_so() {
        let voter = |name: &str| v1::Voter {
            name: name.into(),
            raft_id: 1,
            peer_address: "127.0.0.1:8091".into(),
            leader: false,
            alive: None,
            detail: None,
        };
        let text = status(&v1::ClusterStatus {
            cluster: "aether".into(),
            node: "n1".into(),
            voters: vec![voter("n1")],
            ..Default::default()
        });
        assert!(text.contains("leader        none known\n"), "{text}");
        assert!(text.contains("quorum        no: "), "{text}");
        assert!(
            text.contains("VOTER  ID  PEER ADDRESS    ROLE\nn1     1   127.0.0.1:8091"),
            "{text}"
        );
    }

    #[test]
    fn nodes_show_their_labels_in_order() {
        let labels = [("zone", "a"), ("disk", "ssd")];
        let node = v1::Node {
            name: "n1".into(),
            address: "127.0.0.1:8090".into(),
            lifecycle: "READY".into(),
            instances: 1,
            instances_max: 64,
            since_ms: 5_000,
            schedule: "CORDONED".into(),
            note: String::new(),
            waits_for: Vec::new(),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            as_of: None,
        };
        let text = nodes(&v1::NodesResponse { nodes: vec![node], ..Default::default() });
        assert_eq!(
            text,
            "NODE  ADDRESS         STATE  SINCE  SCHEDULE  INSTANCES  LABELS\n\
             n1    127.0.0.1:8090  READY  5s     CORDONED  1/64       disk=ssd,zone=a"
        );
    }
}
