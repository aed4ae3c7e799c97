//! How a cluster comes into being, once.
//!
//! The first listed founding voter asks the others who they are. When all of
//! them answer, and none has a log, it writes the founding membership, which
//! names every voter's data directory. Everybody else waits for that. A node
//! whose directory was emptied later finds its name taken by the directory it
//! lost and refuses to take part: its votes and its log are gone, so under the
//! old id it could undo what the cluster has acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::raft as pb;
use aether_proto::raft::raft_client::RaftClient;
use tokio::time::Instant;
use tonic::Request;

use crate::config::Voter;
use crate::data_dir::Identity;
use crate::node::Node;
use crate::peers::Lane;
use crate::types::Member;

pub(crate) const ASK_EVERY: Duration = Duration::from_millis(200);
/// Elections without a leader after which a member asks whether it still is one.
const REMOVAL_ASKS_AFTER: u64 = 4;
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs on a node without a log until there is a membership, or a reason to
/// give up.
pub(crate) async fn run(node: Arc<Node>) {
    let mut reported = String::new();
    while node.members().is_empty() && !node.is_closed() {
        match step(&node).await {
            // It is shown a moment later. To ask again would find it formed.
            Ok(()) => return,
            Err(Obstacle::Final(reason)) => return node.fail(reason),
            Err(Obstacle::Wait(reason)) => {
                if reason != reported {
                    tracing::info!(node = node.identity.node, reason, "the cluster can't form yet");
                    reported = reason;
                }
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Ends a node that was a member and is none any more: it would go on serving
/// an old copy. Its peers say so once it hears no leader. Never ends otherwise.
pub(crate) async fn watch_removal(node: Arc<Node>) {
    let silence_max = Duration::from_millis(REMOVAL_ASKS_AFTER * node.config.election_ms_max);
    let mut heard = Instant::now();
    while !node.is_closed() {
        tokio::time::sleep(ASK_EVERY).await;
        let leads = node.leader().is_leader;
        if leads || node.hears_leader() {
            heard = Instant::now();
            continue;
        }
        // One that was never a member waits to become one.
        if heard.elapsed() < silence_max || node.member(node.identity.raft_id).is_none() {
            continue;
        }
        heard = Instant::now();
        for (id, member) in node.members() {
            if id == node.identity.raft_id {
                continue;
            }
            let answer = ask(&node, node.peers.address(&member)).await;
            if let Ok(answer) = answer
                && is_removed(&node.identity, node.members_at(), &answer)
            {
                return node.fail(removed(&node, &answer.node));
            }
        }
    }
}

/// Whether somebody who knows a later membership knows this directory no more:
/// its id is gone, or it is another's since the cluster was restored.
fn is_removed(me: &Identity, members_at: u64, answer: &pb::IdentifyResponse) -> bool {
    let is_me = |m: &pb::Member| (m.raft_id, &m.dir_id) == (me.raft_id, &me.dir_id);
    answer.members_at > members_at && !answer.members.iter().any(is_me)
}

fn removed(node: &Node, says: &str) -> String {
    format!(
        "{says} says that this node (id {}) is no member of cluster {:?} any more; what is in {} \
         is an old copy. To have it vote again, move the directory away and invite the node with \
         'aether node add'",
        node.identity.raft_id,
        node.identity.cluster,
        node.config.data_dir.display(),
    )
}

/// Warns once the members are known, if the configuration names others: it
/// decides nothing any more, and whoever wrote it may think that it does.
pub(crate) async fn compare(node: Arc<Node>) {
    while node.members().is_empty() && !node.is_closed() {
        tokio::time::sleep(ASK_EVERY).await;
    }
    let members: Vec<(u64, String)> =
        node.members().into_iter().map(|(id, member)| (id, member.name)).collect();
    if let Some(difference) = difference(&node.config.voters, &members) {
        tracing::warn!(node = node.identity.node, "{difference}");
    }
}

/// What to say if the configured voters are not the members, which the founding
/// list numbers from 1.
fn difference(voters: &[Voter], members: &[(u64, String)]) -> Option<String> {
    let listed: Vec<&str> = voters.iter().map(|v| v.name.as_str()).collect();
    let formed: Vec<&str> = members.iter().map(|(_, name)| name.as_str()).collect();
    // A node that joined later need list nobody.
    let is_same = listed.is_empty() || listed == formed;
    (!formed.is_empty() && !is_same).then(|| {
        format!(
            "the configuration lists the voters {}, but those of the cluster are {}; correct the \
             list, which counts for addresses only by now",
            listed.join(", "),
            formed.join(", "),
        )
    })
}

enum Obstacle {
    /// May pass.
    Wait(String),
    Final(String),
}

async fn step(node: &Node) -> Result<(), Obstacle> {
    let me = &node.identity;
    let mut members = BTreeMap::new();
    let mut missing = Vec::new();
    for (at, voter) in node.config.voters.iter().enumerate() {
        let id = at as u64 + 1;
        let mut member = Member {
            name: voter.name.clone(),
            peer_addr: voter.peer_addr.clone(),
            dir_id: me.dir_id.clone(),
        };
        if id != me.raft_id {
            match ask(node, &voter.peer_addr).await {
                Err(reason) => missing.push(format!("{}: {reason}", voter.name)),
                Ok(answer) if (&answer.node, answer.raft_id) != (&voter.name, id) => {
                    missing.push(format!(
                        "{} answers as {} with id {}: the founding lists differ",
                        voter.peer_addr, answer.node, answer.raft_id
                    ));
                }
                Ok(answer) if answer.formed => check_formed(node, &answer)?,
                Ok(answer) => member.dir_id = answer.dir_id,
            }
        }
        members.insert(id, member);
    }
    if me.raft_id != 1 {
        return Err(Obstacle::Wait(format!(
            "waiting for {} to form it",
            node.config.voters.first().map_or("nobody", |v| &v.name)
        )));
    }
    if !missing.is_empty() {
        return Err(Obstacle::Wait(missing.join("; ")));
    }
    let formed = node.raft.initialize(members).await;
    formed.map_err(|e| Obstacle::Final(format!("the cluster can't be formed: {e}")))
}

/// Somebody is in a cluster already. Is this node, with this directory, a
/// founding member whose log is still on its way?
fn check_formed(node: &Node, answer: &pb::IdentifyResponse) -> Result<(), Obstacle> {
    let me = &node.identity;
    let known = answer.members.iter().find(|m| m.raft_id == me.raft_id);
    if me.raft_id != 1 && known.is_some_and(|m| m.dir_id == me.dir_id) {
        return Err(Obstacle::Wait("the founding membership is on its way".to_owned()));
    }
    Err(Obstacle::Final(format!(
        "{} says that cluster {:?} is formed already, and {} is empty: node {} can't rejoin under \
         its old id {}, because what it acknowledged is gone. Restore the directory, or replace \
         this voter ('aether node replace') and have the node join",
        answer.node,
        me.cluster,
        node.config.data_dir.display(),
        me.node,
        me.raft_id,
    )))
}

pub(crate) async fn ask(node: &Node, address: &str) -> Result<pb::IdentifyResponse, String> {
    let channel = node.peers.channel(address, Lane::Shared)?;
    let me = &node.identity;
    let mut request = Request::new(pb::IdentifyRequest {
        cluster: me.cluster.clone(),
        node: me.node.clone(),
        dir_id: me.dir_id.clone(),
    });
    request.set_timeout(ASK_TIMEOUT);
    let answer = RaftClient::new(channel).identify(request).await;
    answer.map(|r| r.into_inner()).map_err(|s| s.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_not_what_was_formed_is_named_beside_it() {
        let voters = |names: &[&str]| {
            let voter = |name: &&str| Voter { name: name.to_string(), peer_addr: "h:1".into() };
            names.iter().map(voter).collect::<Vec<_>>()
        };
        let one = [(1, "n0".to_owned())];
        let three: Vec<_> = (1..).zip(["n0", "n1", "n2"].map(str::to_owned)).collect();
        assert_eq!(difference(&voters(&["n0", "n1", "n2"]), &three), None);
        assert_eq!(difference(&voters(&["n0"]), &[]), None, "not formed yet");
        let said = difference(&voters(&["n0", "n1", "n2"]), &one).unwrap();
        assert!(
            said.contains("voters n0, n1, n2, but") && said.contains("cluster are n0;"),
            "{said}"
        );
        assert!(difference(&voters(&["n0"]), &three).is_some());
        assert!(difference(&voters(&["n1", "n0", "n2"]), &three).is_some(), "numbered otherwise");
        assert_eq!(difference(&[], &three), None, "of a node that joined");
    }

    #[test]
    fn only_who_knows_more_can_say_that_one_is_removed() {
        let me = Identity {
            format: 1,
            cluster: "c".into(),
            node: "b".into(),
            raft_id: 2,
            dir_id: "d2".into(),
        };
        let answer = |at, members: &[(u64, &str)]| pb::IdentifyResponse {
            members: members
                .iter()
                .map(|(id, dir)| pb::Member {
                    raft_id: *id,
                    dir_id: dir.to_string(),
                    ..Default::default()
                })
                .collect(),
            members_at: at,
            ..Default::default()
        };
        assert!(is_removed(&me, 7, &answer(8, &[(1, "d1"), (3, "d3")])));
        assert!(is_removed(&me, 7, &answer(8, &[(1, "x1"), (2, "x2")])), "the id is another's");
        assert!(!is_removed(&me, 7, &answer(8, &[(1, "d1"), (2, "d2")])));
        assert!(!is_removed(&me, 7, &answer(7, &[(1, "d1"), (3, "d3")])), "it was not there yet");
        assert!(!is_removed(&me, 7, &answer(0, &[])));
    }
}
