//! One run: a cluster is formed and used while things go wrong, then all is
//! healed, and it has to come to rest.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aether_core::command::Command;
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_tests::linearizability::Outcome;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::clients::{Clients, encode, write};
use super::cluster::Cluster;
use super::nemesis::Nemesis;
use super::watchers::Watcher;
use super::{Bug, WORLD, World, clock, in_world};

/// A cluster that nothing is wrong with leads and answers within this time.
pub(super) const REST_MS_MAX: u64 = 10_000;
/// Clients go on for so long after all is healed.
const HEALED_MS: u64 = 500;
/// How often it is looked at what nodes have, and what watchers are told.
const LOOK_EVERY_MS: u64 = 5;
/// Longest wait of a probe for its answer.
const PROBE: Duration = Duration::from_secs(2);

/// What is to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub seed: u64,
    pub bug: Option<Bug>,
}

/// What was done in a run that went well, or in many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Of everything that happened.
    pub trace: u64,
    pub operations: usize,
    pub unknown: usize,
    pub not_done: usize,
    pub terms: usize,
    pub starts: u64,
    pub restores: u64,
    pub replacements: u64,
    pub virtual_ms: u64,
    /// Until all was answered and equal after it was healed.
    pub rest_ms_max: u64,
}

impl Report {
    /// Adds another run's.
    pub fn add(&mut self, other: &Report) {
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.not_done += other.not_done;
        self.terms += other.terms;
        self.starts += other.starts;
        self.restores += other.restores;
        self.replacements += other.replacements;
        self.virtual_ms += other.virtual_ms;
        self.rest_ms_max = self.rest_ms_max.max(other.rest_ms_max);
    }
}

/// What went wrong in a run, and what happened before.
#[derive(Debug)]
pub(super) struct Failure {
    pub what: String,
    pub events: String,
}

/// Runs `scene` in a new world, on a thread of its own.
pub(super) fn in_new_world<T: Send + 'static>(
    settings: Settings,
    scene: impl FnOnce(Settings) -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let running = std::thread::spawn(move || {
        WORLD.set(Some(World::new(settings.seed, settings.bug)));
        clock::show(0);
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| scene(settings))).unwrap_or_else(
            |panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(format!("a panic: {}", text.unwrap_or("without a text")))
            },
        );
        clock::end();
        let world = WORLD.take().expect("it was set above");
        done.map_err(|what| Failure { what, events: world.trace.tail() })
    });
    running.join().expect("its panics are caught")
}

/// Everything that acts in a run.
pub(super) struct Scene {
    pub cluster: Cluster,
    pub clients: Clients,
    watchers: Vec<Watcher>,
    pub nemesis: Option<Nemesis>,
}

