//! Gates: what somebody outside is asked before an update goes on.
//!
//! A gate travels with the strategy that starts an update and stands in its record,
//! unchanged. What it answered is committed too (`Progress::gates`), so that a
//! leader that takes over asks what is still open and nothing twice. Who is asked,
//! and when, is decided in `planner/strategy/gates.rs`; asking is a driver's.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{UpdateRecord, Way};

/// Most gates of an update: each is asked again for every step.
pub const GATES_MAX: usize = 16;
/// Longest name of one, in bytes.
pub const GATE_NAME_BYTES_MAX: usize = 40;
/// Longest URL of one, in bytes: what servers take in general.
pub const GATE_URL_BYTES_MAX: usize = 2_048;
/// Longest query of one, in bytes.
pub const GATE_QUERY_BYTES_MAX: usize = 4_096;
/// Most arguments of a program.
pub const GATE_ARGUMENTS_MAX: usize = 32;
/// Longest program or argument, in bytes.
pub const GATE_ARGUMENT_BYTES_MAX: usize = 1_024;
/// Longest message of a measurement that is kept, in bytes.
pub const GATE_MESSAGE_BYTES_MAX: usize = 500;
/// Longest that a gate may be waited for, milliseconds: a leader asks eight at a
/// time, which one that hangs must not block for long.
pub const GATE_TIMEOUT_MS_MAX: u64 = 5 * 60_000;
/// Shortest time between two measurements, milliseconds: each is an entry of the
/// log.
pub const GATE_INTERVAL_MS_MIN: u64 = 100;
/// Longest time between two measurements, milliseconds.
pub const GATE_INTERVAL_MS_MAX: u64 = 24 * 3_600_000;
/// Most failed, and most inconclusive, measurements that may be tolerated.
pub const GATE_TOLERATED_MAX: u32 = 100;

/// When a gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GateWhen {
    /// Before a step is entered.
    Before,
    /// Before a step is left, once it held.
    After,
}

impl GateWhen {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

impl fmt::Display for GateWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum GateSource {
    /// A Prometheus server; it passes if all samples of the answer meet the
    /// condition.
    Prometheus {
        /// The server, such as `http://prometheus:9090`.
        url: String,
        /// PromQL.
        query: String,
        /// Such as `< 0.05`.
        condition: String,
    },
    /// An HTTP server that is told where the update is, and judges.
    Webhook {
        /// Where to.
        url: String,
    },
    /// A program on the leader's node: it ends with 0 for pass, 1 for fail.
    Command {
        /// Its absolute path.
        program: String,
        /// Its arguments; no shell looks at them.
        arguments: Vec<String>,
    },
}

impl GateSource {
    /// The kind, as people write it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Prometheus { .. } => "prometheus",
            Self::Webhook { .. } => "webhook",
            Self::Command { .. } => "command",
        }
    }
}

impl fmt::Display for GateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prometheus { url, query, condition } => {
                write!(f, "prometheus {url} {query:?} {condition:?}")
            }
            Self::Webhook { url } => write!(f, "webhook {url}"),
            Self::Command { program, arguments } => {
                write!(f, "command {program}")?;
                arguments.iter().try_for_each(|argument| write!(f, " {argument:?}"))
            }
        }
    }
}

/// One gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// Its name, unique within the update.
    pub name: String,
    /// When it is asked.
    pub when: GateWhen,
    /// Number of the step that it is for, from 1; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Who is asked.
    pub source: GateSource,
    /// How long an answer may take.
    pub timeout_ms: u64,
    /// How long after an answer that was not a pass it is asked again.
    pub interval_ms: u64,
    /// Failed measurements that are tolerated in a step.
    pub failures_max: u32,
    /// Inconclusive measurements that are tolerated in a step.
    pub inconclusive_max: u32,
}

impl Gate {
    /// How long an answer may take that does not say so, milliseconds.
    pub const TIMEOUT_MS: u64 = 10_000;
    /// How long until a gate is asked again that does not say so, milliseconds.
    pub const INTERVAL_MS: u64 = 30_000;
    /// Inconclusive measurements that are tolerated where nothing is said.
    pub const INCONCLUSIVE_MAX: u32 = 3;

