//! Proposals and reads while nothing goes wrong.

use std::time::Duration;

use aether_replica::{COMMAND_BYTES_MAX, ProposeError};
use bytes::Bytes;

use crate::cluster::{Cluster, PATIENCE, patient};
use crate::toy::set;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_writes_and_reads_its_own() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    for i in 0..3 {
        let key = format!("from-{i}");
        cluster.write(i, &key, "1").await;
        assert_eq!(cluster.local(i, &key).as_deref(), Some("1"), "member {i} reads its own write");
    }
    let before = cluster.write(2, "from-0", "2").await.response;
    assert_eq!(before, "1", "the machine's answer comes back to a follower's caller");
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_on_any_node_sees_the_last_acknowledged_write() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    for round in 0..60 {
        let (writer, reader) = (round % 3, (round + 1) % 3);
        let value = round.to_string();
        let index = cluster.write(writer, "x", &value).await.index;
        let barrier = cluster.handle(reader).read_barrier(PATIENCE).await.unwrap();
        assert!(barrier >= index);
        assert_eq!(cluster.local(reader, "x"), Some(value), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_from_all_nodes_are_all_applied_once() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let mut tasks = Vec::new();
    for client in 0..48 {
        let handle = cluster.handle(client % 3);
        tasks.push(tokio::spawn(async move {
            for n in 0..20 {
                let done = handle.propose(set(&format!("{client}/{n}"), "x"), PATIENCE).await;
                done.unwrap_or_else(|e| panic!("client {client}, write {n}: {e}"));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    cluster.agree().await;
    let view = cluster.member(0).view.lock().unwrap();
    assert_eq!(view.rows.len(), 48 * 20);
    assert_eq!(view.log_times.len(), 48 * 20, "nothing is applied twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_of_that_very_term_may_propose_as_leader() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let term = cluster.handle(leader).leadership().borrow().term;
    cluster.handle(leader).propose_as_leader(term, set("k", "1")).await.unwrap();
    for (i, term) in [(leader, term - 1), (leader, term + 1), (follower, term)] {
        let refused = cluster.handle(i).propose_as_leader(term, set("k", "2")).await;
        assert_eq!(refused, Err(ProposeError::NotLeader { term }));
    }
    assert_eq!(cluster.local(leader, "k").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_command_is_refused_and_a_large_one_is_replicated() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let handle = cluster.handle(cluster.follower().await);
    let huge = Bytes::from(vec![b'x'; COMMAND_BYTES_MAX + 1]);
    let refused = handle.propose(huge, PATIENCE).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
    let large = "y".repeat(6 * 1024 * 1024);
    handle.propose(set("large", &large), PATIENCE).await.unwrap();
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_done_and_no_read_is_linearizable() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    cluster.write(0, "x", "1").await;
    // Two of three are enough for a write; the third one hears of it later.
    cluster.agree().await;
    let survivor = cluster.follower().await;
    for i in cluster.running() {
        if i != survivor {
            cluster.kill_member(i);
        }
    }
    let short = Duration::from_secs(2);
    let refused = cluster.handle(survivor).propose(set("x", "2"), short).await.unwrap_err();
    // What was sent to the leader as it died may have become either.
    let quiet = cluster.handle(survivor).propose(set("x", "3"), short).await.unwrap_err();
    assert!(matches!(quiet, ProposeError::NotDone { .. }), "{refused} / {quiet}");
    assert!(cluster.handle(survivor).read_barrier(short).await.is_err());
    assert_eq!(cluster.local(survivor, "x").as_deref(), Some("1"), "a local read goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_voter_is_a_cluster() {
    let cluster = Cluster::start(&["solo"], patient).await;
    cluster.write(0, "x", "1").await;
    cluster.handle(0).read_barrier(PATIENCE).await.unwrap();
    let status = cluster.handle(0).status();
    assert_eq!((status.raft_id, status.is_leader, status.members.len()), (1, true, 1));
    assert!(status.wal_bytes > 0 && status.applied == status.committed, "{status:?}");
}
