//! The errors of the services: which gRPC code, and which google.rpc details,
//! each kind of refusal has.

use std::fmt::Display;
use std::str::FromStr;

use aether_core::command::{Refusal, RefusalKind};
use aether_proto::errors::{OUTCOME_UNKNOWN, Problem};
use serde_json::{Map, Value};
use tonic::{Code, Status};

/// Code of what the state of disks does not allow, and of the alert about it.
pub const DISK_LOW: &str = "disk_low";

/// What a refusal may be about, the closest first: by the names that fields of
/// refusals have.
const SUBJECTS: [&str; 6] = ["update", "slice", "artifact", "node", "key", "request_id"];

/// A command was refused.
pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind() {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::NotFound => Code::NotFound,
        RefusalKind::State => Code::FailedPrecondition,
        RefusalKind::Precondition => Code::Aborted,
    };
    let reason = refusal.code();
    let figures = figures(refusal);
    let figure = |name: &str| figures.get(name).map(text);
    let message = refusal.to_string();
    let mut problem = Problem::new(code, &reason, message.as_str());
    problem = match refusal.kind() {
        RefusalKind::Invalid => problem.field(field_of(refusal), message),
        RefusalKind::NotFound => {
            let kind = reason.strip_prefix("unknown_").unwrap_or(&reason);
            problem.resource(kind, figure(kind).unwrap_or_default())
        }
        RefusalKind::State | RefusalKind::Precondition => {
            let subject =
                SUBJECTS.iter().find_map(|name| Some(format!("{name} {}", figure(name)?)));
            problem.precondition_of(subject.unwrap_or_else(|| "cluster".to_owned()))
        }
    };
    for (name, value) in &figures {
        problem = problem.figure(name, text(value));
    }
    problem.status()
}

/// The fields of a refusal by name, without its code.
fn figures(refusal: &Refusal) -> Map<String, Value> {
    match serde_json::to_value(refusal) {
        Ok(Value::Object(mut fields)) => {
            fields.remove("code");
            fields
        }
        _ => Map::new(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The field of a request that a refusal of kind `Invalid` is about.
fn field_of(refusal: &Refusal) -> String {
    match refusal {
        Refusal::BadInstances { .. } => "instances".to_owned(),
        // Options have the names that people know them by.
        Refusal::BadOption { what, .. } => match what.as_str() {
            "error rate" => "max_error_rate".to_owned(),
            "min requests" => "min_requests".to_owned(),
            "latency" => "max_latency_ms".to_owned(),
            "grace time" => "grace_ms".to_owned(),
            "deploy timeout" => "deploy_timeout_ms".to_owned(),
            "healthy time" => "healthy_ms".to_owned(),
            "action on deploy failure" => "on_deploy_failure".to_owned(),
            other => other.replace(' ', "_"),
        },
        Refusal::BadManifest { .. } | Refusal::ArtifactMismatch { .. } => "archive".to_owned(),
        _ => "request".to_owned(),
    }
}

/// What a field of a request says.
///
/// # Errors
/// It makes no sense.
pub fn parsed<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|problem: T::Err| invalid(field, problem))
}

/// The same of a field that may be left empty.
///
/// # Errors
/// It makes no sense.
pub fn parsed_if_any<T: FromStr<Err: Display>>(
    field: &str,
    text: &str,
) -> Result<Option<T>, Status> {
    if text.is_empty() { Ok(None) } else { parsed(field, text).map(Some) }
}

/// A field of a request makes no sense.
pub fn invalid(field: &str, problem: impl Display) -> Status {
    Problem::invalid(vec![(field.to_owned(), problem.to_string())]).status()
}

/// What is wrong with the fields of one request, all of which are named in its
/// refusal.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field, if it is valid.
    pub fn take<T, E: Display>(&mut self, field: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|problem| self.refuse(field, problem)).ok()
    }

    /// A field makes no sense.
    pub fn refuse(&mut self, field: &str, problem: impl Display) {
        self.0.push((field.to_owned(), problem.to_string()));
    }

    /// Whether nothing is wrong with any.
    pub fn are_valid(&self) -> bool {
        self.0.is_empty()
    }

    /// Names all that are invalid.
    pub fn refusal(self) -> Status {
        Problem::invalid(self.0).status()
    }
}

