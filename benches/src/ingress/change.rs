//! How long a change of the ratio takes to be seen by requests, under load, and whether any of
//! them fails: all requests move from one version to the other, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;

use super::aether::NEW;
use super::client::{Answer, Connection};
use super::h2load::Protocol;
use super::targets::{Kind, Targets};
use super::{Options, RATIO};
use crate::load::quantile;
use crate::ms;

/// Connections of the load, each of which asks again as soon as it has an answer.
const CONNECTIONS: usize = 32;
/// A change is complete when nobody of the side before has answered for so long: a few hundred
/// requests.
const QUIET: Duration = Duration::from_millis(20);
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Between attempts to connect where nobody listens.
const PAUSE: Duration = Duration::from_millis(5);

/// What the load sees; times are nanoseconds since its beginning.
struct Seen {
    begun: Instant,
    is_over: AtomicBool,
    answers: AtomicU64,
    failed: AtomicU64,
    /// Connections that were closed under a request, which was then asked again.
    closed: AtomicU64,
    /// The old side and the new one.
    sides: [Side; 2],
}

/// What one side answered since it was last looked at.
struct Side {
    first_done: AtomicU64,
    last_begun: AtomicU64,
    last_done: AtomicU64,
}

/// What one change took, from before it was asked for.
#[derive(Clone, Copy)]
struct Change {
    /// To the first answer of the side that is to answer now.
    first: Duration,
    /// To the beginning of the last request that the side before answered.
    last: Duration,
}

/// What changes of one took, and what became of the requests meanwhile.
#[derive(Default)]
struct Changes {
    changes: Vec<Change>,
    answers: u64,
    failed: u64,
    closed: u64,
}

/// Measures all in turn, each freshly started, and prints the table.
///
/// # Errors
/// A change is refused, or is not seen in time.
pub async fn measure(targets: &mut Targets, options: &Options) -> Result<()> {
    let mut all: [Changes; Kind::PROXIES.len()] = Default::default();
    for round in 0..options.rounds {
        let share = |round: usize| options.changes * round / options.rounds;
        let count = share(round + 1) - share(round);
        for turn in 0..Kind::PROXIES.len() {
            let which = (round + turn) % Kind::PROXIES.len();
            let kind = Kind::PROXIES[which];
            targets.restart(kind).await?;
            let some = some(targets, kind, count).await.with_context(|| kind.name())?;
            eprintln!("{}", some.row(kind));
            all[which].add(some);
            targets.split(kind, RATIO.0, RATIO.1).await?;
        }
    }
    println!(
        "\n| {} changes, ms (median / p99 / worst) | first answer of the other version | last \
         request to the one before | requests | failed | closed and asked again |\n\
         |---|---|---|---|---|---|",
        options.changes
    );
    all.iter().zip(Kind::PROXIES).for_each(|(all, kind)| println!("{}", all.row(kind)));
    Ok(())
}

async fn some(targets: &mut Targets, kind: Kind, count: usize) -> Result<Changes> {
    let address = targets.address(kind, Protocol::Http1).context("an address for HTTP/1.1")?;
    targets.split(kind, 0, 1).await?;
    let seen = Arc::new(Seen::new());
    let loops: Vec<JoinHandle<()>> =
        (0..CONNECTIONS).map(|_| tokio::spawn(Arc::clone(&seen).ask(address))).collect();
    let mut changes = Vec::with_capacity(count);
    seen.settle(0, 0).await?;
    for k in 0..count {
        let to = 1 - k % 2;
        seen.forget();
        let asked = seen.now();
        targets.split(kind, to as u32, 1 - to as u32).await?;
        changes.push(seen.settle(to, asked).await.with_context(|| format!("change {k}"))?);
    }
    seen.is_over.store(true, Ordering::Relaxed);
    for ended in loops {
        ended.await?;
    }
    let [answers, failed, closed] =
        [&seen.answers, &seen.failed, &seen.closed].map(|count| count.load(Ordering::Relaxed));
    Ok(Changes { changes, answers, failed, closed })
}

