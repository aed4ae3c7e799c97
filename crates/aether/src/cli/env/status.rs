//! `aether env status`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use crate::cli::deploy::slices;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Global, render};

/// Show which set of each slice is active, which is warm, and what it is set to
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether env status                              every slice
  aether env status @prod                        those of one environment
  aether env status org.example:my-slice@prod

A slice whose version is not the one that it is set to waits for 'aether env refresh'.

See also: aether slices, aether update status")]
pub struct Status {
    /// Only this slice, group:artifact[@env], or this environment, @env
    #[arg(value_name = "SLICE|@ENV", value_parser = of)]
    of: Option<Of>,
    /// Answer from the node's own copy, which may be old, without the leader
    #[arg(long)]
    stale: bool,
}

/// Of what the status is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Slice(SliceName),
    Environment(String),
}

fn of(text: &str) -> Result<Of, String> {
    let Some(name) = text.strip_prefix('@') else {
        return text.parse().map(Of::Slice).map_err(|error| format!("{error}"));
    };
    // The rules for names of environments are those of slices.
    let probe: SliceName = format!("a.b:c@{name}").parse().map_err(|error| format!("{error}"))?;
    Ok(Of::Environment(probe.environment().to_owned()))
}

fn is_of(slice: &v1::Slice, environment: &str) -> bool {
    slice.slice.parse::<SliceName>().is_ok_and(|name| name.environment() == environment)
}

impl Status {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let slice = match &self.of {
            Some(Of::Slice(slice)) => slice.to_string(),
            _ => String::new(),
        };
        let message = v1::ListSlicesRequest { slice, stale: self.stale, ..Default::default() };
        let mut response =
            client.read_all(message, async |c, request| slices(c).list(request).await).await?;
        if let Some(Of::Environment(environment)) = &self.of {
            response.slices.retain(|slice| is_of(slice, environment));
            if response.slices.is_empty() {
                let message = format!(
                    "nothing is deployed in the environment '{environment}'; 'aether env status' \
                     lists all slices"
                );
                return Err(Failure::new(Exit::NotFound, message));
            }
        }
        global.output().show(&response, |response| render::env::status(&response.slices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_of_a_slice_or_of_an_environment() {
        assert_eq!(of("@prod").unwrap(), Of::Environment("prod".to_owned()));
        assert_eq!(of("a.b:c").unwrap(), Of::Slice("a.b:c".parse().unwrap()));
        for bad in ["", "@", "@a b", "prod", "a.b:c@"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let slice = |name: &str| v1::Slice { slice: name.to_owned(), ..Default::default() };
        assert!(is_of(&slice("a.b:c@prod"), "prod") && !is_of(&slice("a.b:c"), "prod"));
        assert!(is_of(&slice("a.b:c"), "default"));
    }
}
