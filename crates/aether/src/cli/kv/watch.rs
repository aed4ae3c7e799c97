//! `aether kv watch`: records as they change, over the failure of any node.
//!
//! Nodes gather changes differently: where one told of two changes of a record,
//! another may tell of the later one only, or of both under a later index. So a
//! stream that goes on elsewhere may repeat what was printed, and is compared
//! with it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

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

/// Records of which the latest change is remembered. Of a hundred bytes each,
/// and far more than change while a stream is broken.
const REMEMBERED_MAX: usize = 100_000;

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
    last: u64,
    synced: bool,
    /// The first records, until they are all there: those of another node are
    /// of another index.
    first: Vec<v1::KvChange>,
    printed: Printed,
}

impl Seen {
    fn new(from_index: Option<u64>) -> Self {
        let printed = Printed { latest: HashMap::new(), knows_all: from_index.is_none() };
        Self { whole: from_index, last: 0, synced: false, first: Vec::new(), printed }
    }

    /// What a message adds to what was printed.
    fn take(&mut self, change: v1::KvChange) -> Vec<v1::KvChange> {
        let is_synced = change.kind == SYNCED;
        let index = change.index;
        let mut news = Vec::new();
        match &mut self.whole {
            None if !is_synced => self.first.push(change),
            None => {
                news = std::mem::take(&mut self.first);
                news.retain(|record| self.printed.is_news(record));
                news.push(change);
            }
            Some(whole) => {
                if index > self.last {
                    *whole = self.last.max(*whole);
                }
                let is_news = match is_synced {
                    true => !self.synced,
                    false => self.printed.is_news(&change),
                };
                news.extend(is_news.then_some(change));
            }
        }
        self.last = index;
        if is_synced {
            (self.whole, self.synced) = (Some(index), true);
        }
        news
    }

    /// The next message is another node's.
    fn broke_off(&mut self) {
        self.first.clear();
        self.last = 0;
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

/// The latest change that was printed of each record.
struct Printed {
    /// Its index and a hash of the record, none if it was deleted.
    latest: HashMap<String, (u64, Option<u64>)>,
    /// Whether what is not in there was not there.
    knows_all: bool,
}

impl Printed {
    fn is_news(&mut self, change: &v1::KvChange) -> bool {
        let record = change.value_json.as_ref().map(|value| {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            hasher.finish()
        });
        let is_news = match self.latest.get(&change.key) {
            Some((index, printed)) => change.index > *index && record != *printed,
            None => record.is_some() || !self.knows_all,
        };
        if is_news {
            self.latest.insert(change.key.clone(), (change.index, record));
            self.bound();
        }
        is_news
    }

    /// Forgets the older half when there are too many.
    fn bound(&mut self) {
        if self.latest.len() <= REMEMBERED_MAX {
            return;
        }
        let mut indices: Vec<u64> = self.latest.values().map(|(index, _)| *index).collect();
        let (_, &mut median, _) = indices.select_nth_unstable(REMEMBERED_MAX / 2);
        self.latest.retain(|_, (index, _)| *index > median);
        self.knows_all = false;
    }
}

#[cfg(test)]
mod tests;
