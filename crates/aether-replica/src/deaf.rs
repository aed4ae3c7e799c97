//! A leader that no majority answers falls silent, so that the others can elect.
//!
//! Openraft's leader goes on sending heartbeats for ever. Where the network is
//! broken in one direction only, they arrive and the answers do not: nobody
//! elects, because everybody hears a leader, and nothing can be committed. So a
//! leader without answers stops sending for a while (Raft's CheckQuorum, section
//! 6.2 of Ongaro's thesis: it steps down; openraft has no way to), and then tries
//! again, for there may be nobody who could have been elected meanwhile.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Node;

/// A majority that answered nothing for so many of the longest elections does not
/// hear this leader, or is not heard. Beyond the lease, after which nothing is
/// written anyway.
const SILENT_MAX: u32 = 2;
/// For so many of them nothing is sent: until there is an election that succeeds
/// (lease and timeout), and again after one that does not.
const PAUSE: u32 = 4;
/// Looks in each of the longest elections.
const LOOKS: u32 = 4;

/// Whether to send, as the leader of one term.
struct Hearing {
    election: Duration,
    /// Since when answers are waited for, with the term.
    since: Option<(u64, Instant)>,
    looked: Option<Instant>,
    silent_from: Option<Instant>,
}

impl Hearing {
    fn new(election: Duration) -> Self {
        Hearing { election, since: None, looked: None, silent_from: None }
    }

    /// Looks as the leader of `term`, which a majority answered last at `answered`.
    /// Whether nothing is to be sent until the next look.
    fn look(&mut self, now: Instant, term: u64, answered: Option<Instant>) -> bool {
        if self.since.is_none_or(|(of, _)| of != term) {
            *self = Self { since: Some((term, now)), ..Self::new(self.election) };
        }
        // Whoever stood still itself has heard nobody meanwhile.
        let stood_still = self.looked.replace(now).is_some_and(|at| now - at > self.election);
        if let Some(from) = self.silent_from {
            let is_over =
                answered.is_some_and(|at| at > from) || now - from >= self.election * PAUSE;
            if is_over {
                (self.silent_from, self.since) = (None, Some((term, now)));
            }
            return !is_over;
        }
        if stood_still {
            self.since = Some((term, now));
        }
        let since = self.since.map_or(now, |(_, since)| since);
        if now - answered.map_or(since, |at| at.max(since)) > self.election * SILENT_MAX {
            self.silent_from = Some(now);
        }
        self.silent_from.is_some()
    }
}

/// Looks for as long as the node runs.
pub(crate) async fn watch(node: Arc<Node>) {
    let election = Duration::from_millis(node.config.election_ms_max);
    let mut hearing = Hearing::new(election);
    let mut ticks = interval(election / LOOKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_silent = false;
    while !node.is_closed() {
        ticks.tick().await;
        let leadership = node.leader();
        let silent = match leadership.is_leader && !is_alone(&node) {
            true => hearing.look(Instant::now(), leadership.term, answered(&node)),
            false => {
                hearing = Hearing::new(election);
                false
            }
        };
        #[cfg(test)]
        let silent = silent && !crate::sim::planted(crate::sim::Bug::NeverSilent);
        node.peers.fall_silent(silent);
        if silent && !was_silent {
            tracing::warn!(
                term = leadership.term,
                "no majority of the voters answers this leader: it sends nothing for a while, so \
                 that they can elect another one"
            );
        }
        was_silent = silent;
    }
}

/// Whether this node is the only voter: it needs nobody's answer.
fn is_alone(node: &Node) -> bool {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().voter_ids().count() <= 1
}

/// When a majority answered last.
fn answered(node: &Node) -> Option<Instant> {
    let metrics = node.raft.metrics();
    let at = metrics.borrow_watched().last_quorum_acked?;
    // In openraft's own kind of instant.
    Instant::now().checked_sub(at.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_millis(100);

    /// Looks every 25 ms, from 0 to `until_ms`; when it fell silent, and when it
    /// spoke again. `answered` gives what was answered by then.
    fn changes(until_ms: u64, answered: impl Fn(u64) -> Option<u64>) -> Vec<(u64, bool)> {
        let begun = Instant::now();
        let mut hearing = Hearing::new(ELECTION);
        let mut changes = Vec::new();
        let mut was = false;
        for ms in (0..=until_ms).step_by(25) {
            let at = |ms| begun + Duration::from_millis(ms);
            let silent = hearing.look(at(ms), 1, answered(ms).map(at));
            if silent != was {
                changes.push((ms, silent));
            }
            was = silent;
        }
        changes
    }

    #[test]
    fn a_leader_that_is_answered_never_falls_silent() {
        assert_eq!(changes(5_000, |ms| Some(ms.saturating_sub(200))), []);
    }

    #[test]
    fn one_that_nobody_answers_is_silent_for_a_while_and_tries_again() {
        let never = changes(1_300, |_| None);
        assert_eq!(never, [(225, true), (625, false), (850, true), (1_250, false)]);
        let until_300 = changes(600, |ms| Some(ms.min(300)));
        assert_eq!(until_300, [(525, true)]);
    }

    #[test]
    fn an_answer_ends_the_silence() {
        let back = changes(2_000, |ms| (ms >= 300).then_some(ms));
        assert_eq!(back, [(225, true), (300, false)]);
    }

    #[test]
    fn who_stood_still_or_leads_anew_gives_the_others_time() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut hearing = Hearing::new(ELECTION);
        assert!(!hearing.look(at(0), 1, Some(at(0))));
        assert!(!hearing.look(at(5_000), 1, Some(at(0))), "paused for five seconds");
        assert!(!hearing.look(at(5_100), 1, Some(at(0))));
        assert!(!hearing.look(at(5_200), 1, Some(at(0))));
        assert!(hearing.look(at(5_201), 1, Some(at(0))), "still nobody answers");
        assert!(!hearing.look(at(5_250), 2, Some(at(0))), "another term");
    }
}
