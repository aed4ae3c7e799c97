//! How an update goes from the old version to the new one, and where it is on
//! that way.
//!
//! A strategy travels in the command that starts an update and then stands in
//! the update's record, unchanged. What follows from it is decided in
//! `planner/strategy/`, one file each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Bounds, DeadlineAction, Gate, GateState, GateWhen, Recreate, Rolling};
use crate::duration::Millis;
use crate::evidence::WARM_UP_MS;
use crate::weights::Weights;

/// Most steps of a canary. One percent at a time is a hundred.
pub const STEPS_MAX: usize = 100;

/// How an update goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Strategy {
    /// People set every ratio, and complete. With braces: serde reads past unknown
    /// fields of a variant that has none.
    Manual {},
    /// Step by step, each held until it is shown to be healthy.
    Canary(Canary),
    /// The whole new set is verified at 0 %, then one switch takes every call.
    BlueGreen(BlueGreen),
    /// Instances are replaced where they are, batch by batch.
    Rolling(Rolling),
    /// All instances are stopped, then all are started.
    Recreate(Recreate),
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Manual {}
    }
}

impl Strategy {
    /// Whether people set every ratio.
    pub fn is_manual(&self) -> bool {
        *self == Self::Manual {}
    }

    /// The name by which it is asked for.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Manual {} => "MANUAL",
            Self::Canary(_) => "CANARY",
            Self::BlueGreen(_) => "BLUE_GREEN",
            Self::Rolling(_) => "ROLLING",
            Self::Recreate(_) => "RECREATE",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a step is judged, and what follows when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Analysis {
    /// PAUSE or ROLLBACK: what follows when a threshold is exceeded, the
    /// comparison speaks against the new version, or it does not stay up.
    pub on_failure: DeadlineAction,
    /// How long after its hold a step may lack the requests for a verdict; then
    /// the update pauses as `inconclusive`.
    pub patience_ms: u64,
    /// Requests of so long after a change of weights count for nothing: caches
    /// are cold, and some are still of the ratio before.
    pub warm_up_ms: u64,
    /// Who else is asked before a step is entered or left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            on_failure: DeadlineAction::Pause,
            patience_ms: 3_600_000,
            warm_up_ms: WARM_UP_MS,
            gates: Vec::new(),
        }
    }
}

/// Calls move step by step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// In this order, each with at least the share of the one before; the last
    /// is 1:0.
    pub steps: Vec<Step>,
    /// How each is judged.
    pub analysis: Analysis,
    /// The new side has only the instances that the weight needs; otherwise it is
    /// full from the start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scale_with_weight: bool,
    /// Number of the step, from 1, from which there is no way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_from: Option<u32>,
}

/// One switch for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlueGreen {
    /// How long the new set is verified at 0 %: all of it stays ready, all the
    /// time.
    pub verify_ms: u64,
    /// The switch follows by itself then; otherwise a person promotes.
    pub auto_promote: bool,
    /// How long the new version has to be healthy after the switch, until the
    /// update completes.
    pub hold_ms: u64,
    /// How it is judged then.
    pub analysis: Analysis,
    /// There is no way back once switched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_way: bool,
    /// Every session holds new calls until all of them do, and only then the switch
    /// is committed: no call starts at the old version after the first one at the new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub barrier: bool,
}

/// One step: the weights, and what it takes to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// Weights new:old.
    pub weights: Weights,
    /// What it takes to go on.
    pub hold: Hold,
}

/// What it takes to go on from a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Hold {
    /// So much time, and then a healthy verdict over all of the step.
    For {
        /// Milliseconds.
        ms: u64,
    },
    /// As long as it takes for the comparison with the old version to clear the new
    /// one.
    Evidence {
        /// Longest, milliseconds; then the update pauses as `inconclusive`.
        most_ms: u64,
    },
    /// So much time, whatever the calls show. What speaks against the version
    /// fails the step all the same.
    Wait {
        /// Milliseconds.
        ms: u64,
    },
    /// A person promotes.
    Promotion {},
}

/// How long a step may wait for evidence that does not say so: with ten requests a
/// second at the new version this is ten times what a verdict takes of versions that
/// are alike (docs/evidence.md).
pub const EVIDENCE_MS: u64 = 3_600_000;

/// How long a step holds that does not say so: the guide has people monitor for
/// five to ten minutes.
pub const HOLD_MS: u64 = 5 * 60_000;

