//! What a start is told, and what `set` changes later.

use aether_core::coordinates::{SliceName, Version};
use aether_core::duration::Millis;
use aether_proto::v1;
use clap::{Args, ValueEnum};

use super::strategy::How;
use crate::cli::options::{error_rate, instances};

/// What to start: for `start`, and for `plan`, which shows what it would do.
#[derive(Debug, Args)]
pub struct What {
    /// What to update: group:artifact[@env]
    #[arg(value_name = "ARTIFACT-BASE")]
    slice: SliceName,
    /// The version to move to
    #[arg(value_name = "VERSION")]
    new_version: Version,
    /// Number of new version instances [default: match current]
    #[arg(long, short, visible_short_alias = 'n', value_name = "N",
          value_parser = instances())]
    instances: Option<u32>,
    /// Thresholds by name; --max-error-rate and --max-latency-ms override it [default: default]
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME")]
    preset: Option<PresetName>,
    /// Maximum error rate, a share from 0 to 1 [default: 0.01]
    #[arg(long, visible_alias = "error-rate", value_name = "RATE", value_parser = error_rate)]
    max_error_rate: Option<f64>,
    /// Maximum p99 latency in milliseconds [default: 500]
    #[arg(long, visible_alias = "latency-ms", value_name = "MS",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_latency_ms: Option<u32>,
    /// Fewest requests in 10 s for the thresholds to be judged [default: 100]
    #[arg(long, value_name = "N")]
    min_requests: Option<u64>,
    /// Require manual approval for each routing change
    #[arg(long)]
    manual_approval: bool,
    /// What happens to the old version on completion [default: IMMEDIATE]
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY")]
    cleanup: Option<Cleanup>,
    /// How long GRACE_PERIOD keeps the old version [default: 5m]
    #[arg(long, value_name = "DURATION")]
    grace: Option<Millis>,
    /// How long the new version may take to become healthy [default: 5m]
    #[arg(long, value_name = "DURATION")]
    deploy_timeout: Option<Millis>,
    /// What happens if it does not become healthy [default: rollback]
    #[arg(long, value_enum, ignore_case = true, value_name = "ACTION")]
    on_failure: Option<OnFailure>,
    /// How long every new instance must have been ready [default: 1s]
    #[arg(long, value_name = "DURATION")]
    healthy_time: Option<Millis>,
    /// Move to a configuration of the slice: 'latest', or its number [default: keep the current
    /// one]
    #[arg(long, value_name = "latest|N", value_parser = config)]
    config: Option<String>,
    /// Replace every instance, though nothing else differs
    #[arg(long)]
    restart: bool,
    #[command(flatten)]
    how: How,
}

fn config(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('c').unwrap_or(text);
    match text == "latest" || digits.parse::<u32>().is_ok_and(|number| number > 0) {
        true => Ok(text.to_owned()),
        false => Err("must be 'latest' or the number of a configuration".to_owned()),
    }
}

/// Thresholds by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetName {
    /// 1 % errors, 500 ms: general services
    Default,
    /// 0.1 % errors, 200 ms: critical services
    Strict,
    /// 5 % errors, 1000 ms: batch processing
    Relaxed,
}

impl PresetName {
    /// The name that the protocol has.
    pub fn wire(preset: Option<Self>) -> String {
        wire_name(preset).to_ascii_lowercase()
    }
}

/// The guide's cleanup policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cleanup {
    /// Remove the old version on completion
    #[value(name = "IMMEDIATE")]
    Immediate,
    /// Keep it for the grace time
    #[value(name = "GRACE_PERIOD", alias = "grace-period")]
    GracePeriod,
    /// Keep it until it is removed by hand
    #[value(name = "MANUAL")]
    Manual,
}

/// What a failed deployment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Go back to the old version
    Rollback,
    /// Pause and wait for a person
    Pause,
    /// End as FAILED
    Fail,
}

/// The name of a value, as the protocol has it: in capitals.
pub fn wire_name(value: Option<impl ValueEnum>) -> String {
    value
        .and_then(|value| value.to_possible_value())
        .map(|value| value.get_name().to_ascii_uppercase())
        .unwrap_or_default()
}

impl What {
    /// The request.
    pub fn message(&self, request_id: String, actor: String) -> v1::StartUpdateRequest {
        v1::StartUpdateRequest {
            artifact_base: self.slice.to_string(),
            version: self.new_version.to_string(),
            instances: self.instances,
            max_error_rate: self.max_error_rate,
            max_latency_ms: self.max_latency_ms,
            manual_approval: self.manual_approval,
            cleanup_policy: wire_name(self.cleanup),
            grace_ms: self.grace.map(|span| span.0),
            deploy_timeout_ms: self.deploy_timeout.map(|span| span.0),
            on_deploy_failure: wire_name(self.on_failure),
            healthy_ms: self.healthy_time.map(|span| span.0),
            preset: PresetName::wire(self.preset),
            min_requests: self.min_requests,
            strategy: self.how.message(),
            supersede: self.how.supersede(),
            config: self.config.clone().unwrap_or_default(),
            restart: self.restart,
            request_id,
            actor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        what: What,
    }

    fn message(options: &str) -> v1::StartUpdateRequest {
        let line = format!("start org.example:my-slice@blue 2.0.0 {options}");
        Line::parse_from(line.split_whitespace()).what.message("id".into(), "me".into())
    }

    #[test]
    fn what_is_not_given_is_left_to_the_server() {
        let expected = v1::StartUpdateRequest {
            artifact_base: "org.example:my-slice@blue".into(),
            version: "2.0.0".into(),
            request_id: "id".into(),
            actor: "me".into(),
            ..Default::default()
        };
        assert_eq!(message(""), expected);
    }

    #[test]
    fn options_arrive_in_the_units_of_the_protocol() {
        let sent = message(
            "-n 3 --error-rate 0.001 --latency-ms 200 --manual-approval --cleanup grace_period \
             --grace 1m --deploy-timeout 2m --on-failure PAUSE --healthy-time 500ms --preset STRICT \
             --min-requests 20",
        );
        assert_eq!(sent.instances, Some(3));
        assert_eq!(sent.max_error_rate, Some(0.001));
        assert_eq!(sent.max_latency_ms, Some(200));
        assert!(sent.manual_approval);
        assert_eq!(sent.cleanup_policy, "GRACE_PERIOD");
        assert_eq!(sent.grace_ms, Some(60_000));
        assert_eq!(sent.deploy_timeout_ms, Some(120_000));
        assert_eq!(sent.on_deploy_failure, "PAUSE");
        assert_eq!(sent.healthy_ms, Some(500));
        assert_eq!((sent.preset.as_str(), sent.min_requests), ("strict", Some(20)));
        assert_eq!(message("--cleanup immediate -i 2").cleanup_policy, "IMMEDIATE");
        let sent = message("--config latest --restart");
        assert_eq!((sent.config.as_str(), sent.restart), ("latest", true));
        assert_eq!(message("--config c3").config, "c3");
        for text in ["0", "newest", "-1", ""] {
            assert!(config(text).is_err(), "{text:?}");
        }
    }
}