    /// A gate for every step that is asked as gates are which do not say how.
    pub fn new(name: &str, when: GateWhen, source: GateSource) -> Self {
        Self {
            name: name.to_owned(),
            when,
            step: None,
            source,
            timeout_ms: Self::TIMEOUT_MS,
            interval_ms: Self::INTERVAL_MS,
            failures_max: 0,
            inconclusive_max: Self::INCONCLUSIVE_MAX,
        }
    }
}

/// What a measurement of a gate showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GateVerdict {
    /// The update may go on.
    Pass,
    /// It must not.
    Fail,
    /// Nobody knows: no answer, or one that says nothing.
    Inconclusive,
}

impl GateVerdict {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl fmt::Display for GateVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a gate has answered for a step, as it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateState {
    /// Its name.
    pub gate: String,
    /// When it was asked.
    pub when: GateWhen,
    /// Number of the step, from 1.
    pub step: u32,
    /// How often it was measured.
    pub measured: u32,
    /// How many of these failed.
    pub failed: u32,
    /// How many of these were inconclusive.
    pub inconclusive: u32,
    /// What the last one showed.
    pub last: GateVerdict,
    /// What the last one said, at most [`GATE_MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// Log time of the last one.
    pub at_ms: u64,
    /// Who passed it by force, whatever it showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced_by: Option<String>,
}

impl GateState {
    /// Of a gate that was never measured.
    pub(crate) fn new(gate: &Gate, step: u32) -> Self {
        Self {
            gate: gate.name.clone(),
            when: gate.when,
            step,
            measured: 0,
            failed: 0,
            inconclusive: 0,
            last: GateVerdict::Inconclusive,
            message: String::new(),
            at_ms: 0,
            forced_by: None,
        }
    }

    /// Takes in what another measurement showed.
    pub(crate) fn take(&mut self, verdict: GateVerdict, message: &str, at_ms: u64) {
        self.measured = self.measured.saturating_add(1);
        match verdict {
            GateVerdict::Pass => {}
            GateVerdict::Fail => self.failed = self.failed.saturating_add(1),
            GateVerdict::Inconclusive => self.inconclusive = self.inconclusive.saturating_add(1),
        }
        self.last = verdict;
        self.message = message.to_owned();
        self.at_ms = at_ms;
    }

    /// Whether the update may go on for all that this gate says.
    pub fn is_open(&self) -> bool {
        self.forced_by.is_some() || (self.measured > 0 && self.last == GateVerdict::Pass)
    }
}

/// How a figure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Other,
}

/// What a figure has to be, such as `< 0.05`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    comparison: Comparison,
    bound: f64,
}

impl Condition {
    /// Whether a figure meets it; nobody knows of one that is no number.
    pub fn holds(&self, figure: f64) -> Option<bool> {
        let order = figure.partial_cmp(&self.bound)?;
        Some(match self.comparison {
            Comparison::Less => order == Ordering::Less,
            Comparison::AtMost => order != Ordering::Greater,
            Comparison::More => order == Ordering::Greater,
            Comparison::AtLeast => order != Ordering::Less,
            Comparison::Equal => order == Ordering::Equal,
            Comparison::Other => order != Ordering::Equal,
        })
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The longer ones first: '<' is the beginning of '<='.
        let all = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("!=", Comparison::Other),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let text = text.trim();
        let found = all.iter().find_map(|(sign, comparison)| {
            let bound = text.strip_prefix(sign)?.trim();
            // Rust reads 'inf' and 'nan' too, which bound nothing.
            let is_number = bound.bytes().any(|b| b.is_ascii_digit());
            let bound = bound.parse::<f64>().ok().filter(|b| is_number && b.is_finite())?;
            Some(Self { comparison: *comparison, bound })
        });
        found.ok_or_else(|| "one of < <= > >= == != and a number, such as '< 0.05'".to_owned())
    }
}

/// An `http://` URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl<'a> {
    /// Host and port, as they stand in the URL.
    pub authority: &'a str,
    /// The host, without the brackets of an IPv6 address.
    pub host: &'a str,
    /// The port, 80 where none is said.
    pub port: u16,
    /// Path and query, `/` at least.
    pub path: &'a str,
}

