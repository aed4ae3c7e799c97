//! What the demo does to its cluster, apart from what every scenario does.

use std::time::{Duration, Instant};

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::{PATIENCE, Stage, Topology};
use anyhow::{Context, Result};

use super::FAIL_RATE;

/// Instances of the example slice.
const INSTANCES: u32 = 3;

/// Starts three voters and two workers, pushes three versions, deploys the
/// first.
pub async fn set(tell: &dyn Fn(&str)) -> Result<Stage> {
    let binary = std::env::current_exe().context("cannot find the path of this program")?;
    let topology = Topology { name: "demo".to_owned(), ..Topology::split(3, 2) };
    let versions: aether_cluster::Versions =
        &[("1.0.0", &[]), ("2.0.0", &[]), ("3.0.0", &["--fail-rate", FAIL_RATE])];
    let stage = Stage::set(&binary, &topology, versions).await?;
    let leader = stage.cluster.leader(PATIENCE).await?;
    tell(&format!("three voters and two workers run; {} leads", stage.cluster.nodes[leader].name));
    tell(&format!("aether deploy {EXAMPLE}:1.0.0 -n {INSTANCES}"));
    stage.deploy("1.0.0", INSTANCES).await?;
    Ok(stage)
}

/// Kills the leading voter and changes the ratio at once. Returns the time
/// from the kill to the answer.
pub async fn kill_leader_and_route(
    stage: &mut Stage,
    ratio: &str,
    tell: &dyn Fn(&str),
) -> Result<Duration> {
    let leader = stage.cluster.leader(PATIENCE).await?;
    let name = stage.cluster.nodes[leader].name.clone();
    tell(&format!("kill -9 {name}, the leading voter"));
    stage.cluster.nodes[leader].kill();
    let killed = Instant::now();
    tell(&format!("aether update routing current -r {ratio}"));
    stage.route(ratio).await?;
    let failover = killed.elapsed();
    tell(&format!("answered {} ms after the kill", failover.as_millis()));
    stage.cluster.nodes[leader].start()?;
    Ok(failover)
}

/// Leaves everything running until Ctrl-C.
pub async fn linger(stage: Stage, tell: &dyn Fn(&str)) -> Result<()> {
    let nodes: Vec<String> =
        stage.cluster.control_plane().iter().map(ToString::to_string).collect();
    tell(&format!("everything runs on; AETHER_ADDR={}", nodes.join(",")));
    for address in stage.cluster.ingresses() {
        tell(&format!("curl http://{address}/"));
    }
    tell("Ctrl-C ends it");
    tokio::signal::ctrl_c().await?;
    stage.end().await;
    Ok(())
}
