//! `aether update diff`

use aether_core::coordinates::SliceName;
use aether_core::ids::UpdateId;
use aether_proto::v1;
use clap::Args;

use super::updates;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Show how two revisions of a slice differ
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether update diff current                     what the live update changes
  aether update diff org.example:my-slice 3      what serves, compared with revision 3
  aether update diff org.example:my-slice 3 5

See also: aether update plan, aether update history")]
pub struct Diff {
    /// An update, whose old and new revision are compared; or a slice, group:artifact[@env]
    #[arg(value_name = "UPDATE-ID|SLICE", value_parser = subject)]
    subject: Subject,
    /// Revision of the slice to compare with, by number; a slice needs it
    #[arg(value_name = "FROM")]
    from: Option<u32>,
    /// Revision of the slice that is compared, by number [default: the one that serves]
    #[arg(value_name = "TO")]
    to: Option<u32>,
}

#[derive(Debug, Clone)]
enum Subject {
    Update(UpdateId),
    Slice(SliceName),
}

fn subject(text: &str) -> Result<Subject, String> {
    // Only coordinates have a colon.
    match text.contains(':') {
        true => text.parse().map(Subject::Slice).map_err(|e| e.to_string()),
        false => text.parse().map(Subject::Update).map_err(|e| e.to_string()),
    }
}

impl Diff {
    fn message(&self) -> Result<v1::DiffRequest, Failure> {
        let (from, to) = (self.from, self.to);
        match &self.subject {
            Subject::Update(_) if from.is_some() => Err(Failure::usage(
                "an update has its two revisions; name a slice to compare others",
            )),
            Subject::Update(id) => {
                Ok(v1::DiffRequest { update_id: id.to_string(), ..Default::default() })
            }
            Subject::Slice(_) if from.is_none() => {
                Err(Failure::usage("name the revision of the slice to compare with, by number"))
            }
            Subject::Slice(slice) => Ok(v1::DiffRequest {
                slice: slice.to_string(),
                from_revision: from.unwrap_or(0),
                to_revision: to.unwrap_or(0),
                ..Default::default()
            }),
        }
    }

    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let message = self.message()?;
        let client = global.client()?;
        let diff = client.read(message, async |c, request| updates(c).diff(request).await).await?;
        say_if_old(diff.as_of.as_ref());
        global.output().show(&diff, render::plan::diff)
    }
}
