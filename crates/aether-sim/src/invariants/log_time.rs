//! Log time is monotonic and is not ahead of what a clock can prove: it never
//! gains more than a minute on real time over one change of leaders. (Design,
//! section 4, log_time.)

use super::Step;
use crate::clock::WALL_GAP_MS_MAX;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let (before, after) = (step.before.meta.log_time_ms, step.after.meta.log_time_ms);
    if after < before {
        return Err(format!("log time went from {before} to {after}"));
    }
    // One leader's clock runs as fast as time does.
    let led_ms = step.now_ms.saturating_sub(step.ready_since_ms);
    let most_ms = led_ms + WALL_GAP_MS_MAX + ELECTION_MS;
    let is_first = step.entry.at.term > step.last_term;
    if is_first && after - before > most_ms {
        return Err(format!("log time jumped by {} ms, from {before} to {after}", after - before));
    }
    Ok(())
}

/// Between the last entry of one leader and the first of the next: at most as
/// long as nobody wrote, which the wall clock's gap covers, and what the first
/// entry takes to commit.
const ELECTION_MS: u64 = 10_000;
