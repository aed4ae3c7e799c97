//! How an update is to go, for `start` and `plan`.

use aether_core::duration::Millis;
use aether_core::records::{Share, Step};
use aether_proto::v1;
use clap::{Args, ValueEnum};

use super::gate::gate;
use super::options::wire_name;

/// How an update is to go. With none of it people set every ratio.
#[derive(Debug, Args)]
#[command(next_help_heading = "Strategy")]
pub struct How {
    /// Go on by itself through the recommended ratios, each held until it is shown to be healthy
    #[arg(long, conflicts_with_all = ["strategy", "steps", "step_percent"])]
    auto: bool,
    /// How calls move to the new version [default: manual, or canary with steps]
    #[arg(long, value_enum, ignore_case = true, value_name = "NAME")]
    strategy: Option<StrategyName>,
    /// Steps of a canary, such as '1:19 5m, 10% pause, 1:1 evidence, 1:0'; at 'pause' it waits for
    /// 'promote', at 'evidence' until the comparison with the old version decides
    #[arg(long, value_name = "STEPS", value_parser = steps)]
    steps: Option<String>,
    /// Steps of so many percent each
    #[arg(long, value_name = "PERCENT", conflicts_with = "steps",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    step_percent: Option<u32>,
    /// How long a step holds at least, or a blue-green switch before completion [default: 5m]
    #[arg(long, value_name = "DURATION")]
    hold: Option<Millis>,
    /// What follows when a threshold is exceeded or the new version does not stay up [default: pause]
    #[arg(long, value_enum, ignore_case = true, value_name = "ACTION")]
    on_step_failure: Option<StepFailure>,
    /// How long after its hold a step may lack the requests for a verdict [default: 1h]
    #[arg(long, value_name = "DURATION")]
    patience: Option<Millis>,
    /// Calls of so long after each change of the ratio count for no verdict of a step [default: 10s]
    #[arg(long, value_name = "DURATION")]
    warm_up: Option<Millis>,
    /// Give the new version only the instances that the ratio needs
    #[arg(long)]
    scale_with_weight: bool,
    /// Refuse a rollback from this step on; the switch of blue-green is step 1
    #[arg(long, value_name = "STEP")]
    one_way_from: Option<u32>,
    /// How long all of the new set has to stay ready before the switch of blue-green [default: 0s]
    #[arg(long, value_name = "DURATION")]
    verify: Option<Millis>,
    /// Switch by itself after that; otherwise the switch of blue-green waits for 'promote'
    #[arg(long)]
    auto_promote: bool,
    /// How the switch of blue-green is made [default: plain]
    #[arg(long, value_enum, ignore_case = true, value_name = "HOW")]
    switch: Option<Switch>,
    /// Most instances that may be missing at any time, while rolling [default: 1, 0 with --max-surge]
    #[arg(long, value_name = "N|%", value_parser = share)]
    max_unavailable: Option<Share>,
    /// Most instances beyond those wanted, while rolling [default: 0]
    #[arg(long, value_name = "N|%", value_parser = share)]
    max_surge: Option<Share>,
    /// Sizes of the batches of rolling such as '1, 5%, 25%'; the last one repeats
    #[arg(long, alias = "batch", value_name = "SIZES", value_parser = batches)]
    batches: Option<String>,
    /// How long a batch of rolling serves before the next one begins [default: 0s]
    #[arg(long, value_name = "DURATION")]
    stagger: Option<Millis>,
    /// New instances that may fail to stay up before rolling stops, after the first batch [default: 0]
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,
    /// While rolling, replace no instance: lay the files of another configuration, and send the
    /// signal that run.reload_signal of the manifest names
    #[arg(long)]
    reload: bool,
    /// Ask somebody outside before each step is entered, or after it held: 'before prometheus URL
    /// "QUERY" "< 0.05"', 'after webhook URL' or 'before command /PROGRAM ARGUMENT'; with 'step 2',
    /// 'every 30s', 'timeout 10s', 'failures 1', 'inconclusive 5' and 'named NAME'. May be repeated
    #[arg(long = "gate", value_name = "GATE", value_parser = gate)]
    gates: Vec<v1::Gate>,
    /// End a live update of the slice in the same step, as rolled back
    #[arg(long)]
    supersede: bool,
}

/// How calls move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// People set every ratio
    Manual,
    /// Step by step, each held until it is shown to be healthy
    Canary,
    /// The whole new set is verified at 0 %, then one switch takes every call
    BlueGreen,
    /// Instances are replaced where they are, batch by batch
    Rolling,
    /// All are stopped, then all are started; nothing serves in between
    Recreate,
}

/// How a switch is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Every session applies it on its own, within milliseconds
    Plain,
    /// Calls are held until every session holds its own, so that there is no overlap
    Barrier,
}

/// What a failed step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StepFailure {
    /// Wait for a person, at the ratio that holds
    Pause,
    /// Go back to the old version
    Rollback,
}

