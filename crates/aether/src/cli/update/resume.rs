//! `aether update resume`

use clap::Args;

use super::{Which, updates};
use crate::cli::Global;
use crate::cli::exit::Failure;

/// Clear a pause
#[derive(Debug, Args)]
#[command(after_help = "\
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
