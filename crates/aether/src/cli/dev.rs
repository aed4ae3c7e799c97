//! `aether dev`

use std::path::PathBuf;

use clap::Args;

use super::exit::Failure;

/// Run a whole cluster on this machine, for development
#[derive(Debug, Args)]
#[allow(dead_code)] // Read by the call site below, which is not written yet.
pub struct Dev {
    /// Number of nodes, each voter, agent and ingress
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Where the nodes keep their data [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// REST port of the first node; the others follow in steps of 100
    #[arg(long, value_name = "PORT", default_value_t = 8080,
          value_parser = clap::value_parser!(u16).range(1..))]
    http: u16,
    /// gRPC port of the first node
    #[arg(long, value_name = "PORT", default_value_t = 8090,
          value_parser = clap::value_parser!(u16).range(1..))]
    grpc: u16,
    /// Ingress port of the first node
    #[arg(long, value_name = "PORT", default_value_t = 8070,
          value_parser = clap::value_parser!(u16).range(1..))]
    ingress: u16,
}

impl Dev {
    pub fn run(self) -> Result<(), Failure> {
        // CALL SITE (lead): start the nodes here.
        Err(Failure::failed("this build has no development cluster to run"))
    }
}
