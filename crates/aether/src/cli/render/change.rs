//! One change of an update: a few lines for `watch` and for waiting verbs.

use aether_proto::v1;

use super::fields;
use super::update::{actual, deadline, instances, reason, requested};

/// The lines for a change, under how long it has been watched.
pub fn change(update: &v1::Update, watched_ms: u64) -> String {
    let time = format!("{}.{}s", watched_ms / 1_000, watched_ms % 1_000 / 100);
    let next = update.deadline.as_ref().map(deadline).unwrap_or_default();
    lines(update, &time, &actual(update), &next)
}

/// What makes one message differ from the one before: all that is shown but
/// times and shares, which move all the while.
pub fn gist(update: &v1::Update) -> String {
    let next = update.deadline.as_ref().map(|d| d.action.clone());
    lines(update, "", "", &next.unwrap_or_default())
}

fn lines(update: &v1::Update, time: &str, actual: &str, next: &str) -> String {
    let pending =
        update.pending_routing.as_ref().map(|routing| format!("{routing}, waits for approval"));
    let details = fields(&[
        ("actual", actual.to_owned()),
        ("instances", instances(update)),
        ("pending", pending.unwrap_or_default()),
        ("paused", update.pause.as_ref().map(reason).unwrap_or_default()),
        ("deadline", next.to_owned()),
        ("waits for", update.waits_for.join("\n")),
        ("outcome", update.outcome.as_ref().map(reason).unwrap_or_default()),
    ]);
    let mut text =
        format!("[{time:>7}] {} {} {}", update.update_id, update.state, requested(update));
    for line in details.lines() {
        text.push_str("\n          ");
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::update::tests::routing_update;
    use super::*;

    #[test]
    fn a_block_starts_with_the_time() {
        let update = v1::Update { deadline: None, ..routing_update() };
        assert_eq!(
            change(&update, 12_345),
            "[  12.3s] u1f ROUTING 1:3 (25 % new)\n          \
             actual     24.98 % new of 1203 calls in the last 10 s\n          \
             instances  new 1/1, old 1/2 (1 UNREADY)"
        );
    }

    #[test]
    fn only_what_is_shown_changes_the_gist() {
        let update = routing_update();
        let mut later = update.clone();
        later.actual_new_ppm = Some(1);
        later.deadline.as_mut().unwrap().in_ms -= 1_000;
        later.new_instances_state[0].since_ms += 1;
        later.modified += 1;
        assert_eq!(gist(&update), gist(&later));
        later.new_instances_state[0].state = "CRASHED".into();
        assert_ne!(gist(&update), gist(&later));
    }
}
