//! `aether kv …`: look into the replicated KV store.

use aether_proto::json::to_json;
use aether_proto::v1;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Global;
use super::exit::Failure;
use super::output::say_if_old;
use super::status::cluster;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print one record as JSON, such as rolling-update/ID or
    /// version-routing/GROUP:ARTIFACT
    Get {
        /// The key
        key: String,
    },
}

impl Command {
    /// Carries the verb out.
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let Self::Get { key } = self;
        let client = global.client()?;
        let entry = client
            .read(v1::KvGetRequest { key }, async |c, request| cluster(c).kv_get(request).await)
            .await?;
        let value: Value = serde_json::from_str(&entry.value_json)
            .map_err(|error| Failure::failed(format!("the record is not JSON: {error}")))?;
        let output = global.output();
        if output.is_json() {
            let as_of = entry.as_of.as_ref().map(to_json);
            return output.json(&json!({"key": entry.key, "value": value, "asOf": as_of}));
        }
        say_if_old(entry.as_of.as_ref());
        output.json(&value)
    }
}
