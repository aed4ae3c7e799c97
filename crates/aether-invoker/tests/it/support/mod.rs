//! A control plane that follows a script, and instances that count.
//! Shared with the tests of `aether-ingress`, by path.

#![allow(dead_code)]

pub mod backend;
pub mod control;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aether_core::ids::RevisionNo;
use aether_core::manifest::IngressRule;
use aether_core::table::IngressClaim;
use aether_core::table::{Endpoint, SliceTable, VersionSet};
use aether_core::weights::Weights;
use socket2::{Domain, Socket, Type};

/// No condition takes this long unless something is broken.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Polls until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < limit, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An address on which nobody listens, as long as this process lives: somebody else's
/// test might be given one that is only free.
pub fn dead_address() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    address
}

/// One table, to be changed and published.
pub fn table(slice: &str, revision: u64, weights: &str) -> SliceTable {
    SliceTable {
        slice: slice.parse().unwrap(),
        table_revision: revision,
        route_revision: revision,
        weights: weights.parse::<Weights>().unwrap(),
        new: None,
        old: None,
        ingress: vec![],
        hold_ms: 0,
    }
}

/// One version with its ready endpoints.
pub fn set(revision: u32, endpoints: &[(&str, SocketAddr)]) -> Option<VersionSet> {
    let endpoint = |(instance, address): &(&str, SocketAddr)| Endpoint {
        instance: instance.parse().unwrap(),
        address: *address,
    };
    Some(VersionSet {
        revision: RevisionNo(revision),
        version: format!("{revision}.0.0").parse().unwrap(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}

/// An ingress rule; any host if that is empty.
pub fn rule(host: &str, path: &str) -> IngressClaim {
    let host = Some(host.to_owned()).filter(|host| !host.is_empty());
    IngressClaim { rule: IngressRule { host, path: path.to_owned() }, since: 1 }
}