impl Step {
    /// The guide's recommended progression, each step held for `hold_ms`.
    pub fn recommended(hold_ms: u64) -> Vec<Self> {
        let step = |(new, old)| Self {
            weights: Weights::new(new, old).expect("the guide's ratios are ratios"),
            hold: Hold::For { ms: hold_ms },
        };
        crate::preview::RATIOS.map(step).into()
    }

    /// Steps of `percent` each, up to all of it, each held for `hold_ms`.
    ///
    /// # Errors
    /// `percent` is not 1 to 100.
    pub fn increments(percent: u32, hold_ms: u64) -> Result<Vec<Self>, String> {
        if !(1..=100).contains(&percent) {
            return Err(format!("{percent} % is not 1 to 100"));
        }
        let shares = (1..).map(|n| n * percent).take_while(|share| *share < 100).chain([100]);
        let step = |share: u32| Self {
            weights: Weights::new(share.into(), (100 - share).into()).expect("at most 100:0"),
            hold: Hold::For { ms: hold_ms },
        };
        Ok(shares.map(step).collect())
    }

    /// Reads steps such as `1:19 5m, 1:9 pause, 25%, 1:0`: a ratio new:old or the
    /// new share in percent, then how long it holds, `evidence` (and how long at most)
    /// for until the comparison decides, or `pause` for until a person promotes;
    /// `hold_ms` where nothing is said.
    ///
    /// # Errors
    /// The text is no such list, or has more than [`STEPS_MAX`] steps.
    pub fn list(text: &str, hold_ms: u64) -> Result<Vec<Self>, String> {
        let mut steps = Vec::new();
        for part in text.split(',') {
            if steps.len() == STEPS_MAX {
                return Err(format!("more than {STEPS_MAX} steps"));
            }
            steps.push(Self::one(part.trim(), hold_ms)?);
        }
        Ok(steps)
    }

    fn one(text: &str, hold_ms: u64) -> Result<Self, String> {
        let short = |text: &str| text.chars().take(40).collect::<String>();
        let mut words = text.split_whitespace();
        let Some(share) = words.next() else {
            return Err("a step is empty; write it as '1:9 5m' or '10% pause'".to_owned());
        };
        let weights = match share.strip_suffix('%') {
            Some(percent) => percent
                .parse::<u32>()
                .ok()
                .filter(|percent| (1..=100).contains(percent))
                .and_then(|percent| Weights::new(percent.into(), (100 - percent).into()).ok())
                .ok_or_else(|| format!("'{}' is not 1% to 100%", short(share)))?,
            None => Weights::from_str(share).map_err(|error| error.to_string())?,
        };
        let hold = match words.next() {
            None => Hold::For { ms: hold_ms },
            Some("pause") => Hold::Promotion {},
            Some("evidence") => {
                let most = words.next().map(str::parse::<Millis>).transpose();
                let most = most.map_err(|error| error.to_string())?;
                Hold::Evidence { most_ms: most.map_or(EVIDENCE_MS, |most| most.0) }
            }
            Some(span) => {
                let span = span.parse::<Millis>().map_err(|error| {
                    format!(
                        "{error}, 'evidence' for until the comparison decides, or 'pause' for \
                         until somebody promotes"
                    )
                })?;
                Hold::For { ms: span.0 }
            }
        };
        match words.next() {
            None => Ok(Self { weights, hold }),
            Some(more) => Err(format!(
                "'{}' after '{share}' is too much; steps are separated by commas",
                short(more)
            )),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hold {
            Hold::For { ms } | Hold::Wait { ms } => write!(f, "{} {}", self.weights, Millis(ms)),
            Hold::Evidence { most_ms } => {
                write!(f, "{} evidence {}", self.weights, Millis(most_ms))
            }
            Hold::Promotion {} => write!(f, "{} pause", self.weights),
        }
    }
}

/// Where an update is on the way of its strategy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Number of the step that holds, from 1; 0 before the first.
    pub step: u32,
    /// Log time from which its hold counts: that of its entry, or of the last
    /// resume.
    pub since_ms: u64,
    /// A step that waits for approval, together with its weights; or, where no weights
    /// wait, one that was promoted in place before its instances were there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// How long after the switch of a blue-green update calls to both versions
    /// could begin, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixed_ms: Option<u64>,
    /// What gates have answered since the last step was entered or the update was
    /// resumed: those after this step, and those before the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateState>,
    /// The switch behind a barrier that is `pending` is approved, and waits for sessions
    /// only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// Route revision under which calls were held for the switch; absent where it was
    /// made without a barrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_revision: Option<u64>,
    /// Calls that began at the old version though they were to be held, because the
    /// switch did not reach their session in time. Written down with `mixed_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_calls: Option<u64>,
}

