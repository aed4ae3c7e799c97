//! A reverse proxy for HTTP/1.1 and HTTP/2 in front of all slices that have ingress rules.
//!
//! Which slice a request is for follows from the rules in the routing tables;
//! which version and instance takes it is the embedded invoker's exact split.
//! Bodies are streamed in both directions and never held.
//!
//! ```no_run
//! # async fn example(invoker: aether_invoker::Invoker) -> std::io::Result<()> {
//! use aether_ingress::{Config, Ingress};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8070").await?;
//! let ingress = Ingress::start(listener, invoker, Config::default())?;
//! // ... until the process is asked to stop:
//! ingress.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A request that asks for another protocol (`Connection: upgrade`, such as a
//! WebSocket) goes to an instance like any other; if that switches, the two
//! connections are joined, and the call stays in flight until they end.
//!
//! Clients may begin with HTTP/2 (by prior knowledge) on the same port. Calls of
//! gRPC reach instances over HTTP/2 in cleartext, with streams both ways and
//! trailers, and are refused in gRPC's own terms; all else goes over HTTP/1.1.
//!
//! With [`TlsConfig`] it speaks TLS with clients, and HTTP/2 where they choose it in
//! the handshake; certificates are read again when their files change.
//!
//! What is deliberately absent: TLS to instances, caching, and WebSockets over HTTP/2
//! (RFC 8441; clients that are not offered it open a connection of HTTP/1.1).

mod access;
mod body;
mod config;
mod connection;
#[cfg(test)]
mod fuzz;
mod headers;
mod io;
mod limit;
mod problem;
mod proxy;
mod routes;
mod server;
mod sniff;
mod streams;
mod tls;
mod upgrade;

pub use config::{Config, HEADER_BYTES_MIN};
pub use server::Ingress;
pub use tls::{CERTIFICATES_MAX, CertificateFiles, TlsConfig, TlsError, TlsStatus};
