//! `aether dev`

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aether_cluster::{Addresses, Cluster, Topology};
use anyhow::{Context, Result, bail};
use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use super::output::say;

/// Distance of the ports of two neighbouring nodes.
const PORT_STEP: u16 = 100;
/// How long a node may take to end, its instances included.
const STOP_MAX: Duration = Duration::from_secs(45);
/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the nodes may take until they serve.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node that has ended its own instances votes on, so that the
/// others can report theirs. Longer than most stop signals are ignored.
const TOGETHER: &str = "15s";
/// Pause before a node that ended is started again; doubled when it ends again
/// soon.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// A node that ran for so long could run.
const STEADY_AFTER: Duration = Duration::from_secs(5);
/// A node that ended so often in a row, soon after its start, is given up.
const FAILURES_MAX: u32 = 3;
/// Locked in the data directory while the nodes run.
const LOCK: &str = "dev.lock";
/// How many voters a cluster has, all of which `dev` starts. An even number
/// would survive no more failures than the odd one below.
const SIZES: [u16; 3] = [1, 3, 5];

/// Run a whole cluster on this machine, for development
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether dev
  aether dev --nodes 3 --data-dir ./aether-data

See also: aether demo, aether artifact push")]
pub struct Dev {
    /// Number of nodes, each voter, agent and ingress: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = nodes)]
    nodes: u16,
    /// Where the nodes keep their data [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// REST port of the first node; the others follow in steps of 100
    #[arg(long, value_name = "PORT", default_value_t = 8080,
          value_parser = clap::value_parser!(u16).range(1..))]
    http: u16,
    /// gRPC port of the first node; voters speak with each other one port above
    #[arg(long, value_name = "PORT", default_value_t = 8090,
          value_parser = clap::value_parser!(u16).range(1..))]
    grpc: u16,
    /// Ingress port of the first node
    #[arg(long, value_name = "PORT", default_value_t = 8070,
          value_parser = clap::value_parser!(u16).range(1..))]
    ingress: u16,
}

fn nodes(text: &str) -> Result<u16, String> {
    let nodes = text.parse().ok().filter(|nodes| SIZES.contains(nodes));
    nodes.ok_or_else(|| "a cluster has 1, 3 or 5 voters".to_owned())
}

impl Dev {
    pub fn run(self) -> Result<(), Failure> {
        let addresses = self.addresses()?;
        // Held until the nodes have ended. A temporary directory is nobody else's.
        let _lock = match &self.data_dir {
            Some(dir) => {
                let lock = lock(dir)?;
                check_size(dir, self.nodes.into())?;
                Some(lock)
            }
            None => None,
        };
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
            .block_on(self.run_nodes(&addresses))
            .map_err(|error| Failure::failed(format!("{error:#}")))
    }

