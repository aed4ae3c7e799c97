//! What the demo says at its end.

use std::fmt::Write as _;
use std::time::Duration;

use aether_cluster::load::Phase;
use serde::Serialize;

use super::{Told, phase};

/// One step of the first update.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The requested ratio new:old.
    pub ratio: String,
    /// What it was called while it lasted.
    pub name: String,
    /// Requests that started in it.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Share of answers that came from the new version.
    pub new_share: f64,
    /// Largest distance of any invoker's own count from the exact ratio, in
    /// calls; absent where nothing is split.
    pub deviation: Option<f64>,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
}

/// The outcome of the demo.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// All requests.
    pub requests: u64,
    /// Those that failed, the broken version's own errors apart.
    pub failed: u64,
    /// Errors that the broken version answered.
    pub broken_version_errors: u64,
    /// The steps of the first update.
    pub steps: Vec<Step>,
    /// From the kill of the leader to the next acknowledged write.
    pub failover_ms: f64,
    /// From the first traffic on the broken version to the pause.
    pub detection_ms: f64,
    /// What the pause said.
    pub threshold: String,
    /// From the rollback's answer to the start of the last call that still
    /// reached the broken version; 0 if none did.
    pub rollback_ms: f64,
    /// The first failures in words.
    pub failures: Vec<String>,
    /// Whether nothing failed and every split was exact.
    pub ok: bool,
}

/// A split is exact when whole calls cannot be nearer to the ratio; where
/// several threads take tickets at a boundary, one cycle is allowed.
fn is_exact(deviation: f64, cycle: u64) -> bool {
    deviation <= cycle as f64
}

fn ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

impl Report {
    /// Puts together what was done and what the load counted.
    pub fn new(told: Told, phases: &[Phase]) -> Self {
        let mut exact = true;
        let mut steps = Vec::new();
        for (position, ratio) in &told.steps {
            let phase = &phases[*position];
            let deviation = weights(ratio).and_then(|(new, old)| {
                let splits = told.splits.counted.get(ratio)?;
                let worst = splits.values().map(|s| s.deviation(new, old)).fold(0.0, f64::max);
                exact &= is_exact(worst, new + old) && splits.values().all(|s| s.new + s.old > 0);
                Some(worst)
            });
            let answers: u64 = phase.versions.values().map(|count| count.requests).sum();
            steps.push(Step {
                ratio: ratio.clone(),
                name: phase.name.clone(),
                requests: phase.requests,
                failed: phase.failed + errors(phase, |_| true),
                new_share: phase.answers("2.0.0") as f64 / answers.max(1) as f64,
                deviation,
                p99_ms: phase.latency_us.value_at_quantile(0.99) as f64 / 1000.0,
            });
        }
        let broken = |version: &str| version == "3.0.0";
        let failed: u64 =
            phases.iter().map(|p| p.failed + errors(p, |version| !broken(version))).sum();
        let last_on_broken =
            phases.iter().filter_map(|phase| phase.versions.get("3.0.0")?.last_start).max();
        let late = last_on_broken
            .map_or(Duration::ZERO, |last| last.saturating_duration_since(told.rolled_back_at));
        let after_rollback = phase(phases, "rolled back").map_or(0, |p| p.answers("3.0.0"));
        Self {
            requests: phases.iter().map(|phase| phase.requests).sum(),
            failed,
            broken_version_errors: phases.iter().map(|p| errors(p, broken)).sum(),
            steps,
            failover_ms: ms(told.failover),
            detection_ms: ms(told.detection),
            threshold: told.threshold,
            rollback_ms: ms(late),
            failures: phases.iter().flat_map(|phase| phase.failures.clone()).take(10).collect(),
            ok: failed == 0 && exact && after_rollback == 0,
        }
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<16} {:>9} {:>9} {:>10} {:>9} {:>7} {:>9}",
            "STEP", "REQUESTED", "OBSERVED", "DEVIATION", "REQUESTS", "FAILED", "P99"
        );
        for step in &self.steps {
            let deviation = step.deviation.map_or("-".to_owned(), |d| format!("{d:.2} calls"));
            let _ = writeln!(
                text,
                "{:<16} {:>9} {:>7.2} % {:>10} {:>9} {:>7} {:>6.1} ms",
                step.name,
                step.ratio,
                step.new_share * 100.0,
                deviation,
                step.requests,
                step.failed,
                step.p99_ms
            );
        }
        let _ = writeln!(text);
        let _ = writeln!(text, "requests        {}", self.requests);
        let _ = writeln!(
            text,
            "failed          {} (and {} errors of the broken version itself)",
            self.failed, self.broken_version_errors
        );
        let _ = writeln!(
            text,
            "leader killed   next write acknowledged after {:.0} ms",
            self.failover_ms
        );
        let _ = writeln!(
            text,
            "broken version  paused after {:.0} ms: {}",
            self.detection_ms, self.threshold
        );
        let _ = writeln!(
            text,
            "rollback        last call on the broken version started {:.1} ms after the answer",
            self.rollback_ms
        );
        for failure in &self.failures {
            let _ = writeln!(text, "failure         {failure}");
        }
        text
    }
}

/// Error answers of the versions that a condition names.
fn errors(phase: &Phase, of: impl Fn(&str) -> bool) -> u64 {
    phase.versions.iter().filter(|(version, _)| of(version)).map(|(_, count)| count.errors).sum()
}

/// `1:3` as numbers.
fn weights(ratio: &str) -> Option<(u64, u64)> {
    let (new, old) = ratio.split_once(':')?;
    Some((new.parse().ok()?, old.parse().ok()?))
}
