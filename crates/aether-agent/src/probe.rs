//! Readiness: the pure count of probes' results, and one probe over the
//! network.

use std::net::SocketAddr;
use std::time::Duration;

use aether_core::manifest::Readiness;
use aether_core::records::Reason;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest time between two probes of an instance that is not ready yet, so
/// that a deployment does not wait for its probes.
const STARTING_INTERVAL_MAX: Duration = Duration::from_millis(100);

/// First time between two probes of a fresh process; doubles up to the above.
const STARTING_INTERVAL_FIRST: Duration = Duration::from_millis(10);

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probed {
    /// It answered as it should.
    Passed,
    /// Nothing listens.
    Closed,
    /// It answered with this HTTP status.
    Status(u16),
    /// No answer in time.
    TimedOut(Duration),
    /// The connection broke.
    Broken(String),
}

impl Probed {
    /// Why the instance does not count as ready.
    pub fn reason(&self, address: SocketAddr, readiness: &Readiness) -> Option<Reason> {
        let what = match &readiness.http {
            Some(path) => format!("GET http://{address}{path}"),
            None => format!("connecting to {address}"),
        };
        let failed = |how: String| Some(Reason::new("probe_failed", format!("{what}: {how}")));
        match self {
            Self::Passed => None,
            Self::Closed => Some(Reason::new(
                "port_closed",
                format!(
                    "the process runs, but nothing listens on {address}; it must listen on its PORT"
                ),
            )),
            Self::Status(status) => failed(format!("http status {status}")),
            Self::TimedOut(after) => failed(format!("no answer within {} ms", after.as_millis())),
            Self::Broken(error) => failed(error.clone()),
        }
    }
}

/// Results of the probes of one process so far. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Whether the instance counts as ready.
    pub ready: bool,
    /// Whether it ever did.
    pub was_ready: bool,
    /// What the last probe found.
    pub last: Option<Probed>,
    passed_in_a_row: u32,
    failed_in_a_row: u32,
    probes: u32,
}

impl Tally {
    /// Goes on where another agent stopped watching.
    pub fn resume(ready: bool, was_ready: bool) -> Self {
        Self { ready, was_ready, ..Self::default() }
    }

    /// Counts a result.
    pub fn add(&mut self, probed: Probed, readiness: &Readiness) {
        self.probes = self.probes.saturating_add(1);
        if probed == Probed::Passed {
            self.passed_in_a_row = self.passed_in_a_row.saturating_add(1);
            self.failed_in_a_row = 0;
        } else {
            self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
            self.passed_in_a_row = 0;
        }
        self.last = Some(probed);
        if self.passed_in_a_row >= readiness.successes {
            self.ready = true;
            self.was_ready = true;
        } else if self.failed_in_a_row >= readiness.failures {
            self.ready = false;
        }
    }

    /// How long to wait before the next probe.
    pub fn wait(&self, readiness: &Readiness) -> Duration {
        let interval = readiness.interval.duration();
        if self.ready {
            return interval;
        }
        let doubled = STARTING_INTERVAL_FIRST.saturating_mul(1 << self.probes.min(8));
        doubled.min(STARTING_INTERVAL_MAX).min(interval)
    }
}

/// Probes once: an HTTP GET if a path is set, a TCP connection otherwise.
pub(crate) async fn probe(address: SocketAddr, readiness: Readiness) -> Probed {
    let most = readiness.timeout.duration();
    let attempt = async {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Probed::Closed;
            }
            Err(error) => return Probed::Broken(error.to_string()),
        };
        match &readiness.http {
            None => Probed::Passed,
            Some(path) => match get(stream, address, path).await {
                Ok(status) if (200..400).contains(&status) => Probed::Passed,
                Ok(status) => Probed::Status(status),
                Err(error) => Probed::Broken(error),
            },
        }
    };
    tokio::time::timeout(most, attempt).await.unwrap_or(Probed::TimedOut(most))
}

async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .header(hyper::header::CONNECTION, "close")
        .header(hyper::header::USER_AGENT, "aether-probe")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(sender.send_request(request));
    // The body is not read: the status says it all.
    tokio::select! {
        biased;
        answer = &mut answer => answer.map(|a| a.status().as_u16()).map_err(|e| e.to_string()),
        ended = &mut connection => match ended {
            // The connection may end with the answer already there.
            Ok(()) => answer.await.map(|a| a.status().as_u16()).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use aether_core::duration::Millis;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn readiness(successes: u32, failures: u32) -> Readiness {
        Readiness { successes, failures, ..Readiness::default() }
    }

    #[test]
    fn readiness_needs_successes_and_unreadiness_failures_in_a_row() {
        let readiness = readiness(2, 3);
        let mut tally = Tally::default();
        let mut run = |results: &str| {
            for result in results.chars() {
                tally.add(if result == '+' { Probed::Passed } else { Probed::Closed }, &readiness);
            }
            tally.ready
        };
        assert!(!run("+-+"));
        assert!(run("+"));
        assert!(run("--+--"));
        assert!(!run("-"));
        assert!(!run("+"));
        assert!(run("+"));
        assert!(tally.was_ready);
    }

    #[test]
    fn starting_instances_are_probed_more_often() {
        let mut tally = Tally::default();
        let readiness = readiness(1, 3);
        let mut waits = Vec::new();
        for _ in 0..6 {
            waits.push(tally.wait(&readiness).as_millis());
            tally.add(Probed::Closed, &readiness);
        }
        assert_eq!(waits, [10, 20, 40, 80, 100, 100]);
        tally.add(Probed::Passed, &readiness);
        assert_eq!(tally.wait(&readiness), readiness.interval.duration());
        let quick = Readiness { interval: Millis(5), ..readiness };
        assert_eq!(Tally::default().wait(&quick), Duration::from_millis(5));
    }

    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn each_kind_of_answer_is_told_apart() {
        let readiness =
            Readiness { http: Some("/ready".into()), timeout: Millis(200), ..Readiness::default() };
        let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe(ok, readiness.clone()).await, Probed::Passed);
        let busy = answering("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        let probed = probe(busy, readiness.clone()).await;
        assert_eq!(probed, Probed::Status(503));
        let reason = probed.reason(busy, &readiness).unwrap();
        assert_eq!(reason.code, "probe_failed");
        assert!(reason.message.ends_with("/ready: http status 503"), "{}", reason.message);
        let garbage = answering("hello\r\n\r\n").await;
        assert!(matches!(probe(garbage, readiness.clone()).await, Probed::Broken(_)));
        let silent = answering("").await;
        assert!(matches!(probe(silent, readiness.clone()).await, Probed::TimedOut(_)));
        let tcp = Readiness { http: None, ..readiness.clone() };
        assert_eq!(probe(silent, tcp).await, Probed::Passed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(probe(closed, readiness).await, Probed::Closed);
    }
}
