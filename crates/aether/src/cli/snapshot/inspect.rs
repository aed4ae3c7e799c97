//! `aether snapshot inspect`

use std::path::PathBuf;

use clap::Args;

use super::{ARCHIVES, content};
use crate::cli::Global;
use crate::cli::exit::Failure;
use crate::cli::output::say;

/// Verify a backup and print what it holds, without any cluster
///
/// All of the file is read: its checksum, its structure and every record. What
/// is wrong is told with its place in the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether snapshot inspect backup.snap
  aether snapshot inspect backup.snap -o json

See also: aether snapshot save, aether snapshot restore")]
pub struct Inspect {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        // To look at it is no use of it.
        let (_, _, found) = content::read(&self.file, u32::MAX)?;
        global.plain_output().show(&found, content::shown)?;
        say(&format!("note: {ARCHIVES}"));
        Ok(())
    }
}
