//! Metadata that our services put beside a gRPC status.

/// Key of the machine-readable code of a refusal.
pub const CODE_KEY: &str = "aether-code";

/// Key under which a service says that it does not know whether a write was
/// carried out.
pub const OUTCOME_KEY: &str = "aether-outcome";

/// The value of [`OUTCOME_KEY`] for that.
pub const OUTCOME_UNKNOWN: &str = "unknown";
