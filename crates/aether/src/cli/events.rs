//! `aether events`

use aether_core::audit::{AuditPosition, SubjectFilter};
use aether_proto::v1;
use clap::Args;
use tonic::{Code, Status, Streaming};

use super::client::Client;
use super::exit::{Exit, Failure, Kind};
use super::interrupt::while_read;
use super::output::say_if_old;
use super::reconnect::Reconnect;
use super::status::cluster;
use super::{Global, render};

/// Print what happened, oldest first: who did what, and to what
///
/// An event is about an update, slice, node, session, artifact or instance, or
/// about the cluster as a whole. Each event has a position, which is the same on every node. With '-o json',
/// each is one line; with '-o yaml', one document.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether events -n 20
  aether events --follow --subject update/u1f
  aether events --after 41.0 -o json

See also: aether update history, aether logs, aether kv watch")]
pub struct Events {
    /// Go on with new events as they come, at another node if this one goes away
    #[arg(long, short)]
    follow: bool,
    /// Only those after this position: a log index, or index.n as it is printed
    #[arg(long, value_name = "POSITION", conflicts_with = "last")]
    after: Option<AuditPosition>,
    /// How many of the latest, where no position is given [default: 100]
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<u32>,
    /// Only what is about this: KIND/ID or KIND, such as update/u1f or node
    #[arg(long, short, value_name = "SUBJECT", value_parser = subject)]
    subject: Option<String>,
}

/// Checks the form and keeps the text.
fn subject(text: &str) -> Result<String, String> {
    text.parse::<SubjectFilter>().map(|_| text.to_owned()).map_err(|e| e.to_string())
}

impl Events {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let output = global.output();
        let after = self.after.map(|at| v1::EventPosition { index: at.index, n: at.n });
        let request = v1::EventsRequest {
            after,
            last: self.last,
            subject: self.subject.unwrap_or_default(),
            follow: self.follow,
        };
        let reading =
            read(&client, request, |event| output.show_one_of_many(event, render::event::event));
        let as_of = while_read(reading).await?;
        say_if_old(as_of.as_ref());
        Ok(())
    }
}

/// Calls `on` for every event, each once and in order, over the failure of any
/// node. Ends when those that exist were told, unless more are to be followed;
/// gives how fresh they are.
async fn read(
    client: &Client,
    mut request: v1::EventsRequest,
    mut on: impl FnMut(&v1::Event) -> Result<(), Failure>,
) -> Result<Option<v1::AsOf>, Failure> {
    let mut reconnect = Reconnect::new(client);
    loop {
        let opened = client
            .open(request.clone(), async |channel, request| cluster(channel).events(request).await)
            .await;
        let lost = match opened {
            Ok(mut events) => {
                reconnect.answered();
                loop {
                    let told = match next(&mut events, client, request.follow).await {
                        Ok(told) => told,
                        Err(lost) => break lost,
                    };
                    reconnect.heard();
                    if let Some(event) = &told.event {
                        on(event)?;
                    }
                    // Only now: what could not be shown was not told.
                    request.after = told.position.or(request.after);
                    if told.event.is_none() && !request.follow {
                        return Ok(told.as_of);
                    }
                }
            }
            Err(failure) => failure,
        };
        reconnect.after(lost).await?;
    }
}

/// The next message. A failure with another exit code than that for unreachable
/// is one that every node would give.
async fn next(
    events: &mut Streaming<v1::EventsResponse>,
    client: &Client,
    follow: bool,
) -> Result<v1::EventsResponse, Failure> {
    let next = events.message();
    let next = match follow {
        true => next.await,
        // Those that exist come at once; silence means a node that hangs.
        false => tokio::time::timeout(client.timeout(), next)
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("no more events came in time"))),
    };
    match next {
        Ok(Some(told)) => Ok(told),
        Ok(None) => Err(lost("the node ended its answer")),
        Err(status) if status.code() == Code::OutOfRange => {
            Err(Failure::from_status(&status, Kind::Read))
        }
        Err(status) => Err(lost(status.message())),
    }
}

fn lost(why: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("no node tells of events any more ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::tests::over;
    use crate::cli::fake::Fake;

    fn told(index: u64, n: u32) -> Result<v1::EventsResponse, Status> {
        let event =
            v1::Event { index, n, kind: "node".into(), id: "n1".into(), ..Default::default() };
        let position = Some(v1::EventPosition { index, n });
        Ok(v1::EventsResponse { event: Some(event), position, as_of: None })
    }

    fn mark(index: u64, n: u32) -> Result<v1::EventsResponse, Status> {
        let position = Some(v1::EventPosition { index, n });
        let as_of = Some(v1::AsOf { index, stale: true, node: "n1".into() });
        Ok(v1::EventsResponse { event: None, position, as_of })
    }

    fn follow() -> v1::EventsRequest {
        v1::EventsRequest { follow: true, subject: "node".into(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_broken_stream_goes_on_at_another_node_after_the_last_position() {
        let first = Fake::default();
        first.will_stream(
            "Cluster/Events",
            vec![told(3, 0), told(3, 1), mark(9, 0), Err(Status::unavailable("going down"))],
        );
        let second = Fake::default();
        let compacted = Status::out_of_range("events after 12.0 are not kept any more");
        second.will_stream("Cluster/Events", vec![told(12, 0), Err(compacted)]);
        let client = over(&[first.serve().await, second.serve().await]);
        let mut seen = Vec::new();
        let ended = read(&client, follow(), |event| {
            seen.push((event.index, event.n));
            Ok(())
        });
        let failure = ended.await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Failed, "nobody has what is gone");
        assert!(failure.message().contains("not kept any more"), "{}", failure.message());
        assert_eq!(seen, [(3, 0), (3, 1), (12, 0)]);
        assert_eq!(first.asked(), ["Cluster/Events subject=node follow=true"]);
        assert_eq!(
            second.asked(),
            ["Cluster/Events after={index=9} subject=node follow=true"],
            "a mark is a position too"
        );
    }

    #[tokio::test]
    async fn without_follow_it_ends_with_those_that_exist() {
        let node = Fake::default();
        node.will_stream("Cluster/Events", vec![told(3, 0), mark(4, 0)]);
        let client = over(&[node.serve().await]);
        let request = v1::EventsRequest { follow: false, ..follow() };
        let mut seen = 0;
        let as_of = read(&client, request, |_| {
            seen += 1;
            Ok(())
        });
        assert!(as_of.await.unwrap().unwrap().stale, "it says how fresh they are");
        assert_eq!(seen, 1);
    }

    #[test]
    fn subjects_are_kinds_with_or_without_an_id() {
        assert!(subject("update/u1f").is_ok() && subject("node").is_ok());
        assert!(subject("colour").is_err() && subject("update/").is_err());
    }
}