/// Steps that can be read.
fn steps(text: &str) -> Result<String, String> {
    Step::list(text, 0).map(|_| text.to_owned())
}

fn share(text: &str) -> Result<Share, String> {
    text.parse()
}

/// Sizes that can be read.
fn batches(text: &str) -> Result<String, String> {
    Share::list(text).map(|_| text.to_owned())
}

impl How {
    /// Whether a live update is to end.
    pub fn supersede(&self) -> bool {
        self.supersede
    }

    /// The strategy, if any of it is said.
    pub fn message(&self) -> Option<v1::Strategy> {
        let ms = |span: Option<Millis>| span.map(|span| span.0);
        let name = if self.auto { Some(StrategyName::Canary) } else { self.strategy };
        let message = v1::Strategy {
            name: wire_name(name).replace('-', "_"),
            steps: self.steps.clone().unwrap_or_default(),
            step_percent: self.step_percent,
            hold_ms: ms(self.hold),
            on_failure: wire_name(self.on_step_failure),
            patience_ms: ms(self.patience),
            warm_up_ms: ms(self.warm_up),
            scale_with_weight: self.scale_with_weight,
            one_way_from: self.one_way_from,
            verify_ms: ms(self.verify),
            auto_promote: self.auto_promote,
            barrier: self.switch == Some(Switch::Barrier),
            max_unavailable: self
                .max_unavailable
                .map(|share| share.to_string())
                .unwrap_or_default(),
            max_surge: self.max_surge.map(|share| share.to_string()).unwrap_or_default(),
            batches: self.batches.clone().unwrap_or_default(),
            stagger_ms: ms(self.stagger),
            max_failures: self.max_failures,
            reload: self.reload,
            gates: self.gates.clone(),
        };
        (message != v1::Strategy::default()).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        how: How,
    }

    fn message(options: &str) -> Result<Option<v1::Strategy>, String> {
        let words = shlex(options);
        let line = Line::try_parse_from(std::iter::once("start".to_owned()).chain(words));
        line.map(|line| line.how.message()).map_err(|error| error.to_string())
    }

    /// Words, where what stands in quotes is one.
    fn shlex(text: &str) -> Vec<String> {
        let parts = text.split('\'').enumerate();
        let words = parts.flat_map(|(k, part)| match k % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        words.collect()
    }

    #[test]
    fn with_no_word_of_it_people_set_every_ratio() {
        assert_eq!(message("").unwrap(), None);
        assert_eq!(message("--supersede").unwrap(), None);
    }

    #[test]
    fn what_is_said_arrives_in_the_words_of_the_protocol() {
        let auto = message("--auto --hold 30s --on-step-failure ROLLBACK").unwrap().unwrap();
        assert_eq!((auto.name.as_str(), auto.hold_ms), ("CANARY", Some(30_000)));
        assert_eq!(auto.on_failure, "ROLLBACK");
        let steps = message("--steps '1:9 5m, 1:0' --one-way-from 2").unwrap().unwrap();
        assert_eq!((steps.name.as_str(), steps.steps.as_str()), ("", "1:9 5m, 1:0"));
        let switch = message("--strategy blue-green --verify 1m --auto-promote").unwrap().unwrap();
        assert_eq!((switch.name.as_str(), switch.verify_ms), ("BLUE_GREEN", Some(60_000)));
        let barrier = message("--strategy blue-green --switch barrier").unwrap().unwrap();
        assert!(barrier.barrier && !switch.barrier);
        assert!(!message("--strategy blue-green --switch plain").unwrap().unwrap().barrier);
        let line = "--strategy rolling --max-unavailable 25% --batch '1, 10%' --stagger 30s --max-failures 2";
        let rolling = message(line).unwrap().unwrap();
        assert_eq!((rolling.name.as_str(), rolling.max_unavailable.as_str()), ("ROLLING", "25%"));
        assert_eq!((rolling.batches.as_str(), rolling.stagger_ms), ("1, 10%", Some(30_000)));
        assert_eq!((rolling.max_failures, rolling.reload), (Some(2), false));
        let reload = message("--strategy rolling --reload").unwrap().unwrap();
        assert_eq!((reload.name.as_str(), reload.reload), ("ROLLING", true));
    }

    #[test]
    fn what_makes_no_sense_is_refused_here() {
        for (options, says) in [
            ("--steps '1:x'", "new:old"),
            ("--steps '1:9 5'", "5m"),
            ("--step-percent 0", "1..=100"),
            ("--max-surge 101%", "25%"),
            ("--batches '1,,2'", "number of instances"),
            ("--auto --steps '1:0'", "cannot be used with"),
            ("--steps '1:0' --step-percent 5", "cannot be used with"),
        ] {
            let refused = message(options).unwrap_err();
            assert!(refused.contains(says), "{options}: {refused}");
        }
    }
}
