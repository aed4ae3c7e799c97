//! How an instance is asked whether it is ready, and whether it is alive.

use serde::{Deserialize, Serialize};

use super::ManifestError;
use crate::duration::Millis;

/// Longest text of one part of a probe, in bytes: a path, a service's name, a
/// program or an argument. Far above what people write.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Most parts of an `exec` probe's command.
const COMMAND_PARTS_MAX: usize = 64;

/// Longest start period: an hour. A process that takes longer to come up than
/// that is not told apart from one that hangs.
const START_PERIOD_MAX: Millis = Millis(3_600_000);

/// How an instance is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection to its port suffices.
    Tcp,
    /// A GET of this path must be answered with a 2xx or 3xx status.
    Http(String),
    /// `grpc.health.v1.Health/Check` of this service must answer SERVING; the
    /// empty name stands for the whole server.
    Grpc(String),
    /// This command must exit with status 0. It is substituted, and runs in the
    /// directory and environment of the instance.
    Exec(Vec<String>),
}

impl Probe {
    fn of(http: &Option<String>, grpc: &Option<String>, exec: &Option<Vec<String>>) -> Self {
        match (http, grpc, exec) {
            (Some(path), _, _) => Self::Http(path.clone()),
            (None, Some(service), _) => Self::Grpc(service.clone()),
            (None, None, Some(command)) => Self::Exec(command.clone()),
            (None, None, None) => Self::Tcp,
        }
    }
}

/// When an instance counts as ready. Of `http`, `grpc` and `exec` at most one
/// is set; without any a TCP connection suffices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Readiness {
    /// Path that must answer with a 2xx or 3xx status.
    pub http: Option<String>,
    /// Service that must be SERVING by `grpc.health.v1`, over HTTP/2 without
    /// TLS; empty for the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Command that must exit with status 0: program and arguments, substituted
    /// like `run.command`, in the instance's directory and environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Time between two probes.
    pub interval: Millis,
    /// Time a probe may take.
    pub timeout: Millis,
    /// Successes in a row that make an instance ready.
    pub successes: u32,
    /// Failures in a row that make a ready instance unready.
    pub failures: u32,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            http: None,
            grpc: None,
            exec: None,
            interval: Millis(250),
            timeout: Millis(1_000),
            successes: 1,
            failures: 3,
        }
    }
}

impl Readiness {
    /// How it is asked.
    pub fn probe(&self) -> Probe {
        Probe::of(&self.http, &self.grpc, &self.exec)
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        check_probe(&READY, &self.http, &self.grpc, &self.exec)?;
        if self.interval.0 == 0 || self.timeout.0 == 0 {
            return bad("ready", "interval and timeout must be above zero");
        }
        if self.successes == 0 || self.failures == 0 {
            return bad("ready", "successes and failures must be at least 1");
        }
        Ok(())
    }
}

/// When an instance counts as alive. One that does not is stopped and started
/// again, while one that is only not ready is left alone and gets no calls. Of
/// `http`, `grpc` and `exec` at most one is set; without any a TCP connection
/// suffices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Liveness {
    /// As in [`Readiness`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// As in [`Readiness`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// As in [`Readiness`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Time between two probes.
    pub interval: Millis,
    /// Time a probe may take.
    pub timeout: Millis,
    /// Failures in a row after which it is stopped and started again.
    pub failures: u32,
    /// Time from its start during which failures do not count, unless it was
    /// ready before. Five minutes unless set, which is what an update gives a
    /// deployment by default: an instance that hangs from the start is replaced
    /// even where no update watches it.
    pub start_period: Millis,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            http: None,
            grpc: None,
            exec: None,
            interval: Millis(1_000),
            timeout: Millis(1_000),
            failures: 3,
            start_period: Millis(5 * 60_000),
        }
    }
}

impl Liveness {
    /// How it is asked.
    pub fn probe(&self) -> Probe {
        Probe::of(&self.http, &self.grpc, &self.exec)
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        check_probe(&LIVE, &self.http, &self.grpc, &self.exec)?;
        if self.interval.0 == 0 || self.timeout.0 == 0 {
            return bad("live", "interval and timeout must be above zero");
        }
        if self.failures == 0 {
            return bad("live.failures", "must be at least 1");
        }
        if self.start_period > START_PERIOD_MAX {
            return bad("live.start_period", "must be at most 1h");
        }
        Ok(())
    }
}

/// What the parts of a probe are called in messages.
struct Names {
    table: &'static str,
    http: &'static str,
    grpc: &'static str,
    exec: &'static str,
}

const READY: Names =
    Names { table: "ready", http: "ready.http", grpc: "ready.grpc", exec: "ready.exec" };
const LIVE: Names =
    Names { table: "live", http: "live.http", grpc: "live.grpc", exec: "live.exec" };

fn check_probe(
    names: &Names,
    http: &Option<String>,
    grpc: &Option<String>,
    exec: &Option<Vec<String>>,
) -> Result<(), ManifestError> {
    let kinds = usize::from(http.is_some()) + usize::from(grpc.is_some());
    if kinds + usize::from(exec.is_some()) > 1 {
        return bad(names.table, "at most one of http, grpc and exec can be set");
    }
    let too_long = |text: &String| text.len() > TEXT_BYTES_MAX;
    if http.as_ref().is_some_and(|path| too_long(path) || !super::is_path(path)) {
        return bad(names.http, "must be a path that starts with '/', without spaces");
    }
    let is_service = |name: &String| !too_long(name) && name.bytes().all(|b| b.is_ascii_graphic());
    if grpc.as_ref().is_some_and(|name| !is_service(name)) {
        return bad(names.grpc, "must be a service's name, or empty for the whole server");
    }
    let Some(command) = exec else { return Ok(()) };
    if command.first().is_none_or(|program| program.is_empty()) {
        return bad(names.exec, "names no program");
    }
    let unusable = |text: &String| too_long(text) || text.contains('\0');
    if command.len() > COMMAND_PARTS_MAX || command.iter().any(unusable) {
        return bad(names.exec, "must be at most 64 texts of at most 4096 bytes, without NUL");
    }
    Ok(())
}

fn bad(field: &'static str, problem: &str) -> Result<(), ManifestError> {
    Err(ManifestError::Value { field, problem: problem.to_owned() })
}
