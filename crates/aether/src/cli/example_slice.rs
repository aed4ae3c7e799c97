//! Hidden `aether example-slice …`: a slice for demonstrations and tests.
//!
//! Not a clap verb: everything after it belongs to the slice.

use std::ffi::OsString;
use std::process::ExitCode;

use super::exit::Failure;

/// How it is called.
pub const VERB: &str = "example-slice";

/// Runs the example slice with its own arguments.
pub fn run(_args: Vec<OsString>) -> ExitCode {
    // CALL SITE (lead): aether_example::run(args).
    Failure::failed("this build has no example slice to run").report()
}