    /// Where each node listens.
    fn addresses(&self) -> Result<Vec<Addresses>, Failure> {
        let mut taken = Vec::new();
        let mut address = |base: u16, node: u16, more: u16| {
            let port = node.checked_mul(PORT_STEP).and_then(|step| base.checked_add(step));
            let port = port.and_then(|port| port.checked_add(more)).ok_or_else(|| {
                Failure::usage(format!(
                    "node {node} would need a port above 65535; choose lower ports"
                ))
            })?;
            if taken.contains(&port) {
                return Err(Failure::usage(format!(
                    "port {port} would be needed twice; choose --http, --grpc and --ingress further apart"
                )));
            }
            taken.push(port);
            Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let mut of_node = |node| {
            Ok(Addresses {
                grpc: address(self.grpc, node, 0)?,
                http: address(self.http, node, 0)?,
                peer: address(self.grpc, node, 1)?,
                ingress: address(self.ingress, node, 0)?,
            })
        };
        (0..self.nodes).map(&mut of_node).collect()
    }

    async fn run_nodes(self, addresses: &[Addresses]) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let temporary = match &self.data_dir {
            Some(_) => None,
            None => Some(TempDir::with_prefix("aether-dev-")?),
        };
        let dir = match (&self.data_dir, &temporary) {
            (Some(dir), _) => dir.as_path(),
            (None, Some(temporary)) => temporary.path(),
            (None, None) => Path::new("."),
        };
        let dir = dir.canonicalize()?;
        let binary = std::env::current_exe().context("cannot find the path of this program")?;
        let topology = Topology {
            name: "dev".to_owned(),
            extra: agent_settings(addresses),
            ..Topology::all_in_one(self.nodes.into())
        };
        check_free(addresses)?;
        let mut cluster = Cluster::prepare(&binary, &topology, &dir, addresses)?;
        cluster.start_all()?;
        let supervised = tokio::select! {
            ended = supervise(&mut cluster) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        say("stopping; Ctrl-C again kills everything");
        let clean = tokio::select! {
            clean = cluster.stop_all(STOP_MAX) => clean,
            _ = terminate.recv() => return kill_all(cluster).await,
            _ = interrupt.recv() => return kill_all(cluster).await,
        };
        supervised?;
        match clean {
            true => Ok(()),
            false => bail!("a node did not end in order; its output is in {}", dir.display()),
        }
    }
}

/// Whatever listens there would be taken for a node of this cluster.
fn check_free(addresses: &[Addresses]) -> Result<()> {
    for at in addresses {
        for address in [at.grpc, at.http, at.peer, at.ingress] {
            drop(TcpListener::bind(address).with_context(|| {
                format!(
                    "cannot listen on {address}; is another 'aether dev' running? Stop it, or \
                     choose other ports with --http, --grpc and --ingress"
                )
            })?);
        }
    }
    Ok(())
}

/// Kills every node, then what it ran.
async fn kill_all(mut cluster: Cluster) -> Result<()> {
    cluster.nodes.iter_mut().for_each(aether_cluster::Node::kill);
    for node in &cluster.nodes {
        aether_agent::kill_instances(&node.data_dir()).await;
    }
    bail!("killed everything before it had ended in order")
}

/// Takes the directory for this process alone, before anything else is written:
/// the nodes of another one would be cut off from each other by the addresses
/// of this one, at the latest when they start again.
fn lock(dir: &Path) -> Result<Flock<File>, Failure> {
    let shown = dir.display();
    let cannot = |what: &str, error: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "cannot {what} {shown}: {error}; make it writable, or choose another --data-dir"
        ))
    };
    std::fs::create_dir_all(dir).map_err(|error| cannot("make the directory", &error))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK))
        .map_err(|error| cannot("make the lock file in", &error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Failure::new(
            Exit::Refused,
            format!(
                "{shown} is used by another 'aether dev' that is running; stop that one first, or \
                 choose another --data-dir"
            ),
        ),
        other => cannot("lock", &other),
    })
}

/// Refuses a directory that holds a cluster of another size: its voters are in
/// its log, and would not be the nodes that are started.
fn check_size(dir: &Path, nodes: usize) -> Result<(), Failure> {
    let Some(made_for) = voters_of(dir).filter(|made_for| *made_for != nodes) else {
        return Ok(());
    };
    let dir = dir.display();
    Err(Failure::new(
        Exit::Refused,
        format!(
            "{dir} holds a cluster of {made_for} nodes, which cannot be changed to {nodes}; use \
             'aether dev --nodes {made_for} --data-dir {dir}', or another directory"
        ),
    ))
}

/// How many voters the cluster of a directory was made of, if there is one.
fn voters_of(dir: &Path) -> Option<usize> {
    #[derive(Deserialize)]
    struct Made {
        voters: Vec<IgnoredAny>,
    }
    let first = dir.join("n0");
    // Without data there is no log that names them.
    first.join("data").exists().then_some(())?;
    let text = std::fs::read_to_string(first.join("node.toml")).ok()?;
    toml::from_str::<Made>(&text).ok().map(|made| made.voters.len())
}

/// Instances end with the cluster, and get ports that no node listens on.
fn agent_settings(addresses: &[Addresses]) -> String {
    let is_taken = |port: u16| {
        let of = |at: &Addresses| [at.grpc, at.http, at.peer, at.ingress];
        addresses.iter().flat_map(of).any(|address| (port..port + 5_000).contains(&address.port()))
    };
    // Below what the kernel hands to outgoing connections.
    let free = [10_000, 15_000, 20_000, 25_000].into_iter().find(|port| !is_taken(*port));
    let first = free.unwrap_or(10_000);
    format!(
        "\n[agent]\nports = \"{first}-{}\"\nstop_instances_on_exit = true\n\n\
         [timing]\nstop_together = \"{TOGETHER}\"\n",
        first + 4_999
    )
}

/// How often a node ended soon after its start, and when it is started again.
///
/// One that crashes now and then is brought back; one that cannot run is given
/// up, because the reason will not go away by itself.
#[derive(Default)]
struct Restarts {
    failures: u32,
    started: Option<Instant>,
    due: Option<Instant>,
}

impl Restarts {
    /// The node ended. When to start it again; `None` to give it up.
    fn ended(&mut self, now: Instant) -> Option<Instant> {
        let ran = self.started.map_or(STEADY_AFTER, |started| now - started);
        self.failures = if ran < STEADY_AFTER { self.failures + 1 } else { 1 };
        if self.failures >= FAILURES_MAX {
            return None;
        }
        self.due = Some(now + RESTART_PAUSE * 2u32.pow(self.failures - 1));
        self.due
    }

