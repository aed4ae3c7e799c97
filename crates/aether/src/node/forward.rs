//! Forwards what a worker is asked to a voter, byte for byte.
//!
//! A worker keeps no replicated state; whatever service it does not have is a
//! voter's. Requests and answers stream through undecoded, trailers included.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::errors::{OUTCOME_UNKNOWN, Problem};
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::ServiceExt;

/// How long a voter may take to accept a connection before the next is tried.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// The voters of a worker.
pub struct Voters {
    addresses: Vec<SocketAddr>,
    /// Position of the one that answered last.
    preferred: AtomicUsize,
    channels: Mutex<BTreeMap<SocketAddr, Channel>>,
}

impl Voters {
    /// Connects when something is to be forwarded.
    pub fn new(addresses: Vec<SocketAddr>) -> Arc<Self> {
        let (preferred, channels) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { addresses, preferred, channels })
    }

    /// The first voter, from the last good one on, that accepts a connection.
    /// A request is only handed to one that does: what was sent is not repeated.
    pub async fn reachable(&self) -> Option<Channel> {
        let start = self.preferred.load(Ordering::Relaxed);
        for k in 0..self.addresses.len() {
            let position = (start + k) % self.addresses.len();
            let address = self.addresses[position];
            let probe = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
            if let Ok(Ok(_)) = probe.await {
                self.preferred.store(position, Ordering::Relaxed);
                return self.channel(address);
            }
        }
        None
    }

    fn channel(&self, address: SocketAddr) -> Option<Channel> {
        let mut channels = self.channels.lock().expect("nothing panics while it holds this lock");
        if let Some(channel) = channels.get(&address) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint.connect_timeout(CONNECT_MAX).connect_lazy();
        channels.insert(address, channel.clone());
        Some(channel)
    }
}

/// Adds the forwarding of every unknown path to a worker's own services.
pub fn forwarding(own: Router, voters: Arc<Voters>) -> Router {
    own.fallback(move |request: Request| forward(Arc::clone(&voters), request))
}

/// The error of a worker that reaches no voter: nothing was sent.
pub fn unreachable() -> Status {
    let message = "no voter can be reached from this worker; try again";
    Problem::new(Code::Unavailable, "unavailable", message).may_retry().status()
}

async fn forward(voters: Arc<Voters>, request: Request) -> Response {
    let Some(channel) = voters.reachable().await else {
        let status = unreachable();
        return status.into_http::<axum::body::Body>().into_response();
    };
    match channel.oneshot(request.map(tonic::body::Body::new)).await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(error) => {
            let message = format!("the voter did not answer: {error}; look before you try again");
            let status = Problem::new(Code::Unknown, OUTCOME_UNKNOWN, message).status();
            status.into_http::<axum::body::Body>().into_response()
        }
    }
}
