//! Hidden `aether shim …`: the parent process of one instance.
//!
//! Not a clap verb: everything after it belongs to the shim, which must run
//! before any thread is started.

use std::ffi::OsString;
use std::process::ExitCode;

/// How it is called.
pub const VERB: &str = "shim";

/// Runs the shim with its own arguments.
pub fn run(args: Vec<OsString>) -> ExitCode {
    aether_agent::shim_main(args)
}