    /// Whether it is to be started by now; notes that it is.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.take_if(|due| *due <= now).is_some();
        if is_due {
            self.started = Some(now);
        }
        is_due
    }
}

/// Says where everything is, and starts a node again that ended.
async fn supervise(cluster: &mut Cluster) -> Result<()> {
    announce(cluster).await?;
    let mut restarts: Vec<Restarts> = cluster.nodes.iter().map(|_| Restarts::default()).collect();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for (node, restarts) in cluster.nodes.iter_mut().zip(&mut restarts) {
            let now = Instant::now();
            if restarts.due.is_none() && node.exited().is_some() {
                let (name, log) = (&node.name, node.log());
                if restarts.ended(now).is_none() {
                    bail!(
                        "node {name} ended {FAILURES_MAX} times in a row; the end of {}:\n{}",
                        log.display(),
                        last_lines(node, 1)
                    );
                }
                say(&format!("node {name} ended; starting it again (see {})", log.display()));
            } else if restarts.is_due(now) {
                node.start()?;
            }
        }
    }
}

/// The end of what a node printed since it was last started.
fn last_lines(node: &aether_cluster::Node, count: usize) -> String {
    let text = node.printed();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

async fn announce(cluster: &mut Cluster) -> Result<()> {
    let leader = tokio::select! {
        leader = async {
            cluster.ready(READY_MAX).await?;
            cluster.leader(READY_MAX).await
        } => leader?,
        node = first_to_end(&cluster.nodes) => {
            let (name, log) = (&node.name, node.log());
            bail!("node {name} ended at once; the end of {}:\n{}", log.display(), last_lines(node, 5));
        }
    };
    for (k, node) in cluster.nodes.iter().enumerate() {
        let at = &node.addresses;
        let leads = if k == leader { "  (leads)" } else { "" };
        say(&format!(
            "node {}: REST http://{}  gRPC {}  ingress http://{}{leads}",
            node.name, at.http, at.grpc, at.ingress
        ));
    }
    say(&format!("data and logs in {}; Ctrl-C stops everything", cluster.dir().display()));
    Ok(())
}

/// The first node whose process is gone.
async fn first_to_end(nodes: &[aether_cluster::Node]) -> &aether_cluster::Node {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let gone = nodes.iter().find(|node| !node.is_alive());
        if let Some(node) = gone {
            return node;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_ends_again_and_again_is_given_up_after_pauses() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        let first = restarts.ended(start).expect("it ran until then");
        assert_eq!(first, start + RESTART_PAUSE);
        assert!(!restarts.is_due(start) && restarts.is_due(first) && !restarts.is_due(first));
        let second = restarts.ended(first).expect("twice may be chance");
        assert_eq!(second, first + 2 * RESTART_PAUSE);
        assert!(restarts.is_due(second));
        assert_eq!(restarts.ended(second), None);
    }

    #[test]
    fn a_node_that_ran_for_a_while_starts_anew() {
        let mut now = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..10 {
            now = restarts.ended(now).expect("each run was long");
            assert!(restarts.is_due(now));
            now += STEADY_AFTER;
        }
    }

    #[test]
    fn a_directory_that_another_one_uses_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).expect("nobody else uses it");
        let config = dir.path().join("n0").join("node.toml");
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::write(&config, "of the one that runs").unwrap();
        let second =
            Dev { nodes: 1, data_dir: Some(dir.path().to_owned()), http: 1, grpc: 11, ingress: 21 };
        let refused = second.run().unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        let said = format!("{} is used by another 'aether dev'", dir.path().display());
        assert!(refused.message().contains(&said), "{}", refused.message());
        assert_eq!(std::fs::read_to_string(&config).unwrap(), "of the one that runs");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the lock and the node");
        drop(held);
        lock(dir.path()).expect("it is free again");
    }

    #[test]
    fn a_directory_of_another_size_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_size(dir.path(), 3), Ok(()), "empty");
        let first = dir.path().join("n0");
        std::fs::create_dir_all(&first).unwrap();
        let toml = "name = \"n0\"\n[[voters]]\nname = \"n0\"\npeer = \"127.0.0.1:1\"\n";
        std::fs::write(first.join("node.toml"), toml).unwrap();
        assert_eq!(check_size(dir.path(), 3), Ok(()), "never started");
        std::fs::create_dir(first.join("data")).unwrap();
        assert_eq!(check_size(dir.path(), 1), Ok(()));
        let refused = check_size(dir.path(), 3).unwrap_err();
        assert_eq!(refused.exit(), Exit::Refused);
        assert!(refused.message().contains("aether dev --nodes 1"), "{}", refused.message());
    }
}
