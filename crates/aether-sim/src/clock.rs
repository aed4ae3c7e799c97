//! Log time of a leader, as the design's section 4 has it: the last entry's
//! time, plus the wall clock's gap as far as it is believed, plus what the boot
//! clock has counted since. A model of `aether-replica`'s clock, which is
//! private to it.

/// Longest gap between two leaderships that the wall clock is believed for.
pub const WALL_GAP_MS_MAX: u64 = 60_000;

/// The clocks of one machine at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Readings {
    /// Monotonic.
    pub boot_ms: u64,
    /// What people read, and set wrong.
    pub wall_ms: u64,
}

/// Log time during one leadership.
#[derive(Debug, Clone, Copy)]
pub struct LogClock {
    start_ms: u64,
    start_boot_ms: u64,
}

impl LogClock {
    /// Takes over from whoever stamped the last entry; `last_wall_ms` is 0 where
    /// nothing was ever stamped.
    pub fn take_over(last_log_ms: u64, last_wall_ms: u64, now: Readings) -> Self {
        let gap_ms = Self::gap_ms(last_wall_ms, now).min(WALL_GAP_MS_MAX);
        Self { start_ms: last_log_ms + gap_ms, start_boot_ms: now.boot_ms }
    }

    /// The same by one who believes every clock: a planted bug.
    pub fn unclamped(last_log_ms: u64, last_wall_ms: u64, now: Readings) -> Self {
        let gap_ms = Self::gap_ms(last_wall_ms, now);
        Self { start_ms: last_log_ms + gap_ms, start_boot_ms: now.boot_ms }
    }

    fn gap_ms(last_wall_ms: u64, now: Readings) -> u64 {
        if last_wall_ms == 0 { 0 } else { now.wall_ms.saturating_sub(last_wall_ms) }
    }

    /// Log time at `now`.
    pub fn at(&self, now: Readings) -> u64 {
        self.start_ms + now.boot_ms.saturating_sub(self.start_boot_ms)
    }
}
