//! `aether config show`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use crate::cli::deploy::slices;
use crate::cli::exit::Failure;
use crate::cli::output::say_if_old;
use crate::cli::{Global, render};

/// Show a configuration of a slice with its texts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether config show org.example:my-slice
  aether config show org.example:my-slice 3 -o json

See also: aether config push, aether config history, aether update diff")]
pub struct Show {
    /// Whose: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// Its number [default: the latest]
    #[arg(value_name = "N", value_parser = number)]
    number: Option<u32>,
    /// Answer from the node's own copy, without asking the leader
    #[arg(long)]
    stale: bool,
}

/// As it is shown, `c3`, or without the letter.
fn number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('c').unwrap_or(text);
    let number = digits.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "must be the number of a configuration, from 1".to_owned())
}

impl Show {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let (slice, number) = (self.slice.to_string(), self.number.unwrap_or(0));
        let message = v1::GetConfigRequest { slice, number, stale: self.stale };
        let config =
            client.read(message, async |c, request| slices(c).get_config(request).await).await?;
        say_if_old(config.as_of.as_ref());
        global.output().show(&config, render::config::whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_as_it_is_shown() {
        assert_eq!((number("3"), number("c3")), (Ok(3), Ok(3)));
        for text in ["0", "", "c", "-1", "latest"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
