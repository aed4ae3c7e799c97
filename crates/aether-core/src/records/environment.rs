//! What people who keep an environment say of it apart from updates: which version
//! it is to have, and by which colour each set of instances goes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::coordinates::Version;

/// The colour of a set of instances. A set begins with the one that the version that
/// serves does not have, so that of two sets that run each has its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Colour {
    /// What is deployed first.
    #[default]
    Blue,
    /// What replaces it.
    Green,
}

impl Colour {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    pub(crate) fn is_blue(&self) -> bool {
        *self == Self::Blue
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blue => "BLUE",
            Self::Green => "GREEN",
        })
    }
}

/// The version that a slice is to have, and who said so. Nothing follows from it until
/// somebody refreshes the slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetVersion {
    /// Which.
    pub version: Version,
    /// Who said so.
    pub actor: String,
    /// When, by the wall clock of the leader, milliseconds.
    pub wall_ms: u64,
}
