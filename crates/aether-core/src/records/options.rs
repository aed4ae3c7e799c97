//! What a user may set of an update, at its start and later.

use serde::{Deserialize, Serialize};

use super::DeadlineAction;

/// Bounds on the new version's behaviour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thresholds {
    /// Highest error rate, in millionths.
    pub error_rate_ppm: u32,
    /// Highest p99 latency in milliseconds.
    pub p99_ms: u32,
    /// Fewest requests in the window for a verdict.
    pub requests_min: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Preset::Default.thresholds()
    }
}

/// Thresholds by name, as the guide has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// 1 %, 500 ms: general services.
    Default,
    /// 0.1 %, 200 ms: critical services.
    Strict,
    /// 5 %, 1000 ms: batch processing.
    Relaxed,
}

impl Preset {
    /// All of them, in the order of the guide.
    pub const ALL: [Self; 3] = [Self::Default, Self::Strict, Self::Relaxed];

    /// The name by which it is asked for.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }

    /// Its figures. All of them need a hundred requests: with fewer, a single
    /// error is 1 % and more.
    pub fn thresholds(self) -> Thresholds {
        let (error_rate_ppm, p99_ms) = match self {
            Self::Default => (10_000, 500),
            Self::Strict => (1_000, 200),
            Self::Relaxed => (50_000, 1_000),
        };
        Thresholds { error_rate_ppm, p99_ms, requests_min: 100 }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|preset| preset.as_str().eq_ignore_ascii_case(text));
        named.ok_or_else(|| "must be default, strict or relaxed".to_owned())
    }
}

/// What happens to the old set on completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CleanupPolicy {
    /// Drained and removed before COMPLETED.
    #[default]
    Immediate,
    /// Kept warm for the grace time (5 minutes unless set).
    GracePeriod,
    /// Kept warm until removed by hand.
    Manual,
}

impl std::fmt::Display for CleanupPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Immediate => "IMMEDIATE",
            Self::GracePeriod => "GRACE_PERIOD",
            Self::Manual => "MANUAL",
        })
    }
}

/// What a user may set when starting an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateOptions {
    /// Thresholds of the new version.
    pub thresholds: Thresholds,
    /// What happens to the old set on completion.
    pub cleanup: CleanupPolicy,
    /// How long GRACE_PERIOD keeps the old set.
    pub grace_ms: u64,
    /// Every routing change waits for `approve`.
    pub manual_approval: bool,
    /// How long DEPLOYING may last.
    pub deploy_timeout_ms: u64,
    /// What happens when it lasts longer, or the new version crash-loops.
    pub on_deploy_failure: DeadlineAction,
    /// How long every new instance must have been ready before DEPLOYED.
    pub healthy_ms: u64,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            cleanup: CleanupPolicy::default(),
            grace_ms: 5 * 60_000,
            manual_approval: false,
            deploy_timeout_ms: 5 * 60_000,
            on_deploy_failure: DeadlineAction::Rollback,
            healthy_ms: 1_000,
        }
    }
}

/// New values for some of the options of a live update; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // Each is the field of the same name of `UpdateOptions` or `Thresholds`.
pub struct OptionChanges {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_rate_ppm: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<CleanupPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manual_approval: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_deploy_failure: Option<DeadlineAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_ms: Option<u64>,
}

impl OptionChanges {
    /// Makes the changes, and says which values really changed.
    pub fn make(&self, options: &mut UpdateOptions) -> Vec<String> {
        let mut said = Vec::new();
        let all = &mut said;
        let ms = |ms: u64| format!("{ms} ms");
        let thresholds = &mut options.thresholds;
        set(&mut thresholds.error_rate_ppm, self.error_rate_ppm, all, "error rate", |ppm| {
            format!("{} %", f64::from(ppm) / 10_000.0)
        });
        set(&mut thresholds.p99_ms, self.p99_ms, all, "p99 latency", |p99| ms(p99.into()));
        set(&mut thresholds.requests_min, self.requests_min, all, "least requests", |least| {
            least.to_string()
        });
        set(&mut options.cleanup, self.cleanup, all, "cleanup", |policy| policy.to_string());
        set(&mut options.grace_ms, self.grace_ms, all, "grace time", ms);
        set(&mut options.manual_approval, self.manual_approval, all, "manual approval", |on| {
            if on { "on" } else { "off" }.to_owned()
        });
        set(&mut options.deploy_timeout_ms, self.deploy_timeout_ms, all, "deploy timeout", ms);
        set(&mut options.on_deploy_failure, self.on_deploy_failure, all, "on failure", |action| {
            action.to_string()
        });
        set(&mut options.healthy_ms, self.healthy_ms, all, "healthy time", ms);
        said
    }
}

/// Sets one value if another one is asked for, and says so.
fn set<T: Copy + PartialEq>(
    at: &mut T,
    to: Option<T>,
    said: &mut Vec<String>,
    name: &str,
    show: impl Fn(T) -> String,
) {
    if let Some(to) = to.filter(|to| to != at) {
        said.push(format!("{name} {} (was {})", show(to), show(*at)));
        *at = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::NodeLifecycle;

    #[test]
    fn what_is_said_to_people_has_the_names_of_the_protocol() {
        fn same<T: serde::Serialize + ToString>(all: &[T]) {
            for one in all {
                assert_eq!(serde_json::to_value(one).unwrap(), one.to_string());
            }
        }
        same(&[CleanupPolicy::Immediate, CleanupPolicy::GracePeriod, CleanupPolicy::Manual]);
        use DeadlineAction::{Alert, Fail, Pause, Rollback};
        same(&[Pause, Rollback, Fail, Alert]);
        same(&[NodeLifecycle::Ready, NodeLifecycle::Unreachable, NodeLifecycle::Lost]);
        let changes = OptionChanges {
            cleanup: Some(CleanupPolicy::Manual),
            on_deploy_failure: Some(Pause),
            ..OptionChanges::default()
        };
        let said = changes.make(&mut UpdateOptions {
            cleanup: CleanupPolicy::GracePeriod,
            ..UpdateOptions::default()
        });
        let expected = ["cleanup MANUAL (was GRACE_PERIOD)", "on failure PAUSE (was ROLLBACK)"];
        assert_eq!(said, expected);
    }
}
