//! What the results of probes come to. Pure: times come in as arguments.

use std::time::Duration;

use aether_core::manifest::{Liveness, Readiness};

use super::Probed;

/// Longest time between two probes of an instance that is not ready yet, so
/// that a deployment does not wait for its probes.
const STARTING_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// First time between two probes of a fresh process; doubles up to the above.
const STARTING_INTERVAL_FIRST: Duration = Duration::from_millis(10);

/// Results of the readiness probes of one process so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Whether the instance counts as ready.
    pub ready: bool,
    /// Whether it ever did.
    pub was_ready: bool,
    /// What the last probe found.
    pub last: Option<Probed>,
    passed_in_a_row: u32,
    failed_in_a_row: u32,
    probes: u32,
}

impl Tally {
    /// Goes on where another agent stopped watching.
    pub fn resume(ready: bool, was_ready: bool) -> Self {
        Self { ready, was_ready, ..Self::default() }
    }

    /// Counts a result.
    pub fn add(&mut self, probed: Probed, readiness: &Readiness) {
        self.probes = self.probes.saturating_add(1);
        if probed == Probed::Passed {
            self.passed_in_a_row = self.passed_in_a_row.saturating_add(1);
            self.failed_in_a_row = 0;
        } else {
            self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
            self.passed_in_a_row = 0;
        }
        self.last = Some(probed);
        if self.passed_in_a_row >= readiness.successes {
            self.ready = true;
            self.was_ready = true;
        } else if self.failed_in_a_row >= readiness.failures {
            self.ready = false;
        }
    }

    /// How long to wait before the next probe.
    pub fn wait(&self, readiness: &Readiness) -> Duration {
        let interval = readiness.interval.duration();
        if self.ready {
            return interval;
        }
        let doubled = STARTING_INTERVAL_FIRST.saturating_mul(1 << self.probes.min(8));
        doubled.min(STARTING_INTERVAL_MAX).min(interval)
    }
}

/// Results of the liveness probes of one process so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LiveTally {
    failed_in_a_row: u32,
}

impl LiveTally {
    /// Counts a result. Whether the process counts as dead now. While it is
    /// still `starting`, failures do not count.
    pub fn add(&mut self, probed: &Probed, starting: bool, liveness: &Liveness) -> bool {
        match probed {
            Probed::Passed => self.failed_in_a_row = 0,
            _ if starting => {}
            _ => self.failed_in_a_row = self.failed_in_a_row.saturating_add(1),
        }
        self.failed_in_a_row >= liveness.failures
    }
}

/// Whether failures of the liveness probe do not count yet: the process was
/// not ready so far, and its start period is not over.
pub(crate) fn is_starting(was_ready: bool, up: Duration, liveness: &Liveness) -> bool {
    !was_ready && up < liveness.start_period.duration()
}

#[cfg(test)]
mod tests {
    use aether_core::duration::Millis;

    use super::*;

    fn readiness(successes: u32, failures: u32) -> Readiness {
        Readiness { successes, failures, ..Readiness::default() }
    }

    #[test]
    fn readiness_needs_successes_and_unreadiness_failures_in_a_row() {
        let readiness = readiness(2, 3);
        let mut tally = Tally::default();
        let mut run = |results: &str| {
            for result in results.chars() {
                tally.add(if result == '+' { Probed::Passed } else { Probed::Closed }, &readiness);
            }
            tally.ready
        };
        assert!(!run("+-+"));
        assert!(run("+"));
        assert!(run("--+--"));
        assert!(!run("-"));
        assert!(!run("+"));
        assert!(run("+"));
        assert!(tally.was_ready);
    }

    #[test]
    fn starting_instances_are_probed_more_often() {
        let mut tally = Tally::default();
        let readiness = readiness(1, 3);
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(tally.wait(&readiness).as_millis());
            tally.add(Probed::Closed, &readiness);
        }
        assert_eq!(waits, [10, 20, 40, 80, 100, 100]);
        tally.add(Probed::Passed, &readiness);
        assert_eq!(tally.wait(&readiness), readiness.interval.duration());
        let quick = Readiness { interval: Millis(5), ..readiness };
        assert_eq!(Tally::default().wait(&quick), Duration::from_millis(5));
    }

    #[test]
    fn death_needs_failures_in_a_row_that_count() {
        let liveness = Liveness { failures: 2, ..Liveness::default() };
        let mut tally = LiveTally::default();
        let closed = Probed::Closed;
        assert!((0..9).all(|_| !tally.add(&closed, true, &liveness)), "it is starting");
        assert!(!tally.add(&closed, false, &liveness));
        assert!(!tally.add(&Probed::Passed, false, &liveness));
        assert!(!tally.add(&closed, false, &liveness), "the row was broken");
        assert!(tally.add(&closed, false, &liveness));
    }

    #[test]
    fn starting_ends_with_readiness_or_with_its_period() {
        let liveness = Liveness { start_period: Millis(10_000), ..Liveness::default() };
        assert!(is_starting(false, Duration::from_millis(9_999), &liveness));
        assert!(!is_starting(false, Duration::from_secs(10), &liveness));
        assert!(!is_starting(true, Duration::ZERO, &liveness));
    }
}
