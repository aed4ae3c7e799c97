//! `aether update resume`

use clap::Args;

use super::{Which, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Clear a pause
///
/// An update pauses when a threshold is exceeded, and where a person has to
/// decide; while it is paused, the new version's share cannot grow.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update explain current            why it is paused
  aether update resume current

See also: aether update explain, aether update rollback")]
pub struct Resume {
    #[command(flatten)]
    which: Which,
}

impl Resume {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        self.which.change(global, async |c, request| updates(c).resume(request).await).await
    }
}