/// What was asked for does not exist.
pub fn not_found(code: &str, message: String) -> Status {
    Problem::new(Code::NotFound, code, message).status()
}

/// A thing of this kind and name does not exist.
pub fn no_such(kind: &str, name: &str, message: String) -> Status {
    let problem = Problem::new(Code::NotFound, &format!("unknown_{kind}"), message);
    problem.resource(kind, name).status()
}

/// What was asked for is before or after what there is.
pub fn out_of_range(code: &str, message: String) -> Status {
    Problem::new(Code::OutOfRange, code, message).status()
}

/// A bound of this node, or of the reader, is reached.
pub fn exhausted(message: String) -> Status {
    Problem::new(Code::ResourceExhausted, "resource_exhausted", message).status()
}

/// It was not done, and may be tried again.
pub fn unavailable(problem: impl Display) -> Status {
    let message = format!("{problem}; try again, or look at 'aether status'");
    Problem::new(Code::Unavailable, "unavailable", message).may_retry().status()
}

/// It was not done, for want of space on the disks of voters.
pub fn no_space(problem: impl Display) -> Status {
    let message = format!("{problem}; free some space, and look at 'aether status'");
    Problem::new(Code::Unavailable, DISK_LOW, message).may_retry().status()
}

/// It may or may not have been done.
pub fn unknown(problem: impl Display) -> Status {
    let message = format!("{problem}; look before you try again");
    Problem::new(Code::Unknown, OUTCOME_UNKNOWN, message).status()
}

/// The other side was silent for too long; nothing was done.
pub fn late(problem: impl Display) -> Status {
    Problem::new(Code::DeadlineExceeded, "too_slow", problem.to_string()).status()
}

/// It was given up before it was done, and may be begun anew.
pub fn aborted(problem: impl Display) -> Status {
    Problem::new(Code::Aborted, "aborted", problem.to_string()).status()
}

/// This node, or what it has stored, is at fault.
pub fn internal(problem: impl Display) -> Status {
    let message = format!("{problem}; the node's log may say more");
    Problem::new(Code::Internal, "internal", message).status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_proto::errors::{code_of, invalid_fields};
    use tonic_types::StatusExt;

    #[test]
    fn a_refusal_tells_programs_its_figures_and_its_subject() {
        let status =
            refused(&Refusal::Modified { update: "u1".parse().unwrap(), expected: 3, actual: 7 });
        assert_eq!(status.code(), Code::Aborted);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.metadata["actual"]), ("MODIFIED", "7"));
        let failure = status.get_details_precondition_failure().unwrap();
        assert_eq!(failure.violations[0].subject, "update u1");

        let status = refused(&Refusal::TooMany { what: "nodes".into(), most: 9 });
        let failure = status.get_details_precondition_failure().unwrap();
        assert_eq!(failure.violations[0].subject, "cluster");

        let status = refused(&Refusal::UnknownSlice { slice: "a.b:c@blue".parse().unwrap() });
        let resource = status.get_details_resource_info().unwrap();
        assert_eq!((&*resource.resource_type, &*resource.resource_name), ("slice", "a.b:c@blue"));

        let status = refused(&Refusal::BadInstances { given: 0, most: 9 });
        assert_eq!(invalid_fields(&status)[0].0, "instances");
        assert_eq!(code_of(&status).as_deref(), Some("bad_instances"));
    }

    #[test]
    fn only_what_was_provably_not_done_may_be_repeated() {
        assert!(unavailable("no leader").get_details_retry_info().is_some());
        assert!(no_space("full").get_details_retry_info().is_some());
        for status in [unknown("lost"), internal("broken"), invalid("x", "y")] {
            assert!(status.get_details_retry_info().is_none(), "{status}");
        }
    }

    #[test]
    fn all_invalid_fields_are_refused_at_once() {
        let mut fields = Fields::default();
        assert_eq!(fields.take("a", "1".parse::<u8>()), Some(1));
        assert!(fields.are_valid());
        assert_eq!(fields.take("b", "x".parse::<u8>()), None);
        fields.refuse("c", "is empty");
        let named = invalid_fields(&fields.refusal());
        assert_eq!(named.iter().map(|(field, _)| &**field).collect::<Vec<_>>(), ["b", "c"]);
    }
}
