//! Says on the leader, once each, that a voter is lost and that it is back.
//!
//! Openraft reports every heartbeat that fails, which is dozens of lines a
//! second for as long as a voter is away; by default they are not logged.
//! Nothing is decided here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::node::Node;

/// A voter is called lost after so many of the longest elections without an
/// answer: one that is only slow, or starts again, is not.
const ELECTIONS_MAX: u32 = 6;

/// A voter as the leader sees it.
struct Voter {
    id: u64,
    name: String,
    peer_addr: String,
    /// When it last answered this leader, if it ever did.
    answered: Option<Instant>,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost { voter: String, peer_addr: String, silent: Duration, answering: usize, voters: usize },
    Back { voter: String, answering: usize, voters: usize },
}

/// Who is lost, as far as was said.
struct Silences {
    silent_max: Duration,
    /// Since when this node leads and was not itself held up, with its term.
    since: Option<(u64, Instant)>,
    looked: Option<Instant>,
    lost: BTreeSet<u64>,
}

impl Silences {
    fn new(silent_max: Duration) -> Self {
        Silences { silent_max, since: None, looked: None, lost: BTreeSet::new() }
    }

    /// This node does not lead: it cannot tell.
    fn not_leading(&mut self) {
        *self = Self::new(self.silent_max);
    }

    /// Looks at the other voters as the leader of `term`.
    fn look(&mut self, now: Instant, term: u64, others: &[Voter]) -> Vec<News> {
        if self.since.is_none_or(|(of, _)| of != term) {
            self.not_leading();
            self.since = Some((term, now));
        }
        // Whoever stood still itself has heard nobody meanwhile.
        if self.looked.replace(now).is_some_and(|at| now - at > self.silent_max / 2) {
            self.since = Some((term, now));
        }
        let since = self.since.map_or(now, |(_, since)| since);
        let silent_of = |voter: &Voter| now - voter.answered.map_or(since, |at| at.max(since));
        let is_silent = |voter: &Voter| match self.lost.contains(&voter.id) {
            // It has to answer for that, not only to be given more time.
            true => voter.answered.is_none_or(|at| now - at > self.silent_max),
            false => silent_of(voter) > self.silent_max,
        };
        let silent: BTreeSet<u64> = others.iter().filter(|v| is_silent(v)).map(|v| v.id).collect();
        let (voters, answering) = (others.len() + 1, others.len() + 1 - silent.len());
        let changed = others.iter().filter(|v| silent.contains(&v.id) != self.lost.contains(&v.id));
        let news = changed.map(|voter| match silent.contains(&voter.id) {
            true => News::Lost {
                voter: voter.name.clone(),
                peer_addr: voter.peer_addr.clone(),
                silent: silent_of(voter),
                answering,
                voters,
            },
            false => News::Back { voter: voter.name.clone(), answering, voters },
        });
        let news = news.collect();
        self.lost = silent;
        news
    }
}

/// Looks for as long as the node runs.
pub(crate) async fn watch(node: Arc<Node>) {
    let election = Duration::from_millis(node.config.election_ms_max);
    let mut silences = Silences::new(ELECTIONS_MAX * election);
    let mut ticks = interval(election);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !node.is_closed() {
        ticks.tick().await;
        let leadership = node.leader();
        if !leadership.is_leader {
            silences.not_leading();
            continue;
        }
        for news in silences.look(Instant::now(), leadership.term, &others(&node)) {
            say(&node, &news);
        }
    }
}

/// The voters beside this node, while it leads.
fn others(node: &Node) -> Vec<Voter> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let answered = |id: &u64| {
        let heartbeats = metrics.heartbeat.as_ref()?;
        // In openraft's own kind of instant.
        let ago = heartbeats.get(id).copied().flatten()?.elapsed();
        Instant::now().checked_sub(ago)
    };
    membership
        .voter_ids()
        .filter(|id| *id != node.identity.raft_id)
        .filter_map(|id| {
            let member = membership.get_node(&id)?;
            Some(Voter {
                id,
                name: member.name.clone(),
                peer_addr: node.peers.address(member).to_owned(),
                answered: answered(&id),
            })
        })
        .collect()
}

fn say(node: &Node, news: &News) {
    let node = &node.identity.node;
    match news {
        News::Lost { voter, peer_addr, silent, answering, voters } => {
            let (silent_ms, needed) = (silent.as_millis() as u64, voters / 2 + 1);
            tracing::warn!(
                node,
                voter,
                peer_addr,
                silent_ms,
                answering,
                voters,
                needed,
                "a voter is lost: it does not answer; see to its node, writes need a majority"
            );
        }
        News::Back { voter, answering, voters } => {
            tracing::info!(node, voter, answering, voters, "a voter is back: it answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(250);

    fn voter(id: u64, answered: Option<Instant>) -> Voter {
        Voter { id, name: format!("v{id}"), peer_addr: format!("h:{id}"), answered }
    }

    fn lost(id: u64, silent: Duration, answering: usize) -> News {
        let (voter, peer_addr) = (format!("v{id}"), format!("h:{id}"));
        News::Lost { voter, peer_addr, silent, answering, voters: 3 }
    }

    #[test]
    fn a_voter_that_dies_is_said_once_and_so_is_its_return() {
        let (start, mut silences) = (Instant::now(), Silences::new(MAX));
        let mut said = Vec::new();
        for step in 0..100 {
            let now = start + step * STEP;
            // v2 is away from the 10th step to the 60th.
            let away = (10..60).contains(&step);
            let answered = if away { start + 9 * STEP } else { now };
            let others = [voter(2, Some(answered)), voter(3, Some(now))];
            said.extend(silences.look(now, 1, &others).into_iter().map(|news| (step, news)));
        }
        let back = News::Back { voter: "v2".into(), answering: 3, voters: 3 };
        assert_eq!(said, [(14, lost(2, 5 * STEP, 2)), (60, back)]);
    }

    #[test]
    fn who_has_never_answered_a_new_leader_has_its_time() {
        let (start, mut silences) = (Instant::now(), Silences::new(MAX));
        let at = |step: u32, silences: &mut Silences, term| {
            let now = start + step * STEP;
            silences.look(now, term, &[voter(2, None), voter(3, Some(now))])
        };
        for step in 0..=4 {
            assert_eq!(at(step, &mut silences, 1), [], "step {step}");
        }
        assert_eq!(at(5, &mut silences, 1), [lost(2, 5 * STEP, 2)]);
        // Another term is another leader's view, and so is a pause between.
        assert_eq!(at(6, &mut silences, 2), []);
        silences.not_leading();
        assert_eq!(at(9, &mut silences, 2), []);
    }

    #[test]
    fn a_leader_that_stood_still_calls_nobody_lost_and_nobody_back() {
        let (start, mut silences) = (Instant::now(), Silences::new(MAX));
        let others = || [voter(2, Some(start)), voter(3, Some(start))];
        assert_eq!(silences.look(start, 1, &others()), []);
        assert_eq!(silences.look(start + 10 * MAX, 1, &others()), []);
        for step in 1..=4 {
            assert_eq!(silences.look(start + 10 * MAX + step * STEP, 1, &others()), []);
        }
        let news = silences.look(start + 10 * MAX + 5 * STEP, 1, &others());
        assert_eq!(news, [lost(2, 5 * STEP, 1), lost(3, 5 * STEP, 1)]);
        assert_eq!(silences.look(start + 20 * MAX, 1, &others()), [], "they are still away");
    }
}
