//! The replicated store while its voters are killed, paused and cut off from each
//! other: whatever it answered could have come about one operation at a time, in
//! the order of its log, and its watches told of each write once.
//!
//! `AETHER_LINEARIZABLE_SEED` chooses keys, operations and faults,
//! `AETHER_LINEARIZABLE_SECONDS` and `AETHER_LINEARIZABLE_OPERATIONS` how long it
//! goes on at least, and `AETHER_LINEARIZABLE_HOLD_MS` how long a fault lasts at
//! most. `cargo xtask faults linearizable` is the long run.

mod client;
mod nemesis;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aether_tests::evidence::equal_hashes;
use aether_tests::linearizability::watch::{Watched, check_equal};
use aether_tests::linearizability::{Operation, Outcome, Violation, order, search, watch};
use aether_tests::links::Links;
use aether_tests::{PATIENCE, Stage, Topology, binary};
use tokio::task::JoinSet;

use client::Client;
use nemesis::{Fault, Inflicted, Nemesis};
use watcher::Watcher;

const VOTERS: usize = 3;
/// Their operations overlap on each key, so that the search has something to
/// order.
const CLIENTS: u32 = 12;
const KEYS: u32 = 8;
/// What all of them have in common.
const PREFIX: &str = "config/linearizable/";

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// What is done, and for how long.
#[derive(Debug, Clone, Copy)]
struct Settings {
    seed: u64,
    at_least: Duration,
    operations_min: u64,
    /// Longest time that a fault lasts.
    hold_max: Duration,
    faults: &'static [Fault],
    /// Clients read whatever the node that they ask has.
    own_copies: bool,
    /// Leaders count on leases.
    leases: bool,
}

impl Settings {
    fn of_environment() -> Self {
        Self {
            seed: setting("AETHER_LINEARIZABLE_SEED", 1),
            at_least: Duration::from_secs(setting("AETHER_LINEARIZABLE_SECONDS", 15)),
            operations_min: setting("AETHER_LINEARIZABLE_OPERATIONS", 2_000),
            hold_max: Duration::from_millis(setting("AETHER_LINEARIZABLE_HOLD_MS", 1_000)),
            faults: &nemesis::FAULTS,
            own_copies: false,
            leases: false,
        }
    }
}

/// What clients, watchers and faults have in common.
struct Scene {
    settings: Settings,
    began: Instant,
    /// Of the last put.
    value: AtomicU64,
    operations: AtomicU64,
    ended: AtomicBool,
}

