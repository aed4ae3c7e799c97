//! `aether update plan`

use clap::Args;

use super::options::What;
use super::updates;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Global, render};

/// Show what a start would do, without doing it: schedule, capacity, refusals
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update plan org.example:my-slice 2.0.0
  aether update plan org.example:my-slice 2.0.0 -n 3 --detailed-exitcode

See also: aether update start, aether update diff")]
pub struct Plan {
    #[command(flatten)]
    what: What,
    /// Exit with 10 when there is something to do, and 0 only when there is not
    #[arg(long)]
    detailed_exitcode: bool,
}

impl Plan {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = self.what.message(String::new(), client.actor());
        let plan = client.read(message, async |c, request| updates(c).plan(request).await).await?;
        global.output().show(&plan, render::plan::whole)?;
        match &plan.refused {
            // There is nothing to do, which is no failure.
            Some(_) if !plan.has_changes => Ok(()),
            Some(refused) => Err(Failure::new(
                Exit::Refused,
                format!("'aether update start' would be refused: {}", refused.message),
            )),
            None if self.detailed_exitcode => Err(Failure::new(Exit::Changes, "")),
            None => Ok(()),
        }
    }
}
