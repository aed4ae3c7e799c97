//! The example slice as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    aether_example::run(std::env::args_os().skip(1))
}
