//! Figures of the main job on this machine, by real processes:
//! `cargo xtask figures`. Prints one line a figure; asserts nothing.

use std::fs;
use std::time::{Duration, Instant};

use aether_invoker::Invoker;
use aether_proto::v1::SetRoutingRequest;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_tests::{Cluster, PATIENCE, Stage, Topology, binary, stage};
use anyhow::{Context, Result, bail};

/// Fresh clusters whose first leader is timed.
const STARTS: usize = 10;
/// How long an idle cluster is looked at.
const IDLE: Duration = Duration::from_secs(10);
/// Route changes timed per number of invokers.
const CHANGES: usize = 40;
/// Instances of the update whose wall time is taken.
const INSTANCES: u32 = 20;

#[tokio::main]
async fn main() -> Result<()> {
    first_leader().await?;
    idle().await?;
    for invokers in [1, 16, 128] {
        route_change(invokers).await?;
    }
    whole_update().await
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// Median and worst of some times.
fn median_and_worst(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let median = times[times.len() / 2];
    let worst = times[times.len() - 1];
    format!("median {:.1} ms, worst {:.1} ms of {}", millis(median), millis(worst), times.len())
}

async fn first_leader() -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let cluster = Cluster::start(&binary(), &Topology::split(3, 0))?;
        cluster.leader(PATIENCE).await?;
        times.push(started.elapsed());
    }
    println!("start of three voters to first leader: {}", median_and_worst(times));
    Ok(())
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // utime and stime, in clock ticks of 10 ms on Linux.
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process in MiB.
fn resident_mib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024.0)
}

async fn idle() -> Result<()> {
    let stage = stage(&[("1.0.0", &[])]).await;
    let pids: Vec<(String, u32)> =
        stage.cluster.nodes.iter().filter_map(|n| Some((n.name.clone(), n.pid()?))).collect();
    let before: Vec<Duration> = pids.iter().map(|(_, pid)| cpu(*pid)).collect::<Result<_>>()?;
    tokio::time::sleep(IDLE).await;
    for ((name, pid), before) in pids.iter().zip(before) {
        let share = (cpu(*pid)? - before).as_secs_f64() / IDLE.as_secs_f64();
        println!(
            "idle node {name}: {:.1} % of a core, {:.1} MiB",
            share * 100.0,
            resident_mib(*pid)?
        );
    }
    stage.end().await;
    Ok(())
}

async fn route_change(count: usize) -> Result<()> {
    let stage = stage(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let mut invokers = Vec::new();
    for k in 0..count {
        invokers.push(stage.invoker(&format!("figure-{k}")).await?);
    }
    let id = stage.start("2.0.0", &[]).await?;
    stage.until_state(&id, "DEPLOYED").await?;
    let leader = stage.cluster.leader(PATIENCE).await?;
    let mut client = UpdatesClient::new(stage.cluster.channel(leader));
    let (mut from_request, mut from_answer) = (Vec::new(), Vec::new());
    for k in 0..CHANGES {
        let request = SetRoutingRequest {
            update_id: id.clone(),
            routing: if k % 2 == 0 { "1:1" } else { "1:3" }.to_owned(),
            ..Default::default()
        };
        let sent = Instant::now();
        let waiting = tokio::spawn(all_applied(invokers.clone(), latest(&invokers)));
        let answer = client.set_routing(request).await?.into_inner();
        let answered = Instant::now();
        waiting.await??;
        // A change of the endpoints in between would count for the route's.
        for invoker in &invokers {
            until_applied(invoker, answer.modified).await?;
        }
        let applied = Instant::now();
        from_request.push(applied - sent);
        from_answer.push(applied.saturating_duration_since(answered));
    }
    println!(
        "route change to {count} invokers, from the request: {}",
        median_and_worst(from_request)
    );
    println!(
        "route change to {count} invokers, from the answer: {}",
        median_and_worst(from_answer)
    );
    stage.end().await;
    Ok(())
}

fn revision(invoker: &Invoker) -> u64 {
    invoker.status().applied.map_or(0, |(_, revision)| revision)
}

fn latest(invokers: &[Invoker]) -> u64 {
    invokers.iter().map(revision).max().unwrap_or(0)
}

/// Waits until every invoker has applied something later.
async fn all_applied(invokers: Vec<Invoker>, than: u64) -> Result<()> {
    for invoker in &invokers {
        until_applied(invoker, than + 1).await?;
    }
    Ok(())
}

async fn until_applied(invoker: &Invoker, at_least: u64) -> Result<()> {
    let mut changes = invoker.changes();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while revision(invoker) < at_least {
        let changed = tokio::time::timeout_at(deadline, changes.changed());
        if !changed.await.context("no change of the tables")? {
            bail!("the invoker was closed");
        }
    }
    Ok(())
}

async fn whole_update() -> Result<()> {
    let versions: aether_tests::Versions = &[("1.0.0", &[]), ("2.0.0", &[])];
    let stage = Stage::set(&binary(), &Topology::split(3, 2), versions).await?;
    stage.deploy("1.0.0", INSTANCES).await?;
    let started = Instant::now();
    let id = stage.start("2.0.0", &[]).await?;
    stage.until_state(&id, "DEPLOYED").await?;
    let deployed = started.elapsed();
    stage.route("1:0").await?;
    stage.cli(&["update", "complete", "current"]).await?;
    stage.until_state(&id, "COMPLETED").await?;
    println!(
        "update of {INSTANCES} instances: {:.2} s (deployed after {:.2} s, 1 s of it healthy time)",
        started.elapsed().as_secs_f64(),
        deployed.as_secs_f64()
    );
    stage.end().await;
    Ok(())
}
