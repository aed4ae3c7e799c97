//! Measurements, not checks: three durable nodes in one process.
//!
//! `cargo nextest run -p aether-replica --run-ignored only figures --no-capture`

use std::time::{Duration, Instant};

use aether_replica::{Config, Handle};
use bytes::Bytes;

use crate::cluster::{Cluster, PATIENCE, propose};

const RUN: Duration = Duration::from_secs(4);

fn defaults(_: &mut Config) {}

/// Runs `clients` of `work` for a while, spread over all members.
async fn per_second<F, Fut>(cluster: &Cluster, clients: usize, work: F) -> (f64, Duration, Duration)
where
    F: Fn(Handle, usize) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let until = Instant::now() + RUN;
    let mut tasks = Vec::new();
    for client in 0..clients {
        let handle = cluster.handle(client % 3);
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                work(handle.clone(), client).await;
                times.push(began.elapsed());
            }
            times
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort();
    let at = |part: usize| times[times.len() * part / 100];
    (times.len() as f64 / RUN.as_secs_f64(), at(50), at(99))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures() {
    let mut cluster = Cluster::start(&["a", "b", "c"], defaults).await;
    let term = cluster.handle(0).leadership().borrow().term;
    for clients in [1, 64, 256] {
        let write = |handle: Handle, client: usize| async move {
            let body = Bytes::from(format!("{client}={}", "x".repeat(250)));
            handle.propose(body, PATIENCE).await.unwrap();
        };
        let (rate, p50, p99) = per_second(&cluster, clients, write).await;
        println!("writes of 256 B, {clients} clients: {rate:.0}/s, p50 {p50:?}, p99 {p99:?}");
    }
    for clients in [1, 64, 256] {
        let read = |handle: Handle, _: usize| async move {
            handle.read_barrier(PATIENCE).await.unwrap();
        };
        let (rate, p50, p99) = per_second(&cluster, clients, read).await;
        println!("linearizable reads, {clients} clients: {rate:.0}/s, p50 {p50:?}, p99 {p99:?}");
    }
    let last = cluster.handle(0).leadership().borrow().term;
    println!("elections under load: {}", last - term);
    let mut losses = Vec::new();
    for round in 0..10 {
        let leader = cluster.leader().await;
        let survivor = cluster.handle(cluster.follower().await);
        cluster.kill_member(leader);
        let began = Instant::now();
        while propose(&survivor, "k", &round.to_string()).await.is_err() {}
        losses.push(began.elapsed());
        cluster.start_member(leader).await.unwrap();
        cluster.agree().await;
    }
    losses.sort();
    println!("leader loss -> next acknowledged write: {losses:?}");
}
