//! What befalls the voters, one thing at a time.

use std::fmt;
use std::time::Duration;

use aether_proto::v1::TransferLeaderRequest;
use aether_proto::v1::voters_client::VotersClient;
use aether_tests::links::{Held, Links};
use aether_tests::{Cluster, PATIENCE};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tonic::Request;

use super::{Scene, VOTERS};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillLeader,
    KillFollower,
    KillAll,
    PauseLeader,
    PauseFollower,
    IsolateLeader,
    IsolateFollower,
    /// It hears the others and is not heard.
    MuteLeader,
    MuteFollower,
    /// It is heard and hears nothing.
    DeafenLeader,
    DeafenFollower,
    /// It and one of the others do not hear each other; the third hears both.
    BridgeLeader,
    BridgeFollowers,
    SlowLinks,
    TransferLeader,
}

/// All of them.
pub const FAULTS: [Fault; 15] = [
    Fault::KillLeader,
    Fault::KillFollower,
    Fault::KillAll,
    Fault::PauseLeader,
    Fault::PauseFollower,
    Fault::IsolateLeader,
    Fault::IsolateFollower,
    Fault::MuteLeader,
    Fault::MuteFollower,
    Fault::DeafenLeader,
    Fault::DeafenFollower,
    Fault::BridgeLeader,
    Fault::BridgeFollowers,
    Fault::SlowLinks,
    Fault::TransferLeader,
];

/// Shortest time that a fault lasts: longer than an election.
const HOLD_MS_MIN: u64 = 300;
/// How late everything is between the voters when links are slow.
const SLOW_MS: std::ops::Range<u64> = 5..60;
/// Between a cluster that agrees again and the next fault, in milliseconds.
const CALM_MS: std::ops::Range<u64> = 200..600;

/// A fault that was.
#[derive(Debug, Clone, Copy)]
pub struct Inflicted {
    fault: Fault,
    leader: usize,
    other: usize,
    held: Held,
    lasted: Duration,
    /// In nanoseconds of the scene.
    pub began: u64,
    /// When the next could begin.
    pub calm: u64,
}

impl fmt::Display for Inflicted {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, leader, other, held, lasted, began, .. } = self;
        let at = *began as f64 / 1e9;
        write!(
            to,
            "{at:>6.1} s: {fault:?} for {lasted:.2?}, leader {leader}, other {other}, {held:?}"
        )
    }
}

/// Chooses faults and inflicts them.
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    links: &'a Links,
    random: StdRng,
    scene: &'a Scene,
    inflicted: Vec<Inflicted>,
    /// Those that are left of this round over all of them.
    left: Vec<Fault>,
}

impl<'a> Nemesis<'a> {
    /// As the settings of the scene say.
    pub fn new(cluster: &'a mut Cluster, links: &'a Links, scene: &'a Scene) -> Self {
        let (random, inflicted) = (StdRng::seed_from_u64(scene.settings.seed), Vec::new());
        Self { cluster, links, random, scene, inflicted, left: Vec::new() }
    }

    /// One fault, and calm after it.
    pub async fn round(&mut self) {
        let leader = self.cluster.leader(PATIENCE).await.unwrap();
        if self.left.is_empty() {
            self.left = self.scene.settings.faults.to_vec();
            self.left.shuffle(&mut self.random);
        }
        let fault = self.left.pop().expect("just filled");
        let other = (leader + self.random.random_range(1..VOTERS)) % VOTERS;
        let most = self.scene.settings.hold_max.as_millis().max(u128::from(HOLD_MS_MIN) + 1) as u64;
        let lasted = Duration::from_millis(self.random.random_range(HOLD_MS_MIN..most));
        let held = if self.random.random() { Held::Arrives } else { Held::IsLost };
        let began = self.scene.now();
        println!("{:.1} s: {fault:?}, leader {leader}, other {other}", began as f64 / 1e9);
        self.begin(fault, leader, other).await;
        tokio::time::sleep(lasted).await;
        self.links.heal(held);
        for node in &self.cluster.nodes {
            node.signal(SIGCONT);
        }
        self.cluster.start_all().unwrap();
        self.cluster.ready(PATIENCE).await.unwrap();
        self.cluster.leader(PATIENCE).await.unwrap();
        let calm = Duration::from_millis(self.random.random_range(CALM_MS));
        tokio::time::sleep(calm).await;
        let calm = self.scene.now();
        self.inflicted.push(Inflicted { fault, leader, other, held, lasted, began, calm });
    }

    async fn begin(&mut self, fault: Fault, leader: usize, other: usize) {
        let third = VOTERS - leader - other;
        let nodes = &mut self.cluster.nodes;
        let links = self.links;
        match fault {
            Fault::KillLeader => nodes[leader].kill(),
            Fault::KillFollower => nodes[other].kill(),
            Fault::KillAll => nodes.iter_mut().for_each(aether_cluster::Node::kill),
            Fault::PauseLeader => nodes[leader].signal(SIGSTOP),
            Fault::PauseFollower => nodes[other].signal(SIGSTOP),
            Fault::IsolateLeader => links.isolate(leader),
            Fault::IsolateFollower => links.isolate(other),
            Fault::MuteLeader => links.mute(leader),
            Fault::MuteFollower => links.mute(other),
            Fault::DeafenLeader => links.deafen(leader),
            Fault::DeafenFollower => links.deafen(other),
            Fault::BridgeLeader => links.part(leader, other),
            Fault::BridgeFollowers => links.part(other, third),
            Fault::SlowLinks => {
                links.delay(Duration::from_millis(self.random.random_range(SLOW_MS)));
            }
            Fault::TransferLeader => {
                let name = nodes[other].name.clone();
                let mut request = Request::new(TransferLeaderRequest { to: Some(name) });
                request.set_timeout(PATIENCE);
                let mut voters = VotersClient::new(self.cluster.channel(leader));
                // It may be refused when the leader has just changed.
                if let Err(refused) = voters.transfer_leader(request).await {
                    println!("  not transferred: {refused}");
                }
            }
        }
    }

    /// All that was inflicted.
    pub fn end(self) -> Vec<Inflicted> {
        self.inflicted
    }
}
