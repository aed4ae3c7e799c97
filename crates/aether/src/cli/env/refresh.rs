//! `aether env refresh`

use aether_core::coordinates::SliceName;
use aether_core::duration::Millis;
use aether_core::records::UpdateState;
use aether_proto::v1;
use clap::{Args, ValueEnum};

use super::deployed;
use crate::cli::Global;
use crate::cli::exit::{Exit, Failure};
use crate::cli::follow::Verdict;
use crate::cli::options::Wait;
use crate::cli::output::say;
use crate::cli::update::{show_after, updates};

/// Bring a slice to the version that it is set to
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether env refresh org.example:my-slice@prod --wait
  aether env refresh org.example:my-slice@prod --verify 1m --hold 5m
  aether env refresh org.example:my-slice@prod --strategy rolling --min-healthy-percent 90

With blue-green the other set is started at full size and verified, one switch moves every
call, and the old set is kept warm for 'aether env rollback'. It is an update like any
other: 'aether update' shows and steers it.

See also: aether env set-current, aether update start")]
pub struct Refresh {
    /// Which slice: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: SliceName,
    /// How calls move
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME", default_value = "blue-green")]
    strategy: By,
    /// Share of the instances that stays ready all the time, while rolling [default: 75]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    min_healthy_percent: Option<u32>,
    /// How long all of the new set has to stay ready before the switch [default: 0s]
    #[arg(long, value_name = "DURATION")]
    verify: Option<Millis>,
    /// How long the new version has to be healthy before the update completes [default: 0s]
    #[arg(long, value_name = "DURATION")]
    hold: Option<Millis>,
    /// How long the old set is kept warm after that, with blue-green [default: 5m]
    #[arg(long, value_name = "DURATION")]
    keep: Option<Millis>,
    #[command(flatten)]
    wait: Wait,
}

/// Strategies of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The other set at full size, verified, and one switch
    BlueGreen,
    /// Instances are replaced where they are
    Rolling,
}

/// As the guide of instance refreshes has it.
const MIN_HEALTHY_PERCENT: u32 = 75;

impl Refresh {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let strategy = self.strategy()?;
        let client = global.client()?;
        let slice = deployed(&client, &self.slice).await?;
        let Some(version) = slice.set_version.clone() else {
            let message = format!(
                "{} is set to no version; 'aether env set-current {} VERSION' first",
                self.slice, self.slice
            );
            return Err(Failure::new(Exit::Refused, message));
        };
        if slice.live_update.is_none() && slice.version.as_ref() == Some(&version) {
            say(&format!("nothing to refresh: {} has version {version} already", self.slice));
            return Ok(());
        }
        let is_rolling = self.strategy == By::Rolling;
        let message = v1::StartUpdateRequest {
            artifact_base: self.slice.to_string(),
            version,
            cleanup_policy: if is_rolling { "IMMEDIATE" } else { "GRACE_PERIOD" }.to_owned(),
            grace_ms: self.keep.map(|span| span.0),
            strategy: Some(strategy),
            request_id: client.request_id(),
            actor: client.actor(),
            ..Default::default()
        };
        let update =
            client.write(message, async |c, request| updates(c).start(request).await).await?;
        show_after(global, &client, update, &self.wait, judge).await
    }

    fn strategy(&self) -> Result<v1::Strategy, Failure> {
        let refuse = |option: &str, strategy: &str| {
            let message = format!("{option} is for --strategy {strategy}");
            Err(Failure::new(Exit::Usage, message))
        };
        let ms = |span: Option<Millis>| span.map(|span| span.0);
        match self.strategy {
            By::BlueGreen if self.min_healthy_percent.is_some() => {
                refuse("--min-healthy-percent", "rolling")
            }
            By::BlueGreen => Ok(v1::Strategy {
                name: "BLUE_GREEN".to_owned(),
                auto_promote: true,
                verify_ms: ms(self.verify),
                hold_ms: Some(self.hold.map_or(0, |span| span.0)),
                ..Default::default()
            }),
            By::Rolling if self.verify.is_some() => refuse("--verify", "blue-green"),
            By::Rolling if self.keep.is_some() => refuse("--keep", "blue-green"),
            By::Rolling => {
                let healthy = self.min_healthy_percent.unwrap_or(MIN_HEALTHY_PERCENT);
                let all_the_time = healthy == 100;
                Ok(v1::Strategy {
                    name: "ROLLING".to_owned(),
                    max_unavailable: format!("{}%", 100 - healthy),
                    // Where none may be missing, one more has to come first.
                    max_surge: if all_the_time { "1" } else { "" }.to_owned(),
                    hold_ms: ms(self.hold),
                    ..Default::default()
                })
            }
        }
    }
}

/// What a refresh waits for.
fn judge(state: UpdateState) -> Verdict {
    match state {
        UpdateState::Completed => Verdict::Done,
        state if state.is_terminal() => Verdict::Missed,
        UpdateState::RollingBack => Verdict::Missed,
        _ => Verdict::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        refresh: Refresh,
    }

    fn strategy(options: &str) -> Result<v1::Strategy, String> {
        let words = ["refresh", "a.b:c@prod"].into_iter().chain(options.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.refresh.strategy().map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn a_refresh_is_blue_green_or_rolling_by_its_floor() {
        let switch = strategy("--verify 1m").unwrap();
        assert_eq!((switch.name.as_str(), switch.verify_ms), ("BLUE_GREEN", Some(60_000)));
        assert!(switch.auto_promote && switch.hold_ms == Some(0));
        let rolling = strategy("--strategy rolling").unwrap();
        assert_eq!((rolling.name.as_str(), rolling.max_unavailable.as_str()), ("ROLLING", "25%"));
        assert_eq!(rolling.max_surge, "");
        let whole = strategy("--strategy rolling --min-healthy-percent 100").unwrap();
        assert_eq!((whole.max_unavailable.as_str(), whole.max_surge.as_str()), ("0%", "1"));
    }

    #[test]
    fn what_the_other_strategy_takes_is_refused() {
        for (options, says) in [
            ("--min-healthy-percent 90", "--strategy rolling"),
            ("--strategy rolling --verify 1s", "--strategy blue-green"),
            ("--strategy rolling --keep 1s", "--strategy blue-green"),
            ("--strategy rolling --min-healthy-percent 101", "0..=100"),
        ] {
            let refused = strategy(options).unwrap_err();
            assert!(refused.contains(says), "{options}: {refused}");
        }
    }
}
