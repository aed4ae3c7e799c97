//! The `aether` binary: the command line client, and the composition root of a
//! node. Domain logic is in the libraries.

mod cli;
mod demo;
mod node;

/// A node makes dozens of small, short-lived objects per request on one thread
/// and drops them on another; the system's allocator took a fifth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os().collect())
}