impl Progress {
    /// What a gate has answered for a step.
    pub fn gate(&self, gate: &Gate, step: u32) -> Option<&GateState> {
        let is_of = |s: &&GateState| s.gate == gate.name && s.when == gate.when && s.step == step;
        self.gates.iter().find(is_of)
    }
}

/// The way of an update as steps, whatever its strategy calls them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way<'a> {
    /// What it takes to enter the first step.
    pub before: Hold,
    /// The steps.
    pub steps: Vec<Step>,
    /// How each is judged.
    pub analysis: &'a Analysis,
    /// Whether the instances of the new side follow the weight.
    pub scale_with_weight: bool,
    /// Number of the step from which there is no way back.
    pub one_way_from: Option<u32>,
    /// Instances are replaced where they are, within these bounds.
    pub in_place: Option<Bounds>,
    /// One step stands for all, and gates of any for it.
    pub is_first_deployment: bool,
}

impl Strategy {
    /// New instances that may fail to stay up before the update stops.
    pub fn max_failures(&self) -> u32 {
        match self {
            Self::Rolling(rolling) => rolling.max_failures,
            _ => 0,
        }
    }

    /// Whether the switch waits until every session holds its calls.
    pub fn has_barrier(&self) -> bool {
        matches!(self, Self::BlueGreen(switch) if switch.barrier)
    }

    /// Whether instances stay and read their files again.
    pub fn is_reload(&self) -> bool {
        matches!(self, Self::Rolling(rolling) if rolling.reload)
    }

    /// Whether instances are replaced where they are.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Self::Rolling(_) | Self::Recreate(_))
    }

    /// How steps are judged; none where people set the ratio.
    pub fn analysis(&self) -> Option<&Analysis> {
        match self {
            Self::Manual {} => None,
            Self::Canary(canary) => Some(&canary.analysis),
            Self::BlueGreen(switch) => Some(&switch.analysis),
            Self::Rolling(rolling) => Some(&rolling.analysis),
            Self::Recreate(recreate) => Some(&recreate.analysis),
        }
    }

    /// The way of an update of `wanted` instances by this strategy; none where
    /// people set the ratio. Of a first deployment only the last step is left: there
    /// is nothing beside it that could take calls.
    pub fn way(&self, wanted: u32, is_first_deployment: bool) -> Option<Way<'_>> {
        let mut way = match self {
            Self::Manual {} => return None,
            Self::Canary(canary) => Way {
                before: Hold::For { ms: 0 },
                steps: canary.steps.clone(),
                analysis: &canary.analysis,
                scale_with_weight: canary.scale_with_weight,
                one_way_from: canary.one_way_from,
                in_place: None,
                is_first_deployment,
            },
            Self::BlueGreen(switch) => Way {
                before: match switch.auto_promote {
                    true => Hold::For { ms: switch.verify_ms },
                    false => Hold::Promotion {},
                },
                steps: vec![Step {
                    weights: Weights::ALL_NEW,
                    hold: Hold::For { ms: switch.hold_ms },
                }],
                analysis: &switch.analysis,
                scale_with_weight: false,
                one_way_from: switch.one_way.then_some(1),
                in_place: None,
                is_first_deployment,
            },
            Self::Rolling(rolling) => Way {
                before: Hold::Wait { ms: 0 },
                steps: rolling.steps(wanted),
                analysis: &rolling.analysis,
                scale_with_weight: false,
                one_way_from: rolling.one_way_from,
                in_place: Some(rolling.bounds(wanted)),
                is_first_deployment,
            },
            Self::Recreate(recreate) => Way {
                before: Hold::Wait { ms: 0 },
                steps: vec![Step { weights: Weights::ALL_NEW, hold: Hold::Wait { ms: 0 } }],
                analysis: &recreate.analysis,
                scale_with_weight: false,
                one_way_from: None,
                in_place: Some(Bounds { floor: 0, ceiling: wanted }),
                is_first_deployment,
            },
        };
        if is_first_deployment {
            way.steps.drain(..way.steps.len().saturating_sub(1));
            way.one_way_from = way.one_way_from.map(|_| 1);
        }
        Some(way)
    }
}

