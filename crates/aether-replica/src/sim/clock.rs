//! The system's clocks on a thread of a simulation: they show its time.
//!
//! Tokio's paused time is not asked by all that is simulated. HTTP/2 remembers the
//! streams that it broke off for a second by `std`'s clock, and answers a late
//! frame or does not: on a busy machine a run would go another way. So the C
//! library's function, which `std` calls, has another definition in this crate's
//! tests. Threads that are none of a simulation get what they always did.

use std::cell::Cell;

use nix::libc::{SYS_clock_gettime, c_int, clockid_t, syscall, timespec};

/// Shown when a run begins. Long past for the kernel: what waits until such a time
/// does not wait.
const BEGIN_MS: u64 = 1;

thread_local! {
    /// What is shown on this thread; nothing is if it is 0.
    static SHOWN_MS: Cell<u64> = const { Cell::new(0) };
}

/// Shows this time of the run on this thread.
pub(super) fn show(now_ms: u64) {
    SHOWN_MS.set(BEGIN_MS + now_ms);
}

/// Shows the system's again.
pub(super) fn end() {
    SHOWN_MS.set(0);
}

/// In the place of the C library's.
#[allow(unsafe_code, reason = "tests only; a clock cannot be replaced otherwise")]
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: clockid_t, to: *mut timespec) -> c_int {
    match SHOWN_MS.get() {
        // SAFETY: what the caller has to ensure of `to` is the same for the kernel.
        0 => unsafe { syscall(SYS_clock_gettime, clock, to) as c_int },
        ms => {
            let time = timespec {
                tv_sec: (ms / 1_000) as nix::libc::time_t,
                tv_nsec: (ms % 1_000 * 1_000_000) as nix::libc::c_long,
            };
            // SAFETY: the caller gives room for a time.
            unsafe { to.write(time) };
            0
        }
    }
}

#[test]
fn a_thread_has_the_time_that_it_is_shown() {
    let real = std::time::Instant::now();
    show(5_000);
    let before = std::time::Instant::now();
    show(7_500);
    let elapsed = before.elapsed();
    let other = std::thread::spawn(std::time::Instant::now).join().unwrap();
    end();
    assert_eq!(elapsed, std::time::Duration::from_millis(2_500));
    assert!(other >= real && std::time::Instant::now() >= other);
}
