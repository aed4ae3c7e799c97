//! Errors of the public services, as google.rpc says them (AIP-193).
//!
//! What is for programs stands in the details of a status, and only there: a
//! reason with the figures of the message, and by kind of error the invalid
//! fields, the failed precondition, what does not exist, or when to ask again.
//! This module writes them, and reads what the command line and the gateway
//! need of them.
//!
//! A status travels in HTTP/2 headers, of which gRPC libraries take 8 KiB. So
//! every text has a bound here, and what is longer is cut.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// The domain of every reason.
pub const DOMAIN: &str = "aether";

/// The machine-readable code of an error after which nobody knows whether a
/// change was made.
pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";

/// The machine-readable code of a request that came with no time left, and of
/// which nothing was done.
pub const EXPIRED_DEADLINE: &str = "expired_deadline";

/// When a request that was provably not carried out may be repeated: an
/// election takes about that long.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Longest message, in bytes. In its header each may become three: 3 KiB of
/// the 8.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Longest text within the details, in bytes: names have at most about 200.
const TEXT_BYTES_MAX: usize = 256;
/// Largest details in bytes, with the message once more: 4 KiB in base64, so
/// that 1 KiB of the 8 is left to other headers.
const DETAILS_BYTES_MAX: usize = 3 * 1024;
/// Longest reason that AIP-193 allows.
const REASON_BYTES_MAX: usize = 63;

/// An error in the making.
#[derive(Debug, Clone)]
pub struct Problem {
    code: Code,
    reason: String,
    message: String,
    figures: Vec<(String, String)>,
    fields: Vec<FieldViolation>,
    precondition_of: Option<String>,
    resource: Option<(String, String)>,
    may_retry: bool,
}

impl Problem {
    /// An error with its machine-readable code, such as `capacity_guard`, and
    /// the sentence for people.
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            figures: Vec::new(),
            fields: Vec::new(),
            precondition_of: None,
            resource: None,
            may_retry: false,
        }
    }

    /// Invalid fields of a request, each with what is wrong with it; there must
    /// be one.
    pub fn invalid(fields: Vec<(String, String)>) -> Self {
        let said = fields.iter().map(|(field, problem)| format!("{field}: {problem}"));
        let message = said.collect::<Vec<_>>().join("; ");
        let mut problem = Self::new(Code::InvalidArgument, "invalid_argument", message);
        for (field, what) in fields {
            problem = problem.field(field, what);
        }
        problem
    }

    /// A figure of the message.
    #[must_use]
    pub fn figure(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.figures.push((name.into(), cut(value.into(), TEXT_BYTES_MAX)));
        self
    }

    /// A field of the request that is invalid.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, problem: impl Into<String>) -> Self {
        let field = cut(field.into(), TEXT_BYTES_MAX);
        self.fields.push(FieldViolation::new(field, cut(problem.into(), TEXT_BYTES_MAX)));
        self
    }

    /// The state of this subject does not allow it.
    #[must_use]
    pub fn precondition_of(mut self, subject: impl Into<String>) -> Self {
        self.precondition_of = Some(cut(subject.into(), TEXT_BYTES_MAX));
        self
    }

    /// This thing, of this kind, is what the error is about.
    #[must_use]
    pub fn resource(mut self, kind: impl Into<String>, name: impl Into<String>) -> Self {
        self.resource = Some((kind.into(), cut(name.into(), TEXT_BYTES_MAX)));
        self
    }

    /// It was provably not carried out, and may be repeated.
    #[must_use]
    pub fn may_retry(mut self) -> Self {
        self.may_retry = true;
        self
    }

    /// The error as it travels. Where the details are too large, the last
    /// fields and figures are left out.
    pub fn status(mut self) -> Status {
        self.message = cut(self.message, MESSAGE_BYTES_MAX);
        loop {
            let details = self.details();
            let status = Status::with_error_details(self.code, self.message.as_str(), details);
            let is_smallest = self.fields.len() <= 1 && self.figures.is_empty();
            if status.details().len() <= DETAILS_BYTES_MAX || is_smallest {
                return status;
            }
            if self.fields.len() > 1 {
                self.fields.pop();
            } else {
                self.figures.pop();
            }
        }
    }

    fn details(&self) -> ErrorDetails {
        let mut reason = self.reason.to_ascii_uppercase();
        reason.truncate(REASON_BYTES_MAX);
        let figures = self.figures.iter().cloned().collect::<std::collections::HashMap<_, _>>();
        let mut details = ErrorDetails::with_error_info(&reason, DOMAIN, figures);
        let description = || cut(self.message.clone(), TEXT_BYTES_MAX);
        if !self.fields.is_empty() {
            details.set_bad_request(self.fields.clone());
        }
        if let Some(subject) = &self.precondition_of {
            details.add_precondition_failure_violation(&reason, subject, description());
        }
        if let Some((kind, name)) = &self.resource {
            details.set_resource_info(kind, name, "", description());
        }
        if self.may_retry {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        details
    }
}

