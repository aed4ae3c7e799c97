//! Records by the beginning of their keys: page by page, and as they change.

use std::sync::Arc;

use aether_core::command::Command;
use aether_core::ids::ConfigName;
use aether_core::state::{CONFIG_PREFIX, State};
use aether_proto::v1;
use aether_replica::{Changes, Gone};
use tokio::time::Instant;
use tonic::{Response, Status};

use super::Streamed;
use super::following::{Places, Pulse, too_slow};
use super::reading::{self, Handover};
use crate::control::Control;
use crate::deadline::Deadline;
use crate::status;

/// Longest key that can be asked for, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// Records of a page unless the reader says how many: a screen or two.
const PAGE_SIZE: usize = 100;
/// Most records of a page.
const PAGE_SIZE_MAX: usize = 1_000;
/// A page ends with the record that reaches this many bytes. A record has a few
/// hundred, an update with a full history 30,000; clients take 4 MiB at least.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Reads, lists and watches records, and writes those of users.
#[derive(Clone)]
pub struct Kv {
    control: Control,
    changes: Arc<Changes>,
    places: Places,
}

impl Kv {
    /// Over the node's parts.
    pub fn new(control: Control, changes: Arc<Changes>, places: Places) -> Self {
        Self { control, changes, places }
    }

    /// One record.
    pub async fn get(
        &self,
        deadline: Deadline,
        request: v1::KvGetRequest,
    ) -> Result<v1::KvEntry, Status> {
        let v1::KvGetRequest { key, stale } = request;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(status::invalid("key", format!("must be 1 to {KEY_BYTES_MAX} bytes long")));
        }
        let read = self.control.read(stale, deadline).await;
        let Some(value) = read.published.state.row(&key) else {
            let problem = status::no_such("key", &key, format!("no record has key '{key}'"));
            return Err(read.missing(problem));
        };
        let value_json = text(value);
        let as_of = Some(self.control.as_of(&read));
        Ok(v1::KvEntry { key, value_json, as_of })
    }

    /// Puts a value.
    pub async fn put(
        &self,
        deadline: Deadline,
        request: v1::KvPutRequest,
    ) -> Result<v1::KvPutResponse, Status> {
        let v1::KvPutRequest { key, value, if_index: if_modified, request_id, actor } = request;
        let command = Command::PutConfig { name: name(&key)?, value: value.into(), if_modified };
        let answer = self.control.write(deadline, &actor, &request_id, command).await?;
        Ok(v1::KvPutResponse { index: answer.index })
    }

    /// Removes a value.
    pub async fn delete(
        &self,
        deadline: Deadline,
        request: v1::KvDeleteRequest,
    ) -> Result<v1::KvDeleteResponse, Status> {
        let v1::KvDeleteRequest { key, if_index: if_modified, request_id, actor } = request;
        let command = Command::RemoveConfig { name: name(&key)?, if_modified };
        let answer = self.control.write(deadline, &actor, &request_id, command).await?;
        Ok(v1::KvDeleteResponse { index: answer.index })
    }

    /// One page.
    pub async fn list(
        &self,
        deadline: Deadline,
        request: v1::KvListRequest,
    ) -> Result<v1::KvListResponse, Status> {
        let v1::KvListRequest { prefix, page_size, page_token, stale } = request;
        check_prefix(&prefix)?;
        let limit = match page_size as usize {
            0 => PAGE_SIZE,
            size => size.min(PAGE_SIZE_MAX),
        };
        let after = match page_token.as_str() {
            "" => String::new(),
            token => key_of(token).filter(|key| key.starts_with(&prefix)).ok_or_else(|| {
                status::invalid("page_token", "is none that a list of this prefix gave")
            })?,
        };
        let read = self.control.read(stale, deadline).await;
        let page = read.published.state.page(&prefix, &after, limit, PAGE_BYTES_MAX);
        let last = page.rows.last().filter(|_| !page.is_last);
        let next_page_token = last.map(|(key, _)| token_of(key)).unwrap_or_default();
        let entry = |(key, value)| v1::KvEntry { key, value_json: text(value), as_of: None };
        let entries = page.rows.into_iter().map(entry).collect();
        let as_of = Some(self.control.as_of(&read));
        Ok(v1::KvListResponse { entries, next_page_token, as_of })
    }

    /// Records as they change.
    pub async fn watch(
        &self,
        deadline: Deadline,
        request: v1::KvWatchRequest,
    ) -> Result<Response<Streamed<v1::KvChange>>, Status> {
        let v1::KvWatchRequest { prefix, from_index } = request;
        check_prefix(&prefix)?;
        let read = self.control.read(false, deadline).await;
        let state = read.published.state.clone();
        if let Some(index) = from_index {
            let last = state.meta.index;
            if index > last {
                let problem = format!("index {index} is after the end of the log, {last}");
                return Err(read.missing(status::out_of_range("future_index", problem)));
            }
            self.changes.since(index).map_err(|Gone { kept_after }| {
                let problem = format!(
                    "this node has no changes of index {index} any more, only those after \
                     {kept_after}; list again, by watching without an index"
                );
                status::out_of_range("compacted", problem)
            })?;
        }
        let place = self.places.take()?;
        let this = self.clone();
        Ok(reading::answer(move |to| async move {
            let _place = place;
            let pulse = Pulse::new(this.control.clone());
            this.push(&prefix, from_index, state, pulse, to).await
        }))
    }

    pub(super) async fn push(
        &self,
        prefix: &str,
        from_index: Option<u64>,
        state: State,
        mut pulse: Pulse,
        to: Handover<v1::KvChange>,
    ) -> Result<(), Status> {
        let mut news = self.changes.index();
        let mut at = match from_index {
            Some(index) => index,
            None => present(prefix, &state, &to).await,
        };
        drop(state);
        // Up to where the reader knows that it has everything, and since when. Not
        // left to the pulse alone, which news of other records may hold up.
        let mut synced: Option<(u64, Instant)> = None;
        loop {
            drop(news.borrow_and_update());
            let (entries, up_to) = self.changes.since(at).map_err(|Gone { kept_after }| {
                too_slow(format!(
                    "the reader is at index {at}, and only changes after {kept_after} are kept"
                ))
            })?;
            for entry in entries {
                for row in entry.rows.iter().filter(|row| row.key.starts_with(prefix)) {
                    to.tell(change(entry.index, &row.key, row.value.as_deref())).await;
                }
            }
            at = up_to;
            let is_due =
                |(index, since): (u64, Instant)| index < at && since.elapsed() >= pulse.period();
            if synced.is_none_or(is_due) {
                let kind = "SYNCED".to_owned();
                to.tell(v1::KvChange { kind, index: at, ..Default::default() }).await;
                synced = Some((at, Instant::now()));
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                beat = pulse.beat() => { beat?; }
            }
        }
    }
}

