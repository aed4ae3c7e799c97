//! The time that calls take, by the processor's own counter where that runs
//! evenly: a reading costs less than half of what the system's clock costs.

use std::sync::LazyLock;

use quanta::Clock;

/// The first look calibrates it, which may take a fifth of a second.
static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::new);

/// Makes it ready, so that no call waits for that.
pub(crate) fn calibrate() {
    LazyLock::force(&CLOCK);
}

/// A moment, in the counter's own units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(u64);

impl Moment {
    #[inline]
    pub(crate) fn now() -> Self {
        Self(CLOCK.raw())
    }

    /// Microseconds since. Zero if the counter seems to have gone back, as it may from
    /// one processor to another.
    #[inline]
    pub(crate) fn elapsed_us(self) -> u64 {
        CLOCK.delta_as_nanos(self.0, CLOCK.raw()) / 1_000
    }
}
