//! How long a pick takes. All are measured in turn, round after round; what is told are
//! medians, and how many atomic additions each is worth in the same rounds.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::Peer;

/// Picks between two looks at whether the time is over.
const BURST: u32 = 256;

/// Figures of all peers with so many threads.
pub struct Figures(Vec<Row>);

struct Row {
    name: &'static str,
    accounts: bool,
    /// Nanoseconds of one thread for each of its picks, by round.
    ns: Vec<f64>,
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Nanoseconds of a thread for one of its picks while so many threads pick, from what all of
/// them get done.
fn once(peer: &Peer, threads: usize, for_time: Duration) -> f64 {
    let (over, begin) = (AtomicBool::new(false), Barrier::new(threads + 1));
    thread::scope(|scope| {
        let count = || {
            let mut picker = peer.picker();
            let mut burst = || {
                for _ in 0..BURST {
                    black_box(picker());
                }
            };
            burst();
            begin.wait();
            let (began, mut picks) = (Instant::now(), 0_u64);
            while !over.load(Ordering::Relaxed) {
                burst();
                picks += u64::from(BURST);
            }
            picks as f64 / began.elapsed().as_nanos() as f64
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        begin.wait();
        thread::sleep(for_time);
        over.store(true, Ordering::Relaxed);
        let each = all.into_iter().map(|thread| thread.join().expect("it counts"));
        threads as f64 / each.sum::<f64>()
    })
}

/// Measures all, round after round.
pub fn measure(peers: &[Peer], threads: usize, rounds: usize, millis: u64) -> Figures {
    let row = |peer: &Peer| Row { name: peer.name, accounts: peer.accounts, ns: Vec::new() };
    let mut all: Vec<Row> = peers.iter().map(row).collect();
    for _ in 0..rounds {
        for (peer, row) in peers.iter().zip(&mut all) {
            row.ns.push(once(peer, threads, Duration::from_millis(millis)));
        }
    }
    Figures(all)
}

impl Figures {
    /// Prints a table for those that pick and one for those that keep accounts.
    pub fn print(&self) {
        let first = &self.0[0].ns;
        for (accounts, what) in [(false, "a pick"), (true, "with in-flight, clocks and record")] {
            println!("{what:42} {:>9} {:>16}", "ns", "x one addition");
            for Row { name, ns, .. } in self.0.iter().filter(|row| row.accounts == accounts) {
                let ratio = median(ns.iter().zip(first).map(|(ns, first)| ns / first).collect());
                println!("  {name:40} {:9.1} {ratio:16.2}", median(ns.clone()));
            }
        }
    }
}
