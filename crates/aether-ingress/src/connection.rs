//! One connection of a client, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::IngressBody;
use crate::config::{Config, HEADER_BYTES_MIN};
use crate::headers::Client;
use crate::io::StallGuard;
use crate::problem;
use crate::proxy::Proxy;
use crate::server::asked_to_stop;
use crate::sniff::Sniffed;
use crate::streams::{StreamExecutor, Streams};
use crate::tls::Certificates;
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

/// How many bytes may wait in the socket that were not sent yet. The kernel tells that
/// there is room again when half of it is gone, so this bounds how slow a client may be
/// who is not taken for one that takes nothing (128 KiB, as is usual): the buffers that
/// a socket gets by itself grow to megabytes, which take a slow client minutes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// How much of the body of one request a client may send before an instance has
/// taken it, and of all requests of its connection. HTTP/1.1 has the buffers of a
/// socket for this.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Answers that wait to be sent on one stream, in bytes: beyond it the instance
/// waits.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Streams that a client may have taken back before they were looked at (as h2
/// counts by default), and errors of its own that it may provoke on one
/// connection, before that is closed: "rapid reset" (CVE-2023-44487) and "made you
/// reset" (CVE-2025-8671). `Streams` bounds what comes past the first.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_PROVOKED_MAX: usize = 256;

/// What serves all connections.
pub(crate) struct Server {
    proxy: Arc<Proxy>,
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
    tls: Option<(TlsAcceptor, Duration)>,
}

impl Server {
    pub(crate) fn new(proxy: Arc<Proxy>, certificates: Option<&Arc<Certificates>>) -> Self {
        let (http1, http2) = (http1_builder(&proxy.config), http2_builder(&proxy.config));
        let tls = certificates.zip(proxy.config.tls.as_ref()).map(|(certificates, tls)| {
            let acceptor = TlsAcceptor::from(Arc::new(certificates.server_config()));
            (acceptor, tls.handshake_timeout)
        });
        Self { proxy, http1, http2, tls }
    }

    /// Serves one connection to its end, or until it is asked to stop and the
    /// requests in flight have been answered.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        // A failure of any only costs latency, or time.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        let client = Client::new(peer.ip(), self.proxy.config.trust_forwarded);
        let stream = StallGuard::new(stream, self.proxy.config.stall_timeout);
        match &self.tls {
            None => self.serve_clear(stream, client, peer, stopping).await,
            Some((acceptor, limit)) => {
                let handshake = tokio::select! {
                    done = timeout(*limit, acceptor.accept(stream)) => done,
                    () = asked_to_stop(&mut stopping) => return,
                };
                match handshake {
                    Ok(Ok(stream)) => {
                        self.serve_tls(stream, client.secured(), peer, stopping).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            }
        }
    }

    /// The client has chosen the protocol in its handshake.
    async fn serve_tls(
        &self,
        stream: TlsStream<StallGuard<TcpStream>>,
        client: Client,
        peer: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) {
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.serve_http2(stream, client, peer, stopping).await,
            _ => self.serve_http1(stream, client, peer, stopping).await,
        }
    }

    /// The first bytes tell the protocol.
    async fn serve_clear(
        &self,
        stream: StallGuard<TcpStream>,
        client: Client,
        peer: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut stream = Sniffed::new(stream);
        let is_http2 = tokio::select! {
            found = timeout(self.proxy.config.header_timeout, stream.is_http2()) => found,
            () = asked_to_stop(&mut stopping) => return,
        };
        match is_http2 {
            Ok(Ok(true)) => self.serve_http2(stream, client, peer, stopping).await,
            Ok(Ok(false)) => self.serve_http1(stream, client, peer, stopping).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a client's connection broke"),
            Err(_) if stream.is_empty() => {}
            Err(_) => head_too_slow(stream).await,
        }
    }

    async fn serve_http1<T>(
        &self,
        stream: T,
        client: Client,
        peer: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
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
            head_too_slow(parts.io.into_inner()).await;
        }
    }

    async fn serve_http2<T>(
        &self,
        stream: T,
        client: Client,
        peer: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = &self.proxy.config;
        let io = TokioIo::new(stream);
        let streams = Arc::<Streams>::default();
        let shared = Arc::new((Arc::clone(&self.proxy), client, Arc::clone(&streams)));
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move {
                let (proxy, client, streams) = &*shared;
                Ok::<_, Infallible>(answer_stream(proxy, client, streams, request).await)
            }
        });
        let mut connection = pin!(self.http2.serve_connection(io, service));
        let mut looks = interval(config.header_timeout);
        let (mut seen, mut ends) = (None, false);
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = asked_to_stop(&mut stopping), if !ends => {}
                () = streams.abused() => {
                    tracing::info!(%peer, "a client takes most of its requests back at once: its connection is closed");
                    return;
                }
                _ = looks.tick() => {
                    let idle = streams.idle();
                    if ends && idle.is_some() {
                        tracing::debug!(%peer, "a client does not end its connection");
                        return;
                    }
                    // Idle, and as it was at the look before.
                    if ends || idle.is_none() || idle != std::mem::replace(&mut seen, idle) {
                        continue;
                    }
                }
            }
            ends = true;
            connection.as_mut().graceful_shutdown();
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a client's connection broke");
        }
    }
}

/// Answers one request of a connection that has several at a time.
async fn answer_stream(
    proxy: &Proxy,
    client: &Client,
    streams: &Arc<Streams>,
    request: Request<Incoming>,
) -> Response<IngressBody> {
    let stream = streams.begin();
    let is_head = request.method() == Method::HEAD;
    // Nothing is ever put there: a stream does not switch.
    let next = upgrade::Next::default();
    let answer = proxy.answer(client, &next, request).await;
    answer.map(|body| body.on_stream(stream, is_head))
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

fn http2_builder(config: &Config) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor { stall_timeout: config.stall_timeout });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_PROVOKED_MAX)
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.ping_timeout);
    builder
}

/// Answers a head that did not come whole in time, and ends the connection.
async fn head_too_slow(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let said = async {
        stream.write_all(problem::head_too_slow().as_bytes()).await?;
        stream.shutdown().await?;
        // What still came to a closed one would take the answer away.
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not take it, or is gone, misses nothing.
    let _ = timeout(LINGER, said).await;
}
