//! From the death of the leader to the next acknowledged write.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::load::{self, VALUE_BYTES};
use crate::member::{Member, Store};
use crate::stores::Running;

/// A new write is tried this often at each survivor, beside those that wait.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// A write that is not acknowledged by then is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills the leader, and gives the time until the first write that began
/// afterwards is acknowledged by a survivor. Starts the member again.
///
/// # Errors
/// When there is no acknowledged write in time, or no leader after it.
pub async fn one(store: Store, running: &mut Running, round: usize) -> Result<Duration> {
    let leader = running.leader().await?;
    let addresses = running.addresses();
    let mut survivors = Vec::new();
    for (_, address) in addresses.iter().enumerate().filter(|(k, _)| *k != leader) {
        let member = Member::connect(store, *address)?;
        // The connection stands, and the member takes writes.
        retried(&member, round).await?;
        survivors.push(member);
    }
    running.kill(leader);
    let killed = Instant::now();
    let value = "x".repeat(VALUE_BYTES);
    let mut tries = JoinSet::new();
    let mut timer = tokio::time::interval(TRY_EVERY);
    let taken = loop {
        tokio::select! {
            _ = timer.tick() => for member in &survivors {
                let (member, value) = (member.clone(), value.clone());
                tries.spawn(async move {
                    member.put(&load::key(round), &value, PATIENCE).await.is_ok()
                });
            },
            Some(done) = tries.join_next() => if done.unwrap_or(false) {
                break killed.elapsed();
            },
        }
        if killed.elapsed() > PATIENCE {
            bail!("{store:?} acknowledged no write within {PATIENCE:?}");
        }
    };
    tries.shutdown().await;
    running.restart(leader)?;
    let back = Member::connect(store, addresses[leader])?;
    retried(&back, round).await.context("the member that was killed did not come back")?;
    Ok(taken)
}

/// Writes until one is acknowledged.
async fn retried(member: &Member, round: usize) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match member.put(&load::key(round), "x", Duration::from_secs(2)).await {
            Ok(()) => return Ok(()),
            Err(status) if Instant::now() > until => return Err(status.into()),
            Err(_) => tokio::time::sleep(TRY_EVERY).await,
        }
    }
}
