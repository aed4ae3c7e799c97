//! How the process ends: exit codes, and errors that have one.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use aether_proto::errors::{code_of, is_expired, is_outcome_unknown};
use tonic::{Code, Status};

use super::output::say;

/// Exit codes; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The request makes no sense.
    Usage = 2,
    /// No node answered; nothing was changed.
    Unreachable = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// The present state does not allow it.
    Refused = 5,
    /// It may or may not have been done.
    Unknown = 6,
    /// A plan has changes, for whoever asked to be told by the exit code.
    Changes = 10,
    /// Ctrl-C, as shells have it: 128 and the number of the signal.
    Interrupted = 130,
}

/// Whether a call may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Read,
    /// May change something.
    Write,
}

/// Why a verb ends early: an exit code and the sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
    /// The code that a node gave it.
    code: Option<String>,
}

impl Failure {
    /// A failure with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), code: None }
    }

    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The request makes no sense.
    pub fn usage(problem: impl Display) -> Self {
        Self::new(Exit::Usage, problem.to_string())
    }

    /// What a node answered. Its message already says what to do next.
    pub fn from_status(status: &Status, kind: Kind) -> Self {
        let message = match status.message() {
            "" => format!("the node answered {:?}", status.code()),
            text => text.to_owned(),
        };
        Self { exit: exit_of(status, kind), message, code: code_of(status) }
    }

    /// Says what failed, and gives the code for `main` to return.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            say(&format!("error: {}", self.message));
        }
        ExitCode::from(self.exit as u8)
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether it is what a node calls so.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Whoever reads our output may stop doing so, as `head` does; that is no
/// failure of ours.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, ""),
            _ => Self::failed(format!("cannot write to stdout: {error}")),
        }
    }
}

/// Whether a node said that it does not know if a write was carried out, or
/// answered in a way that leaves it open.
pub fn leaves_open(status: &Status, kind: Kind) -> bool {
    let silent = matches!(status.code(), Code::DeadlineExceeded | Code::Unknown);
    kind == Kind::Write && (is_outcome_unknown(status) || silent && !is_expired(status))
}

fn exit_of(status: &Status, kind: Kind) -> Exit {
    if leaves_open(status, kind) {
        return Exit::Unknown;
    }
    match status.code() {
        Code::InvalidArgument => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Exit::Refused,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_proto::errors::{EXPIRED_DEADLINE, OUTCOME_UNKNOWN, Problem};

    #[test]
    fn each_grpc_code_has_its_exit_code() {
        use Kind::{Read, Write};
        for (code, read, write) in [
            (Code::InvalidArgument, Exit::Usage, Exit::Usage),
            (Code::NotFound, Exit::NotFound, Exit::NotFound),
            (Code::FailedPrecondition, Exit::Refused, Exit::Refused),
            (Code::AlreadyExists, Exit::Refused, Exit::Refused),
            (Code::Aborted, Exit::Refused, Exit::Refused),
            (Code::Unavailable, Exit::Unreachable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable, Exit::Unknown),
            (Code::Unknown, Exit::Failed, Exit::Unknown),
            (Code::Internal, Exit::Failed, Exit::Failed),
            (Code::Unimplemented, Exit::Failed, Exit::Failed),
            (Code::ResourceExhausted, Exit::Failed, Exit::Failed),
        ] {
            let status = Status::new(code, "text");
            assert_eq!(Failure::from_status(&status, Read).exit(), read, "{code:?}");
            assert_eq!(Failure::from_status(&status, Write).exit(), write, "{code:?}");
        }
    }

    #[test]
    fn a_node_that_does_not_know_the_outcome_is_believed() {
        let moved = |reason| Problem::new(Code::Unavailable, reason, "leadership moved").status();
        let status = moved(OUTCOME_UNKNOWN);
        assert_eq!(Failure::from_status(&status, Kind::Write).exit(), Exit::Unknown);
        assert_eq!(Failure::from_status(&status, Kind::Read).exit(), Exit::Unreachable);
        assert_eq!(
            Failure::from_status(&moved("unavailable"), Kind::Write).exit(),
            Exit::Unreachable
        );
    }

    #[test]
    fn a_request_that_came_too_late_was_not_carried_out() {
        let status = Problem::new(Code::DeadlineExceeded, EXPIRED_DEADLINE, "no time").status();
        assert_eq!(Failure::from_status(&status, Kind::Write).exit(), Exit::Unreachable);
    }

    #[test]
    fn exit_codes_are_the_documented_numbers() {
        let codes = [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::Unreachable,
            Exit::NotFound,
            Exit::Refused,
            Exit::Unknown,
            Exit::Changes,
            Exit::Interrupted,
        ];
        assert_eq!(codes.map(|exit| exit as u8), [0, 1, 2, 3, 4, 5, 6, 10, 130]);
    }

    #[test]
    fn a_closed_pipe_ends_quietly() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.message()), (Exit::Ok, ""));
    }
}
