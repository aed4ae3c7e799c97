//! From a write to the moment each of many watchers has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::member::{Member, Store};
use crate::stores::Running;

/// Watchers that share one connection.
const WATCHERS_PER_CONNECTION: usize = 50;
const KEY: &str = "config/bench/watched";
/// A change has reached everybody by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts a key `puts` times with `watchers` watching it at all members; gives the
/// time from the beginning of the write to each watcher's having it, sorted.
///
/// # Errors
/// When a watch cannot be opened, or misses a put.
pub async fn run(
    store: Store,
    running: &Running,
    watchers: usize,
    puts: usize,
) -> Result<Vec<Duration>> {
    let addresses = running.addresses();
    let (seen, mut arrivals) = mpsc::unbounded_channel::<(usize, Instant)>();
    let seen = Arc::new(seen);
    let mut tasks = Vec::new();
    let mut connections = Vec::new();
    for k in 0..watchers.div_ceil(WATCHERS_PER_CONNECTION) {
        connections.push(Member::connect(store, addresses[k % addresses.len()])?);
    }
    for k in 0..watchers {
        let seen = Arc::clone(&seen);
        let on_value = Box::new(move |value: &[u8]| {
            let now = Instant::now();
            if let Some(round) = round_of(value) {
                let _ = seen.send((round, now));
            }
        });
        let member = &connections[k % connections.len()];
        tasks.push(member.watch(KEY, on_value).await.with_context(|| format!("watcher {k}"))?);
    }
    let writer = Member::connect(store, addresses[0])?;
    let mut times = Vec::new();
    for round in 0..puts {
        let begun = Instant::now();
        writer.put(KEY, &format!("<{round}>"), PATIENCE).await?;
        for _ in 0..watchers {
            let arrived = tokio::time::timeout(PATIENCE, arrivals.recv());
            let (of, at) = arrived.await.context("a watcher missed a put")?.context("gone")?;
            anyhow::ensure!(of == round, "a watcher was told of put {of} in the place of {round}");
            times.push(at - begun);
        }
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    times.sort_unstable();
    Ok(times)
}

/// The number between angle brackets, alone or within a record.
fn round_of(value: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(value).ok()?;
    text.split_once('<')?.1.split_once('>')?.0.parse().ok()
}