impl Way<'_> {
    /// What it takes to go on from this step; from 0, to enter the first.
    pub fn hold(&self, step: u32) -> Hold {
        match step.checked_sub(1) {
            None => self.before,
            Some(at) => self.steps.get(at as usize).map_or(Hold::Promotion {}, |s| s.hold),
        }
    }

    /// The weights of a step, counted from 1.
    pub fn weights(&self, step: u32) -> Option<Weights> {
        Some(self.steps.get(step.checked_sub(1)? as usize)?.weights)
    }

    /// How many of `wanted` instances are new once a step is entered.
    pub fn goal(&self, step: u32, wanted: u32) -> u32 {
        let Some(weights) = self.weights(step) else { return wanted };
        let new = u64::from(weights.new_side()) * u64::from(wanted);
        (new / u64::from(weights.total())) as u32
    }

    /// Gates that stand between a step and the next one, each with the number of
    /// the step that it is asked for: those after the one, then those before the
    /// other. From 0, those before the first; from the last, those before the
    /// completion.
    pub fn gates_beyond(&self, step: u32) -> impl Iterator<Item = (&Gate, u32)> {
        let of = move |when, step: u32| {
            let is_step = (1..=self.last()).contains(&step);
            let is_of = move |gate: &&Gate| {
                let fits = self.is_first_deployment || gate.step.is_none_or(|s| s == step);
                is_step && gate.when == when && fits
            };
            self.analysis.gates.iter().filter(is_of).map(move |gate| (gate, step))
        };
        of(GateWhen::After, step).chain(of(GateWhen::Before, step.saturating_add(1)))
    }

    /// Number of the last step.
    pub fn last(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(steps: &[Step]) -> String {
        steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn steps_are_read_as_people_write_them_and_come_back_from_their_spelling() {
        let text = "1:19 5m, 10% pause,1:3,  50% evidence, 3:1 evidence 2h, 1:0 30s";
        let steps = Step::list(text, 60_000).unwrap();
        assert_eq!(
            said(&steps),
            "1:19 5m, 1:9 pause, 1:3 1m, 1:1 evidence 1h, 3:1 evidence 2h, 1:0 30s"
        );
        assert_eq!(Step::list(&said(&steps), 1).unwrap(), steps);
    }

    #[test]
    fn what_is_no_list_of_steps_is_refused_with_what_is_wrong() {
        let refused = |text: &str| Step::list(text, 1).unwrap_err();
        assert!(refused("").contains("empty"));
        assert!(refused("1:9 5m,,1:0").contains("empty"));
        assert!(refused("1:x").contains("new:old"), "{}", refused("1:x"));
        assert!(refused("0%").contains("1% to 100%"));
        assert!(refused("101%").contains("1% to 100%"));
        assert!(refused("1:9 5").contains("5m"), "{}", refused("1:9 5"));
        assert!(refused("1:9 5m 1:3").contains("commas"));
        assert!(refused(&"1:9,".repeat(STEPS_MAX + 1)).contains("more than"));
    }

    #[test]
    fn increments_end_at_all_of_it() {
        let steps = |percent| said(&Step::increments(percent, 1_000).unwrap());
        assert_eq!(steps(40), "2:3 1s, 4:1 1s, 1:0 1s");
        assert_eq!(steps(100), "1:0 1s");
        assert_eq!(Step::increments(5, 1).unwrap().len(), 20);
        assert!(Step::increments(0, 1).is_err() && Step::increments(101, 1).is_err());
    }

    #[test]
    fn a_first_deployment_has_the_last_step_only() {
        let canary = Strategy::Canary(Canary {
            steps: Step::recommended(HOLD_MS),
            analysis: Analysis::default(),
            scale_with_weight: false,
            one_way_from: Some(3),
        });
        let way = canary.way(4, true).unwrap();
        assert_eq!((way.last(), way.weights(1)), (1, Some(Weights::ALL_NEW)));
        assert_eq!((way.hold(0), way.one_way_from), (Hold::For { ms: 0 }, Some(1)));
        assert_eq!(canary.way(4, false).unwrap().last(), 5);
    }
}
