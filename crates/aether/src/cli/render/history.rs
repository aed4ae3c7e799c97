//! What happened to an update.

use std::time::{Duration, UNIX_EPOCH};

use aether_core::words::counted;
use aether_proto::v1;

use super::{or_dash, table};

/// The whole of it, oldest first.
pub fn whole(history: &v1::UpdateHistory) -> String {
    let row = |entry: &v1::HistoryEntry| {
        vec![
            entry.index.to_string(),
            when(entry.wall_ms),
            entry.state.clone(),
            entry.routing.clone(),
            entry.actor.clone(),
            or_dash(entry.reason.as_ref().map_or("", |reason| &reason.code)),
            entry.event.clone(),
        ]
    };
    let header = ["INDEX", "TIME", "STATE", "ROUTING", "BY", "REASON", "EVENT"];
    let rows = table(&header, history.entries.iter().map(row).collect());
    let mut text = format!("update {} of {}\n\n{rows}", history.update_id, history.artifact_base);
    if history.left_out > 0 {
        text.push_str(&format!(
            "\n\n{} left out here; 'aether events --subject update/{} -n {}' has them",
            counted(history.left_out, "change"),
            history.update_id,
            history.left_out as usize + history.entries.len()
        ));
    }
    text
}

/// A wall clock's time, in UTC.
pub fn when(wall_ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(wall_ms)) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => wall_ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_its_time_its_author_and_its_reason() {
        let entry = |index, actor: &str, reason: Option<&str>| v1::HistoryEntry {
            index,
            wall_ms: 1_704_067_200_000,
            actor: actor.into(),
            state: "ROUTING".into(),
            routing: "1:3".into(),
            event: "something".into(),
            reason: reason.map(|code| v1::Reason { code: code.into(), message: String::new() }),
        };
        let history = v1::UpdateHistory {
            update_id: "u7".into(),
            artifact_base: "a.b:c".into(),
            entries: vec![entry(7, "me", None), entry(9, "coordinator", Some("deadline"))],
            as_of: None,
            left_out: 0,
        };
        let text = whole(&v1::UpdateHistory { left_out: 403, ..history.clone() });
        let said =
            "\n\n403 changes left out here; 'aether events --subject update/u7 -n 405' has them";
        assert!(text.contains(said), "{text}");
        assert_eq!(
            whole(&history),
            "update u7 of a.b:c\n\n\
             INDEX  TIME                  STATE    ROUTING  BY           REASON    EVENT\n\
             7      2024-01-01T00:00:00Z  ROUTING  1:3      me           -         something\n\
             9      2024-01-01T00:00:00Z  ROUTING  1:3      coordinator  deadline  something"
        );
    }
}
