//! Hidden `aether example-slice …`: a slice for demonstrations and tests.
//!
//! Not a clap verb: everything after it belongs to the slice.

use std::ffi::OsString;
use std::process::ExitCode;

/// How it is called.
pub const VERB: &str = "example-slice";

/// Runs the example slice with its own arguments.
pub fn run(args: Vec<OsString>) -> ExitCode {
    aether_example::run(args)
}
