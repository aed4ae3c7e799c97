//! `aether status`

use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1;
use aether_proto::v1::cluster_client::ClusterClient;
use clap::Args;
use tonic::transport::Channel;

use super::exit::Failure;
use super::{Global, render};

/// Show the cluster: leader, quorum, log, sessions
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether nodes, aether slices, aether update list")]
pub struct Status {
    /// With what each voter says about itself: log, snapshot, disk, syncs, feature level
    #[arg(long, short)]
    verbose: bool,
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let request = v1::StatusRequest { verbose: self.verbose };
        let status =
            client.read(request, async |c, request| cluster(c).status(request).await).await?;
        global.output().show(&status, render::cluster::status)
    }
}

/// The service, over a channel.
pub fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
