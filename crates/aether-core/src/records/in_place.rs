//! Strategies that replace instances where they are, batch by batch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Analysis, Hold, Step};
use crate::weights::Weights;

/// Most sizes that a growing batch may have; the last one repeats.
pub const BATCHES_MAX: usize = 20;

/// Most batches that an update may go by: a thousand servers, one after the other.
/// Each is a step, which all who look at the update are told.
pub const GOALS_MAX: usize = 1_000;

/// A number of instances, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum Share {
    /// So many.
    Count {
        /// Instances.
        n: u32,
    },
    /// So many of a hundred.
    Percent {
        /// Percent, 0 to 100.
        n: u32,
    },
}

impl Share {
    /// Of `all` instances, rounded down.
    pub fn down(self, all: u32) -> u32 {
        match self {
            Self::Count { n } => n.min(all),
            Self::Percent { n } => (u64::from(all) * u64::from(n.min(100)) / 100) as u32,
        }
    }

    /// Of `all` instances, rounded up.
    pub fn up(self, all: u32) -> u32 {
        match self {
            Self::Count { n } => n.min(all),
            Self::Percent { n } => (u64::from(all) * u64::from(n.min(100))).div_ceil(100) as u32,
        }
    }

    /// Reads sizes such as `1, 5%, 25%`.
    ///
    /// # Errors
    /// The text is no such list.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(|part| part.trim().parse()).collect()
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse::<u32>().ok();
        let share = match text.strip_suffix('%') {
            Some(percent) => number(percent).filter(|n| *n <= 100).map(|n| Self::Percent { n }),
            None => number(text).map(|n| Self::Count { n }),
        };
        share.ok_or_else(|| {
            let short: String = text.chars().take(40).collect();
            format!("'{short}' is neither a number of instances nor a share such as 25%")
        })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { n } => write!(f, "{n}"),
            Self::Percent { n } => write!(f, "{n}%"),
        }
    }
}

/// Instances are replaced batch by batch, in the room that they had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rolling {
    /// Most instances that may be missing at any time; shares are rounded down.
    pub max_unavailable: Share,
    /// Most instances that may be there beyond those wanted; shares are rounded up.
    pub max_surge: Share,
    /// Sizes of the batches, the last of which repeats; shares are rounded up.
    pub batches: Vec<Share>,
    /// How long a batch serves before the next one begins, whatever is counted.
    pub stagger_ms: u64,
    /// How long each batch has to be shown to be healthy by its calls; not at all if
    /// 0.
    pub hold_ms: u64,
    /// How each batch is judged.
    pub analysis: Analysis,
    /// Number of the batch, from 1, from which there is no way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_from: Option<u32>,
    /// How many new instances may fail to stay up before the update stops. The first
    /// batch has none to lose, and the update ends when all are there. One that fails
    /// is missing: the floor holds all the same, and the last batch takes all calls once
    /// that many new ones are ready.
    #[serde(default, skip_serializing_if = "is_none")]
    pub max_failures: u32,
    /// Instances stay: their processes read the files of the new revision again, at the
    /// signal that the manifest names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reload: bool,
}

fn is_none(failures: &u32) -> bool {
    *failures == 0
}

/// All instances are stopped, then all are started. Nothing serves in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recreate {
    /// How the new version is judged once it serves.
    pub analysis: Analysis,
}

/// How far instances may be from the number that is wanted while they are
/// replaced where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Ready instances of both versions, at least.
    pub floor: u32,
    /// Instances of both versions that exist, at most.
    pub ceiling: u32,
}

impl Rolling {
    /// The bounds with `wanted` instances.
    pub fn bounds(&self, wanted: u32) -> Bounds {
        Bounds {
            floor: wanted - self.max_unavailable.down(wanted),
            ceiling: wanted.saturating_add(self.max_surge.up(wanted)),
        }
    }

    /// How many instances are new after each batch, of `wanted`. No batch is larger
    /// than what may be missing and be there beyond: until it takes calls, the others
    /// have to carry them.
    pub fn goals(&self, wanted: u32) -> Vec<u32> {
        let most = self.max_unavailable.down(wanted) + self.max_surge.up(wanted);
        let mut sizes = self.batches.iter();
        let (mut size, mut done, mut goals) = (1, 0, Vec::new());
        while done < wanted {
            size = sizes.next().map_or(size, |share| share.up(wanted).min(most).max(1));
            done = done.saturating_add(size).min(wanted);
            goals.push(done);
        }
        goals
    }

    /// The batches as steps.
    pub(super) fn steps(&self, wanted: u32) -> Vec<Step> {
        let hold = match self.hold_ms {
            0 => Hold::Wait { ms: self.stagger_ms },
            ms => Hold::For { ms: ms.max(self.stagger_ms) },
        };
        let weights = |goal: u32| {
            let ratio = Weights::new(goal.into(), (wanted - goal).into());
            ratio.unwrap_or(Weights::ALL_NEW)
        };
        self.goals(wanted).into_iter().map(|goal| Step { weights: weights(goal), hold }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rolling(batches: &str, unavailable: &str, surge: &str) -> Rolling {
        Rolling {
            max_unavailable: unavailable.parse().unwrap(),
            max_surge: surge.parse().unwrap(),
            batches: Share::list(batches).unwrap(),
            stagger_ms: 0,
            hold_ms: 0,
            analysis: Analysis::default(),
            one_way_from: None,
            max_failures: 0,
            reload: false,
        }
    }

    #[test]
    fn batches_grow_and_the_last_size_repeats() {
        assert_eq!(rolling("1, 5%, 25%", "10", "0").goals(40), [1, 3, 13, 23, 33, 40]);
        assert_eq!(rolling("2", "1", "1").goals(5), [2, 4, 5]);
        assert_eq!(rolling("100%", "100%", "0").goals(3), [3]);
        assert_eq!(rolling("1, 9", "1", "1").goals(5), [1, 3, 5], "no more than the bounds allow");
        assert_eq!(rolling("0", "1", "0").goals(2), [1, 2], "a batch has one at least");
    }

    #[test]
    fn what_may_be_missing_is_rounded_down_and_what_may_be_more_up() {
        let bounds = rolling("1", "25%", "25%").bounds(7);
        assert_eq!((bounds.floor, bounds.ceiling), (6, 9));
        let bounds = rolling("1", "99", "0").bounds(3);
        assert_eq!((bounds.floor, bounds.ceiling), (0, 3));
    }

    #[test]
    fn shares_are_read_as_people_write_them() {
        assert_eq!("25%".parse::<Share>().unwrap().to_string(), "25%");
        assert_eq!("3".parse::<Share>().unwrap().to_string(), "3");
        for bad in ["", "%", "101%", "-1", "1.5", "4294967296"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
