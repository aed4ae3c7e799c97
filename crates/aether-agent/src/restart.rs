//! When a process that ended by itself is started again. Pure: times come in
//! as arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How restarts are spaced: `first`, doubled with every end in a row, at most
/// `most`; a process that was up for `reset_after` starts the row anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Wait after the first end in a row.
    pub first: Duration,
    /// Longest wait.
    pub most: Duration,
    /// Time up after which an end counts as the first again.
    pub reset_after: Duration,
}

impl Default for RestartPolicy {
    /// 200 ms doubling to 30 s; reset after a minute.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl RestartPolicy {
    /// Ends in a row after one more, given how long the process was up.
    pub fn in_a_row(&self, before: u32, up: Duration) -> u32 {
        if up >= self.reset_after { 1 } else { before.saturating_add(1) }
    }

    /// How long to wait after the `in_a_row`-th end in a row.
    pub fn wait(&self, in_a_row: u32) -> Duration {
        let doublings = in_a_row.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_anew_after_a_minute_up() {
        let policy = RestartPolicy::default();
        let waits: Vec<_> = (1..=10).map(|n| policy.wait(n).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(policy.wait(u32::MAX), policy.most);
        assert_eq!(policy.in_a_row(7, Duration::from_secs(59)), 8);
        assert_eq!(policy.in_a_row(7, Duration::from_secs(60)), 1);
    }
}
