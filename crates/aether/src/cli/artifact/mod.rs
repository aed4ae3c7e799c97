//! `aether artifact …`: push, look at and remove artifacts.

mod info;
mod list;
mod push;
mod remove;

use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use clap::Subcommand;
use tonic::transport::Channel;

use super::exit::Failure;
use super::{Global, asking};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Push(push::Push),
    List(list::List),
    Info(info::Info),
    Remove(remove::Remove),
}

impl Command {
    /// Carries the verb out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Push(verb) => asking(verb.run(global)),
            Self::List(verb) => asking(verb.run(global)),
            Self::Info(verb) => asking(verb.run(global)),
            Self::Remove(verb) => asking(verb.run(global)),
        }
    }
}

/// The service, over a channel.
fn artifacts(channel: Channel) -> ArtifactsClient<Channel> {
    ArtifactsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
