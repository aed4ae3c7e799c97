//! `aether update …`: move slices from one version to another.

mod approve;
mod cleanup;
mod complete;
mod diff;
mod explain;
mod gate;
mod health;
mod history;
mod list;
mod options;
mod pause;
mod plan;
mod promote;
mod resume;
mod rollback;
mod routing;
mod set;
mod start;
mod status;
mod strategy;
mod undo;
mod watch;

use aether_core::ids::UpdateId;
use aether_core::records::UpdateState;
use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1;
use aether_proto::v1::updates_client::UpdatesClient;
use clap::{Args, Subcommand};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::client::Client;
use super::exit::Failure;
use super::follow::{Verdict, wait_for};
use super::options::Wait;
use super::output::{Output, say};
use super::{Global, asking, render};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    Start(start::Start),
    Routing(routing::Routing),
    Status(status::Status),
    List(list::List),
    Health(health::Health),
    Complete(complete::Complete),
    Rollback(rollback::Rollback),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Promote(promote::Promote),
    Approve(approve::Approve),
    Watch(watch::Watch),
    Explain(explain::Explain),
    Set(set::Set),
    Undo(undo::Undo),
    Cleanup(cleanup::Cleanup),
    Plan(plan::Plan),
    History(history::History),
    Diff(diff::Diff),
}

impl Command {
    /// Carries the verb out.
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Start(verb) => asking(verb.run(global)),
            Self::Routing(verb) => asking(verb.run(global)),
            Self::Status(verb) => asking(verb.run(global)),
            Self::List(verb) => asking(verb.run(global)),
            Self::Health(verb) => asking(verb.run(global)),
            Self::Complete(verb) => asking(verb.run(global)),
            Self::Rollback(verb) => asking(verb.run(global)),
            Self::Pause(verb) => asking(verb.run(global)),
            Self::Resume(verb) => asking(verb.run(global)),
            Self::Promote(verb) => asking(verb.run(global)),
            Self::Approve(verb) => asking(verb.run(global)),
            Self::Watch(verb) => asking(verb.run(global)),
            Self::Explain(verb) => asking(verb.run(global)),
            Self::Set(verb) => asking(verb.run(global)),
            Self::Undo(verb) => asking(verb.run(global)),
            Self::Cleanup(verb) => asking(verb.run(global)),
            Self::Plan(verb) => asking(verb.run(global)),
            Self::History(verb) => asking(verb.run(global)),
            Self::Diff(verb) => asking(verb.run(global)),
        }
    }
}

/// Which update.
#[derive(Debug, Args)]
pub struct Which {
    /// Id of the update, a unique prefix of it, or 'current' for the only live one
    #[arg(value_name = "UPDATE-ID")]
    id: UpdateId,
}

impl Which {
    fn id(&self) -> String {
        self.id.to_string()
    }

    /// Asks for a change that takes nothing but the update, and shows the update.
    async fn change(
        &self,
        global: &Global,
        call: impl AsyncFn(Channel, Request<v1::UpdateRef>) -> Result<Response<v1::Update>, Status>,
    ) -> Result<(), Failure> {
        let client = global.client()?;
        let (request_id, actor) = (client.request_id(), client.actor());
        let message =
            v1::UpdateRef { update_id: self.id(), request_id, actor, ..Default::default() };
        show(global.output(), &client.write(message, call).await?)
    }
}

/// The service, over a channel.
pub fn updates(channel: Channel) -> UpdatesClient<Channel> {
    UpdatesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Prints what a write answered, or what became of it if that is waited for.
pub async fn show_after(
    global: &Global,
    client: &Client,
    mut update: v1::Update,
    wait: &Wait,
    judge: impl Fn(UpdateState) -> Verdict,
) -> Result<(), Failure> {
    if wait.wait {
        update = wait_for(client, &update.update_id, wait, judge).await?;
    }
    show(global.output(), &update)
}

/// Prints what a write answered: the update, and on stderr its note.
fn show(output: Output, update: &v1::Update) -> Result<(), Failure> {
    if !update.note.is_empty() {
        say(&update.note);
    }
    output.show(update, render::update::whole)
}