/// At most this many bytes of a text, with a mark where it was cut.
fn cut(mut text: String, bytes_max: usize) -> String {
    const MARK: &str = "…";
    if text.len() > bytes_max {
        let mut at = bytes_max - MARK.len();
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push_str(MARK);
    }
    text
}

/// The machine-readable code that a service of ours gave an error.
pub fn code_of(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then(|| info.reason.to_ascii_lowercase())
}

/// Whether a service says that a change may or may not have been made.
pub fn is_outcome_unknown(status: &Status) -> bool {
    code_of(status).as_deref() == Some(OUTCOME_UNKNOWN)
}

/// Whether a service says that a request came too late for anything to be done.
pub fn is_expired(status: &Status) -> bool {
    code_of(status).as_deref() == Some(EXPIRED_DEADLINE)
}

/// The invalid fields that an error names, each with what is wrong with it.
pub fn invalid_fields(status: &Status) -> Vec<(String, String)> {
    let named = status.get_details_bad_request().map(|request| request.field_violations);
    let named = named.unwrap_or_default().into_iter();
    named.map(|violation| (violation.field, violation.description)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_it_is_to_programs() {
        let problem = Problem::new(Code::FailedPrecondition, "capacity_guard", "1 is ready");
        let status = problem.figure("ready", "1").precondition_of("u1").status();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "1 is ready"));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("CAPACITY_GUARD", "aether"));
        assert_eq!(info.metadata["ready"], "1");
        let failure = status.get_details_precondition_failure().unwrap();
        assert_eq!(failure.violations[0].subject, "u1");
        assert_eq!(failure.violations[0].r#type, "CAPACITY_GUARD");
        assert!(status.get_details_retry_info().is_none());
        assert_eq!(code_of(&status).as_deref(), Some("capacity_guard"));
        assert!(!is_outcome_unknown(&status) && !is_expired(&status));

        let status = Problem::new(Code::Unknown, OUTCOME_UNKNOWN, "lost").status();
        assert!(is_outcome_unknown(&status));
        let status = Problem::new(Code::Unavailable, "unavailable", "").may_retry().status();
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(RETRY_AFTER));
        let status = Problem::new(Code::NotFound, "unknown_node", "").resource("node", "w9");
        assert_eq!(status.status().get_details_resource_info().unwrap().resource_name, "w9");
        assert_eq!(code_of(&Status::internal("of another library")), None);
    }

    #[test]
    fn every_invalid_field_is_named() {
        let fields = [("version", "is empty"), ("routing", "is no ratio")];
        let fields = fields.map(|(field, what)| (field.to_owned(), what.to_owned()));
        let status = Problem::invalid(fields.to_vec()).status();
        assert_eq!(status.message(), "version: is empty; routing: is no ratio");
        assert_eq!(invalid_fields(&status), fields);
    }

    /// Of the worst texts: every character becomes nine in headers.
    #[test]
    fn an_error_fits_into_the_headers_of_any_library() {
        const HEADERS_BYTES_MAX: usize = 8 * 1024;
        let long = "é".repeat(100_000);
        let mut problem = Problem::new(Code::NotFound, &"r".repeat(500), long.clone())
            .precondition_of(long.clone())
            .resource("update", long.clone())
            .may_retry();
        for k in 0..50 {
            problem = problem.figure(format!("f{k}"), long.clone()).field("f", long.clone());
        }
        for status in [problem.status(), Problem::new(Code::Internal, "internal", long).status()] {
            let headers = status.clone().into_http::<()>().into_parts().0.headers;
            let bytes: usize = headers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
            assert!(bytes < HEADERS_BYTES_MAX, "{bytes}");
            assert!(status.message().ends_with('…'));
            assert!(code_of(&status).is_some());
        }
    }

    #[test]
    fn what_is_short_enough_is_not_cut() {
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("abcd".into(), 3), "…");
        assert_eq!(cut("ééé".into(), 5), "é…");
    }
}
