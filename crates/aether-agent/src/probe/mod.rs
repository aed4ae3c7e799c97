//! Asks an instance whether it is ready, and whether it is alive; and the pure
//! count of the answers.

mod exec;
mod grpc;
mod http;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aether_core::manifest::Probe;
use tokio::net::TcpStream;

pub(crate) use tally::{LiveTally, Tally, is_starting};

/// Longest part of a command that is shown, in characters: it is replicated.
const COMMAND_CHARS_MAX: usize = 100;

/// What is probed.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Directory in which commands run.
    pub work_dir: PathBuf,
    /// The complete environment of commands.
    pub env: Arc<BTreeMap<String, String>>,
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probed {
    /// It answered as it should.
    Passed,
    /// Nothing listens.
    Closed,
    /// It answered with this HTTP status.
    Status(u16),
    /// It answered with this status of the health protocol, or gRPC code.
    NotServing(String),
    /// The command failed.
    Exited {
        /// With which status, or by which signal.
        how: String,
        /// Last line of its standard error, or else of its standard output.
        line: String,
    },
    /// No answer in time.
    TimedOut(Duration),
    /// The connection broke, or the command could not be run.
    Broken(String),
}

impl Probed {
    /// What was asked and what came of it, as a sentence. `None`: it passed.
    pub fn problem(&self, address: SocketAddr, probe: &Probe) -> Option<String> {
        let what = match probe {
            Probe::Tcp => format!("connecting to {address}"),
            Probe::Http(path) => format!("GET http://{address}{path}"),
            Probe::Grpc(service) => {
                format!("grpc.health.v1.Health/Check of '{service}' at {address}")
            }
            Probe::Exec(command) => {
                let text: String = command.join(" ").chars().take(COMMAND_CHARS_MAX).collect();
                format!("running '{text}'")
            }
        };
        let how = match self {
            Self::Passed => return None,
            Self::Closed => {
                return Some(format!(
                    "the process runs, but nothing listens on {address}; it must listen on its PORT"
                ));
            }
            Self::Status(status) => format!("http status {status}"),
            Self::NotServing(status) => status.clone(),
            Self::Exited { how, line } if line.is_empty() => format!("{how} and said nothing"),
            Self::Exited { how, line } => format!("{how}; its last line: {line}"),
            Self::TimedOut(after) => format!("no answer within {} ms", after.as_millis()),
            Self::Broken(error) => error.clone(),
        };
        Some(format!("{what}: {how}"))
    }

    /// Code of the reason why an instance does not count as ready.
    pub fn code(&self) -> &'static str {
        if *self == Self::Closed { "port_closed" } else { "probe_failed" }
    }
}

/// Probes once, for at most `most`.
pub(crate) async fn ask(target: Target, probe: Probe, most: Duration) -> Probed {
    let attempt = async {
        match &probe {
            Probe::Tcp => match connect(target.address).await {
                Ok(_) => Probed::Passed,
                Err(probed) => probed,
            },
            Probe::Http(path) => match connect(target.address).await {
                Ok(stream) => match http::get(stream, target.address, path).await {
                    Ok(status) if (200..400).contains(&status) => Probed::Passed,
                    Ok(status) => Probed::Status(status),
                    Err(error) => Probed::Broken(error),
                },
                Err(probed) => probed,
            },
            Probe::Grpc(service) => grpc::check(target.address, service).await,
            Probe::Exec(command) => exec::run(command, &target).await,
        }
    };
    tokio::time::timeout(most, attempt).await.unwrap_or(Probed::TimedOut(most))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Probed> {
    TcpStream::connect(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Probed::Closed,
        _ => Probed::Broken(error.to_string()),
    })
}

#[cfg(test)]
mod tests;
