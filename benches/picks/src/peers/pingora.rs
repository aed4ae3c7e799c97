//! `LoadBalancer::select` of Pingora with weighted round robin.
//!
//! With accounts, calls in flight are one atomic number for each endpoint, and what a call took
//! goes into a histogram of the `metrics` crate, whose handles are looked up before; a recorder
//! for Prometheus takes it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use metrics::Histogram;
use metrics_exporter_prometheus::PrometheusBuilder;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer, discovery};
use quanta::Instant;

use super::Peer;
use crate::fleet::Fleet;

/// How often the recorder puts what it was told into its histograms, while somebody picks: it
/// keeps all of it until then.
const UPKEEP: Duration = Duration::from_millis(50);

fn balancer(fleet: Fleet) -> Result<Arc<LoadBalancer<RoundRobin>>> {
    let backend = |(address, weight): (SocketAddr, u32)| {
        Backend::new_with_weight(&address.to_string(), weight as usize)
            .map_err(|error| anyhow!("{error}"))
    };
    let backends: BTreeSet<Backend> =
        fleet.addresses().zip(fleet.weights()).map(backend).collect::<Result<_>>()?;
    let balancer = LoadBalancer::from_backends(Backends::new(discovery::Static::new(backends)));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(balancer.update()).map_err(|error| anyhow!("{error}"))?;
    Ok(Arc::new(balancer))
}

fn select(balancer: &LoadBalancer<RoundRobin>) -> SocketAddr {
    let backend = balancer.select(b"", 256).expect("all are healthy");
    *backend.addr.as_inet().expect("they are all of the internet's")
}

/// Alone.
pub fn peer(fleet: Fleet) -> Result<Peer> {
    let balancer = balancer(fleet)?;
    Ok(Peer::picking("Pingora select", true, move || {
        let balancer = Arc::clone(&balancer);
        Box::new(move || Fleet::is_new(select(&balancer)))
    }))
}

/// What is kept of one endpoint.
#[repr(align(128))]
struct Account {
    in_flight: AtomicU64,
    latency: Histogram,
}

/// With accounts.
pub fn accounting(fleet: Fleet) -> Result<Peer> {
    let balancer = balancer(fleet)?;
    let recorder = PrometheusBuilder::new().set_buckets(&[0.001, 0.01, 0.1, 1.0])?.build_recorder();
    let account = |number: usize| Account {
        in_flight: AtomicU64::new(0),
        latency: metrics::with_local_recorder(
            &recorder,
            || metrics::histogram!("latency", "endpoint" => number.to_string()),
        ),
    };
    let numbers = 0..2 * usize::from(fleet.endpoints);
    let accounts: Arc<Vec<Account>> = Arc::new(numbers.map(account).collect());
    let upkeep = recorder.handle();
    let endpoints = usize::from(fleet.endpoints);
    Ok(Peer::accounting("Pingora select; metrics", move || {
        let (balancer, accounts) = (Arc::clone(&balancer), Arc::clone(&accounts));
        let (picks, upkeep) = (Arc::new(()), upkeep.clone());
        let still_picks = Arc::downgrade(&picks);
        thread::spawn(move || {
            while still_picks.upgrade().is_some() {
                thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
        Box::new(move || {
            let _ = &picks;
            let began = Instant::now();
            let address = select(&balancer);
            let account = &accounts[number_of(address, endpoints)];
            account.in_flight.fetch_add(1, Ordering::Relaxed);
            account.latency.record(began.elapsed().as_secs_f64());
            account.in_flight.fetch_sub(1, Ordering::Relaxed);
            Fleet::is_new(address)
        })
    }))
}

fn number_of(address: SocketAddr, endpoints: usize) -> usize {
    let IpAddr::V4(ip) = address.ip() else { unreachable!("all addresses are of IPv4") };
    let [_, side, high, low] = ip.octets();
    usize::from(side) * endpoints + usize::from(u16::from_be_bytes([high, low]))
}
