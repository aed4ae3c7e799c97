//! The figures of both versions of an update.

use aether_proto::v1;

use super::{or_dash, percent, table};

/// Both versions side by side, and the verdict.
pub fn whole(health: &v1::UpdateHealth) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1} ms"));
    let row = |side: &str, version: &v1::VersionHealth| {
        vec![
            side.to_owned(),
            version.version.clone(),
            version.request_count.to_string(),
            version.error_count.to_string(),
            percent(version.error_rate),
            ms(Some(version.avg_latency_ms)),
            ms(version.p99_latency_ms),
            version.window_requests.to_string(),
            percent(version.window_error_rate),
            ms(version.window_p99_ms),
        ]
    };
    let old = health.old_version.iter().map(|version| row("old", version));
    let new = health.new_version.iter().map(|version| row("new", version));
    let header = [
        "SIDE",
        "VERSION",
        "REQUESTS",
        "ERRORS",
        "RATE",
        "AVERAGE",
        "P99",
        "10S REQUESTS",
        "10S RATE",
        "10S P99",
    ];
    let mut text = table(&header, old.chain(new).collect());
    text.push_str(&format!("\n\nverdict  {}", or_dash(&health.verdict)));
    if !health.detail.is_empty() {
        text.push_str(&format!(": {}", health.detail));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_the_verdict_are_shown() {
        let version = |version: &str, p99: Option<f64>| v1::VersionHealth {
            version: version.into(),
            request_count: 1000,
            error_count: 1,
            error_rate: 0.001,
            avg_latency_ms: 45.04,
            p99_latency_ms: p99,
            ..Default::default()
        };
        let health = v1::UpdateHealth {
            old_version: Some(version("1.0.0", Some(120.0))),
            new_version: Some(version("2.0.0", None)),
            verdict: "exceeded".into(),
            detail: "p99 is above 500 ms".into(),
            ..Default::default()
        };
        assert_eq!(
            whole(&health),
            "\
SIDE  VERSION  REQUESTS  ERRORS  RATE   AVERAGE  P99       10S REQUESTS  10S RATE  10S P99
old   1.0.0    1000      1       0.1 %  45.0 ms  120.0 ms  0             0 %       -
new   2.0.0    1000      1       0.1 %  45.0 ms  -         0             0 %       -

verdict  exceeded: p99 is above 500 ms"
        );
    }
}
