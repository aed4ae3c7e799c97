//! `aether completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::Failure;
use super::{Cli, Global};

/// Print a script that completes this command line in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether completions bash > ~/.local/share/bash-completion/completions/aether
  aether completions zsh > ~/.zfunc/_aether
  aether completions fish > ~/.config/fish/completions/aether.fish")]
pub struct Completions {
    /// Of which shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "aether", &mut script);
        global.plain_output().text(&String::from_utf8_lossy(&script))
    }
}
