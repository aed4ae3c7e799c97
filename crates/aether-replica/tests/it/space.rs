//! Voters whose disks are nearly full. What is free here is more than any test
//! fills, so the floor is raised instead.

use std::time::Duration;

use aether_replica::{Config, ProposeError};

use crate::cluster::{Cluster, PATIENCE, eventually, patient, propose};
use crate::toy::set;

/// No disk has so much.
const NEVER_FREE: u64 = 1 << 60;

fn low_a(config: &mut Config) {
    patient(config);
    if config.node_name == "a" {
        config.disk_free_min_bytes = NEVER_FREE;
    }
}

fn low_a_and_b(config: &mut Config) {
    low_a(config);
    if config.node_name == "b" {
        config.disk_free_min_bytes = NEVER_FREE;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_space_hands_over_and_writes_go_on() {
    let cluster = Cluster::start(&["a", "b", "c"], low_a).await;
    eventually("a to say that it is low", || async {
        cluster.handle(0).report().disk.low.then_some(())
    })
    .await;
    // It may be the first that leads, and have handed over already.
    let leader = eventually("another leader", || async {
        let leader = cluster.leader().await;
        (leader != 0).then_some(leader)
    })
    .await;
    // It takes over all the same when it is told to, and gives it back.
    let _ = cluster.handle(leader).transfer_leadership(Some("a")).await;
    eventually("a to hand over again", || async { (cluster.leader().await != 0).then_some(()) })
        .await;
    for i in 0..3 {
        cluster.write(i, "k", "v").await;
    }
    cluster.agree().await;
    let reports = cluster.handle(1).reports(PATIENCE, |member| member.voter).await;
    let low: Vec<_> = reports.iter().map(|(_, report)| report.as_ref().unwrap().disk.low).collect();
    assert_eq!(low, [true, false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_with_space_writes_are_refused_until_there_is_one() {
    let mut cluster = Cluster::start(&["a", "b", "c"], low_a_and_b).await;
    for i in 0..3 {
        let refused = eventually("a write to be refused", || async {
            match cluster.handle(i).propose(set("k", "v"), Duration::from_secs(5)).await {
                Err(ProposeError::NoSpace { reason }) => Some(reason),
                // It is not looked all the time.
                _ => None,
            }
        })
        .await;
        assert!(refused.contains("a: ") && refused.contains("b: "), "{refused}");
        assert!(refused.contains("bytes are free in") && refused.contains("/wal"), "{refused}");
        assert!(!refused.contains("c: "), "{refused}");
        cluster.handle(i).read_barrier(PATIENCE).await.unwrap();
    }
    let leader = cluster.leader().await;
    let applied = *cluster.handle(leader).applied().borrow();
    for _ in 0..20 {
        let refused = propose(&cluster.handle(leader), "k", "w").await;
        assert!(matches!(refused, Err(ProposeError::NoSpace { .. })), "{refused:?}");
    }
    assert_eq!(*cluster.handle(leader).applied().borrow(), applied, "nothing was done");

    cluster.tune = low_a;
    cluster.stop_member(1).await;
    cluster.start_member(1).await.unwrap();
    eventually("writes to go on", || async {
        cluster.handle(2).propose(set("k", "x"), Duration::from_secs(5)).await.ok()
    })
    .await;
}
