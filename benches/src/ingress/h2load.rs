//! The load: nghttp2's `h2load`, closed loops over many connections on one thread, which takes
//! its share of the cores that it measures. Its summary says how many answers there were, and
//! its log how long each took.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::load::quantile;

/// Before what is measured: connections are made, to instances too.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// How much longer than it should it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time over a connection.
    Http1,
    /// HTTP/2 without TLS, known beforehand, so many streams at a time over a connection.
    Http2 {
        /// That many.
        streams: usize,
    },
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its connections.
    pub connections: usize,
    /// What it asks for.
    pub path: &'a str,
    /// How long it is measured.
    pub time: Duration,
}

/// What one run measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Answers a second with a 2xx status.
    pub per_second: f64,
    /// Requests without such an answer.
    pub failed: u64,
    /// Median time of an answer.
    pub p50: Duration,
    /// 99th percentile of it.
    pub p99: Duration,
}

/// Loads somebody for a while.
///
/// # Errors
/// `h2load` cannot be run, does not end, or says what it should not.
pub async fn run(address: SocketAddr, load: &Load<'_>, dir: &Path) -> Result<Run> {
    let log = dir.join("h2load.log");
    // It adds to what is there.
    let _ = std::fs::remove_file(&log);
    let Load { protocol, connections, path, time } = *load;
    let mut command = Command::new("h2load");
    match protocol {
        Protocol::Http1 => command.arg("--h1"),
        Protocol::Http2 { streams } => command.arg(format!("--max-concurrent-streams={streams}")),
    };
    command
        .args(["--threads=1", &format!("--clients={connections}")])
        .arg(format!("--duration={}", time.as_secs()))
        .arg(format!("--warm-up-time={}", WARM_UP.as_secs()))
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("http://{address}{path}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(WARM_UP + time + PATIENCE, command.output()).await;
    let output = output.context("h2load does not end")?.context("cannot run h2load")?;
    let summary = String::from_utf8_lossy(&output.stdout);
    let counted = counts(&summary).with_context(|| format!("h2load said: {summary}"))?;
    let log = std::fs::read_to_string(&log).context("the log of h2load")?;
    judge(counted, times(&log)?, time)
}

/// Requests by how they ended, as the summary has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    succeeded: u64,
    failed: u64,
}

/// Reads the lines `requests:` and `status codes:`.
fn counts(summary: &str) -> Result<Counts> {
    let of = |line: &str, what: &str| -> Result<u64> {
        let found = summary.lines().find_map(|text| text.strip_prefix(line));
        let found = found.with_context(|| format!("no line '{line}'"))?;
        let counted = found.split(',').find_map(|part| part.trim().strip_suffix(what));
        Ok(counted.with_context(|| format!("'{line}' without '{what}'"))?.trim().parse()?)
    };
    // Among the failed are those that another status, an error or a timeout ended.
    Ok(Counts { succeeded: of("status codes:", " 2xx")?, failed: of("requests:", " failed")? })
}

/// Times of answers with a 2xx status, in order of their length: each line of the log has when
/// a request began, its status and its microseconds.
fn times(log: &str) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let (Some(status), Some(micros)) = (fields.next(), fields.next()) else {
            bail!("the log of h2load has the line '{line}'");
        };
        if (200..300).contains(&status.parse::<i32>()?) {
            times.push(Duration::from_micros(micros.parse()?));
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn judge(counted: Counts, times: Vec<Duration>, time: Duration) -> Result<Run> {
    ensure!(!times.is_empty(), "no answers, {} failed", counted.failed);
    Ok(Run {
        per_second: counted.succeeded as f64 / time.as_secs_f64(),
        failed: counted.failed,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "\
finished in 1.50s, 51626.00 req/s, 7.48MB/s
requests: 51626 total, 51630 started, 51626 done, 51620 succeeded, 6 failed, 2 errored, 1 timeout
status codes: 51620 2xx, 0 3xx, 1 4xx, 3 5xx
traffic: 7.48MB (7839248) total, 8.31MB (8716820) headers (space savings 0.00%), 394KB data
";

    #[test]
    fn a_summary_is_counted() {
        assert_eq!(counts(SUMMARY).unwrap(), Counts { succeeded: 51_620, failed: 6 });
        assert!(counts("").unwrap_err().to_string().contains("status codes:"));
        assert!(counts(&SUMMARY.replace(" failed", " lost")).is_err());
    }

    #[test]
    fn times_are_those_of_answers_in_order() {
        let log = "10\t200\t84\n12\t-1\t7\n13\t503\t5\n14\t200\t51\n";
        let micros = |micros| Duration::from_micros(micros);
        assert_eq!(times(log).unwrap(), [micros(51), micros(84)]);
        for broken in ["10\t200", "10\tx\t1", "10\t200\tx", "text"] {
            assert!(times(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_run_is_told_by_its_rate_and_its_99th_percentile() {
        let times: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        let run = judge(Counts { succeeded: 200, failed: 3 }, times, Duration::from_secs(4));
        let [p50, p99] = [100, 198].map(Duration::from_micros);
        assert_eq!(run.unwrap(), Run { per_second: 50.0, failed: 3, p50, p99 });
        let none = judge(Counts { succeeded: 0, failed: 9 }, Vec::new(), Duration::from_secs(1));
        assert!(none.unwrap_err().to_string().contains("9 failed"));
    }
}
