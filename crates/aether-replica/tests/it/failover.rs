//! Losing leaders.

use std::time::{Duration, Instant};

use aether_replica::ProposeError;

use crate::cluster::{Cluster, eventually, patient, propose};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_leaders_that_vanish() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let key = format!("{round}/{n}");
            let through = cluster.running()[n % cluster.running().len()];
            cluster.write(through, &key, "x").await;
            acknowledged.push(key);
        }
        let leader = cluster.leader().await;
        cluster.kill_member(leader);
        let key = format!("{round}/after");
        let began = Instant::now();
        let survivor = cluster.running()[0];
        // The first attempt may be lost with the leader it was sent to.
        while let Err(error) = propose(&cluster.handle(survivor), &key, "x").await {
            assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
        }
        println!("leader lost -> next acknowledged write: {:?}", began.elapsed());
        acknowledged.push(key);
        cluster.start_member(leader).await.unwrap();
    }
    cluster.agree().await;
    for key in acknowledged {
        for i in 0..3 {
            assert_eq!(cluster.local(i, &key).as_deref(), Some("x"), "{key} on member {i}");
        }
    }
}

/// With a pause after each failure there are some 30 a second, most of them
/// heartbeats; without one there were tens of thousands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_away_is_not_knocked_at_without_a_pause() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let (leader, away) = (cluster.leader().await, cluster.follower().await);
    cluster.kill_member(away);
    let closed_door = cluster.bind(away).await;
    cluster.write(leader, "x", "1").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut knocks = 0;
    while let Ok(knock) = tokio::time::timeout_at(until, closed_door.accept()).await {
        drop(knock);
        knocks += 1;
    }
    println!("{knocks} in two seconds");
    assert!(knocks > 0, "it is looked for");
    assert!(knocks < 500, "{knocks}");
    drop(closed_door);
    cluster.start_member(away).await.unwrap();
    cluster.agree().await;
}

/// What it had sent out but not yet written down is lost to it, and may be with
/// the others. Under a new term it learns of that, or they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_restarts_does_not_go_on_in_its_term() {
    for names in [&["solo"][..], &["a", "b", "c"]] {
        let mut cluster = Cluster::start(names, patient).await;
        cluster.write(0, "x", "1").await;
        let leader = cluster.leader().await;
        let term = cluster.handle(leader).leadership().borrow().term;
        cluster.kill_member(leader);
        cluster.start_member(leader).await.unwrap();
        cluster.write(leader, "y", "1").await;
        cluster.agree().await;
        let next = cluster.leader().await;
        let next_term = cluster.handle(next).leadership().borrow().term;
        assert!(next_term > term, "{names:?}: term {next_term} after {term}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_hands_the_leadership_over() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    cluster.write(0, "x", "1").await;
    let leader = cluster.leader().await;
    let term = cluster.handle(leader).leadership().borrow().term;
    let began = Instant::now();
    cluster.stop_member(leader).await;
    let next = cluster.leader().await;
    println!("orderly hand-over and stop: {:?}", began.elapsed());
    assert_ne!(next, leader);
    assert!(cluster.handle(next).leadership().borrow().term > term);
    cluster.write(next, "y", "1").await;
}

/// No member waits long for a successor that is on its way out too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_stopped_as_a_whole_stops_quickly() {
    let cluster = Cluster::start(&["a", "b", "c"], patient).await;
    cluster.write(0, "x", "1").await;
    let [a, b, c] = [0, 1, 2].map(|i| cluster.handle(i));
    let began = Instant::now();
    tokio::join!(a.shutdown(), b.shutdown(), c.shutdown());
    println!("all stopped at once: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_time_never_decreases_over_leaders() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    for round in 0..3 {
        for n in 0..10 {
            let through = cluster.running()[n % cluster.running().len()];
            cluster.write(through, "k", &format!("{round}{n}")).await;
        }
        let leader = cluster.leader().await;
        let now_ms = cluster.handle(leader).now_ms().expect("the leader has a clock");
        assert!(cluster.handle(cluster.follower().await).now_ms().is_none());
        cluster.stop_member(leader).await;
        let next = cluster.leader().await;
        let next_ms = cluster.handle(next).now_ms().expect("the next leader has a clock");
        assert!(next_ms + 1_000 > now_ms, "{now_ms} -> {next_ms}");
        cluster.start_member(leader).await.unwrap();
    }
    cluster.agree().await;
    let survivor = cluster
        .running()
        .into_iter()
        .max_by_key(|i| cluster.member(*i).view.lock().unwrap().log_times.len());
    let view = cluster.member(survivor.unwrap()).view.lock().unwrap();
    assert!(view.log_times.is_sorted(), "{:?}", view.log_times);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_ready_only_with_an_entry_of_its_own_term() {
    let mut cluster = Cluster::start(&["a", "b", "c"], patient).await;
    let last = cluster.write(0, "x", "1").await.index;
    let leader = cluster.leader().await;
    cluster.stop_member(leader).await;
    let next = cluster.leader().await;
    let leadership = cluster.handle(next).leadership().borrow().clone();
    assert!(leadership.ready && leadership.is_leader);
    assert!(leadership.since_index > last, "{leadership:?} after {last}");
    assert_eq!(leadership.leader.as_ref().unwrap().name, cluster.names[next]);
    let other = cluster.follower().await;
    eventually("the same leader on the follower", || async {
        let seen = cluster.handle(other).leadership().borrow().clone();
        (seen.leader == leadership.leader && !seen.is_leader && !seen.ready).then_some(())
    })
    .await;
}
