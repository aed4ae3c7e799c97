//! Why an update is where it is, and what would move it.

use aether_proto::v1;

use super::update::{as_of, deadline, reason};
use super::{fields, span};

/// The whole explanation.
pub fn whole(explanation: &v1::Explanation) -> String {
    let wait = |wait: &v1::Wait| {
        let mut text = format!("{} (for {}): {}", wait.code, span(wait.since_ms), wait.message);
        if !wait.unblock.is_empty() {
            text.push_str(&format!("\n  ends when: {}", wait.unblock));
        }
        text
    };
    let waits: Vec<String> = explanation.waits.iter().map(wait).collect();
    let waits = if waits.is_empty() { "nothing by itself".to_owned() } else { waits.join("\n") };
    fields(&[
        ("update", explanation.update_id.clone()),
        ("state", explanation.state.clone()),
        ("paused", explanation.pause.as_ref().map(reason).unwrap_or_default()),
        ("waits for", waits),
        ("deadline", explanation.deadline.as_ref().map(deadline).unwrap_or_default()),
        ("next", explanation.next.join("\n")),
        ("as of", explanation.as_of.as_ref().map(as_of).unwrap_or_default()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_say_since_when_and_what_ends_them() {
        let explanation = v1::Explanation {
            update_id: "u1".into(),
            state: "COMPLETING".into(),
            waits: vec![v1::Wait {
                code: "session_ack".into(),
                message: "ingress n2 has not applied index 40".into(),
                since_ms: 2_500,
                unblock: "it acks, or --force".into(),
            }],
            next: vec![
                "aether update complete u1 --force".into(),
                "aether update rollback u1".into(),
            ],
            ..Default::default()
        };
        assert_eq!(
            whole(&explanation),
            "\
update     u1
state      COMPLETING
waits for  session_ack (for 2s): ingress n2 has not applied index 40
             ends when: it acks, or --force
next       aether update complete u1 --force
           aether update rollback u1"
        );
    }
}
