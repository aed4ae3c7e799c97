//! What a voter promises to the leader that it hears, and what that leader may do
//! for it: read without asking anybody (section 6.4.1 of Ongaro's thesis).
//!
//! A round that a majority has answered, begun at `s` by the leader's clock, says
//! that each of them heard this leader at `s` or later. Each of them helps nobody
//! else into office for [`PROMISE`] after that: openraft has it wait for the longest
//! election timeout, which is no shorter. So until `s + PROMISE` there is no other
//! leader, and what this one has committed is the newest. It counts on that for
//! [`LEASE`] only, half as long: clocks may go at speeds that differ by a factor of
//! two.
//!
//! What could break the promise, and what is done about it:
//!
//! - A voter that starts again does not know what its last life has heard: it keeps
//!   the promise from its start on ([`bound_until`]).
//! - A leader that hands over asks a voter to stand in spite of the promise: from
//!   then on it does not count on it any more, for as long as its term lasts.
//! - The membership changes: a round of another membership counts for nothing. A
//!   leader that is no voter any more counts on nothing at all, for a voter that is
//!   left alone elects itself without asking anybody.
//! - The leader's machine is suspended: its clock stands still, those of the others
//!   don't. The clock that goes on (CLOCK_BOOTTIME) shows it. Where a hypervisor
//!   stops all clocks of a machine and starts them again, nothing shows it, which is
//!   why leases have to be asked for ([`Config::lease_reads`](crate::Config)).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Readings;
use crate::config::ELECTION_MS_MAX_MIN;
use crate::types::LogId;

/// How long a leader counts on a round: many times as long as one takes.
pub(crate) const LEASE: Duration = Duration::from_millis(100);
/// How long a voter that heard a leader helps nobody else into office, at least.
pub(crate) const PROMISE: Duration = Duration::from_millis(ELECTION_MS_MAX_MIN);
/// By how much two clocks that are read one after the other may seem to have moved
/// against each other.
const APART_MS_MAX: u64 = 10;

/// Until when a voter that was opened at this time, and has had a life before, helps
/// nobody into office.
pub(crate) fn bound_until(opened: Instant) -> Instant {
    #[cfg(test)]
    if crate::sim::planted(crate::sim::Bug::ForgottenPromise) {
        return opened;
    }
    opened + PROMISE
}

/// What a leader knows at the begin of a round or of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Office {
    pub term: u64,
    /// The entry that the membership is from.
    pub membership: Option<LogId>,
    /// Whether it is a voter in that.
    pub votes: bool,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    boot_ms: u64,
}

impl Moment {
    fn now() -> Self {
        Moment { at: Instant::now(), boot_ms: Readings::now().boot_ms }
    }

    /// Time to a later moment, unless the clocks do not agree on it.
    fn until(&self, later: &Moment) -> Option<Duration> {
        let elapsed = later.at.duration_since(self.at);
        let booted_ms = later.boot_ms.saturating_sub(self.boot_ms);
        let agree = booted_ms.abs_diff(elapsed.as_millis() as u64) <= APART_MS_MAX;
        #[cfg(test)]
        let agree = agree || crate::sim::planted(crate::sim::Bug::UnnoticedSuspension);
        agree.then_some(elapsed)
    }
}

/// A round that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    office: Office,
    at: Moment,
}

/// A leader's side.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// The last round that a majority answered.
    confirmed: Mutex<Option<Begun>>,
    /// The last term in which this node has begun to hand over.
    handed_over: AtomicU64,
}

impl Lease {
    /// To be called before the first of a round's messages is sent.
    pub fn begin(office: Office) -> Begun {
        Begun { office, at: Moment::now() }
    }

    /// A majority answered this round.
    pub fn confirm(&self, round: Begun) {
        let mut confirmed = self.confirmed.lock().expect("no panic while held");
        if confirmed.is_none_or(|before| before.at.at < round.at.at) {
            *confirmed = Some(round);
        }
    }

    /// To be called before another voter is asked to stand, in spite of its promise.
    pub fn hand_over(&self, term: u64) {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Bug::UnnoticedHandOver) {
            return;
        }
        self.handed_over.fetch_max(term, Ordering::SeqCst);
    }

    /// Whether this node began to hand this term's leadership over.
    pub fn is_handed_over(&self, term: u64) -> bool {
        self.handed_over.load(Ordering::SeqCst) == term
    }

    /// Whether nobody else leads as yet, for sure. `office` was read before the call.
    pub fn holds(&self, office: Office) -> bool {
        self.holds_at(Moment::now(), office)
    }

    fn holds_at(&self, now: Moment, office: Office) -> bool {
        let confirmed = *self.confirmed.lock().expect("no panic while held");
        let Some(Begun { office: of, at }) = confirmed else { return false };
        of == office
            && office.votes
            && at.until(&now).is_some_and(|elapsed| elapsed < LEASE)
            && !self.is_handed_over(office.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn office(term: u64) -> Office {
        Office { term, membership: Some(log_id(1, 1)), votes: true }
    }

    /// A round, and so many milliseconds after it by both clocks.
    fn round_and(ms: u64) -> (Begun, Moment) {
        let at = Moment { at: Instant::now(), boot_ms: 1_000 };
        let later = Moment { at: at.at + Duration::from_millis(ms), boot_ms: at.boot_ms + ms };
        (Begun { office: office(7), at }, later)
    }

    #[test]
    fn a_lease_is_of_one_term_one_membership_and_of_who_votes() {
        let (lease, (round, later)) = (Lease::default(), round_and(99));
        assert!(!lease.holds_at(later, office(7)), "nobody answered yet");
        lease.confirm(round);
        assert!(lease.holds_at(later, office(7)));
        assert!(!lease.holds_at(round_and(100).1, office(7)), "it is over");
        assert!(!lease.holds_at(later, office(8)));
        assert!(!lease.holds_at(later, Office { membership: Some(log_id(7, 9)), ..office(7) }));
        let leaves = Office { votes: false, ..office(7) };
        let lease = Lease::default();
        lease.confirm(Begun { office: leaves, ..round });
        assert!(!lease.holds_at(later, leaves));
    }

    #[test]
    fn a_lease_ends_for_good_when_the_leadership_is_handed_over() {
        let (lease, (round, later)) = (Lease::default(), round_and(1));
        lease.hand_over(7);
        // An earlier call that was late.
        lease.hand_over(6);
        lease.confirm(round);
        assert!(lease.is_handed_over(7) && !lease.holds_at(later, office(7)));
    }

    #[test]
    fn a_round_that_began_earlier_and_ended_later_shortens_nothing() {
        let (lease, (early, later)) = (Lease::default(), round_and(50));
        lease.confirm(Begun { at: later, ..early });
        lease.confirm(early);
        assert!(lease.holds_at(round_and(120).1, office(7)));
    }

    #[test]
    fn clocks_that_do_not_agree_are_not_believed() {
        let (Begun { at: begun, .. }, later) = round_and(50);
        let later = |boot_ms| Moment { boot_ms, ..later };
        assert_eq!(begun.until(&later(1_050)), Some(Duration::from_millis(50)));
        assert!(begun.until(&later(1_050 + APART_MS_MAX)).is_some());
        assert_eq!(begun.until(&later(1_051 + APART_MS_MAX)), None, "it was suspended");
        assert_eq!(begun.until(&later(900)), None);
    }
}
