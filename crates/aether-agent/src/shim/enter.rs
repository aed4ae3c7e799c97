//! The step between shim and slice: a process that enters the control groups
//! and then becomes the slice's program.
//!
//! It is the shim's own binary once more. A process that is moved after its
//! start could have started others or taken memory by then.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// First argument of this use of the hidden subcommand.
pub(super) const ENTER: &str = "--enter";

/// The arguments after [`ENTER`]: where a failure is written, how many groups
/// there are, their entrances, then the program and its arguments.
pub(super) fn arguments(
    failure: &Path,
    entrances: &[PathBuf],
    command: &[String],
) -> Vec<OsString> {
    let mut arguments = vec![failure.into(), entrances.len().to_string().into()];
    arguments.extend(entrances.iter().map(OsString::from));
    arguments.extend(command.iter().map(OsString::from));
    arguments
}

/// Enters and becomes the program; returns only if that failed.
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(failure) = arguments.next() else {
        return ExitCode::from(2);
    };
    let error = become_program(arguments);
    // The shim takes it from there, as the reason why nothing was started.
    let _ = fs::write(failure, error);
    ExitCode::from(127)
}

fn become_program(mut arguments: impl Iterator<Item = OsString>) -> String {
    let count = arguments.next().and_then(|text| text.to_str()?.parse::<usize>().ok());
    let entrances: Vec<_> = arguments.by_ref().take(count.unwrap_or(0)).collect();
    for entrance in &entrances {
        // 0 stands for the process that writes.
        if let Err(error) = fs::write(entrance, "0") {
            return format!("its limits cannot be set: {}: {error}", Path::new(entrance).display());
        }
    }
    let Some(program) = arguments.next() else {
        return "no program is named".to_owned();
    };
    let error: io::Error = Command::new(&program).args(arguments).exec();
    format!("'{}': {error}", Path::new(&program).display())
}
