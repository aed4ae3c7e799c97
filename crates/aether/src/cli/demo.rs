//! `aether demo`

use clap::Args;

use super::exit::Failure;
use super::output::say;
use crate::demo;

/// Show an update under load from beginning to end, on a cluster of its own
#[derive(Debug, Args)]
#[command(after_help = "\
See also: aether dev")]
pub struct Demo {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Requests per second
    #[arg(long, value_name = "RATE", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Requests over the steps of the first update, at least
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    requests: u64,
    /// Leave the cluster running at the end
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub fn run(self) -> Result<(), Failure> {
        let options = demo::Options { rate: self.rate, requests: self.requests, keep: self.keep };
        let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
        let report = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
            .block_on(demo::run(&options, &say))
            .map_err(failed)?;
        let text = match self.json {
            true => serde_json::to_string(&report).expect("a report has text keys only"),
            false => report.table(),
        };
        super::Output::new(super::Format::Table).text(&format!("{}\n", text.trim_end()))?;
        match report.ok {
            true => Ok(()),
            false => Err(Failure::failed("requests failed or were not split as asked; see above")),
        }
    }
}