impl Scene {
    /// Nanoseconds since the scene began.
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// What was done, and seen, in a scene that has ended.
struct History {
    stage: Stage,
    operations: Vec<Operation>,
    faults: Vec<Inflicted>,
    watched: Vec<Watched>,
}

impl History {
    async fn make(settings: Settings) -> Self {
        println!("AETHER_LINEARIZABLE_SEED={}", settings.seed);
        let links = Links::between(VOTERS).await.unwrap();
        let extra = format!("\n[reads]\nleases = {}\n", settings.leases);
        let topology = Topology { peers: links.routes(), extra, ..Topology::split(VOTERS, 0) };
        let mut stage = Stage::set(&binary(), &topology, &[]).await.unwrap();
        let scene = Arc::new(Scene {
            settings,
            began: Instant::now(),
            value: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let channels = || (0..VOTERS).map(|node| stage.cluster.channel(node)).collect::<Vec<_>>();
        let (last_written, target) = tokio::sync::watch::channel(None);
        let mut watchers = JoinSet::new();
        for node in 0..VOTERS {
            let watcher = Watcher::open(node, channels()).await;
            watchers.spawn(watcher.run(target.clone()));
        }
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(Client::new(client, channels(), scene.clone()).run());
        }

        let mut nemesis = Nemesis::new(&mut stage.cluster, &links, &scene);
        while scene.began.elapsed() < settings.at_least
            || scene.operations.load(Ordering::Relaxed) < settings.operations_min
        {
            nemesis.round().await;
        }
        let faults = nemesis.end();
        scene.ended.store(true, Ordering::Relaxed);
        let operations: Vec<Operation> = clients.join_all().await.into_iter().flatten().collect();
        stage.cluster.leader(PATIENCE).await.unwrap();

        last_written.send_replace(operations.iter().filter_map(written).max());
        let watched = tokio::time::timeout(PATIENCE, watchers.join_all()).await;
        let mut watched = watched.expect("every watcher comes to the last write");
        watched.sort_by_key(|(node, _)| *node);
        let watched = watched.into_iter().map(|(_, watched)| watched).collect();
        equal_hashes(&stage).await;
        Self { stage, operations, faults, watched }
    }

    /// Everything that contradicts itself.
    fn findings(&self) -> Vec<Violation> {
        let operations = &self.operations;
        let began = Instant::now();
        let searched = search::check(operations);
        println!("the search took {:.1?}: {:?}", began.elapsed(), searched.as_ref().ok());
        let began = Instant::now();
        let ordered = order::check(operations);
        println!("the order of the log took {:.1?}", began.elapsed());
        let told = self.watched.iter().map(|watched| watch::check(operations, watched));
        let equal = self.watched.iter().map(|other| check_equal(&self.watched[0], other));
        let results = [searched.map(drop), ordered].into_iter().chain(told).chain(equal);
        results.filter_map(Result::err).collect()
    }

    /// Leaves everything where it is, and says where.
    fn keep(self) -> PathBuf {
        let at = self.stage.keep();
        let lines = self.operations.iter().map(|o| format!("key {}: {o}\n", o.key));
        std::fs::write(at.join("history.txt"), lines.collect::<String>()).unwrap();
        at
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_under_faults_could_have_come_about_one_by_one() {
    nothing_is_found(Settings::of_environment()).await.end().await;
}

/// The same of leaders that ask the others ten times a second, not for each read.
#[tokio::test(flavor = "multi_thread")]
async fn leases_under_faults_show_nothing_old() {
    let stage = nothing_is_found(Settings { leases: true, ..Settings::of_environment() }).await;
    let mut leased = 0;
    for node in 0..VOTERS {
        let metrics = stage.metrics(node).await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("aether_read_leases "));
        leased += line.expect("every node has it").parse::<u64>().unwrap();
    }
    println!("{leased} times a lease spared a round, since the last starts");
    assert!(leased > 0, "no lease was counted on");
    stage.end().await;
}

/// Makes a history, and panics with what is wrong with it.
async fn nothing_is_found(settings: Settings) -> Stage {
    let history = History::make(settings).await;
    report(&history);
    let findings = history.findings();
    if !findings.is_empty() {
        let (seed, at) = (settings.seed, history.keep());
        let findings: String = findings.iter().map(|found| format!("\n{found}")).collect();
        panic!(
            "AETHER_LINEARIZABLE_SEED={seed}; history and logs are in {}{findings}",
            at.display()
        );
    }
    history.stage
}

/// The checks can fail: what a node has by itself is old while it is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_own_copies_are_found_not_to_be_linearizable() {
    let settings = Settings {
        at_least: Duration::ZERO,
        operations_min: 2_000,
        hold_max: Duration::from_millis(1_000),
        faults: &[Fault::IsolateFollower],
        own_copies: true,
        ..Settings::of_environment()
    };
    let history = History::make(settings).await;
    let findings = history.findings();
    let [searched, ordered] = &findings[..] else { panic!("not what was planted: {findings:?}") };
    println!("{searched}\n{ordered}");
    assert!(searched.0.contains("is not linearizable"), "{searched}");
    history.stage.end().await;
}

fn written(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Written(index) => Some(index),
        _ => None,
    }
}

/// Says how much there was to check, and checks that it was enough.
fn report(history: &History) {
    let History { operations, faults, watched, .. } = history;
    let count = |is: &dyn Fn(&Outcome) -> bool| {
        operations.iter().filter(|operation| is(&operation.outcome)).count()
    };
    let done = count(&|outcome| matches!(outcome, Outcome::Written(_)));
    let seen = count(&|outcome| matches!(outcome, Outcome::Seen { .. }));
    println!(
        "{} operations: {done} writes and {seen} reads done, {} refused by their condition, {} \
         not done or read stale, {} of unknown outcome",
        operations.len(),
        count(&|outcome| matches!(outcome, Outcome::Refused(_))),
        count(&|outcome| *outcome == Outcome::NotDone),
        count(&|outcome| *outcome == Outcome::Unknown),
    );
    let mut answered: Vec<u64> = operations
        .iter()
        .filter(|operation| written(operation).is_some())
        .map(|operation| operation.returned)
        .collect();
    answered.sort_unstable();
    // What was lacking at both ends counts too.
    let gap = |from: u64, to: u64| {
        let inside = answered.iter().copied().filter(|at| (from..=to).contains(at));
        let points: Vec<u64> = std::iter::once(from).chain(inside).chain([to]).collect();
        points.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1e6
    };
    let end = answered.last().copied().unwrap_or(0);
    println!("{} faults; without any acknowledged write for at most:", faults.len());
    for fault in faults {
        println!("  {:>7.0} ms  {fault}", gap(fault.began, fault.calm));
    }
    println!("  {:>7.0} ms  in all", gap(0, end));
    for (node, watched) in watched.iter().enumerate() {
        println!(
            "watcher of voter {node}: {} changes up to {}, began anew {} times",
            watched.changes.len(),
            watched.up_to,
            watched.gaps.len()
        );
        assert!(watched.changes.len() * 2 > done, "most writes are watched");
    }
    assert!(done > 500 && seen > 500, "too little was done to say anything");
}
