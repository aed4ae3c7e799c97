//! Identifiers of replicated things. Each is a type of its own, so that a node
//! is never passed where a session is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name or id that holds characters outside `[A-Za-z0-9._-]`, is empty, or
/// is longer than 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} '{text}' must be 1 to 64 letters, digits, dots, dashes or underscores")]
pub struct IdError {
    /// Which kind of id.
    pub what: &'static str,
    /// What was given, shortened.
    pub text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
    // A leading dot would make "..", a hidden file, or a path out of the tree.
    if fits && !text.starts_with('.') {
        return Ok(());
    }
    Err(IdError { what, text: text.chars().take(80).collect() })
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);
        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check($what, text)?;
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

text_id!(
    /// A node, by the name its configuration gives it.
    NodeName, "node name"
);
text_id!(
    /// A session of an invoker, an ingress or an agent with the control plane.
    SessionId, "session id"
);
text_id!(
    /// One running copy of a revision: `{artifact}-{index}-{k}`, unique for ever.
    InstanceId, "instance id"
);
text_id!(
    /// An update: `u` and the creating log index in base 36.
    UpdateId, "update id"
);

impl UpdateId {
    /// The id of the update that the entry at `index` creates.
    pub fn from_index(index: u64) -> Self {
        Self(format!("u{}", base36(index)).into())
    }
}

impl InstanceId {
    /// Orders before every id; not a valid one. For range look-ups.
    pub(crate) fn lowest() -> Self {
        Self("".into())
    }

    /// The id of the `k`-th instance that the entry at `index` creates.
    /// The artifact's name is cut so that the id stays a valid file name.
    pub fn from_index(artifact: &str, index: u64, k: usize) -> Self {
        let name: String = artifact.chars().take(40).collect();
        Self(format!("{}-{}-{k}", name.trim_end_matches('-'), base36(index)).into())
    }
}

/// `n` in base 36, lower case.
pub fn base36(n: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut n = n;
    let mut text = Vec::new();
    loop {
        text.push(char::from(DIGITS[(n % 36) as usize]));
        n /= 36;
        if n == 0 {
            break;
        }
    }
    text.iter().rev().collect()
}

/// Number of a revision, counted from 1 per slice name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct RevisionNo(pub u32);

impl fmt::Display for RevisionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// Orders the actions of successive leaders. Whoever has seen one refuses any
/// lower one; the order is incarnation, then index. The term is for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Rises when a cluster is restored from a backup.
    pub incarnation: u64,
    /// Raft term of the entry.
    pub term: u64,
    /// Log index of the entry.
    pub index: u64,
}

impl Fence {
    /// Whether an action under `self` must be refused by one who saw `seen`.
    pub fn is_older_than(&self, seen: &Self) -> bool {
        (self.incarnation, self.index) < (seen.incarnation, seen.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_ids_are_base36_of_the_index() {
        assert_eq!(UpdateId::from_index(0).as_str(), "u0");
        assert_eq!(UpdateId::from_index(35).as_str(), "uz");
        assert_eq!(UpdateId::from_index(36).as_str(), "u10");
        assert_eq!(UpdateId::from_index(u64::MAX).as_str(), "u3w5e11264sgsf");
    }

    #[test]
    fn ids_that_could_leave_a_directory_are_refused() {
        for text in ["", "..", "a/b", ".x", "a\0", "é", &"x".repeat(65)] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?}");
        }
        assert!("node-1.rack_2".parse::<NodeName>().is_ok());
    }

    #[test]
    fn fences_order_by_incarnation_then_index() {
        let fence = |incarnation, term, index| Fence { incarnation, term, index };
        assert!(fence(0, 1, 5).is_older_than(&fence(0, 1, 6)));
        assert!(fence(0, 9, 900).is_older_than(&fence(1, 1, 1)));
        assert!(!fence(0, 1, 6).is_older_than(&fence(0, 1, 6)));
    }
}
