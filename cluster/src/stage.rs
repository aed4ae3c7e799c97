//! A cluster with a deployed example slice, and what a person would do to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aether_invoker::{Config, Invoker, SessionKind, SliceHandle};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::artifacts::{EXAMPLE, example_slice};
use crate::load::Way;
use crate::node::get;
use crate::{Cluster, Said, Topology};

/// How long anything may take before it counts as failed: far beyond what a
/// slow and busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Deadline of the verbs that are run, longer than any failover.
const VERB_MAX: &str = "60s";

/// Versions of the example slice, each with the flags that change how it
/// behaves.
pub type Versions<'a> = &'a [(&'a str, &'a [&'a str])];

/// A cluster and the artifacts that were pushed to it.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    artifacts: TempDir,
}

impl Stage {
    /// Starts a cluster, waits until it leads and all its agents report, and
    /// pushes versions of the example slice.
    ///
    /// # Errors
    /// When something of that cannot be done; says where the output is.
    pub async fn set(binary: &Path, topology: &Topology, versions: Versions<'_>) -> Result<Self> {
        let cluster = Cluster::start(binary, topology)?;
        cluster.leader(PATIENCE).await?;
        let stage = Self { cluster, artifacts: TempDir::with_prefix("aether-artifacts-")? };
        for (version, flags) in versions {
            stage.push(version, flags).await?;
        }
        let agents = topology.nodes.iter().filter(|roles| roles.agent).count();
        stage
            .until_verb(&["nodes"], "the agents", |nodes| {
                nodes["nodes"].as_array().is_some_and(|nodes| nodes.len() >= agents)
            })
            .await?;
        Ok(stage)
    }

    /// Pushes one version of the example slice.
    ///
    /// # Errors
    /// When that fails.
    pub async fn push(&self, version: &str, flags: &[&str]) -> Result<()> {
        let binary = self.cluster.binary();
        let dir = example_slice(self.artifacts.path(), binary, version, flags)?;
        self.push_dir(&dir).await
    }

    /// Pushes a directory with a `slice.toml`.
    ///
    /// # Errors
    /// When that fails.
    pub async fn push_dir(&self, dir: &Path) -> Result<()> {
        let dir = dir.to_str().context("the directory's name is not text")?;
        self.cli(&["artifact", "push", dir]).await.map(drop)
    }

    /// A directory of the test's own, gone at its end.
    pub fn scratch(&self) -> &Path {
        self.artifacts.path()
    }

    /// Deploys a pushed version and waits until it is ready.
    ///
    /// # Errors
    /// When that fails.
    pub async fn deploy(&self, version: &str, instances: u32) -> Result<()> {
        let (artifact, instances) = (format!("{EXAMPLE}:{version}"), instances.to_string());
        self.cli(&["deploy", &artifact, "-n", &instances, "--wait"]).await.map(drop)
    }

    /// Runs a verb that must succeed; returns what it printed as JSON.
    ///
    /// # Errors
    /// When it fails.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.json(&[arguments, &["--timeout", VERB_MAX]].concat()).await
    }

    /// Runs a verb that must be refused by the state; returns what it said.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn refused(&self, arguments: &[&str]) -> Result<String> {
        let Said { code, stderr, .. } = self.cluster.cli(arguments).await?;
        match code {
            Some(5) => Ok(stderr),
            _ => bail!("'aether {}' ended with {code:?}, not 5: {stderr}", arguments.join(" ")),
        }
    }

    /// Starts an update of the example slice; returns its id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn start(&self, version: &str, options: &[&str]) -> Result<String> {
        let update = self.cli(&[&["update", "start", EXAMPLE, version], options].concat()).await?;
        Ok(update["updateId"].as_str().context("no updateId")?.to_owned())
    }

    /// Changes the ratio of the live update.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn route(&self, ratio: &str) -> Result<()> {
        self.cli(&["update", "routing", "current", "-r", ratio]).await.map(drop)
    }

    /// Runs a reading verb until what it prints satisfies a condition.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`]; says what was seen last.
    pub async fn until_verb(
        &self,
        verb: &[&str],
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.cli(verb).await?;
            if condition(&seen) {
                return Ok(seen);
            }
            if Instant::now() > deadline {
                bail!("waited {PATIENCE:?} for {what}; last seen: {seen}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until an update satisfies a condition.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub async fn until(&self, update: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        self.until_verb(&["update", "status", update], update, condition).await
    }

    /// Waits until an update is in a state.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub async fn until_state(&self, update: &str, state: &str) -> Result<Value> {
        self.until(update, |seen| seen["state"] == state).await
    }

    /// An invoker embedded in this process that watches the voters, with its
    /// tables.
    ///
    /// # Errors
    /// When it gets none within [`PATIENCE`].
    pub async fn invoker(&self, name: &str) -> Result<Invoker> {
        self.invoker_over(name, self.cluster.control_plane()).await
    }

    /// Likewise over addresses of the caller's.
    ///
    /// # Errors
    /// When it gets no tables within [`PATIENCE`].
    pub async fn invoker_over(&self, name: &str, nodes: Vec<SocketAddr>) -> Result<Invoker> {
        let invoker = Invoker::connect(Config::new(name, SessionKind::Invoker, nodes))?;
        invoker.ready(PATIENCE).await?;
        Ok(invoker)
    }

    /// Calls to the example slice over an embedded invoker.
    pub fn slice(&self, invoker: &Invoker) -> SliceHandle {
        invoker.slice(&EXAMPLE.parse().expect("a valid slice name"))
    }

    /// Where load goes in: every ingress, and the embedded invoker.
    pub fn ways(&self, invoker: &Invoker) -> Vec<Way> {
        let mut ways: Vec<Way> = self.cluster.ingresses().into_iter().map(Way::Ingress).collect();
        ways.push(Way::Invoker(self.slice(invoker)));
        ways
    }

    /// What a node's `/metrics` say.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, node: usize) -> Result<String> {
        let address = self.cluster.nodes[node].addresses.http;
        Ok(get(&format!("http://{address}/metrics")).await?.1)
    }

    /// Ends the cluster in order, and every instance with it.
    pub async fn end(mut self) {
        self.cluster.stop_all(Duration::from_secs(20)).await;
    }

    /// Leaves the nodes' output where it is, and says where.
    pub fn keep(mut self) -> PathBuf {
        self.cluster.keep_directory();
        self.cluster.dir().to_owned()
    }
}
