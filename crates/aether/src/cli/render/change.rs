//! One change of an update: a few lines for `watch` and for waiting verbs.

use aether_proto::v1;

use super::fields;
use super::update::{actual, as_of, deadline, instances, reason, requested};

/// The lines for a change, under how long it has been watched.
pub fn change(update: &v1::Update, watched_ms: u64) -> String {
    let time = format!("{}.{}s", watched_ms / 1_000, watched_ms % 1_000 / 100);
    let next = update.deadline.as_ref().map(deadline).unwrap_or_default();
    lines(update, &time, &actual(update), &next)
}

/// Where an update is, in one short line.
pub fn progress(update: &v1::Update) -> String {
    let mut text = format!("update {} {}", update.update_id, update.state);
    let instances = instances(update);
    if !instances.is_empty() {
        text.push_str(&format!(", {instances}"));
    }
    if let Some(pause) = &update.pause {
        text.push_str(&format!(", paused: {}", pause.code));
    }
    text
}

/// Picks the messages that say something new, so that neither passing time nor
/// the noise of counting is shown as a change.
#[derive(Default)]
pub struct News {
    shown: Option<(String, Option<u32>)>,
}

impl News {
    /// Whether this message is worth showing after those that were before it.
    pub fn is_new(&mut self, update: &v1::Update) -> bool {
        let (gist, share) = (gist(update), update.actual_new_ppm);
        let known = self.shown.as_ref();
        if known.is_some_and(|(shown, ppm)| *shown == gist && !moved(*ppm, share, update)) {
            return false;
        }
        self.shown = Some((gist, share));
        true
    }
}

/// Whether the actual share differs from the one shown by a point of a per
/// cent, and by more than two calls account for.
fn moved(shown: Option<u32>, now: Option<u32>, update: &v1::Update) -> bool {
    const POINT_PPM: u64 = 10_000;
    match (shown, now) {
        (Some(shown), Some(now)) => {
            let two_calls_ppm = 2_000_000 / update.actual_requests.max(1);
            u64::from(shown.abs_diff(now)) >= POINT_PPM.max(two_calls_ppm + 1)
        }
        (shown, now) => shown != now,
    }
}

/// All that is shown but times and shares, which move all the while.
fn gist(update: &v1::Update) -> String {
    let next = update.deadline.as_ref().map(|d| d.action.clone());
    let as_of = update.as_of.as_ref().map(|known| v1::AsOf { index: 0, ..known.clone() });
    let still = v1::Update { as_of, ..update.clone() };
    lines(&still, "", "", &next.unwrap_or_default())
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
        ("as of", update.as_of.as_ref().map(as_of).unwrap_or_default()),
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
    fn progress_is_one_line() {
        let pause = v1::Reason { code: "crash_loop".into(), message: "exit 1".into() };
        let update = v1::Update { pause: Some(pause), ..routing_update() };
        assert_eq!(
            progress(&update),
            "update u1f ROUTING, new 1/1, old 1/2 (1 UNREADY), paused: crash_loop"
        );
    }

    #[test]
    fn passing_time_is_no_news() {
        let mut news = News::default();
        let mut update = routing_update();
        let as_of = v1::AsOf { index: 7, stale: false, node: "n1".into() };
        update.as_of = Some(as_of.clone());
        assert!(news.is_new(&update));
        update.deadline.as_mut().unwrap().in_ms -= 1_000;
        update.new_instances_state[0].since_ms += 1;
        update.modified += 1;
        update.as_of = Some(v1::AsOf { index: 8, ..as_of });
        assert!(!news.is_new(&update));
        update.new_instances_state[0].takes_calls = false;
        assert!(news.is_new(&update));
        update.as_of.as_mut().unwrap().stale = true;
        assert!(news.is_new(&update) && change(&update, 0).contains("without asking the leader"));
        update.as_of.as_mut().unwrap().index += 1;
        assert!(!news.is_new(&update));
    }

    #[test]
    fn the_actual_share_is_news_when_it_moved_noticeably() {
        let mut news = News::default();
        let mut update = routing_update();
        let mut is_new = |ppm, requests| {
            (update.actual_new_ppm, update.actual_requests) = (ppm, requests);
            news.is_new(&update)
        };
        assert!(is_new(None, 0));
        assert!(is_new(Some(100_000), 3_000), "the first calls");
        assert!(!is_new(Some(109_999), 3_000), "less than a point");
        assert!(is_new(Some(110_000), 3_000), "a point since it was shown");
        assert!(!is_new(Some(120_000), 100), "one call more or less");
        assert!(!is_new(Some(310_000), 10), "two calls more or less");
        assert!(is_new(Some(410_000), 10));
        assert!(is_new(None, 0), "calls ceased");
    }
}
