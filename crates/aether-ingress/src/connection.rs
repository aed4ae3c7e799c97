//! One connection of a client, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::{Config, HEADER_BYTES_MIN};
use crate::headers::Client;
use crate::io::StallGuard;
use crate::problem;
use crate::proxy::Proxy;
use crate::server::asked_to_stop;
use crate::upgrade;

/// How long a client has to take the answer to a head that was too slow, and to
/// end its side.
const LINGER: Duration = Duration::from_secs(1);

/// A client that is gone without a word is noticed within two minutes, also
/// when nothing is sent to it: a tunnel may be silent for as long as it likes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// What serves all connections.
#[derive(Debug)]
pub(crate) struct Server {
    proxy: Arc<Proxy>,
    http1: http1::Builder,
}

impl Server {
    pub(crate) fn new(proxy: Arc<Proxy>) -> Self {
        let http1 = http1_builder(&proxy.config);
        Self { proxy, http1 }
    }

    /// Serves one connection to its end, or until it is asked to stop and the
    /// requests in flight have been answered.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        // A failure of either only costs latency, or time.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        let config = &self.proxy.config;
        let client = Client::new(peer.ip(), config.trust_forwarded);
        let io = StallGuard::new(TokioIo::new(stream), config.stall_timeout);
        let next = upgrade::Next::default();
        let service = service_fn(async |request| {
            Ok::<_, Infallible>(self.proxy.answer(&client, &next, request).await)
        });
        let mut connection = self.http1.serve_connection(io, service).with_upgrades();
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = asked_to_stop(&mut stopping) => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let Err(error) = ended else { return next.run().await };
        tracing::debug!(%peer, %error, "a client's connection broke");
        let Some(parts) = connection.into_parts() else { return };
        // Who sent nothing has idled, and may be about to send a request: it would
        // take an answer for the one to that.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            head_too_slow(parts.io.into_inner().into_inner()).await;
        }
    }
}

fn http1_builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.header_bytes_max)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN));
    builder
}

/// Answers a head that did not come whole in time, and ends the connection.
async fn head_too_slow(mut stream: TcpStream) {
    let said = async {
        stream.write_all(problem::head_too_slow().as_bytes()).await?;
        stream.shutdown().await?;
        // What still came to a closed one would take the answer away.
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not take it, or is gone, misses nothing.
    let _ = tokio::time::timeout(LINGER, said).await;
}
