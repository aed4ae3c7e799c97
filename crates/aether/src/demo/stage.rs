//! The cluster of the demo, and what a person would do to it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aether_cluster::artifacts::{EXAMPLE, example_slice};
use aether_cluster::load::Way;
use aether_cluster::{Cluster, Said, Topology};
use aether_invoker::{Config, Invoker, SessionKind};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::{FAIL_RATE, LOOK_EVERY, PATIENCE, gave_up, text};

/// Instances of the example slice.
const INSTANCES: &str = "3";

/// The cluster of the demo.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    _artifacts: TempDir,
}

impl Stage {
    /// Starts three voters and two workers, pushes three versions, deploys the
    /// first.
    pub async fn set(tell: &dyn Fn(&str)) -> Result<Self> {
        let binary = std::env::current_exe().context("cannot find the path of this program")?;
        let topology = Topology {
            name: "demo".to_owned(),
            ..Topology::split(3, 2)
        };
        let started = Instant::now();
        let mut cluster = Cluster::start(&binary, &topology)?;
        let leader = cluster.leader(PATIENCE).await?;
        tell(&format!(
            "three voters and two workers run; {} leads after {} ms",
            cluster.nodes[leader].name,
            started.elapsed().as_millis()
        ));
        for node in &mut cluster.nodes {
            if !node.is_alive() {
                bail!(
                    "node {} ended at once; see {}",
                    node.name,
                    node.log().display()
                );
            }
        }
        let artifacts = TempDir::with_prefix("aether-demo-")?;
        let stage = Self {
            cluster,
            _artifacts: artifacts,
        };
        for (version, flags) in [
            ("1.0.0", &[][..]),
            ("2.0.0", &[]),
            ("3.0.0", &["--fail-rate", FAIL_RATE]),
        ] {
            let dir = example_slice(stage._artifacts.path(), &binary, version, flags)?;
            let dir = dir
                .to_str()
                .context("the temporary directory's name is not text")?;
            stage.cli(&["artifact", "push", dir]).await?;
        }
        stage.until_nodes(2).await?;
        tell(&format!("aether deploy {EXAMPLE}:1.0.0 -n {INSTANCES}"));
        stage
            .cli(&[
                "deploy",
                &format!("{EXAMPLE}:1.0.0"),
                "-n",
                INSTANCES,
                "--wait",
            ])
            .await?;
        Ok(stage)
    }

    async fn until_nodes(&self, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let nodes = self.cli(&["nodes"]).await?;
            if nodes["nodes"]
                .as_array()
                .is_some_and(|nodes| nodes.len() >= wanted)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return gave_up("the workers", &nodes);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An invoker embedded in this process, with its tables.
    pub async fn invoker(&self) -> Result<Invoker> {
        let nodes = self.cluster.control_plane();
        let invoker = Invoker::connect(Config::new("demo-client", SessionKind::Invoker, nodes))?;
        invoker.ready(PATIENCE).await?;
        Ok(invoker)
    }

    /// Where the load goes in: both ingresses, and the embedded invoker.
    pub fn ways(&self, invoker: &Invoker) -> Vec<Way> {
        let slice = EXAMPLE.parse().expect("a valid slice name");
        let mut ways: Vec<Way> = self
            .cluster
            .ingresses()
            .into_iter()
            .map(Way::Ingress)
            .collect();
        ways.push(Way::Invoker(invoker.slice(&slice)));
        ways
    }

    /// Runs a verb that must succeed.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster
            .json(&[arguments, &["--timeout", "60s"]].concat())
            .await
    }

    /// Runs a verb that must be refused by the state; returns what it said.
    pub async fn refused(&self, arguments: &[&str]) -> Result<String> {
        let Said { code, stderr, .. } = self.cluster.cli(arguments).await?;
        match code {
            Some(5) => Ok(stderr),
            _ => bail!(
                "'aether {}' ended with {code:?}, not 5: {stderr}",
                arguments.join(" ")
            ),
        }
    }

    /// Waits until the live update satisfies a condition.
    pub async fn until(&self, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until_of("current", "the live update", condition).await
    }

    async fn until_of(
        &self,
        update: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.cli(&["update", "status", update]).await?;
            if condition(&seen) {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                return gave_up(what, &seen);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the live update is in a state.
    pub async fn until_state(&self, state: &str) -> Result<()> {
        self.until(|update| update["state"] == state)
            .await
            .map(drop)
    }

    /// Waits until an update has ended, and in the right way.
    pub async fn until_ended(&self, update: &Value, state: &str) -> Result<()> {
        let id = text(update, "updateId")?;
        self.until_of(id, state, |seen| seen["state"] == state)
            .await
            .map(drop)
    }

    /// Kills the leading voter and changes the ratio at once. Returns the time
    /// from the kill to the answer.
    pub async fn kill_leader_and_route(
        &mut self,
        ratio: &str,
        tell: &dyn Fn(&str),
    ) -> Result<Duration> {
        let leader = self.cluster.leader(PATIENCE).await?;
        let name = self.cluster.nodes[leader].name.clone();
        tell(&format!("kill -9 {name}, the leading voter"));
        self.cluster.nodes[leader].kill();
        let killed = Instant::now();
        tell(&format!("aether update routing current -r {ratio}"));
        self.cli(&["update", "routing", "current", "-r", ratio])
            .await?;
        let failover = killed.elapsed();
        tell(&format!(
            "answered {} ms after the kill",
            failover.as_millis()
        ));
        self.cluster.nodes[leader].start()?;
        Ok(failover)
    }

    /// What a worker's metrics say.
    pub async fn metrics(&self, node: usize) -> Result<String> {
        let address = self.cluster.nodes[node].addresses.http;
        get(&format!("http://{address}/metrics")).await
    }

    /// Ends the cluster in order.
    pub async fn end(mut self) {
        self.cluster.stop_all(Duration::from_secs(20)).await;
    }

    /// Leaves the nodes' output where it is, and says where.
    pub fn keep(mut self) -> String {
        self.cluster.keep_directory();
        let path: PathBuf = self.cluster.dir().to_owned();
        path.display().to_string()
    }

    /// Leaves everything running until Ctrl-C.
    pub async fn linger(self, tell: &dyn Fn(&str)) -> Result<()> {
        let addresses: Vec<String> = self
            .cluster
            .control_plane()
            .iter()
            .map(ToString::to_string)
            .collect();
        tell(&format!(
            "everything runs on; AETHER_ADDR={}",
            addresses.join(",")
        ));
        for address in self.cluster.ingresses() {
            tell(&format!("curl http://{address}/"));
        }
        tell("Ctrl-C ends it");
        tokio::signal::ctrl_c().await?;
        self.end().await;
        Ok(())
    }
}

/// One small GET.
async fn get(uri: &str) -> Result<String> {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let body = client
        .get(uri.parse()?)
        .await?
        .into_body()
        .collect()
        .await?
        .to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
