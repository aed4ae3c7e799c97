//! The leader's log clock.
//!
//! Log time is what deadlines in the replicated state are measured by. It is
//! monotonic across leaders and never jumps by more than the gap that a wall
//! clock can prove, so a wrong wall clock delays deadlines instead of firing
//! them early. This module is arithmetic; [`Readings::now`] is its only input
//! from the system.

use std::time::{SystemTime, UNIX_EPOCH};

/// Longest gap between two leaderships that the wall clock is believed for.
pub(crate) const WALL_GAP_MS_MAX: u64 = 60_000;

/// The clocks of this machine at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readings {
    /// CLOCK_BOOTTIME: monotonic, and goes on while the machine is suspended.
    pub boot_ms: u64,
    /// Milliseconds since 1970, or 0 for a clock before that.
    pub wall_ms: u64,
}

impl Readings {
    pub fn now() -> Self {
        #[cfg(test)]
        if let Some(readings) = crate::sim::readings() {
            return readings;
        }
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .or_else(|_| nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC))
            .expect("Linux has a monotonic clock");
        let boot_ms = boot.tv_sec() as u64 * 1_000 + boot.tv_nsec() as u64 / 1_000_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall_ms = wall.map_or(0, |since| since.as_millis() as u64);
        Readings { boot_ms, wall_ms }
    }
}

/// Log time during one leadership.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogClock {
    /// Log time at takeover, the believed gap included.
    start_ms: u64,
    start_boot_ms: u64,
}

impl LogClock {
    /// Takes over from whoever stamped the last applied entry with
    /// `last_log_ms` and `last_wall_ms` (0 = nothing was ever stamped).
    pub fn take_over(last_log_ms: u64, last_wall_ms: u64, now: Readings) -> Self {
        let gap_ms = match last_wall_ms {
            0 => 0,
            last => now.wall_ms.saturating_sub(last).min(WALL_GAP_MS_MAX),
        };
        LogClock { start_ms: last_log_ms + gap_ms, start_boot_ms: now.boot_ms }
    }

    /// How long this leadership has lasted at `now`.
    pub fn held_ms(&self, now: Readings) -> u64 {
        now.boot_ms.saturating_sub(self.start_boot_ms)
    }

    /// Log time at `now`.
    pub fn at(&self, now: Readings) -> u64 {
        self.start_ms + self.held_ms(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(boot_ms: u64, wall_ms: u64) -> Readings {
        Readings { boot_ms, wall_ms }
    }

    #[test]
    fn first_leader_starts_at_zero() {
        let clock = LogClock::take_over(0, 0, readings(5_000, 1_700_000_000_000));
        assert_eq!(clock.at(readings(5_000, 0)), 0);
        assert_eq!(clock.at(readings(6_500, 0)), 1_500);
        assert_eq!(clock.held_ms(readings(6_500, 0)), 1_500);
    }

    #[test]
    fn takeover_adds_the_wall_gap() {
        let clock = LogClock::take_over(10_000, 1_000_000, readings(77, 1_003_000));
        assert_eq!(clock.at(readings(77, 0)), 13_000);
        assert_eq!(clock.at(readings(177, 0)), 13_100);
    }

    #[test]
    fn a_wall_clock_that_jumped_ahead_counts_for_a_minute_at_most() {
        let clock = LogClock::take_over(10_000, 1_000_000, readings(0, 9_000_000));
        assert_eq!(clock.at(readings(0, 0)), 10_000 + WALL_GAP_MS_MAX);
    }

    #[test]
    fn a_wall_clock_that_jumped_back_stops_nothing() {
        let clock = LogClock::take_over(10_000, 1_000_000, readings(50, 1_000));
        assert_eq!(clock.at(readings(50, 0)), 10_000);
        assert_eq!(clock.at(readings(60, 0)), 10_010);
    }

    #[test]
    fn log_time_never_decreases_even_if_the_boot_clock_does() {
        let clock = LogClock::take_over(10, 0, readings(100, 0));
        assert_eq!(clock.at(readings(40, 0)), 10);
    }

    #[test]
    fn the_system_clocks_can_be_read() {
        let first = Readings::now();
        let second = Readings::now();
        assert!(second.boot_ms >= first.boot_ms);
        assert!(first.wall_ms > 1_600_000_000_000);
    }
}
