//! `aether kv …`: look into the replicated KV store.

use aether_proto::json::to_json;
use aether_proto::v1;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::exit::{Exit, Failure, Kind};
use super::output::{Output, say, say_if_old};
use super::status::cluster;
use super::{Global, render};

/// Records asked for at a time.
const PAGE_SIZE: u32 = 1_000;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print one record as JSON, such as rolling-update/ID or
    /// version-routing/GROUP:ARTIFACT
    Get {
        /// The key
        key: String,
    },
    /// List records by the beginning of their keys, one a line
    List {
        /// Such as instances/ or audit/; every record without it
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Print records by the beginning of their keys, and then every change of
    /// them: PUT or DELETE, log index, key and record
    ///
    /// With '-o json', each is one line. SYNCED stands between the records that
    /// were there and the changes.
    Watch {
        /// Such as instances/ or audit/; every record without it
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Only the changes after this log index
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
    },
}

impl Command {
    /// Carries the verb out.
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let (client, output) = (global.client()?, global.output());
        match self {
            Self::Get { key } => get(&client, output, key).await,
            Self::List { prefix } => list(&client, output, prefix).await,
            Self::Watch { prefix, from } => watch(&client, output, prefix, from).await,
        }
    }
}

async fn get(client: &Client, output: Output, key: String) -> Result<(), Failure> {
    let entry = client
        .read(v1::KvGetRequest { key }, async |c, request| cluster(c).kv_get(request).await)
        .await?;
    let value = value(&entry.value_json)?;
    if output.is_json() {
        let as_of = entry.as_of.as_ref().map(to_json);
        return output.json(&json!({"key": entry.key, "value": value, "asOf": as_of}));
    }
    say_if_old(entry.as_of.as_ref());
    output.json(&value)
}

async fn list(client: &Client, output: Output, prefix: String) -> Result<(), Failure> {
    let mut request = v1::KvListRequest { prefix, page_size: PAGE_SIZE, ..Default::default() };
    let (mut entries, mut indices) = (Vec::new(), Vec::new());
    loop {
        let page = client
            .read(request.clone(), async |c, request| cluster(c).kv_list(request).await)
            .await?;
        for entry in &page.entries {
            match output.is_json() {
                true => entries.push(json!({"key": entry.key, "value": value(&entry.value_json)?})),
                false => output.text(&render::event::entry(entry))?,
            }
        }
        indices.extend(page.as_of.as_ref().map(|as_of| as_of.index));
        if page.next_page_token.is_empty() {
            if output.is_json() {
                let as_of = page.as_of.as_ref().map(to_json);
                output.json(&json!({"entries": entries, "asOf": as_of}))?;
            } else {
                say_if_old(page.as_of.as_ref());
            }
            break;
        }
        request.page_token = page.next_page_token;
    }
    if let (Some(first), Some(last)) = (indices.iter().min(), indices.iter().max())
        && first != last
    {
        say(&format!("note: the records are of between log index {first} and {last}"));
    }
    Ok(())
}

async fn watch(
    client: &Client,
    output: Output,
    prefix: String,
    from_index: Option<u64>,
) -> Result<(), Failure> {
    let request = v1::KvWatchRequest { prefix, from_index };
    let mut changes =
        client.open(request, async |c, request| cluster(c).kv_watch(request).await).await?;
    let mut seen = Seen { whole: from_index, last: 0 };
    loop {
        let change = match changes.message().await {
            Ok(Some(change)) => change,
            Ok(None) => return Err(seen.lost("the node ended its answer")),
            Err(status) => {
                let failure = Failure::from_status(&status, Kind::Read);
                let broken = matches!(failure.exit(), Exit::Unreachable | Exit::Failed);
                return Err(if broken { seen.lost(status.message()) } else { failure });
            }
        };
        seen.note(&change);
        if output.is_json() {
            let value = change.value_json.as_deref().map(value).transpose()?;
            let mut shown = json!({"kind": change.kind, "index": change.index});
            if !change.key.is_empty() {
                shown["key"] = change.key.into();
            }
            if let Some(value) = value {
                shown["value"] = value;
            }
            output.text(&shown.to_string())?;
        } else if change.key.is_empty() {
            say(&format!("up to date at log index {}; changes follow", change.index));
        } else {
            output.text(&render::event::change(&change))?;
        }
    }
}

/// How far a watch has come. The changes of one index may be many, and only the
/// next one shows that they were all.
struct Seen {
    /// The index up to which all was seen; none before that of the first records.
    whole: Option<u64>,
    last: u64,
}

impl Seen {
    fn note(&mut self, change: &v1::KvChange) {
        if change.kind == "SYNCED" {
            self.whole = Some(change.index);
        } else if let Some(whole) = &mut self.whole
            && change.index > self.last
        {
            *whole = self.last.max(*whole);
        }
        self.last = change.index;
    }

    fn lost(&self, why: &str) -> Failure {
        let next = match self.whole {
            Some(index) => format!("'--from {index}' goes on there"),
            None => "try again".to_owned(),
        };
        Failure::new(Exit::Unreachable, format!("the watch was cut off ({why}); {next}"))
    }
}

fn value(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::failed(format!("the record is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_was_cut_off_goes_on_where_all_was_seen() {
        let mut seen = Seen { whole: None, last: 0 };
        let mut whole = |kind: &str, index| {
            seen.note(&v1::KvChange { kind: kind.into(), index, ..Default::default() });
            seen.whole
        };
        assert_eq!(whole("PUT", 5), None, "one of the first records, of which more may come");
        assert_eq!(whole("SYNCED", 5), Some(5));
        assert_eq!(whole("PUT", 7), Some(5), "there may be more of 7");
        assert_eq!(whole("DELETE", 7), Some(5));
        assert_eq!(whole("PUT", 9), Some(7));
        assert!(seen.lost("x").message().contains("--from 7"));
    }
}
