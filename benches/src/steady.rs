//! Full load for long: no leader is to lose its place for that.

use std::net::SocketAddr;
use std::time::Duration;

use aether_proto::v1::StatusRequest;
use aether_proto::v1::cluster_client::ClusterClient;
use anyhow::{Context, Result, ensure};
use tonic::transport::Endpoint;

use crate::load::{self, Call};
use crate::member::Store;
use crate::stores::Running;

const MINUTE: Duration = Duration::from_secs(60);

/// Durable writes of all clients for so many minutes, which are told one by one.
///
/// # Errors
/// A call fails, or the term is another one afterwards.
pub async fn run(running: &Running, clients: (usize, usize), minutes: usize) -> Result<()> {
    let addresses = running.addresses();
    load::fill(Store::Aether, addresses[0]).await?;
    let first = term(addresses[0]).await?;
    println!("\n| minute | writes /s | p50 ms | p99 ms | term |\n|---|---|---|---|---|");
    for minute in 1..=minutes {
        let run = load::run(Store::Aether, &addresses, clients, Call::Write, MINUTE).await?;
        let term = term(addresses[0]).await?;
        let [p50, p99] = [run.p50, run.p99].map(crate::ms);
        println!("| {minute} | {:.0} | {p50:.2} | {p99:.2} | {term} |", run.per_second);
        ensure!(term == first, "elections under load: the term went from {first} to {term}");
    }
    Ok(())
}

/// The term that a member is in.
async fn term(address: SocketAddr) -> Result<u64> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let status = ClusterClient::new(channel).status(StatusRequest::default()).await;
    Ok(status.context("the cluster's status")?.into_inner().term)
}
