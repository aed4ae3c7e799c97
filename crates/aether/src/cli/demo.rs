//! `aether demo`

use clap::Args;

use super::exit::Failure;

/// Show an update under load from beginning to end, on a cluster of its own
#[derive(Debug, Args)]
#[allow(dead_code)] // Read by the call site below, which is not written yet.
pub struct Demo {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Requests per second
    #[arg(long, value_name = "RATE", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Leave the cluster running at the end
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        // CALL SITE (lead): run the demonstration here.
        Err(Failure::failed("this build has no demonstration to run"))
    }
}
