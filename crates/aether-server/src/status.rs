//! gRPC statuses, with the machine-readable code in their metadata.

use std::fmt::Display;

use aether_core::command::{Refusal, RefusalKind};
use aether_proto::metadata::{CODE_KEY, OUTCOME_KEY, OUTCOME_UNKNOWN};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

fn with_code(code: Code, machine_code: &str, message: String) -> Status {
    let mut status = Status::new(code, message);
    if let Ok(value) = MetadataValue::try_from(machine_code) {
        status.metadata_mut().insert(CODE_KEY, value);
    }
    status
}

/// A command was refused.
pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind() {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::State => Code::FailedPrecondition,
        RefusalKind::Precondition => Code::Aborted,
    };
    with_code(code, &refusal.code(), refusal.to_string())
}

/// A field of a request makes no sense.
pub fn invalid(field: &str, problem: impl Display) -> Status {
    with_code(Code::InvalidArgument, "invalid_argument", format!("{field}: {problem}"))
}

/// What was asked for does not exist.
pub fn not_found(code: &str, message: String) -> Status {
    with_code(Code::NotFound, code, message)
}

/// What was asked for is before or after what there is.
pub fn out_of_range(code: &str, message: String) -> Status {
    with_code(Code::OutOfRange, code, message)
}

/// A bound of this node, or of the reader, is reached.
pub fn exhausted(message: String) -> Status {
    with_code(Code::ResourceExhausted, "resource_exhausted", message)
}

/// It was not done, and may be tried again.
pub fn unavailable(problem: impl Display) -> Status {
    let message = format!("{problem}; try again, or look at 'aether status'");
    with_code(Code::Unavailable, "unavailable", message)
}

/// It may or may not have been done.
pub fn unknown(problem: impl Display) -> Status {
    let message = format!("{problem}; look before you try again");
    let mut status = with_code(Code::Unknown, "outcome_unknown", message);
    status.metadata_mut().insert(OUTCOME_KEY, MetadataValue::from_static(OUTCOME_UNKNOWN));
    status
}
