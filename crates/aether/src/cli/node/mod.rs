//! `aether node`: run one, or change what the cluster does with one.

mod drain;
mod forget;
mod schedule;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tracing_subscriber::EnvFilter;

use super::exit::Failure;
use super::output::say;
use super::{Global, asking};
use crate::node::config::{Log, NodeConfig};

/// Run a node; or drain, cordon, uncordon or forget one of the cluster
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  aether node --config /etc/aether/node.toml
  aether node drain w1 --wait         its instances move elsewhere, none new come
  aether node uncordon w1             it takes instances again

See also: aether nodes, aether dev"
)]
pub struct Node {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    here: Option<Run>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Drain(drain::Drain),
    Cordon(schedule::Cordon),
    Uncordon(schedule::Uncordon),
    Forget(forget::Forget),
}

/// A node in this process.
#[derive(Debug, Args)]
struct Run {
    /// The node's configuration (TOML); AETHER_NODE_… variables override it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Listen on other than loopback without TLS and a token
    #[arg(long)]
    insecure: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl Node {
    /// Whether it is about a node of a cluster, and not one in this process.
    pub fn asks_a_cluster(&self) -> bool {
        self.verb.is_some()
    }

    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match (self.verb, self.here) {
            (Some(Verb::Drain(verb)), _) => asking(verb.run(global)),
            (Some(Verb::Cordon(verb)), _) => asking(verb.run(global)),
            (Some(Verb::Uncordon(verb)), _) => asking(verb.run(global)),
            (Some(Verb::Forget(verb)), _) => asking(verb.run(global)),
            (None, Some(here)) => here.run(),
            (None, None) => Err(Failure::usage("name a configuration with --config, or a verb")),
        }
    }
}

impl Run {
    fn run(self) -> Result<(), Failure> {
        if self.exit_with_parent {
            set_pdeathsig(Signal::SIGTERM).map_err(|error| {
                Failure::failed(format!("cannot follow the parent process: {error}"))
            })?;
        }
        let loaded = NodeConfig::load(&self.config).map_err(Failure::usage)?;
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}"));
        }
        let config = loaded.config;
        config.check_exposure(self.insecure).map_err(Failure::usage)?;
        logging(&config.log)?;
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
            .block_on(crate::node::run(config))
            .map_err(|error| Failure::failed(format!("{error:#}")))
    }
}

/// What the node says about itself goes to stderr.
fn logging(log: &Log) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| Failure::usage(format!("configuration: log.level: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    if log.json {
        lines.json().init();
    } else {
        lines.init();
    }
    Ok(())
}
