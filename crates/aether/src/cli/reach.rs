//! Which of a client's addresses answer.
//!
//! A machine that is away is noticed late, and a process that hangs accepts
//! connections and never says a word. So the addresses are tried side by side,
//! each a little after the one before it, and count once they have answered
//! something: a request goes only to a node that has just shown that it lives.

use std::error::Error;
use std::time::Duration;

use http::header::CONTENT_TYPE;
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
        Ok(_) => Ok(channel),
        Err(error) => Err(innermost(&error)),
    }
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
