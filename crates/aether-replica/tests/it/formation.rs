//! How a cluster comes into being, and who is not let in.

use aether_replica::{OpenError, Replica};

use crate::cluster::{Cluster, eventually, patient};
use crate::toy::Toy;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_only_when_all_founding_voters_are_there() {
    let (mut cluster, mut listeners) = Cluster::prepare(&["a", "b", "c"], patient).await;
    let last = listeners.pop().unwrap();
    for (i, listener) in listeners.into_iter().enumerate() {
        cluster.start_member_on(i, listener).await.unwrap();
    }
    drop(last);
    // Two of three are a quorum, and must not form without the third.
    for _ in 0..50 {
        tokio::task::yield_now().await;
        assert!(cluster.handle(0).status().members.is_empty());
    }
    cluster.start_member(2).await.unwrap();
    cluster.leader().await;
    let members = cluster.handle(0).status().members;
    let ids: Vec<_> = members.iter().map(|m| (m.raft_id, m.name.as_str(), m.voter)).collect();
    assert_eq!(ids, [(1, "a", true), (2, "b", true), (3, "c", true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_does_not_rejoin_under_its_old_id() {
    for wiped in [0, 2] {
        let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
        cluster.write(0, "x", "1").await;
        cluster.agree().await;
        cluster.stop_member(wiped).await;
        std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
        cluster.start_member(wiped).await.unwrap();
        let reason =
            eventually("a refusal", || async { cluster.handle(wiped).fatal().borrow().clone() })
                .await;
        assert!(reason.contains("formed already"), "{reason}");
        assert!(reason.contains("aether node replace"), "{reason}");
        assert_eq!(cluster.local(wiped, "x"), None, "nothing reaches a stranger");
        cluster.write((wiped + 1) % 3, "y", "1").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_without_its_log_is_refused_at_once() {
    let mut cluster = Cluster::start(&["a"], patient).await;
    cluster.write(0, "x", "1").await;
    cluster.stop_member(0).await;
    std::fs::remove_dir_all(cluster.data_dir(0).join("wal")).unwrap();
    let error = cluster.start_member(0).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_is_refused() {
    let cluster = Cluster::start(&["a"], patient).await;
    let second = Replica::open(cluster.config(0), Toy::default()).await;
    assert!(matches!(second.err(), Some(OpenError::Locked { .. })));
}
