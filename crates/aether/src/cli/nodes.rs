//! `aether nodes`

use aether_proto::v1;
use clap::Args;

use super::exit::Failure;
use super::status::cluster;
use super::{Global, render};

/// List the nodes that run instances
#[derive(Debug, Args)]
pub struct Nodes {}

impl Nodes {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let nodes = client
            .read_all(v1::NodesRequest::default(), async |c, request| {
                cluster(c).nodes(request).await
            })
            .await?;
        global.output().show(&nodes, render::cluster::nodes)
    }
}
