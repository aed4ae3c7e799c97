//! `aether kv …`: look into the replicated KV store, and keep values in it.

use std::fs::File;
use std::io::{self, Read};

use aether_core::records::CONFIG_VALUE_BYTES_MAX;
use aether_proto::json::to_json;
use aether_proto::v1;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failure;
use super::interrupt::while_read;
use super::output::{Output, say, say_if_old};
use super::status::cluster;
use super::{Global, render};

mod watch;

/// Records asked for at a time.
const PAGE_SIZE: u32 = 1_000;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print one record as JSON
    #[command(after_help = "\
Examples:
  aether kv get rolling-update/u1f
  aether kv get version-routing/org.example:my-slice -o yaml

See also: aether kv list, aether kv watch")]
    Get {
        /// The key
        key: String,
        /// Answer from the node's own copy, without asking the leader
        #[arg(long)]
        stale: bool,
    },
    /// Put a value under config/, where everything is yours
    ///
    /// Settings that services share, a flag, a note: any text of up to 64 KiB. It
    /// is as safe as everything else here, and 'aether kv watch' tells of it at
    /// once. What it means is up to those who read it.
    #[command(after_help = "\
Examples:
  aether kv put config/shop/limits '{\"rps\": 200}'
  aether kv put config/shop/limits @limits.json --if-index 41
  aether kv put config/lock me --if-absent

See also: aether kv get, aether kv delete")]
    Put {
        /// config/ and a name such as shop/limits
        key: String,
        /// The text; @FILE takes it from a file, @- from standard input
        value: String,
        /// Refuse unless the record was last modified at this log index
        #[arg(long, value_name = "INDEX")]
        if_index: Option<u64>,
        /// Refuse if there is a record
        #[arg(long, conflicts_with = "if_index")]
        if_absent: bool,
    },
    /// Remove a value under config/
    #[command(after_help = "\
Examples:
  aether kv delete config/shop/limits
  aether kv delete config/lock --if-index 41

See also: aether kv put, aether kv list")]
    Delete {
        /// The key
        key: String,
        /// Refuse unless the record was last modified at this log index
        #[arg(long, value_name = "INDEX")]
        if_index: Option<u64>,
    },
    /// List records by the beginning of their keys, one a line
    #[command(after_help = "\
Examples:
  aether kv list instances/
  aether kv list -o json

See also: aether kv get, aether kv watch")]
    List {
        /// Such as instances/ or audit/; every record without it
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Print records by the beginning of their keys, and then every change
    ///
    /// A change is PUT or DELETE, with log index, key and record. The watch goes on at another node when the one asked goes away. With '-o json',
    /// each is one line; with '-o yaml', one document. SYNCED stands between the
    /// records that were there and the changes.
    ///
    /// A node has the latest changes only, and those since its start: where they
    /// do not reach back far enough, nothing is left out in silence, it ends
    /// with exit code 1.
    #[command(after_help = "\
Examples:
  aether kv watch rolling-update/
  aether kv watch instances/ --from 41 -o json

See also: aether kv list, aether events")]
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
            Self::Get { key, stale } => get(&client, output, key, stale).await,
            Self::Put { key, value, if_index, if_absent } => {
                let if_index = if_absent.then_some(0).or(if_index);
                put(&client, output, key, text(value)?, if_index).await
            }
            Self::Delete { key, if_index } => delete(&client, output, key, if_index).await,
            Self::List { prefix } => list(&client, output, prefix).await,
            Self::Watch { prefix, from } => {
                while_read(watch::watch(&client, output, prefix, from)).await
            }
        }
    }
}

async fn get(client: &Client, output: Output, key: String, stale: bool) -> Result<(), Failure> {
    let entry = client
        .read(v1::KvGetRequest { key, stale }, async |c, request| cluster(c).kv_get(request).await)
        .await?;
    let value = value(&entry.value_json)?;
    if output.is_for_programs() {
        let as_of = entry.as_of.as_ref().map(to_json);
        return output.value(&json!({"key": entry.key, "value": value, "asOf": as_of}));
    }
    say_if_old(entry.as_of.as_ref());
    output.value(&value)
}

/// A value as it was given, or what is in the file that was named.
fn text(given: String) -> Result<String, Failure> {
    let Some(path) = given.strip_prefix('@') else { return Ok(given) };
    let cannot = |error| Failure::usage(format!("the value in '{path}' cannot be read: {error}"));
    let mut text = String::new();
    // What is longer is refused by the cluster, with the bound that there is.
    let bytes_max = CONFIG_VALUE_BYTES_MAX as u64 + 1;
    match path {
        "-" => io::stdin().take(bytes_max).read_to_string(&mut text),
        path => File::open(path).and_then(|file| file.take(bytes_max).read_to_string(&mut text)),
    }
    .map_err(cannot)?;
    Ok(text)
}

async fn put(
    client: &Client,
    output: Output,
    key: String,
    value: String,
    if_index: Option<u64>,
) -> Result<(), Failure> {
    let (request_id, actor) = (client.request_id(), client.actor());
    let request = v1::KvPutRequest { key, value, if_index, request_id, actor };
    let key = request.key.clone();
    let put = client.write(request, async |c, request| cluster(c).kv_put(request).await).await?;
    match output.is_for_programs() {
        true => output.value(&json!({"key": key, "index": put.index})),
        false => output.text(&format!("{key} put at log index {}", put.index)),
    }
}

async fn delete(
    client: &Client,
    output: Output,
    key: String,
    if_index: Option<u64>,
) -> Result<(), Failure> {
    let (request_id, actor) = (client.request_id(), client.actor());
    let request = v1::KvDeleteRequest { key, if_index, request_id, actor };
    let key = request.key.clone();
    let removed =
        client.write(request, async |c, request| cluster(c).kv_delete(request).await).await?;
    match output.is_for_programs() {
        true => output.value(&json!({"key": key, "index": removed.index})),
        false => output.text(&format!("{key} removed at log index {}", removed.index)),
    }
}

async fn list(client: &Client, output: Output, prefix: String) -> Result<(), Failure> {
    let mut request = v1::KvListRequest { prefix, page_size: PAGE_SIZE, ..Default::default() };
    let (mut entries, mut indices) = (Vec::new(), Vec::new());
    loop {
        let page = client
            .read(request.clone(), async |c, request| cluster(c).kv_list(request).await)
            .await?;
        for entry in &page.entries {
            match output.is_for_programs() {
                true => entries.push(json!({"key": entry.key, "value": value(&entry.value_json)?})),
                false => output.text(&render::event::entry(entry))?,
            }
        }
        indices.extend(page.as_of.as_ref().map(|as_of| as_of.index));
        if page.next_page_token.is_empty() {
            if output.is_for_programs() {
                let as_of = page.as_of.as_ref().map(to_json);
                output.value(&json!({"entries": entries, "asOf": as_of}))?;
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

fn value(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::failed(format!("the record is not JSON: {error}")))
}
