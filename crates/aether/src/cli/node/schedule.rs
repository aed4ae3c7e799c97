//! `aether node cordon` and `aether node uncordon`

use aether_core::ids::NodeName;
use aether_proto::v1;
use clap::Args;

use crate::cli::client::Client;
use crate::cli::exit::Failure;
use crate::cli::output::say;
use crate::cli::status::cluster;
use crate::cli::{Global, render};

/// Keep new instances away from a node; it keeps those it has
#[derive(Debug, Args)]
#[command(after_help = "See also: aether node uncordon, aether node drain, aether nodes")]
pub struct Cordon {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeName,
}

/// Let a node take new instances again
#[derive(Debug, Args)]
#[command(after_help = "See also: aether node cordon, aether node drain, aether nodes")]
pub struct Uncordon {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeName,
}

impl Cordon {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        change(global, &self.node, "CORDONED").await
    }
}

impl Uncordon {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        change(global, &self.node, "OPEN").await
    }
}

/// Asks for a schedule, and gives the node as it is then.
pub async fn set(client: &Client, node: &NodeName, schedule: &str) -> Result<v1::Node, Failure> {
    let message = v1::SetNodeScheduleRequest {
        node: node.to_string(),
        schedule: schedule.to_owned(),
        request_id: client.request_id(),
        actor: client.actor(),
    };
    client.write(message, async |c, request| cluster(c).set_node_schedule(request).await).await
}

/// A node as the cluster knows it, if it does.
pub async fn find(client: &Client, node: &NodeName) -> Result<Option<v1::Node>, Failure> {
    let response = client
        .read_all(v1::NodesRequest::default(), async |c, request| cluster(c).nodes(request).await)
        .await?;
    Ok(response.nodes.into_iter().find(|found| found.name == node.as_str()))
}

async fn change(global: &Global, node: &NodeName, schedule: &str) -> Result<(), Failure> {
    show(global, &set(&global.client()?, node, schedule).await?)
}

/// Prints a node, and on stderr its note.
pub fn show(global: &Global, node: &v1::Node) -> Result<(), Failure> {
    if !node.note.is_empty() {
        say(&node.note);
    }
    global.output().show(node, |node| render::cluster::node_table(std::slice::from_ref(node)))
}
