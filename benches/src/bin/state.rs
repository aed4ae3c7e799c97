//! What the replicated state costs when it is large: 10,000 instances on 1,000
//! nodes, as many finished updates as are kept, and 1 GB of users' values.
//!
//! `cargo xtask bench state` builds and runs it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aether_core::command::{Command, Observation, Request};
use aether_core::coordinates::SliceName;
use aether_core::ids::NodeName;
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::manifest::Manifest;
use aether_core::planner::{self, NodeView, Plan, View};
use aether_core::records::{Observed, UpdateOptions};
use aether_core::state::State;
use aether_replica::{Machine, Stamp};
use aether_server::{StateMachine, States};
use anyhow::{Context, Result, ensure};

const NODES: usize = 1_000;
const SLICES: usize = 100;
/// Of each slice.
const INSTANCES: u32 = 100;
/// Updates that are made and end.
const UPDATES: usize = 10_000;
/// Users' values, and bytes of each.
const VALUES: usize = 1_000_000;
const VALUE_BYTES: usize = 1_024;
/// Calls whose median is told.
const SAMPLES: usize = 1_001;

/// A state machine with the leader's log in front of it.
struct Bench {
    machine: StateMachine,
    states: States,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let (machine, states) = StateMachine::new();
        let mut bench = Self { machine, states, index: 0 };
        let raise = Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX };
        bench.apply(raise).expect("a new state is below it");
        bench
    }

    fn stamp(&self) -> Stamp {
        Stamp { term: 1, index: self.index, log_time_ms: self.index * 10, wall_ms: 0 }
    }

    /// Applies one entry and publishes, as the replica does with a batch of one.
    fn apply(&mut self, command: Command) -> Result<Duration> {
        let request = Request { request_id: None, actor: "bench".to_owned(), command };
        let entry = serde_json::to_vec(&request)?;
        self.index += 1;
        let at = self.stamp();
        let begun = Instant::now();
        let answer = self.machine.apply(at, &entry);
        self.machine.publish();
        self.machine.drain_changes();
        let taken = begun.elapsed();
        ensure!(answer.starts_with(b"{\"Ok\""), "{}", String::from_utf8_lossy(&answer));
        Ok(taken)
    }

    fn state(&self) -> State {
        self.states.newest.borrow().state.clone()
    }

    fn plan(&self) -> Plan {
        let state = self.state();
        let nodes: BTreeMap<NodeName, NodeView> =
            state.nodes.keys().map(|node| (node.clone(), NodeView::Reporting)).collect();
        planner::plan(&View {
            state: &state,
            now_ms: state.meta.log_time_ms,
            sessions: &BTreeMap::new(),
            nodes: &nodes,
            verdicts: &BTreeMap::new(),
            table_age_max_ms: 600_000,
            node_lost_ms: 30_000,
        })
    }

    /// Carries out what the planner wants until it wants nothing.
    fn settle(&mut self) -> Result<()> {
        loop {
            let commands = self.plan().commands;
            if commands.is_empty() {
                return Ok(());
            }
            for command in commands {
                self.apply(command)?;
            }
        }
    }

    fn register(&mut self, slice: &SliceName, version: &str) -> Result<()> {
        let artifact = format!("{slice}:{version}");
        let text = format!("artifact = \"{artifact}\"\n[run]\ncommand = [\"x\"]\n");
        self.apply(Command::RegisterArtifact {
            artifact: artifact.parse()?,
            digest: "0".repeat(64),
            size_bytes: 1,
            manifest: Arc::new(Manifest::parse(&text)?),
            holder: node(0),
            others: Default::default(),
        })?;
        Ok(())
    }

    /// Makes updates that end: each is rolled back before it has begun.
    fn finish_updates(&mut self, slice: &SliceName) -> Result<()> {
        for _ in 0..UPDATES {
            self.apply(Command::StartUpdate {
                slice: slice.clone(),
                version: "2.0.0".parse()?,
                instances: None,
                options: UpdateOptions::default(),
            })?;
            let state = self.state();
            let update = state.live_update(slice).context("the update lives")?.id.clone();
            self.apply(Command::Rollback {
                update,
                now: false,
                reason: None,
                force: false,
                if_modified: None,
            })?;
            self.settle()?;
        }
        Ok(())
    }

    /// Reports every instance that there is as ready.
    fn all_ready(&mut self) -> Result<()> {
        let state = self.state();
        let mut reports: BTreeMap<NodeName, Vec<Observation>> = BTreeMap::new();
        for (k, instance) in state.instances.values().enumerate() {
            let observation = observation(&state, k, Observed::Ready)?;
            reports.entry(instance.node.clone()).or_default().push(observation);
        }
        for (node, observations) in reports {
            self.apply(Command::Observe { node, observations })?;
        }
        Ok(())
    }
}

fn node(k: usize) -> NodeName {
    format!("n{k}").parse().expect("a name")
}

fn slice(k: usize) -> SliceName {
    format!("org.example:slice-{k}").parse().expect("a name")
}

