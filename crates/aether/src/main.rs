//! The `aether` binary: the command line client, and the composition root of a
//! node. Domain logic is in the libraries.

mod cli;
mod demo;
mod node;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os().collect())
}
