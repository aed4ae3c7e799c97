//! `aether logs`

use aether_core::coordinates::SliceReference;
use aether_core::ids::InstanceId;
use aether_proto::v1;
use clap::Args;

use super::Global;
use super::deploy::slices;
use super::exit::{Failure, Kind};
use super::interrupt::while_read;
use super::output::say;

/// The stream of notes about the reading itself.
const NOTE: &str = "aether";

/// Print the log lines of instances
///
/// Also of instances that are gone, by their id or by their version: a node
/// keeps the logs of the last 32 that it had, of which at most 512 MiB.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether logs org.example:my-slice --follow
  aether logs org.example:my-slice:2.0.0 --tail 20     also when it is gone
  aether logs my-slice-1f-0

See also: aether slices, aether update explain")]
pub struct Logs {
    /// Whose lines: group:artifact[:version][@env] or an instance id
    #[arg(value_name = "TARGET", value_parser = target)]
    target: String,
    /// Go on with new lines as they come, also of instances that start later
    #[arg(long, short)]
    follow: bool,
    /// Last lines per instance and stream [default: 100]
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

/// Checks the form and keeps the text.
fn target(text: &str) -> Result<String, String> {
    let problem = match text.contains(':') {
        true => text.parse::<SliceReference>().err().map(|e| e.to_string()),
        false => text.parse::<InstanceId>().err().map(|e| e.to_string()),
    };
    problem.map_or_else(|| Ok(text.to_owned()), Err)
}

impl Logs {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        while_read(self.print(global)).await
    }

    async fn print(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        // Lines are somebody else's words.
        let output = global.output().painted(false);
        let message = v1::LogsRequest { target: self.target, follow: self.follow, tail: self.tail };
        let mut lines =
            client.open(message, async |c, request| slices(c).logs(request).await).await?;
        loop {
            let next = lines.message();
            let next = match self.follow {
                true => next.await,
                // Lines that exist come at once; silence means a node that hangs.
                false => tokio::time::timeout(client.timeout(), next).await.map_err(|_| {
                    Failure::new(
                        super::exit::Exit::Unreachable,
                        "no more lines came in time; a node may be away: 'aether nodes'",
                    )
                })?,
            };
            let next = next.map_err(|status| Failure::from_status(&status, Kind::Read))?;
            let Some(line) = next else { return Ok(()) };
            if line.stream == NOTE {
                say(&format!("note: {}", line.line));
                continue;
            }
            output
                .show_one_of_many(&line, |line| format!("{} | {}", line.instance_id, line.line))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_of_slices_versions_or_instances() {
        for text in ["a.b:c", "a.b:c:1.0.0@blue", "my-slice-1f-0"] {
            assert!(target(text).is_ok(), "{text}");
        }
        for text in ["", "../x", "a:b:c:d", "a.b:c:one", "a b"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
