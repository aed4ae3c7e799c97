//! `aether update approve`

use clap::Args;

use super::{Which, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Commit the routing change that waits for approval
///
/// With '--manual-approval', a ratio that 'aether update routing' sets waits for
/// this.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update routing current -r 1:3
  aether update approve current            now the ratio changes

See also: aether update routing, aether update status")]
pub struct Approve {
    #[command(flatten)]
    which: Which,
}

impl Approve {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        self.which.change(global, async |c, request| updates(c).approve(request).await).await
    }
}
