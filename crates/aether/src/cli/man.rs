//! `aether man`

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::exit::Failure;
use super::output::say;
use super::{Cli, Global};

/// Print the manual page aether(1), or write a page for each verb
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether man | man -l -
  aether man --dir ~/.local/share/man/man1")]
pub struct Man {
    /// Write aether.1, aether-update.1, aether-update-start.1 and so on there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let Some(dir) = self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .map_err(|error| Failure::failed(format!("cannot make the page: {error}")))?;
            return global.plain_output().text(&String::from_utf8_lossy(&page));
        };
        let written =
            fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
        written.map_err(|error| {
            Failure::failed(format!("cannot write pages to {}: {error}", dir.display()))
        })?;
        say(&format!("wrote the manual pages to {}", dir.display()));
        Ok(())
    }
}