fn observation(state: &State, k: usize, observed: Observed) -> Result<Observation> {
    let instance = state.instances.values().nth(k).context("an instance")?;
    let endpoint = SocketAddr::from(([10, 0, (k >> 8) as u8, k as u8], 8_000));
    Ok(Observation {
        instance: instance.id.clone(),
        observed,
        endpoint: Some(endpoint),
        restarts: 0,
        reason: None,
        reloaded: None,
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    println!("| {what} | {:.1} ms |", begun.elapsed().as_secs_f64() * 1_000.0);
    done
}

fn main() -> Result<()> {
    large_cluster()?;
    many_values()
}

fn large_cluster() -> Result<()> {
    let mut bench = Bench::new();
    for k in 0..NODES {
        bench.apply(Command::RegisterNode {
            node: node(k),
            address: SocketAddr::from(([10, 1, (k >> 8) as u8, k as u8], 8_090)),
            labels: Default::default(),
            instances_max: 20,
        })?;
    }
    bench.register(&slice(0), "1.0.0")?;
    bench.register(&slice(0), "2.0.0")?;
    bench.apply(Command::Deploy { slice: slice(0), version: "1.0.0".parse()?, instances: 1 })?;
    bench.settle()?;
    bench.all_ready()?;
    bench.finish_updates(&slice(0))?;
    for k in 0..SLICES {
        if k > 0 {
            bench.register(&slice(k), "1.0.0")?;
            bench.apply(Command::Deploy {
                slice: slice(k),
                version: "1.0.0".parse()?,
                instances: INSTANCES,
            })?;
        } else {
            bench.apply(Command::Scale { slice: slice(0), instances: INSTANCES })?;
        }
    }
    bench.settle()?;
    bench.all_ready()?;
    bench.settle()?;
    let state = bench.state();
    println!(
        "| {} instances, {} nodes, {} kept of {UPDATES} finished updates | |\n|---|---|",
        state.instances.len(),
        state.nodes.len(),
        state.updates.len()
    );
    ensure!(state.instances.len() == SLICES * INSTANCES as usize, "they all have a place");

    let mut observe = Vec::new();
    for k in 0..SAMPLES {
        let observed = if k % 2 == 0 { Observed::Starting } else { Observed::Ready };
        let state = bench.state();
        let observation = observation(&state, k / 2, observed)?;
        let node = state.instances[&observation.instance].node.clone();
        observe.push(bench.apply(Command::Observe { node, observations: vec![observation] })?);
    }
    println!("| one report of one instance, median | {:?} |", median(observe));
    let mut put = Vec::new();
    for k in 0..SAMPLES {
        let name = format!("k{}", k % 10).parse()?;
        let value = "x".repeat(256).into();
        put.push(bench.apply(Command::PutConfig { name, value, if_modified: None })?);
    }
    println!("| one value of 256 B, median | {:?} |", median(put));
    let mut passes = Vec::new();
    for _ in 0..SAMPLES / 10 {
        let begun = Instant::now();
        let plan = bench.plan();
        passes.push(begun.elapsed());
        ensure!(plan.commands.is_empty(), "nothing is left to do");
    }
    println!("| planning pass, median | {:?} |", median(passes));
    let image = timed("copy of the state for a snapshot", || bench.machine.image());
    let rows: Vec<_> = timed("its rows, beside further entries", || image.collect());
    let bytes: usize = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
    println!("| rows, bytes | {}, {:.1} MB |", rows.len(), bytes as f64 / 1e6);
    let (mut copy, _states) = StateMachine::new();
    let restored =
        timed("the state from its rows", || copy.restore(bench.stamp(), &mut rows.into_iter()));
    restored.map_err(anyhow::Error::msg)?;
    ensure!(copy.hash() == bench.machine.hash(), "the copy is the same");
    Ok(())
}

fn many_values() -> Result<()> {
    let mut bench = Bench::new();
    let value: Arc<str> = "x".repeat(VALUE_BYTES).into();
    let mut put = Vec::new();
    for k in 0..VALUES {
        let name = format!("k{k:07}").parse()?;
        put.push(bench.apply(Command::PutConfig {
            name,
            value: value.clone(),
            if_modified: None,
        })?);
    }
    let total: Duration = put[VALUES / 2..].iter().sum();
    println!("\n| {VALUES} values of {VALUE_BYTES} B | |\n|---|---|");
    println!("| one more value, mean of the second half | {:?} |", total / (VALUES / 2) as u32);
    let image = timed("copy of the state for a snapshot", || bench.machine.image());
    let rows: Vec<_> = timed("its rows, beside further entries", || image.collect());
    let (mut copy, _states) = StateMachine::new();
    let restored =
        timed("the state from its rows", || copy.restore(bench.stamp(), &mut rows.into_iter()));
    restored.map_err(anyhow::Error::msg)?;
    ensure!(copy.hash() == bench.machine.hash(), "the copy is the same");
    Ok(())
}
