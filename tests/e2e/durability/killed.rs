//! `kill -9` of one voter or of all of them under writes, round after round.

use super::scene::{Scene, VOTERS};
use super::{chance, setting};
use aether_tests::PATIENCE;
use nix::sys::signal::Signal::SIGKILL;
use rand::RngExt;

/// Writes before the kill, and after it with those that are left.
const WRITES: std::ops::Range<u64> = 20..200;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Leader,
    Follower,
    All,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_voters_lose_no_acknowledged_write() {
    let mut random = chance();
    let rounds = setting("AETHER_KILL_ROUNDS", 6);
    let mut scene = Scene::start().await;
    for round in 0..rounds {
        // Each of them in the first three rounds, whatever the seed.
        let victims = [Victim::Leader, Victim::Follower, Victim::All];
        let victim = match victims.get(round as usize) {
            Some(victim) => *victim,
            None => victims[random.random_range(0..3) as usize],
        };
        let writers = scene.write();
        writers.more(random.random_range(WRITES)).await;
        let leader = scene.cluster.leader(PATIENCE).await.unwrap();
        let other = (leader + random.random_range(1..VOTERS as u64) as usize) % VOTERS;
        match victim {
            Victim::Leader => scene.cluster.nodes[leader].kill(),
            Victim::Follower => scene.cluster.nodes[other].kill(),
            Victim::All => {
                scene.cluster.nodes.iter().for_each(|node| node.signal(SIGKILL));
                scene.cluster.nodes.iter_mut().for_each(|node| node.kill());
                scene.cluster.start_all().unwrap();
            }
        }
        writers.more(random.random_range(WRITES)).await;
        scene.cluster.start_all().unwrap();
        writers.stop().await;
        scene.check(&format!("round {round}, {victim:?}, leader {leader}")).await;
    }
    scene.end(&format!("{rounds} rounds of kill -9")).await;
}
