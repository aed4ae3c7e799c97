//! What a voter promises to the leader that it hears, and what that leader may do
//! for it: read without asking anybody (section 6.4.1 of Ongaro's thesis).
//!
//! A round that a majority has answered, begun at `s` by the leader's clock, says
//! that each of them heard this leader at `s` or later. Each of them helps nobody
//! else into office for [`PROMISE`] after that, so until `s + PROMISE` there is no
//! other leader, and what this one has committed is the newest. It counts on that
//! for [`LEASE`] only, half as long: clocks may go at speeds that differ by a
//! factor of two.
//!
//! What else could break the promise, and what is done about it:
//!
//! - A voter that starts again does not know what its last life has heard: it keeps
//!   the promise from its start on.
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
use crate::types::LogId;

/// How long a leader counts on a round. Above the time between two rounds of a
/// leader that is asked all the time, and far above that of one round.
pub(crate) const LEASE: Duration = Duration::from_millis(100);
/// How long a voter that heard a leader helps nobody else into office. At most the
/// default of the longest election timeout, which openraft waits for anyway.
pub(crate) const PROMISE: Duration = Duration::from_millis(200);
/// By how much two clocks that are read one after the other may seem to have moved
/// against each other.
const APART_MS_MAX: u64 = 10;

/// A voter's side.
#[derive(Debug)]
pub(crate) struct Promise {
    /// When this node was opened, if there was a life before.
    opened: Option<Instant>,
    heard: Mutex<Option<Instant>>,
}

impl Promise {
    /// Of a node that was opened at this time, and has had a life before.
    pub fn new(opened: Option<Instant>) -> Self {
        #[cfg(test)]
        let opened = opened.filter(|_| !crate::sim::planted(crate::sim::Bug::ForgottenPromise));
        Promise { opened, heard: Mutex::default() }
    }

    /// Notes that a message of the present leader was accepted. To be called before
    /// the leader is answered.
    pub fn heard_leader(&self) {
        *self.heard.lock().expect("no panic while held") = Some(Instant::now());
    }

    /// When the leader, another node, was last heard in this life.
    pub fn heard(&self) -> Option<Instant> {
        *self.heard.lock().expect("no panic while held")
    }

    /// Until when this node helps nobody into office, if it is not that far.
    pub fn binds_until(&self) -> Option<Instant> {
        let until = self.heard().max(self.opened)? + PROMISE;
        (until > Instant::now()).then_some(until)
    }
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

    /// To be called before another voter is asked to stand.
    pub fn hand_over(&self, term: u64) {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Bug::LeaseAfterHandOver) {
            return;
        }
        self.handed_over.fetch_max(term, Ordering::SeqCst);
    }

    /// Whether nobody else leads as yet, for sure. `office` was read before the call.
    pub fn holds(&self, office: Office) -> bool {
        let confirmed = *self.confirmed.lock().expect("no panic while held");
        let Some(Begun { office: of, at }) = confirmed else { return false };
        of == office
            && office.votes
            && at.until(&Moment::now()).is_some_and(|elapsed| elapsed < LEASE)
            && self.handed_over.load(Ordering::SeqCst) != office.term
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::log_id;

    fn office(term: u64) -> Office {
        Office { term, membership: Some(log_id(1, 1)), votes: true }
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_binds_from_the_start_and_from_each_word_of_a_leader() {
        assert_eq!(Promise::new(None).binds_until(), None, "it was never a voter");
        let promise = Promise::new(Some(Instant::now()));
        assert_eq!(promise.binds_until(), Some(Instant::now() + PROMISE));
        tokio::time::advance(PROMISE).await;
        assert_eq!((promise.binds_until(), promise.heard()), (None, None));
        promise.heard_leader();
        tokio::time::advance(PROMISE / 2).await;
        assert_eq!(promise.binds_until(), Some(Instant::now() + PROMISE / 2));
    }

    #[test]
    fn a_lease_is_of_one_term_one_membership_and_of_who_votes() {
        let (lease, round) = (Lease::default(), Lease::begin(office(7)));
        assert!(!lease.holds(office(7)), "nobody answered yet");
        lease.confirm(round);
        // Wherever this took no longer.
        let holds = |office| round.at.at.elapsed() < LEASE && lease.holds(office);
        assert!(holds(office(7)) || round.at.at.elapsed() >= LEASE);
        assert!(!holds(office(8)));
        assert!(!holds(Office { membership: Some(log_id(7, 9)), ..office(7) }));
        lease.confirm(Lease::begin(Office { votes: false, ..office(7) }));
        assert!(!holds(Office { votes: false, ..office(7) }));
    }

    #[test]
    fn a_lease_ends_for_good_when_the_leadership_is_handed_over() {
        let lease = Lease::default();
        lease.hand_over(7);
        lease.confirm(Lease::begin(office(7)));
        assert!(!lease.holds(office(7)));
        // An earlier call that was late.
        lease.hand_over(6);
        lease.confirm(Lease::begin(office(7)));
        assert!(!lease.holds(office(7)));
    }

    #[test]
    fn a_round_that_began_earlier_and_ended_later_shortens_nothing() {
        let lease = Lease::default();
        let (early, late) = (Lease::begin(office(7)), Lease::begin(office(8)));
        let early = Begun { at: Moment { at: late.at.at - LEASE, ..early.at }, ..early };
        lease.confirm(late);
        lease.confirm(early);
        assert_eq!(lease.confirmed.lock().unwrap().unwrap().office.term, 8);
    }

    #[test]
    fn clocks_that_do_not_agree_are_not_believed() {
        let begun = Moment { at: Instant::now(), boot_ms: 1_000 };
        let later = |ms, boot_ms| Moment { at: begun.at + Duration::from_millis(ms), boot_ms };
        assert_eq!(begun.until(&later(50, 1_050)), Some(Duration::from_millis(50)));
        assert!(begun.until(&later(50, 1_050 + APART_MS_MAX)).is_some());
        assert_eq!(begun.until(&later(50, 1_051 + APART_MS_MAX)), None, "it was suspended");
        assert_eq!(begun.until(&later(50, 900)), None);
    }
}
