//! Options of an update, as requests have them.

use aether_core::records::{CleanupPolicy, DeadlineAction, OptionChanges, Preset, UpdateOptions};
use aether_proto::v1;

use crate::status::Fields;

/// The options of a start: the defaults, and what the request says.
///
/// Fields whose values make no sense go to `fields`.
pub fn of_start(request: &v1::StartUpdateRequest, fields: &mut Fields) -> UpdateOptions {
    let request = v1::SetOptionsRequest {
        preset: request.preset.clone(),
        max_error_rate: request.max_error_rate,
        max_latency_ms: request.max_latency_ms,
        min_requests: request.min_requests,
        manual_approval: Some(request.manual_approval),
        cleanup_policy: request.cleanup_policy.clone(),
        grace_ms: request.grace_ms,
        deploy_timeout_ms: request.deploy_timeout_ms,
        on_deploy_failure: request.on_deploy_failure.clone(),
        healthy_ms: request.healthy_ms,
        ..Default::default()
    };
    let mut options = UpdateOptions::default();
    of_set(&request, fields).make(&mut options);
    options
}

/// The options that a request changes.
///
/// Fields whose values make no sense go to `fields`.
pub fn of_set(request: &v1::SetOptionsRequest, fields: &mut Fields) -> OptionChanges {
    let preset = match request.preset.as_str() {
        "" => None,
        name => {
            let parsed = name.parse::<Preset>();
            let parsed = parsed.map_err(|problem| format!("'{}' {problem}", short(name)));
            fields.take("preset", parsed).map(|preset| preset.thresholds())
        }
    };
    let rate = request.max_error_rate.map(error_rate_ppm).transpose();
    let rate = fields.take("max_error_rate", rate).flatten();
    let cleanup = cleanup(&request.cleanup_policy);
    let on_deploy_failure = on_failure(&request.on_deploy_failure);
    OptionChanges {
        error_rate_ppm: rate.or(preset.as_ref().map(|preset| preset.error_rate_ppm)),
        p99_ms: request.max_latency_ms.or(preset.as_ref().map(|preset| preset.p99_ms)),
        requests_min: request.min_requests,
        cleanup: fields.take("cleanup_policy", cleanup).flatten(),
        grace_ms: request.grace_ms,
        manual_approval: request.manual_approval,
        deploy_timeout_ms: request.deploy_timeout_ms,
        on_deploy_failure: fields.take("on_deploy_failure", on_deploy_failure).flatten(),
        healthy_ms: request.healthy_ms,
    }
}

fn error_rate_ppm(rate: f64) -> Result<u32, String> {
    if !(0.0..=1.0).contains(&rate) {
        return Err(format!("{rate} is not a share between 0 and 1, such as 0.01"));
    }
    Ok((rate * 1_000_000.0).round() as u32)
}

/// A cleanup policy by name; `None` if the name is empty.
///
/// # Errors
/// There is no such policy.
pub fn cleanup(name: &str) -> Result<Option<CleanupPolicy>, String> {
    match name.to_ascii_uppercase().as_str() {
        "" => Ok(None),
        "IMMEDIATE" => Ok(Some(CleanupPolicy::Immediate)),
        "GRACE_PERIOD" => Ok(Some(CleanupPolicy::GracePeriod)),
        "MANUAL" => Ok(Some(CleanupPolicy::Manual)),
        _ => Err(format!("'{}' is none of IMMEDIATE, GRACE_PERIOD, MANUAL", short(name))),
    }
}

fn on_failure(name: &str) -> Result<Option<DeadlineAction>, String> {
    match name.to_ascii_uppercase().as_str() {
        "" => Ok(None),
        "ROLLBACK" => Ok(Some(DeadlineAction::Rollback)),
        "PAUSE" => Ok(Some(DeadlineAction::Pause)),
        "FAIL" => Ok(Some(DeadlineAction::Fail)),
        _ => Err(format!("'{}' is none of ROLLBACK, PAUSE, FAIL", short(name))),
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