impl<'a> HttpUrl<'a> {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// It is no `http://` URL that anybody could be asked at; says what it has to be.
    pub fn parse(url: &'a str) -> Result<Self, String> {
        if url.len() > GATE_URL_BYTES_MAX {
            return Err(format!("at most {GATE_URL_BYTES_MAX} bytes long"));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(match url.starts_with("https://") {
                true => "an http:// URL: this build has no TLS client, so https:// cannot be \
                         asked; put a local proxy in between"
                    .to_owned(),
                false => "an http:// URL".to_owned(),
            });
        };
        let fit = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte);
        if !rest.bytes().all(fit) {
            return Err("a URL of printable ASCII; the rest is to be percent-encoded".to_owned());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("a URL without a password: everybody reads the record".to_owned());
        }
        let path = if path.is_empty() { "/" } else { path };
        if !path.starts_with('/') {
            return Err("a URL with a path, '/' at least, before the query".to_owned());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, rest)| (host, rest.strip_prefix(':'))),
            None => Some(match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            }),
        }
        .filter(|(host, _)| !host.is_empty())
        .ok_or("a URL with a host")?;
        let port = port.map_or(Ok(80), str::parse::<u16>);
        let port = port.ok().filter(|port| *port > 0).ok_or("a URL with a port of 1 to 65535")?;
        Ok(Self { authority, host, port, path })
    }
}

impl UpdateRecord {
    /// Gates that are not passed, of those between a step and a later one.
    pub(crate) fn closed_gates<'a>(
        &self,
        way: &'a Way<'_>,
        from: u32,
        to: u32,
    ) -> Vec<(&'a Gate, u32)> {
        let is_open = |(gate, step): &(&Gate, u32)| {
            let state = self.progress.as_ref().and_then(|progress| progress.gate(gate, *step));
            state.is_some_and(GateState::is_open)
        };
        (from..to).flat_map(|step| way.gates_beyond(step)).filter(|gate| !is_open(gate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_compare_as_they_are_written() {
        let holds = |text: &str, figure| text.parse::<Condition>().unwrap().holds(figure);
        assert_eq!(holds("< 0.05", 0.049), Some(true));
        assert_eq!(holds("<0.05", 0.05), Some(false));
        assert_eq!(holds("<= 0.05", 0.05), Some(true));
        assert_eq!(holds(" > -1e3 ", -999.0), Some(true));
        assert_eq!(holds(">= 2", f64::INFINITY), Some(true));
        assert_eq!(holds("== 0", -0.0), Some(true));
        assert_eq!(holds("!= 1", 1.0), Some(false));
        assert_eq!(holds("!= 1", f64::NAN), None, "no number is no news");
        for text in ["", "0.05", "<", "=< 1", "< nan", "< inf", "< 1 2", "~ 1", "< 1e999"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_taken_apart_and_what_could_not_be_asked_is_refused() {
        let parts = |url| HttpUrl::parse(url).map(|u| (u.host, u.port, u.path));
        assert_eq!(parts("http://p:9090"), Ok(("p", 9090, "/")));
        assert_eq!(parts("http://p.example/a?b=c"), Ok(("p.example", 80, "/a?b=c")));
        assert_eq!(parts("http://[::1]:81/a"), Ok(("::1", 81, "/a")));
        for url in [
            "",
            "p:9090",
            "ftp://p",
            "http://",
            "http:///a",
            "http://:80",
            "http://p:0",
            "http://p:70000",
            "http://p:x",
            "http://u:pw@p",
            "http://p/ä",
            "http://p/a b",
            "http://p?q",
            "http://[::1",
            "http://p/#a",
            "http://p/\r\nhost:q",
        ] {
            assert!(HttpUrl::parse(url).is_err(), "{url}");
        }
        let https = HttpUrl::parse("https://p").unwrap_err();
        assert!(https.contains("no TLS client"), "{https}");
        let long = format!("http://p/{}", "a".repeat(GATE_URL_BYTES_MAX));
        assert!(HttpUrl::parse(&long).unwrap_err().contains("bytes"));
    }

    #[test]
    fn a_state_counts_each_measurement_once_and_is_open_by_the_last_one() {
        let gate = Gate::new("g", GateWhen::Before, GateSource::Webhook { url: "http://h".into() });
        let mut state = GateState::new(&gate, 2);
        assert!(!state.is_open());
        state.take(GateVerdict::Inconclusive, "503", 10);
        state.take(GateVerdict::Fail, "no", 20);
        assert!(!state.is_open());
        state.take(GateVerdict::Pass, "yes", 30);
        assert!(state.is_open());
        let counted = (state.measured, state.failed, state.inconclusive, state.at_ms);
        assert_eq!(counted, (3, 1, 1, 30));
    }
}