impl Scene {
    /// A cluster that leads.
    pub fn new(
        founders: usize,
        lease_reads: bool,
        seed: u64,
        random: &mut StdRng,
    ) -> Result<Self, String> {
        let mut cluster = Cluster::new(founders, random.random_range(25..150));
        cluster.lease_reads = lease_reads;
        (0..founders).try_for_each(|node| cluster.start(node))?;
        let large_keys = if random.random_ratio(1, 3) { 10 } else { 0 };
        let clients = Clients::new(seed, random.random_range(3..7), large_keys);
        let watchers = (0..3).map(|at| Watcher::new(seed + at as u64, at % founders)).collect();
        let mut scene = Scene { cluster, clients, watchers, nemesis: None };
        scene.until("a leader", |scene| scene.cluster.leader().is_some())?;
        let raise = Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX };
        let leader = scene.cluster.leader().expect("it was waited for");
        scene.probe(leader, raise, &Arc::default());
        scene.until("the feature level", |scene| {
            let cluster = &scene.cluster;
            let mut lives = cluster.running().into_iter().filter_map(|node| cluster.life(node));
            lives.all(|life| life.shown.level() == FEATURE_LEVEL_MAX)
        })?;
        Ok(scene)
    }

    /// A millisecond of everything.
    pub fn step(&mut self, may_begin: bool) -> Result<(), String> {
        let now_ms = in_world(|world| world.now_ms);
        if let Some(nemesis) = &mut self.nemesis {
            if may_begin {
                nemesis.step(&mut self.cluster, now_ms)?;
            }
            nemesis.replace(&mut self.cluster, now_ms)?;
        }
        self.clients.step(&self.cluster, may_begin);
        self.cluster.step()?;
        if now_ms.is_multiple_of(LOOK_EVERY_MS) {
            self.cluster.look()?;
            self.watchers.iter_mut().for_each(|watcher| watcher.look(&self.cluster));
        }
        Ok(())
    }

    /// Goes on, without new faults and operations, until `holds`, which it has to
    /// within [`REST_MS_MAX`].
    pub fn until(
        &mut self,
        what: &str,
        holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        self.within(REST_MS_MAX, what, holds)
    }

    /// Likewise, within another time.
    pub fn within(
        &mut self,
        ms_max: u64,
        what: &str,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let began_ms = in_world(|world| world.now_ms);
        while in_world(|world| world.now_ms) - began_ms <= ms_max {
            self.step(false)?;
            if holds(self) {
                return Ok(());
            }
        }
        Err(format!("no {what} within {ms_max} ms; {}", self.standing()))
    }

    /// Where each node stands, for people.
    fn standing(&self) -> String {
        let of = |node: usize| match self.cluster.life(node) {
            None => format!("n{node} is down"),
            Some(life) => {
                let leadership = life.handle.leadership().borrow().clone();
                let leader = leadership.leader.map_or("nobody".to_owned(), |l| l.name.clone());
                let (at, term) = (life.shown.at().0, leadership.term);
                format!("n{node} at {at} in term {term} led by {leader}")
            }
        };
        let nodes: Vec<_> = self.cluster.members().into_iter().map(of).collect();
        let idle = self.clients.are_idle();
        format!("{}; clients are idle: {idle}", nodes.join(", "))
    }

    /// Has a node carry out a command, whatever it takes, and counts that.
    pub fn probe(&self, node: usize, command: Command, done: &Arc<AtomicUsize>) {
        let Some(life) = self.cluster.life(node) else { return };
        let id = format!("probe-{}-{node}", in_world(|world| world.now_ms));
        in_world(|world| world.ledger.told(&id, |told| told.unknown = true));
        let (body, handle, done) = (encode(&id, command), life.handle.clone(), done.clone());
        life.spawn(async move {
            while !matches!(write(&handle, body.clone(), PROBE).await, Outcome::Written(_)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Whether everybody writes; for [`until`](Self::until).
    pub fn probe_all(&self, nodes: &[usize]) -> Arc<AtomicUsize> {
        let done = Arc::default();
        for node in nodes {
            let name = format!("probe{node}").parse().expect("letters and a number");
            let value = in_world(|world| world.now_ms).to_string().into();
            self.probe(*node, Command::PutConfig { name, value, if_modified: None }, &done);
        }
        done
    }

    /// All faults are over: the cluster has to come to rest.
    pub fn come_to_rest(&mut self) -> Result<u64, String> {
        let began_ms = in_world(|world| world.now_ms);
        if let Some(nemesis) = &mut self.nemesis {
            nemesis.heal(&mut self.cluster)?;
        }
        // Clients go on for a moment, without faults.
        let nemesis = self.nemesis.take();
        for _ in 0..HEALED_MS {
            self.step(true)?;
        }
        self.nemesis = nemesis;
        self.until("end of a replacement", |scene| {
            !scene.nemesis.as_ref().is_some_and(Nemesis::is_replacing)
        })?;
        let nodes = self.cluster.members();
        let probed = self.probe_all(&nodes);
        self.until("answer to everybody", |scene| {
            scene.clients.are_idle() && probed.load(Ordering::Relaxed) == nodes.len()
        })?;
        self.until("equal state", |scene| {
            let up_to = scene.watchers.iter().map(|watcher| watcher.watched.up_to).min();
            scene.cluster.agrees() && up_to >= scene.cluster.applied()
        })?;
        self.until("end of every change of the voters", |scene| {
            let life = scene.cluster.leader().and_then(|leader| scene.cluster.life(leader));
            let membership = life.and_then(|life| life.handle.membership());
            membership.is_some_and(|membership| !membership.is_joint)
        })?;
        Ok(in_world(|world| world.now_ms) - began_ms)
    }
}

/// A run with all kinds of faults.
pub(super) fn faults(settings: Settings) -> Result<Report, String> {
    let mut random = StdRng::seed_from_u64(settings.seed);
    let founders = if random.random_ratio(1, 4) { 5 } else { 3 };
    let lease_reads = random.random_ratio(1, 2);
    let mut scene = Scene::new(founders, lease_reads, settings.seed, &mut random)?;
    scene.nemesis = Some(Nemesis::new(settings.seed));
    for _ in 0..random.random_range(3_000..8_000) {
        scene.step(true)?;
    }
    let rest_ms_max = scene.come_to_rest()?;
    let Scene { cluster, clients, watchers, nemesis } = scene;
    let operations = clients.operations;
    in_world(|world| world.check_history(&operations, &watchers))?;
    let with = |outcome| operations.iter().filter(|operation| operation.outcome == outcome).count();
    let replaced = nemesis.is_some_and(|nemesis| nemesis.has_replaced());
    let starts = cluster.starts();
    drop(cluster);
    Ok(in_world(|world| Report {
        trace: world.trace.hash(),
        operations: operations.len(),
        unknown: with(Outcome::Unknown),
        not_done: with(Outcome::NotDone),
        terms: world.ledger.terms(),
        starts,
        restores: world.ledger.restores,
        replacements: u64::from(replaced),
        virtual_ms: world.now_ms,
        rest_ms_max,
    }))
}
