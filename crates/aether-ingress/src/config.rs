//! Bounds and habits of an ingress.

use std::time::Duration;

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
    /// the end of the response before: also how long an idle connection is
    /// kept (30 s).
    pub header_timeout: Duration,
    /// Largest head of a request in bytes (32 KiB). At most 100 headers are
    /// accepted in any case.
    pub header_bytes_max: usize,
    /// How long an instance may take to answer with the head of a response,
    /// over all attempts (60 s).
    pub request_timeout: Duration,
    /// Try GET, HEAD, OPTIONS and TRACE without a body on another instance when
    /// one may have seen them but did not answer (no). Within a budget of a
    /// fifth of all requests.
    pub retry_safe: bool,
    /// How long a client may take to receive any part of a response before its
    /// connection is closed (30 s), so that it doesn't hold up an instance's
    /// drain for ever.
    pub stall_timeout: Duration,
    /// How long requests in flight may take to end at shutdown (30 s).
    pub shutdown_timeout: Duration,
    /// Clients are proxies of ours: add to their `X-Forwarded-*` headers
    /// instead of replacing them (no).
    pub trust_forwarded: bool,
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
            request_timeout: Duration::from_secs(60),
            retry_safe: false,
            stall_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
            trust_forwarded: false,
            debug: false,
        }
    }
}
