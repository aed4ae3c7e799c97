//! Reads how an update is to go: `start` with its options.

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::ConfigNo;
use aether_core::records::{
    Analysis, BlueGreen, Canary, CleanupPolicy, ConfigPick, DeadlineAction, Recreate, Rolling,
    Share, Step, Strategy, UpdateOptions,
};

use super::command::span;
use crate::operator;

/// Reads a start. Options of a strategy come after it.
///
/// # Errors
/// The word that makes no sense there.
pub fn start(slice: SliceName, version: &str, options: &[&str]) -> Result<Command, String> {
    let mut wish = Wish::default();
    let mut words = options.iter().copied();
    while let Some(option) = words.next() {
        let known = wish.flag(option)?
            || wish.strategy(option, &mut words)?
            || wish.of_strategy(option, &mut words)?
            || wish.option(option, &mut words)?;
        if !known {
            return Err(format!("there is no option '{option}'"));
        }
    }
    let version = version.parse().map_err(|e| format!("{e}"))?;
    let Wish { instances, supersede, strategy, options, config } = wish;
    let mut command = operator::start(slice, version, instances, options, strategy, supersede);
    match &mut command {
        Command::StartWith { remake, .. } => remake.config = config,
        _ if config.is_some() => return Err("'config' needs a strategy".to_owned()),
        _ => {}
    }
    Ok(command)
}

/// What is read so far.
#[derive(Default)]
struct Wish {
    instances: Option<u32>,
    supersede: bool,
    strategy: Strategy,
    options: UpdateOptions,
    config: Option<ConfigPick>,
}

/// The value of an option.
fn value<'a>(option: &str, words: &mut impl Iterator<Item = &'a str>) -> Result<&'a str, String> {
    words.next().ok_or_else(|| format!("'{option}' needs a value"))
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

