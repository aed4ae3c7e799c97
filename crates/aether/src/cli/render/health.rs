//! The figures of both versions of an update.

use aether_proto::v1;

use super::{gate, or_dash, percent, span, table};

/// Both versions side by side, and the verdict.
pub fn whole(health: &v1::UpdateHealth) -> String {
    let row = |side: &str, version: &v1::VersionHealth| {
        vec![
            side.to_owned(),
            version.version.clone(),
            version.request_count.to_string(),
            version.error_count.to_string(),
            rate(version.error_rate, version.request_count),
            ms(of_any(version.avg_latency_ms, version.request_count)),
            ms(version.p99_latency_ms),
            version.window_requests.to_string(),
            rate(version.window_error_rate, version.window_requests),
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
    let versions = health.old_version.iter().chain(&health.new_version);
    let instances: Vec<_> = versions.flat_map(instance_rows).collect();
    if !instances.is_empty() {
        let header =
            ["INSTANCE", "NODE", "VERSION", "REQUESTS", "ERRORS", "RATE", "AVERAGE", "P99"];
        text.push_str("\n\n");
        text.push_str(&table(&header, instances));
    }
    text.push_str(&format!("\n\nverdict  {}", or_dash(&health.verdict)));
    if !health.detail.is_empty() {
        text.push_str(&format!(": {}", health.detail));
    }
    for exceeded in &health.exceeded {
        text.push_str(&format!("\nexceeded {}", one_exceeded(exceeded)));
    }
    if let Some(compared) = &health.comparison {
        text.push_str(&comparison(compared));
    }
    if !health.gates.is_empty() {
        text.push_str(&format!(
            "\ngates    {}",
            gate::states(&health.gates).replace('\n', "\n         ")
        ));
    }
    if let Some(pause) = &health.pause {
        let since = span(health.paused_ms.unwrap_or(0));
        text.push_str(&format!("\npaused   for {since}: {}: {}", pause.code, pause.message));
    }
    text
}

/// How the new version compares with the old one, and how long until that is decided.
fn comparison(compared: &v1::Comparison) -> String {
    let mut text = format!("\ncompared {}: {}", compared.verdict, compared.detail);
    let tested = [("errors", &compared.errors), ("latency", &compared.latency)];
    for (what, tested) in tested {
        let Some(tested) = tested else { continue };
        text += &format!(
            "\n         {what}: worse {:.1} to 1 (of {:.0}), not harmful {:.1} to 1 (of {:.0})",
            tested.worse_odds,
            tested.worse_odds_needed,
            tested.sound_odds,
            tested.sound_odds_needed
        );
    }
    let until = |ms: Option<u64>| ms.map_or_else(|| "not at this traffic".to_owned(), span);
    text + &format!(
        "\n         decided at this traffic: {} if they are alike, {} if the new one is harmful",
        until(compared.promote_if_alike_ms),
        until(compared.roll_back_if_harmful_ms)
    )
}

/// A figure of calls, if there were any.
fn of_any(value: f64, calls: u64) -> Option<f64> {
    (calls > 0).then_some(value)
}

fn rate(value: f64, calls: u64) -> String {
    of_any(value, calls).map_or_else(|| "-".to_owned(), percent)
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1} ms"))
}

fn instance_rows(version: &v1::VersionHealth) -> Vec<Vec<String>> {
    let row = |instance: &v1::InstanceHealth| {
        vec![
            instance.instance_id.clone(),
            or_dash(&instance.node),
            version.version.clone(),
            instance.request_count.to_string(),
            instance.error_count.to_string(),
            rate(instance.error_rate, instance.request_count),
            ms(of_any(instance.avg_latency_ms, instance.request_count)),
            ms(instance.p99_latency_ms),
        ]
    };
    version.instances.iter().map(row).collect()
}

fn one_exceeded(exceeded: &v1::Exceeded) -> String {
    let shown = |value: f64| match exceeded.figure.as_str() {
        "error_rate" => percent(value),
        _ => format!("{value:.0} ms"),
    };
    format!(
        "{} {}, threshold {}, for {}",
        exceeded.figure,
        shown(exceeded.value),
        shown(exceeded.threshold),
        span(exceeded.since_ms)
    )
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
old   1.0.0    1000      1       0.1 %  45.0 ms  120.0 ms  0             -         -
new   2.0.0    1000      1       0.1 %  45.0 ms  -         0             -         -

verdict  exceeded: p99 is above 500 ms"
        );
    }

    #[test]
    fn a_side_without_calls_has_no_figures() {
        let version = v1::VersionHealth {
            version: "2.0.0".into(),
            instances: vec![v1::InstanceHealth { instance_id: "a.1".into(), ..Default::default() }],
            ..Default::default()
        };
        let health = v1::UpdateHealth { new_version: Some(version), ..Default::default() };
        let shown = whole(&health);
        assert!(!shown.contains('%') && !shown.contains(" ms"), "{shown}");
    }
}
