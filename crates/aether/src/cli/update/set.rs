//! `aether update set`

use aether_core::duration::Millis;
use aether_proto::v1;
use clap::Args;

use super::options::{Cleanup, OnFailure, PresetName, wire_name};
use super::{Which, show, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::options::error_rate;

/// Change thresholds and other options of a live update
#[derive(Debug, Args)]
#[command(
    override_usage = "aether update set [OPTIONS] <CHANGE>... <UPDATE-ID>",
    after_help = "\
Examples:
  aether update set current --max-error-rate 0.02
  aether update set u1f --manual-approval --cleanup MANUAL
  aether update set u1f --preset relaxed --if-modified 41

What is not named stays as it is.

See also: aether update status, aether update health"
)]
pub struct Set {
    #[command(flatten)]
    which: Which,
    /// Thresholds by name; --max-error-rate and --max-latency-ms override it
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME")]
    preset: Option<PresetName>,
    /// Maximum error rate, a share from 0 to 1
    #[arg(long, visible_alias = "error-rate", value_name = "RATE", value_parser = error_rate)]
    max_error_rate: Option<f64>,
    /// Maximum p99 latency in milliseconds
    #[arg(long, visible_alias = "latency-ms", value_name = "MS",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_latency_ms: Option<u32>,
    /// Fewest requests in 10 s for the thresholds to be judged
    #[arg(long, value_name = "N")]
    min_requests: Option<u64>,
    /// Whether each routing change waits for approval
    #[arg(long, value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    manual_approval: Option<bool>,
    /// What happens to the old version on completion
    #[arg(long, value_enum, ignore_case = true, value_name = "POLICY")]
    cleanup: Option<Cleanup>,
    /// How long GRACE_PERIOD keeps the old version
    #[arg(long, value_name = "DURATION")]
    grace: Option<Millis>,
    /// How long the new version may take to become healthy, from its start
    #[arg(long, value_name = "DURATION")]
    deploy_timeout: Option<Millis>,
    /// What happens if it does not become healthy
    #[arg(long, value_enum, ignore_case = true, value_name = "ACTION")]
    on_failure: Option<OnFailure>,
    /// How long every new instance must have been ready
    #[arg(long, value_name = "DURATION")]
    healthy_time: Option<Millis>,
    /// Refuse unless the update was last modified at this log index
    #[arg(long, value_name = "INDEX")]
    if_modified: Option<u64>,
}

impl Set {
    fn changes_nothing(&self) -> bool {
        self.preset.is_none()
            && self.max_error_rate.is_none()
            && self.max_latency_ms.is_none()
            && self.min_requests.is_none()
            && self.manual_approval.is_none()
            && self.cleanup.is_none()
            && self.grace.is_none()
            && self.deploy_timeout.is_none()
            && self.on_failure.is_none()
            && self.healthy_time.is_none()
    }

    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        if self.changes_nothing() {
            return Err(Failure::usage(
                "nothing to change was given; give at least one option, such as \
                 '--max-error-rate 0.02' or '--preset relaxed': 'aether update set --help' lists \
                 them",
            ));
        }
        let client = global.client()?;
        let message = v1::SetOptionsRequest {
            update_id: self.which.id(),
            preset: PresetName::wire(self.preset),
            max_error_rate: self.max_error_rate,
            max_latency_ms: self.max_latency_ms,
            min_requests: self.min_requests,
            manual_approval: self.manual_approval,
            cleanup_policy: wire_name(self.cleanup),
            grace_ms: self.grace.map(|span| span.0),
            deploy_timeout_ms: self.deploy_timeout.map(|span| span.0),
            on_deploy_failure: wire_name(self.on_failure),
            healthy_ms: self.healthy_time.map(|span| span.0),
            if_modified: self.if_modified,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let update =
            client.write(message, async |c, request| updates(c).set_options(request).await).await?;
        show(global.output(), &update)
    }
}