/// Sends every record that is there; gives the index as of which it is.
async fn present(prefix: &str, state: &State, to: &Handover<v1::KvChange>) -> u64 {
    let (index, mut after) = (state.meta.index, String::new());
    loop {
        let page = state.page(prefix, &after, PAGE_SIZE_MAX, PAGE_BYTES_MAX);
        for (key, value) in &page.rows {
            to.tell(change(index, key, Some(value))).await;
        }
        match page.rows.into_iter().next_back() {
            Some((key, _)) if !page.is_last => after = key,
            _ => return index,
        }
    }
}

fn change(index: u64, key: &str, value: Option<&[u8]>) -> v1::KvChange {
    v1::KvChange {
        kind: if value.is_some() { "PUT" } else { "DELETE" }.to_owned(),
        key: key.to_owned(),
        value_json: value.map(|value| text(value.to_owned())),
        index,
    }
}

/// A row's value. The state encodes it, as JSON.
pub fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).expect("JSON is UTF-8")
}

/// The name in a key that may be written.
fn name(key: &str) -> Result<ConfigName, Status> {
    let Some(name) = key.strip_prefix(CONFIG_PREFIX) else {
        return Err(status::invalid(
            "key",
            "must begin with config/; other records change by what is done, such as 'aether scale'",
        ));
    };
    status::parsed("key", name)
}

fn check_prefix(prefix: &str) -> Result<(), Status> {
    match prefix.len() {
        0..=KEY_BYTES_MAX => Ok(()),
        bytes => Err(status::invalid(
            "prefix",
            format!("is {bytes} bytes long, keys have at most {KEY_BYTES_MAX}"),
        )),
    }
}

/// The token of a page that ends with this key: letters and digits, so that it
/// goes into a URL as it is.
fn token_of(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn key_of(token: &str) -> Option<String> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = token.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    });
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_key_and_nothing_else_is_a_token() {
        for key in
            ["audit/00000000000000000012/1", "slice/a.b:c@blue", "ä", "artifacts/a/b/1.0.0+x"]
        {
            let token = token_of(key);
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
            assert_eq!(key_of(&token).as_deref(), Some(key));
        }
        for token in ["6", "6x", "zz", "ff", "c3", "+1", "é", "61é"] {
            assert_eq!(key_of(token), None, "{token}");
        }
    }
}
