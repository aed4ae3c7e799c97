//! Bounds and habits of an ingress.

use std::time::Duration;

use crate::tls::TlsConfig;

/// Smallest [`Config::header_bytes_max`] that is taken as it is: hyper wants
/// read buffers of at least this size.
pub const HEADER_BYTES_MIN: usize = 8 * 1024;

/// Bounds and habits of an ingress. `Default` gives the values named below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most client connections at a time; further ones wait to be accepted
    /// (10,000).
    pub connections_max: usize,
    /// How long a client may take to send the head of a request, counted from
    /// its first byte on a new connection and later from the end of the response
    /// before: also how long an idle connection is kept, and at most twice that
    /// one of HTTP/2 (30 s).
    pub header_timeout: Duration,
    /// Largest head of a request in bytes (32 KiB). With HTTP/1.1 at most 100
    /// headers are accepted in any case.
    pub header_bytes_max: usize,
    /// Most requests at a time on one connection of HTTP/2; a client that knows
    /// this waits with further ones (128).
    pub streams_max: u32,
    /// A connection of HTTP/2 is asked for a sign of life when nothing came for
    /// this long (30 s) ...
    pub ping_interval: Duration,
    /// ... and is closed if there is none within this (15 s).
    pub ping_timeout: Duration,
    /// Largest body of a request in bytes; a longer one is refused with 413. None
    /// by default.
    pub body_bytes_max: Option<u64>,
    /// How long an instance may take to answer with the head of a response,
    /// over all attempts (60 s).
    pub request_timeout: Duration,
    /// Try GET, HEAD, OPTIONS and TRACE without a body on another instance when
    /// one may have seen them but did not answer (no). Within a budget of a
    /// fifth of all requests.
    pub retry_safe: bool,
    /// How long a client may take to receive any part of a response before its
    /// connection is closed, or with HTTP/2 the one request is reset (30 s), so that it doesn't hold up an instance's
    /// drain for ever.
    pub stall_timeout: Duration,
    /// How long requests in flight may take to end at shutdown (30 s).
    pub shutdown_timeout: Duration,
    /// Clients are proxies of ours: add to their `X-Forwarded-*` headers
    /// instead of replacing them (no).
    pub trust_forwarded: bool,
    /// Speak TLS with clients; without it they are spoken with in cleartext (no).
    pub tls: Option<TlsConfig>,
    /// Tell of each request in an event of `tracing` with the target
    /// `aether::access` (no).
    pub access_log: bool,
    /// Say in `x-aether-slice`, `-version` and `-instance` headers of a response
    /// where it came from (no).
    pub debug: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            header_timeout: Duration::from_secs(30),
            header_bytes_max: 32 * 1024,
            streams_max: 128,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            body_bytes_max: None,
            request_timeout: Duration::from_secs(60),
            retry_safe: false,
            stall_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
            trust_forwarded: false,
            tls: None,
            access_log: false,
            debug: false,
        }
    }
}
