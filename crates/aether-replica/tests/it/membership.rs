//! Members come and go while the cluster serves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aether_replica::{ChangeError, MembershipChange};

use crate::cluster::{Cluster, eventually, patient, propose};

/// Makes one step as whoever leads, again until it is made.
async fn change(cluster: &Cluster, change: MembershipChange) {
    eventually("a change of the members", || async {
        let leader = cluster.handle(cluster.leader().await);
        let term = leader.leadership().borrow().term;
        leader.change_membership(term, change.clone()).await.ok()
    })
    .await;
}

async fn voters(cluster: &Cluster) -> BTreeSet<u64> {
    eventually("the leader's members", || async {
        cluster.handle(cluster.leader().await).membership()
    })
    .await
    .voters
}

/// Has a node join, and waits until it votes.
async fn join(cluster: &mut Cluster, name: &'static str, raft_id: u64) -> usize {
    let i = cluster.come(name, raft_id).await;
    let peer_addr = cluster.addresses[i].to_string();
    let dir_id = cluster.joined[&i].dir_id.clone();
    let name = name.to_owned();
    change(cluster, MembershipChange::AddLearner { raft_id, name, peer_addr, dir_id }).await;
    eventually("the newcomer to catch up", || async {
        let now = cluster.handle(cluster.leader().await).membership()?;
        assert!(!now.voters.contains(&raft_id), "it votes before it may");
        (now.learners.contains(&raft_id) && now.caught_up.contains(&raft_id)).then_some(())
    })
    .await;
    let mut wanted = voters(cluster).await;
    wanted.insert(raft_id);
    change(cluster, MembershipChange::SetVoters(wanted)).await;
    i
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_five_and_three_others_while_writes_go_on() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, written, handle) = (stop.clone(), written.clone(), cluster.handle(2));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let n = written.load(Ordering::Relaxed);
                propose(&handle, &format!("k{n}"), "v").await.unwrap();
                written.store(n + 1, Ordering::Relaxed);
            }
        })
    };
    for (name, id) in [("d", 1_004), ("e", 1_005)] {
        join(&mut cluster, name, id).await;
    }
    assert_eq!(voters(&cluster).await, [1, 2, 3, 1_004, 1_005].into());
    cluster.agree_on(&written).await;

    // The first two go: whoever of them leads hands over first.
    for (id, i) in [(1, 0), (2, 1)] {
        let leader = cluster.leader().await;
        if leader == i {
            cluster.handle(i).transfer_leadership(None).await.unwrap();
        }
        let mut wanted = voters(&cluster).await;
        wanted.remove(&id);
        change(&cluster, MembershipChange::SetVoters(wanted)).await;
        let mut fatal = cluster.handle(i).fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(reason.contains("no member of cluster"), "{reason}");
        cluster.kill_member(i);
    }
    assert_eq!(voters(&cluster).await, [3, 1_004, 1_005].into());
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    cluster.agree().await;
    let last = written.load(Ordering::Relaxed) - 1;
    assert_eq!(cluster.local(4, &format!("k{last}")), Some("v".to_owned()));

    // They are members like any other: one of them may die, and come back.
    cluster.kill_member(3);
    eventually("a write without it", || async {
        propose(&cluster.handle(2), "without", "d").await.ok()
    })
    .await;
    cluster.start_member(3).await.unwrap();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_under_its_own_name_by_an_empty_directory() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    cluster.write(0, "before", "1").await;
    // One that has voted and has no log yet would wait for it, and not ask.
    cluster.agree().await;
    let dead = cluster.follower().await;
    let name = cluster.names[dead];
    cluster.kill_member(dead);
    let i = join(&mut cluster, "fresh", 1_010).await;
    let mut wanted = voters(&cluster).await;
    wanted.remove(&(dead as u64 + 1));
    change(&cluster, MembershipChange::SetVoters(wanted)).await;
    assert_eq!(voters(&cluster).await.len(), 3);
    assert_eq!(cluster.local(i, "before"), Some("1".to_owned()));
    // A majority made the change; it may be news to this one yet.
    eventually("the new member knows that the dead one is gone", || async {
        let members = cluster.handle(i).status().members;
        members.iter().all(|member| member.name != name).then_some(())
    })
    .await;

    // The old directory comes back, and does not take part.
    cluster.start_member(dead).await.unwrap();
    let mut fatal = cluster.handle(dead).fatal();
    let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(reason.contains("'aether node add'"), "{reason}");
    cluster.write(i, "after", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_of_that_term_changes_members_and_a_half_made_change_is_ended() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let leader = cluster.handle(cluster.leader().await);
    let term = leader.leadership().borrow().term;
    let all: BTreeSet<u64> = [1, 2, 3].into();
    let set = || MembershipChange::SetVoters(all.clone());
    let refused = leader.change_membership(term + 1, set()).await;
    assert!(matches!(refused, Err(ChangeError { .. })), "{refused:?}");
    let follower = cluster.handle(cluster.follower().await);
    assert!(follower.change_membership(term, set()).await.is_err());
    assert_eq!(follower.membership(), None);
    let stranger = MembershipChange::SetVoters([1, 2, 3, 77].into());
    assert!(leader.change_membership(term, stranger).await.is_err(), "nobody has its address");
    leader.change_membership(term, set()).await.unwrap();
    assert!(!leader.membership().unwrap().is_joint);
}
