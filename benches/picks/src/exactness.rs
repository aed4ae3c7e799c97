//! How far the calls of any window are from the ratio.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::fleet::Fleet;
use crate::peers::Peer;

/// Cycles of the ratio that are looked at, each of as many calls as the weights' sum.
const CYCLES: usize = 2_000;

/// In windows of one, ten and a hundred cycles.
const WINDOWS: [usize; 3] = [1, 10, 100];

/// Which calls went to the new version, in the order in which they were seen.
fn calls(peer: &Peer, threads: usize, count: usize) -> Vec<bool> {
    let (next, begin) = (AtomicUsize::new(0), Barrier::new(threads));
    let mut seen: Vec<(usize, bool)> = thread::scope(|scope| {
        let pick = || {
            let (mut picker, mut seen) = (peer.picker(), Vec::with_capacity(count / threads));
            begin.wait();
            for _ in 0..count / threads {
                let is_new = picker();
                seen.push((next.fetch_add(1, Ordering::SeqCst), is_new));
            }
            seen
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(pick)).collect();
        all.into_iter().flat_map(|thread| thread.join().expect("it picks")).collect()
    });
    seen.sort_unstable();
    seen.into_iter().map(|(_, is_new)| is_new).collect()
}

/// The largest deviation of a window of so many calls from its share, in calls.
fn deviation(calls: &[bool], window: usize, fleet: Fleet) -> f64 {
    let share = window as f64 * f64::from(fleet.new) / f64::from(fleet.total());
    let mut new = calls[..window].iter().filter(|is_new| **is_new).count() as f64;
    let mut worst = (new - share).abs();
    for at in window..calls.len() {
        new += f64::from(u8::from(calls[at])) - f64::from(u8::from(calls[at - window]));
        worst = worst.max((new - share).abs());
    }
    worst
}

/// Prints a table.
pub fn print(fleet: Fleet, peers: &[Peer]) {
    let total = fleet.total() as usize;
    println!("{:42} {:>24} {:>24}", "windows of 1, 10 and 100 cycles", "1 thread", "2 threads");
    for peer in peers.iter().filter(|peer| peer.has_ratio) {
        let text = [1, 2].map(|threads| {
            let calls = calls(peer, threads, CYCLES * total);
            let of = WINDOWS.map(|cycles| deviation(&calls, cycles * total, fleet));
            of.map(|deviation| format!("{deviation:7.1}")).join(" ")
        });
        println!("{:42} {:>24} {:>24}", peer.name, text[0], text[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_without_a_call_to_the_new_version_is_one_share_off() {
        let fleet = Fleet { endpoints: 1, new: 1, old: 3 };
        let exact: Vec<bool> = (0..400).map(|at| at % 4 == 0).collect();
        assert_eq!(deviation(&exact, 4, fleet), 0.0);
        let mut off = exact;
        off[40] = false;
        assert_eq!(deviation(&off, 4, fleet), 1.0);
        off[42] = true;
        assert_eq!(deviation(&off, 4, fleet), 1.0, "one comes too late");
        assert_eq!(deviation(&off, 40, fleet), 1.0);
    }
}
