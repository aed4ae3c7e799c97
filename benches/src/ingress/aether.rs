//! Aether as it is deployed: a voter, a node that runs the instances, and the measured one,
//! whose only role is that of an ingress. The instances are those that all peers share: Debian's
//! nginx with files of the sizes that are asked for, of two versions, deployed by an update.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aether_cluster::artifacts::{EXAMPLE, write};
use aether_cluster::{PATIENCE, Roles, Stage, Topology};
use aether_core::table::VersionSet;
use aether_proto::v1::SetRoutingRequest;
use aether_proto::v1::updates_client::UpdatesClient;
use anyhow::{Context, Result};
use tonic::transport::Channel;

use super::client::VERSION;
use super::nginx::PROGRAM;
use super::{FILES, THREADS};

/// Versions of the instances.
pub const OLD: &str = "1.0.0";
/// See [`OLD`].
pub const NEW: &str = "2.0.0";
/// Instances of each of them.
const INSTANCES: usize = 2;
/// Positions of the nodes.
const VOTER: usize = 0;
const INGRESS: usize = 2;
/// How long a node may take to end.
const GRACE: Duration = Duration::from_secs(20);
/// What the measured node is told: as many threads as the peers have; idle connections are
/// kept as long as theirs, and there is room for those that are measured.
const ENVIRONMENT: [(&str, &str); 2] = [
    ("AETHER_NODE_INGRESS__HEADER_TIMEOUT", "1h"),
    ("AETHER_NODE_INGRESS__CONNECTIONS_MAX", "15000"),
];

/// An instance. It keeps connections as long as somebody wants. Without `sendfile`,
/// which is slower for a KiB, and over HTTP/2 waits 40 ms for the client to acknowledge its head.
const INSTANCE: &str = "\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log stderr warn;
USER
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {
        listen ${HOST}:${PORT} backlog=4096;
        add_header HEADER ${VERSION} always;
        location = /ready { return 204; }
        location / { root ${ARTIFACT_DIR}; }
    }
}
";

/// Instances by version.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// Of [`NEW`].
    pub new: Vec<SocketAddr>,
    /// Of [`OLD`].
    pub old: Vec<SocketAddr>,
}

/// A running cluster in the middle of an update.
pub struct Aether {
    stage: Stage,
    update: String,
    updates: UpdatesClient<Channel>,
}

impl Aether {
    /// Starts it, and says where its instances are.
    ///
    /// # Errors
    /// When something of that cannot be done.
    pub async fn start(binary: &Path) -> Result<(Self, Upstreams)> {
        let agent = Roles { voter: false, agent: true, ingress: false };
        let ingress = Roles { voter: false, agent: false, ingress: true };
        let nodes = vec![Roles::VOTER, agent, ingress];
        let topology = Topology { nodes, ..Topology::split(1, 0) };
        let stage = Stage::set(binary, &topology, &[]).await?;
        for version in [OLD, NEW] {
            stage.push_dir(&artifact(stage.scratch(), version)?).await?;
        }
        stage.deploy(OLD, INSTANCES as u32).await?;
        // It is to go on however slow the instances get.
        let thresholds = ["--max-latency-ms", "60000", "--max-error-rate", "1"];
        let update = stage.start(NEW, &thresholds).await?;
        stage.until_state(&update, "DEPLOYED").await?;
        let invoker = stage.invoker("bench").await?;
        let table = stage.slice(&invoker).table().context("no table of the slice")?;
        let addresses = |set: &Option<VersionSet>| -> Result<Vec<SocketAddr>> {
            let set = set.as_ref().context("the table lacks a version")?;
            Ok(set.endpoints.iter().map(|endpoint| endpoint.address).collect())
        };
        let upstreams = Upstreams { new: addresses(&table.new)?, old: addresses(&table.old)? };
        invoker.close().await;
        let updates = UpdatesClient::new(stage.cluster.channel(VOTER));
        let mut aether = Self { stage, update, updates };
        aether.restart().await?;
        Ok((aether, upstreams))
    }

    /// Where its ingress listens.
    pub fn address(&self) -> SocketAddr {
        self.stage.cluster.nodes[INGRESS].addresses.ingress
    }

    /// The process of its ingress.
    pub fn pids(&self) -> Vec<u32> {
        self.stage.cluster.nodes[INGRESS].pid().into_iter().collect()
    }

    /// The ingress's node anew.
    ///
    /// # Errors
    /// It does not start, or gets no tables in time.
    pub async fn restart(&mut self) -> Result<()> {
        let node = &mut self.stage.cluster.nodes[INGRESS];
        node.stop(GRACE).await;
        let mut program = vec!["env".to_owned(), format!("TOKIO_WORKER_THREADS={THREADS}")];
        program.extend(ENVIRONMENT.map(|(name, value)| format!("{name}={value}")));
        node.start_under(&program)?;
        self.stage.cluster.ready_of(INGRESS, PATIENCE).await
    }

    /// Changes the ratio of the update, as any client does.
    ///
    /// # Errors
    /// It is refused.
    pub async fn split(&mut self, new: u32, old: u32) -> Result<()> {
        let request = SetRoutingRequest {
            update_id: self.update.clone(),
            routing: format!("{new}:{old}"),
            actor: "bench".to_owned(),
            ..Default::default()
        };
        self.updates.set_routing(request).await?;
        Ok(())
    }

    /// Ends it in order.
    pub async fn end(self) {
        self.stage.end().await;
    }
}

/// A directory to push: the program is the system's, the files are ours.
fn artifact(dir: &Path, version: &str) -> Result<std::path::PathBuf> {
    let manifest = format!(
        "artifact = '{EXAMPLE}:{version}'\n\n\
         [run]\ncommand = ['{PROGRAM}', '-p', '${{INSTANCE_DIR}}', '-c', \
         '${{INSTANCE_DIR}}/nginx.conf', '-e', 'stderr']\nconfig_files = ['nginx.conf']\n\n\
         [ready]\nhttp = '/ready'\ninterval = '1s'\ntimeout = '10s'\n\n[[ingress]]\npath = '/'\n"
    );
    let config = INSTANCE.replace("USER", super::user()).replace("HEADER", VERSION);
    let mut files = vec![("slice.toml", manifest), ("nginx.conf", config)];
    files.extend(FILES.map(|(name, bytes)| (name, "x".repeat(bytes))));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    write(dir, &format!("files-{version}"), &files)
}