impl Wish {
    /// Options that are one word. Whether this is one.
    fn flag(&mut self, option: &str) -> Result<bool, String> {
        match option {
            "supersede" => self.supersede = true,
            "approval" => self.options.manual_approval = true,
            "undo-on-failure" => self.analysis(option)?.on_failure = DeadlineAction::Rollback,
            "grow" => match &mut self.strategy {
                Strategy::Canary(canary) => canary.scale_with_weight = true,
                _ => return Err("'grow' comes after 'canary'".to_owned()),
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn strategy<'a>(
        &mut self,
        option: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<bool, String> {
        self.strategy = match option {
            "canary" => canary(value(option, words)?)?,
            "blue-green" => blue_green(span(value(option, words)?)?),
            "rolling" => rolling(value(option, words)?)?,
            "recreate" => Strategy::Recreate(Recreate { analysis: analysis() }),
            _ => return Ok(false),
        };
        Ok(true)
    }

    /// Options that belong to the strategy before them. Whether this is one.
    fn of_strategy<'a>(
        &mut self,
        option: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<bool, String> {
        let misplaced = || format!("'{option}' does not fit the strategy before it");
        match (option, &mut self.strategy) {
            ("patience", _) => self.analysis(option)?.patience_ms = span(value(option, words)?)?,
            ("one-way", Strategy::Canary(canary)) => {
                canary.one_way_from = Some(number(value(option, words)?)?);
            }
            ("one-way", Strategy::BlueGreen(switch)) => {
                switch.one_way = number::<u32>(value(option, words)?)? == 1;
            }
            ("barrier", Strategy::BlueGreen(switch)) => switch.barrier = true,
            ("reload", Strategy::Rolling(rolling)) => rolling.reload = true,
            ("one-way", Strategy::Rolling(rolling)) => {
                rolling.one_way_from = Some(number(value(option, words)?)?);
            }
            ("unavailable", Strategy::Rolling(rolling)) => {
                rolling.max_unavailable = value(option, words)?.parse()?;
            }
            ("surge", Strategy::Rolling(rolling)) => {
                rolling.max_surge = value(option, words)?.parse()?;
            }
            ("stagger", Strategy::Rolling(rolling)) => {
                rolling.stagger_ms = span(value(option, words)?)?;
            }
            ("hold", Strategy::Rolling(rolling)) => {
                rolling.hold_ms = span(value(option, words)?)?;
            }
            ("hold", Strategy::BlueGreen(switch)) => {
                switch.hold_ms = span(value(option, words)?)?;
            }
            ("one-way" | "unavailable" | "surge" | "stagger" | "hold" | "reload", _) => {
                return Err(misplaced());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options of every update. Whether this is one.
    fn option<'a>(
        &mut self,
        option: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<bool, String> {
        let options = &mut self.options;
        match option {
            "config" => {
                self.config = Some(match value(option, words)? {
                    "latest" => ConfigPick::Latest {},
                    no => ConfigPick::Number { no: ConfigNo(number(no)?) },
                });
            }
            "instances" => self.instances = Some(number(value(option, words)?)?),
            "grace" => options.grace_ms = span(value(option, words)?)?,
            "timeout" => options.deploy_timeout_ms = span(value(option, words)?)?,
            "healthy" => options.healthy_ms = span(value(option, words)?)?,
            "min-requests" => options.thresholds.requests_min = number(value(option, words)?)?,
            "cleanup" => {
                options.cleanup = match value(option, words)? {
                    "immediate" => CleanupPolicy::Immediate,
                    "grace" => CleanupPolicy::GracePeriod,
                    "manual" => CleanupPolicy::Manual,
                    other => return Err(format!("'{other}' is no way to clean up")),
                };
            }
            "on-failure" => {
                options.on_deploy_failure = match value(option, words)? {
                    "rollback" => DeadlineAction::Rollback,
                    "pause" => DeadlineAction::Pause,
                    "fail" => DeadlineAction::Fail,
                    other => return Err(format!("'{other}' is no action")),
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn analysis(&mut self, option: &str) -> Result<&mut Analysis, String> {
        match &mut self.strategy {
            Strategy::Canary(canary) => Ok(&mut canary.analysis),
            Strategy::BlueGreen(switch) => Ok(&mut switch.analysis),
            Strategy::Rolling(rolling) => Ok(&mut rolling.analysis),
            Strategy::Recreate(recreate) => Ok(&mut recreate.analysis),
            Strategy::Manual {} => Err(format!("'{option}' comes after a strategy")),
        }
    }
}

fn analysis() -> Analysis {
    Analysis { warm_up_ms: 1_000, ..Analysis::default() }
}

/// Steps such as `1:9/5s,1:1/pause,1:0/5s`, as the command line has them but for
/// the spaces.
fn canary(steps: &str) -> Result<Strategy, String> {
    let steps = steps.replace(',', ", ").replace('/', " ");
    Ok(Strategy::Canary(Canary {
        steps: Step::list(&steps, 5_000)?,
        analysis: analysis(),
        scale_with_weight: false,
        one_way_from: None,
    }))
}

/// Batches such as `2` or `1,25%`, one instance missing at a time.
fn rolling(batches: &str) -> Result<Strategy, String> {
    Ok(Strategy::Rolling(Rolling {
        max_unavailable: Share::Count { n: 1 },
        max_surge: Share::Count { n: 0 },
        batches: Share::list(batches)?,
        stagger_ms: 0,
        hold_ms: 0,
        analysis: analysis(),
        one_way_from: None,
        max_failures: 0,
        reload: false,
    }))
}

/// Verified for so long and then switched; by a person if it is for no time.
fn blue_green(verify_ms: u64) -> Strategy {
    Strategy::BlueGreen(BlueGreen {
        verify_ms,
        auto_promote: verify_ms > 0,
        hold_ms: 5_000,
        analysis: analysis(),
        one_way: false,
        barrier: false,
    })
}
