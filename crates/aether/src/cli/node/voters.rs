//! `aether node add|remove|replace|transfer-leader`: who votes, and who leads.

use std::time::Duration;

use aether_core::ids::NodeName;
use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1;
use aether_proto::v1::voters_client::VotersClient;
use clap::Args;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::cli::client::Client;
use crate::cli::confirm::Sure;
use crate::cli::exit::Failure;
use crate::cli::options::Wait;
use crate::cli::output::say;
use crate::cli::{Global, render};

/// How often a change that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Invite a node to vote; it does once it has started and copied the log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node add n4 --peer 10.0.0.4:8091
  aether node add n4 --peer 10.0.0.4:8091 --wait     until it votes

The node itself is started with 'join' in its configuration, which names client
addresses of the cluster, and without itself under [[voters]]. The order of the
two does not matter. An odd number of voters is best: 3 survive the loss of one,
5 that of two.

See also: aether status, aether node remove, aether node replace")]
pub struct Add {
    /// The node, by the name in its configuration
    #[arg(value_name = "NODE")]
    node: NodeName,
    /// Its peer listener, where the other voters reach it
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,
    #[command(flatten)]
    wait: Wait,
}

/// Put a node in the place of a voter, in one step
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node replace n2 --peer 10.0.0.2:8091        the same node, with an empty directory
  aether node replace n2 n4 --peer 10.0.0.4:8091     another one

For a voter that is lost for good, or whose data directory is. The new one is
started as with 'aether node add'; the old one votes until the new one does.

See also: aether status, aether node add")]
pub struct Replace {
    /// The voter that goes
    #[arg(value_name = "OLD")]
    old: NodeName,
    /// The node that comes; the one that goes, started anew, if absent
    #[arg(value_name = "NEW")]
    new: Option<NodeName>,
    /// Peer listener of the node that comes
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,
    #[command(flatten)]
    wait: Wait,
}

/// Have a voter vote no more, or take an invitation back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node remove n4
  aether node remove n4 --wait --yes

It is refused when too few of the others answer to go on without it. A leader
hands over first. The process of a removed voter ends and says so; its instances
stay, until 'aether node drain' or another configuration of the node.

See also: aether status, aether node add, aether node replace")]
pub struct Remove {
    /// The voter
    #[arg(value_name = "NODE")]
    node: NodeName,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    sure: Sure,
}

/// Have another voter lead
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether node transfer-leader          whoever holds most of the log
  aether node transfer-leader n2

Writes wait for some milliseconds; running slices notice nothing.

See also: aether status")]
pub struct TransferLeader {
    /// The voter that is to lead
    #[arg(value_name = "NODE")]
    to: Option<NodeName>,
}

fn voters(channel: Channel) -> VotersClient<Channel> {
    VotersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

impl Add {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        invite(global, &self.node, self.peer, None, &self.wait).await
    }
}

impl Replace {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let new = self.new.as_ref().unwrap_or(&self.old);
        invite(global, new, self.peer, Some(self.old.to_string()), &self.wait).await
    }
}

async fn invite(
    global: &Global,
    node: &NodeName,
    peer_address: String,
    replaces: Option<String>,
    wait: &Wait,
) -> Result<(), Failure> {
    let client = global.client()?;
    let message = v1::AddVoterRequest {
        node: node.to_string(),
        peer_address,
        replaces,
        request_id: client.request_id(),
        actor: client.actor(),
    };
    let change = client.write(message, async |c, request| voters(c).add(request).await).await?;
    let change = if wait.wait { finish(&client, change, wait).await? } else { change };
    global.output().show(&change, render::cluster::voter_change)
}

impl Remove {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let question = format!("Have {} vote no more?", self.node);
        self.sure.confirm(&question).await?;
        let message = v1::RemoveVoterRequest {
            node: self.node.to_string(),
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let change =
            client.write(message, async |c, request| voters(c).remove(request).await).await?;
        let change =
            if self.wait.wait { finish(&client, change, &self.wait).await? } else { change };
        global.output().show(&change, render::cluster::voter_change)
    }
}

impl TransferLeader {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::TransferLeaderRequest { to: self.to.map(|node| node.to_string()) };
        let moved = client
            .write(message, async |c, request| voters(c).transfer_leader(request).await)
            .await?;
        global.output().show(&moved, |moved| format!("{} leads", moved.leader))
    }
}

/// Waits until nothing is left to do of a change. It goes on at whichever node
/// answers, whoever leads.
async fn finish(
    client: &Client,
    mut change: v1::VoterChange,
    wait: &Wait,
) -> Result<v1::VoterChange, Failure> {
    let until = Instant::now() + wait.wait_timeout.duration();
    let mut said = String::new();
    while change.stage != "DONE" {
        let now = render::cluster::voter_change(&change);
        if now != said {
            say(&now);
            said = now;
        }
        if Instant::now() >= until {
            return Err(Failure::failed(format!(
                "{said}; it goes on after {}, 'aether status' shows it",
                wait.wait_timeout
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let message = v1::ListVotersRequest {};
        let list = client.read(message, async |c, request| voters(c).list(request).await).await?;
        if list.as_of.as_ref().is_some_and(|as_of| as_of.stale) {
            continue;
        }
        let found = list.changes.into_iter().find(|found| found.node == change.node);
        change = match found {
            Some(found) if found.kind == change.kind => found,
            Some(_) => return Err(overtaken(&change)),
            None => {
                let votes = |m: &v1::Member| m.voter && m.name == change.node;
                let is_done = list.members.iter().any(votes) == (change.kind == "JOIN");
                if !is_done && change.kind == "JOIN" {
                    return Err(overtaken(&change));
                }
                v1::VoterChange { stage: "DONE".to_owned(), note: String::new(), ..change }
            }
        };
    }
    Ok(change)
}

fn overtaken(change: &v1::VoterChange) -> Failure {
    Failure::failed(format!(
        "something else is wanted of {} by now; 'aether status' shows what, 'aether events' who \
         asked for it",
        change.node
    ))
}
