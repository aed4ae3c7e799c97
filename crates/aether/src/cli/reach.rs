//! Which of a client's addresses answer.
//!
//! A machine that is away is noticed late, and a process that hangs accepts
//! connections and never says a word. So the addresses are tried side by side,
//! each a little after the one before it, and count once they have answered
//! something: a request goes only to a node that has just shown that it lives.

use std::error::Error;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

use super::client::Address;

/// How long an address may be silent before the next one is tried as well: far
/// longer than a node on the other side of the earth needs to answer.
const HEAD_START: Duration = Duration::from_millis(300);

/// Longest wait for a TCP connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// How often a long stream's connection is probed, and how long for an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What a node's other ports, and other servers, have instead of an answer of
/// ours within this time is not waited for.
const LOOK_TIME_MAX: Duration = Duration::from_millis(500);

/// Which port is the right one.
pub const CLIENT_PORT: &str = "the client port of a node is 8090 by default";

/// Any answer to this will do, also that there is no such service.
const PROBE: &str = "/grpc.health.v1.Health/Check";

/// One round over the addresses.
pub struct Reach<'a> {
    addresses: &'a [Address],
    first: usize,
    begun: usize,
    under_way: JoinSet<(usize, Result<Channel, String>)>,
}

impl<'a> Reach<'a> {
    /// A round that begins with the address at position `first`.
    pub fn new(addresses: &'a [Address], first: usize) -> Self {
        Self { addresses, first, begun: 0, under_way: JoinSet::new() }
    }

    /// The position of the next address that answers, with the connection to
    /// it, or that turns out not to. `None` after the last, and at `until`.
    pub async fn next(&mut self, until: Instant) -> Option<(usize, Result<Channel, String>)> {
        loop {
            if self.under_way.is_empty() && !self.begin() {
                return None;
            }
            tokio::select! {
                biased;
                Some(done) = self.under_way.join_next() => {
                    return Some(done.expect("it neither panics nor is stopped"));
                }
                () = sleep_until(until) => return None,
                () = sleep(HEAD_START), if self.begun < self.addresses.len() => {
                    self.begin();
                }
            }
        }
    }

    /// Tries one more address, if there is one.
    fn begin(&mut self) -> bool {
        if self.begun == self.addresses.len() {
            return false;
        }
        let at = (self.first + self.begun) % self.addresses.len();
        self.begun += 1;
        let address = self.addresses[at].clone();
        self.under_way.spawn(async move { (at, reach(&address).await) });
        true
    }
}

/// A connection to a node that has answered on it.
async fn reach(address: &Address) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIME_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let channel = match tokio::time::timeout(CONNECT_TIME_MAX, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(innermost(&error)),
        Err(_) => return Err("no connection in time".to_owned()),
    };
    let probe = http::Request::post(PROBE)
        .header(CONTENT_TYPE, "application/grpc")
        .body(Body::empty())
        .expect("its parts are valid");
    match channel.clone().oneshot(probe).await {
        Ok(answer) if is_grpc(answer.headers()) || is_passing(answer.status()) => Ok(channel),
        Ok(answer) => {
            let status = answer.status().as_u16();
            Err(format!("it speaks HTTP (status {status}), not gRPC; {CLIENT_PORT}"))
        }
        Err(_) if speaks_http(address).await => {
            Err(format!("it speaks HTTP, not gRPC; {CLIENT_PORT}"))
        }
        Err(error) => Err(innermost(&error)),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// What a proxy says while the node behind it is away, which may pass.
fn is_passing(status: StatusCode) -> bool {
    let all =
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    all.contains(&status)
}

/// Whether what does not understand HTTP/2 answers HTTP/1.1, as REST and an
/// ingress do.
async fn speaks_http(address: &Address) -> bool {
    let look = async {
        let mut stream = TcpStream::connect(address.to_string()).await?;
        let head = format!("HEAD / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut beginning = [0; 5];
        stream.read_exact(&mut beginning).await?;
        std::io::Result::Ok(&beginning == b"HTTP/")
    };
    matches!(tokio::time::timeout(LOOK_TIME_MAX, look).await, Ok(Ok(true)))
}

/// The last error of a chain, which is what the system said.
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, frozen};
    use super::*;

    async fn in_order(addresses: &[String]) -> Vec<(usize, bool)> {
        let addresses: Vec<Address> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let mut round = Reach::new(&addresses, 0);
        let until = Instant::now() + Duration::from_secs(5);
        let mut found = Vec::new();
        while let Some((at, channel)) = round.next(until).await {
            found.push((at, channel.is_ok()));
        }
        found
    }

    #[tokio::test]
    async fn addresses_come_in_order_and_those_where_nobody_listens_too() {
        let nobody = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let live = [Fake::default().serve().await, Fake::default().serve().await];
        let [one, two] = live;
        assert_eq!(in_order(&[nobody, one, two]).await, [(0, false), (1, true), (2, true)]);
    }

    /// Serves nothing of ours on a port of its own, over HTTP/1.1 or HTTP/2 alone.
    async fn other(http2: bool) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = axum::Router::new();
        if http2 {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let routes = tonic::service::Routes::from(router);
            let server = tonic::transport::Server::builder().add_routes(routes);
            tokio::spawn(server.serve_with_incoming(incoming));
        } else {
            tokio::spawn(aether_gateway::serve(listener, router, std::future::pending()));
        }
        address
    }

    #[tokio::test]
    async fn what_speaks_http_is_said_to_and_the_next_address_is_taken() {
        for http2 in [false, true] {
            let addresses = [other(http2).await, Fake::default().serve().await];
            let addresses: Vec<Address> = addresses.map(|a| a.parse().unwrap()).into();
            let mut round = Reach::new(&addresses, 0);
            let until = Instant::now() + Duration::from_secs(30);
            let mut found = [None, None];
            while let Some((at, channel)) = round.next(until).await {
                found[at] = Some(channel.map(drop));
            }
            let [Some(Err(why)), Some(Ok(()))] = found else { panic!("{http2}: {found:?}") };
            assert!(why.starts_with("it speaks HTTP") && why.contains("8090"), "{why}");
        }
    }

    #[tokio::test]
    async fn one_that_accepts_and_says_nothing_is_not_waited_for_nor_taken() {
        let (frozen, _listener) = frozen();
        let began = Instant::now();
        let live = Fake::default().serve().await;
        let addresses: Vec<Address> = [frozen, live].map(|a| a.parse().unwrap()).into();
        let mut round = Reach::new(&addresses, 0);
        let far = began + Duration::from_secs(60);
        let (at, found) = round.next(far).await.unwrap();
        assert_eq!((at, found.is_ok()), (1, true));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(round.next(Instant::now()).await.is_none(), "the silent one is left open");
    }
}
