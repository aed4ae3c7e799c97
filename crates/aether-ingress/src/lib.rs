//! An HTTP/1.1 reverse proxy in front of all slices that have ingress rules.
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
//! What is deliberately absent: TLS, HTTP/2, and caching.

mod body;
mod config;
mod connection;
#[cfg(test)]
mod fuzz;
mod headers;
mod io;
mod problem;
mod proxy;
mod routes;
mod server;
mod upgrade;

pub use config::{Config, HEADER_BYTES_MIN};
pub use server::Ingress;
