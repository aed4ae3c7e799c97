//! Events and changes of records, a line each.

use std::time::{Duration, SystemTime};

use aether_proto::v1;

use super::{or_dash, plain};

/// Last millisecond of the year 9999, behind which times have no usual form.
const WALL_MS_MAX: u64 = 253_402_300_799_000;

/// When, where in the log, what about, who, and what.
pub fn event(event: &v1::Event) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(event.wall_ms.min(WALL_MS_MAX));
    let subject = match (event.kind.as_str(), event.id.as_str()) {
        ("", id) => id.to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, id) => format!("{kind}/{id}"),
    };
    plain(&format!(
        "{}  {:<8}  {subject}  {}: {}",
        humantime::format_rfc3339_seconds(at),
        format!("{}.{}", event.index, event.n),
        or_dash(&event.actor),
        event.event,
    ))
}

/// A change of one record: what, at which log index, of which, and to what.
pub fn change(change: &v1::KvChange) -> String {
    let value = change.value_json.as_deref().unwrap_or_default();
    let line = format!("{:<6}  {:<8}  {}  {value}", change.kind, change.index, change.key);
    plain(line.trim_end())
}

/// One record.
pub fn entry(entry: &v1::KvEntry) -> String {
    plain(&format!("{}  {}", entry.key, entry.value_json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut shown = v1::Event {
            index: 120,
            n: 1,
            wall_ms: 1_704_067_200_000,
            actor: "alice".into(),
            kind: "update".into(),
            id: "u1f".into(),
            event: "traffic 1:3\nto the new".into(),
        };
        assert_eq!(
            event(&shown),
            "2024-01-01T00:00:00Z  120.1     update/u1f  alice: traffic 1:3 to the new"
        );
        (shown.wall_ms, shown.kind) = (u64::MAX, String::new());
        assert!(event(&shown).starts_with("9999-12-31T23:59:59Z  120.1     u1f  "));
        (shown.kind, shown.id) = ("cluster".into(), String::new());
        assert!(event(&shown).contains("  cluster  "));
    }

    #[test]
    fn a_change_is_one_line_with_the_record_it_left() {
        let put = v1::KvChange {
            kind: "PUT".into(),
            key: "nodes/n1".into(),
            value_json: Some(r#"{"name":"n1"}"#.into()),
            index: 7,
        };
        assert_eq!(change(&put), r#"PUT     7         nodes/n1  {"name":"n1"}"#);
        let delete = v1::KvChange { kind: "DELETE".into(), value_json: None, ..put };
        assert_eq!(change(&delete), "DELETE  7         nodes/n1");
    }
}
