//! `aether kv watch`: records as they change, over the failure of any node.
//!
//! Every node tells the same changes in the same order, so a stream that breaks
//! goes on at another node right after the last change that was printed.

use aether_proto::v1;
use serde_json::json;
use tonic::{Code, Streaming};

use super::value;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure, Kind};
use crate::cli::output::{Output, say};
use crate::cli::reconnect::Reconnect;
use crate::cli::render;
use crate::cli::status::cluster;

/// The kind of a message that says: up to here, everything was told.
const SYNCED: &str = "SYNCED";

/// How a node refuses an index after which it does not have all changes.
const COMPACTED: &str = "compacted";

/// Prints until it is stopped or nobody can go on.
pub async fn watch(
    client: &Client,
    output: Output,
    prefix: String,
    from_index: Option<u64>,
) -> Result<(), Failure> {
    read(client, prefix, from_index, |change| show(output, change)).await
}

fn show(output: Output, change: &v1::KvChange) -> Result<(), Failure> {
    if output.is_for_programs() {
        let value = change.value_json.as_deref().map(value).transpose()?;
        let mut shown = json!({"kind": change.kind, "index": change.index});
        if !change.key.is_empty() {
            shown["key"] = change.key.as_str().into();
        }
        if let Some(value) = value {
            shown["value"] = value;
        }
        output.value_of_many(&shown)?;
    } else if change.key.is_empty() {
        say(&format!("up to date at log index {}; changes follow", change.index));
    } else {
        output.text(&render::event::change(change))?;
    }
    Ok(())
}

/// Calls `on` for every record and change, each once, and for the first word
/// that all was told.
async fn read(
    client: &Client,
    prefix: String,
    from_index: Option<u64>,
    mut on: impl FnMut(&v1::KvChange) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reconnect = Reconnect::new(client);
    let mut seen = Seen::new(from_index);
    // Nodes that do not have the changes any more, one after the other.
    let mut without = 0;
    loop {
        let request = v1::KvWatchRequest { prefix: prefix.clone(), from_index: seen.whole };
        let opened =
            client.open(request, async |c, request| cluster(c).kv_watch(request).await).await;
        let failure = match opened {
            Ok(mut changes) => {
                reconnect.answered();
                loop {
                    let change = match next(&mut changes).await {
                        Ok(change) => change,
                        Err(failure) => break failure,
                    };
                    reconnect.heard();
                    without = 0;
                    for news in seen.take(change) {
                        on(&news)?;
                    }
                }
            }
            Err(failure) => failure,
        };
        seen.broke_off();
        if failure.is(COMPACTED) {
            // Each node has the changes since its own start.
            without += 1;
            if without >= client.nodes() {
                return Err(seen.compacted(failure));
            }
            client.turn();
            continue;
        }
        let failure = match failure.exit() {
            Exit::Unreachable => seen.lost(&failure),
            _ => failure,
        };
        reconnect.after(failure).await?;
    }
}

/// The next message. Only a refusal of the index is one that counts; whatever
/// else ends a stream is no reason not to go on elsewhere.
async fn next(changes: &mut Streaming<v1::KvChange>) -> Result<v1::KvChange, Failure> {
    let lost = |why: &str| Failure::new(Exit::Unreachable, why);
    match changes.message().await {
        Ok(Some(change)) => Ok(change),
        Ok(None) => Err(lost("the node ended its answer")),
        Err(status) if status.code() == Code::OutOfRange => {
            Err(Failure::from_status(&status, Kind::Read))
        }
        Err(status) => Err(lost(status.message())),
    }
}

/// How far a watch has come. The changes of one index may be many, and only the
/// next one shows that they were all.
struct Seen {
    /// The index up to which all was seen; none before the first records were.
    whole: Option<u64>,
    /// The index after it of which some changes were seen, and how many.
    part: (u64, usize),
    /// How many of these the present stream has told.
    told: usize,
    synced: bool,
    /// The first records, until they are all there: those of another node are
    /// of another index.
    first: Vec<v1::KvChange>,
}

impl Seen {
    fn new(from_index: Option<u64>) -> Self {
        Self { whole: from_index, part: (0, 0), told: 0, synced: false, first: Vec::new() }
    }

    /// What a message adds to what was printed.
    fn take(&mut self, change: v1::KvChange) -> Vec<v1::KvChange> {
        let index = change.index;
        if change.kind == SYNCED {
            let mut news = std::mem::take(&mut self.first);
            self.whole = Some(index);
            if !self.synced {
                news.push(change);
                self.synced = true;
            }
            return news;
        }
        let Some(whole) = &mut self.whole else {
            self.first.push(change);
            return Vec::new();
        };
        let (at, seen) = &mut self.part;
        if index > *at {
            *whole = (*whole).max(*at);
            (*at, *seen, self.told) = (index, 0, 0);
        }
        self.told += 1;
        if self.told <= *seen {
            return Vec::new();
        }
        *seen = self.told;
        vec![change]
    }

    /// The next message is another node's.
    fn broke_off(&mut self) {
        self.first.clear();
        self.told = 0;
    }

    fn lost(&self, failure: &Failure) -> Failure {
        let next = match self.whole {
            Some(index) => format!("'--from {index}' goes on there"),
            None => "try again".to_owned(),
        };
        let why = failure.message();
        Failure::new(Exit::Unreachable, format!("the watch was cut off ({why}); {next}"))
    }

    fn compacted(&self, failure: Failure) -> Failure {
        if !self.synced {
            return failure;
        }
        let index = self.whole.unwrap_or_default();
        Failure::failed(format!(
            "the watch was cut off and cannot go on: no node that was asked has all changes after \
             log index {index} any more; watch again without --from, which begins with the \
             records as they are now"
        ))
    }
}

#[cfg(test)]
mod tests;
