//! Closed loops of clients, spread over the members, and what they measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::member::{Member, Store};
use crate::wire::Wire;

/// Keys that are written and read.
pub const KEYS: usize = 1_000;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// A single call may take this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A durable write of [`VALUE_BYTES`].
    Write,
    /// A linearizable read.
    Read,
}

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Calls that were answered, a second.
    pub per_second: f64,
    /// Median time of a call.
    pub p50: Duration,
    /// 99th percentile of it.
    pub p99: Duration,
}

/// The name of a key.
pub fn key(number: usize) -> String {
    format!("config/bench/k{:05}", number % KEYS)
}

/// Runs `clients` loops of one call for a while, so many of them over one
/// connection.
///
/// # Errors
/// When a call fails: under no fault, none may.
pub async fn run(
    store: Store,
    addresses: &[SocketAddr],
    (clients, per_connection): (usize, usize),
    call: Call,
    time: Duration,
) -> Result<Run> {
    let per_member = clients.div_ceil(addresses.len()).div_ceil(per_connection);
    let mut connections = Vec::new();
    for _ in 0..per_member {
        for address in addresses {
            connections.push(Wire::connect(store, *address, PATIENCE).await?);
        }
    }
    let value: Arc<str> = "x".repeat(VALUE_BYTES).into();
    let begun = Instant::now();
    let until = begun + time;
    let loops = (0..clients).map(|client| {
        let mut member = connections[client % connections.len()].clone();
        let value = value.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            let mut number = client * 7_919;
            while Instant::now() < until {
                let key = key(number);
                let called = Instant::now();
                match call {
                    Call::Write => member.put(&key, &value).await?,
                    Call::Read => member.get(&key).await?,
                }
                times.push(called.elapsed());
                number += 1;
            }
            anyhow::Ok(times)
        })
    });
    let loops: Vec<_> = loops.collect();
    let mut times = Vec::new();
    for client in loops {
        times.extend(client.await?.with_context(|| format!("{call:?} on {store:?}"))?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    Ok(Run {
        per_second: times.len() as f64 / seconds,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    })
}

/// Puts every key once.
///
/// # Errors
/// When a call fails.
pub async fn fill(store: Store, address: SocketAddr) -> Result<()> {
    let member = Member::connect(store, address)?;
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..KEYS {
        member.put(&key(number), &value, PATIENCE).await?;
    }
    Ok(())
}

/// The value below which this part of sorted values lies (nearest rank).
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}