impl Seen {
    fn new() -> Self {
        let side = || Side {
            first_done: AtomicU64::new(u64::MAX),
            last_begun: AtomicU64::new(0),
            last_done: AtomicU64::new(0),
        };
        Self {
            begun: Instant::now(),
            is_over: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sides: [side(), side()],
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Begins to look for the first answer of each side.
    fn forget(&self) {
        for side in &self.sides {
            side.first_done.store(u64::MAX, Ordering::Relaxed);
        }
    }

    fn answered(&self, version: &str, begun: u64) {
        let done = self.now();
        let side = &self.sides[usize::from(version == NEW)];
        side.first_done.fetch_min(done, Ordering::Relaxed);
        side.last_begun.fetch_max(begun, Ordering::Relaxed);
        side.last_done.fetch_max(done, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// One loop of the load.
    async fn ask(self: Arc<Self>, address: SocketAddr) {
        let mut kept: Option<Connection> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let begun = self.now();
            let mut connection = match kept.take().filter(Connection::is_open) {
                Some(connection) => connection,
                None => match Connection::open(address).await {
                    Ok(connection) => connection,
                    Err(_) => {
                        self.failed.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match connection.get("/1k").await {
                Ok(Answer::From(version)) => self.answered(&version, begun),
                Ok(Answer::Closed) => drop(self.closed.fetch_add(1, Ordering::Relaxed)),
                Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
            }
            kept = Some(connection);
        }
    }

    /// Waits until one side answers everything.
    async fn settle(&self, to: usize, asked: u64) -> Result<Change> {
        let (now, before) = (&self.sides[to], &self.sides[1 - to]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let first = now.first_done.load(Ordering::Relaxed);
            let last = before.last_done.load(Ordering::Relaxed);
            let quiet = self.now().saturating_sub(last.max(first));
            if first < u64::MAX && quiet >= QUIET.as_nanos() as u64 {
                let last = before.last_begun.load(Ordering::Relaxed).saturating_sub(asked);
                let first = first.saturating_sub(asked);
                return Ok(Change {
                    first: Duration::from_nanos(first),
                    last: Duration::from_nanos(last),
                });
            }
            ensure!(Instant::now() < deadline, "requests do not follow it within {PATIENCE:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Changes {
    fn add(&mut self, more: Self) {
        let Self { changes, answers, failed, closed } = more;
        self.changes.extend(changes);
        self.answers += answers;
        self.failed += failed;
        self.closed += closed;
    }

    fn row(&self, kind: Kind) -> String {
        let of = |take: fn(&Change) -> Duration| {
            let mut times: Vec<Duration> = self.changes.iter().map(take).collect();
            times.sort_unstable();
            let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|part| ms(quantile(&times, part)));
            format!("{p50:.1} / {p99:.1} / {worst:.1}")
        };
        let (first, last) = (of(|change| change.first), of(|change| change.last));
        let Self { answers, failed, closed, .. } = self;
        format!("| {} | {first} | {last} | {answers} | {failed} | {closed} |", kind.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_ends_with_the_last_request_of_the_side_before() {
        let seen = Seen::new();
        seen.answered("1.0.0", seen.now());
        seen.forget();
        let asked = seen.now();
        let before = seen.now();
        seen.answered("1.0.0", before);
        seen.answered(NEW, seen.now());
        let late = seen.now();
        seen.answered("1.0.0", late);
        let change = seen.settle(1, asked).await.unwrap();
        assert!(change.first < change.last, "the side before went on after the first of the new");
        assert_eq!(change.last, Duration::from_nanos(late - asked));
        assert_eq!(seen.answers.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_row_tells_medians_and_what_failed() {
        let ms = Duration::from_millis;
        let change = |k| Change { first: ms(k), last: ms(2 * k) };
        let some = |range: std::ops::RangeInclusive<u64>| Changes {
            changes: range.map(change).collect(),
            answers: 7,
            failed: 1,
            closed: 2,
        };
        let mut changes = some(51..=100);
        changes.add(some(1..=50));
        let row = "| nginx | 50.0 / 99.0 / 100.0 | 100.0 / 198.0 / 200.0 | 14 | 2 | 4 |";
        assert_eq!(changes.row(Kind::Nginx), row);
    }
}
