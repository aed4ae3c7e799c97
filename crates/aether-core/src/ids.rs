//! Identifiers of replicated things. Each is a type of its own, so that a node
//! is never passed where a session is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name or id with a character that it may not hold, empty, or too long.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} '{text}' must be {expected}")]
pub struct IdError {
    /// Which kind of id.
    pub what: &'static str,
    /// What was given, shortened.
    pub text: String,
    /// What it must be.
    pub expected: &'static str,
}

/// Longest name or id, in bytes.
const BYTES_MAX: usize = 64;

/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// What a kind of id may be: which texts, and that in words.
type Form = (fn(&str) -> bool, &'static str);

const NAME: Form = (is_name, "1 to 64 letters, digits, dots, dashes or underscores");
const PATH: Form = (
    is_path,
    "at most 256 bytes: names of 1 to 64 letters, digits, dots, dashes or underscores, with single \
     slashes between them",
);
const BASE36: Form = (is_base36, "1 to 64 lower-case letters or digits");

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    // A leading dot would make "..", a hidden file, or a path out of the tree.
    (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.')
}

/// Names between slashes, so that a path in a URL stays what it is.
fn is_path(text: &str) -> bool {
    text.len() <= PATH_BYTES_MAX && text.split('/').all(is_name)
}

/// Upper case is refused: it would be a second spelling that is found nowhere.
fn is_base36(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

fn check(what: &'static str, (fits, expected): Form, text: &str) -> Result<(), IdError> {
    match fits(text) {
        true => Ok(()),
        false => Err(IdError { what, text: text.chars().take(80).collect(), expected }),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $form:ident) => {
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
                check($what, $form, text)?;
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
    NodeName, "node name", NAME
);
text_id!(
    /// A session of an invoker, an ingress or an agent with the control plane.
    SessionId, "session id", NAME
);
text_id!(
    /// One running copy of a revision: `{artifact}-{index}-{k}`, unique for ever.
    InstanceId, "instance id", NAME
);
text_id!(
    /// An update: `u` and the creating log index in base 36, lower case.
    UpdateId, "update id", BASE36
);
text_id!(
    /// Name of a value under `config/`, such as `shop/limits`.
    ConfigName, "config name", PATH
);

// For look-ups by text.
impl std::borrow::Borrow<str> for ConfigName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

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

/// Number of a revision. It rises within a slice name and is never used twice,
/// also after everything of the slice was removed.
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

/// Number of a configuration. It rises within a slice name and is never used twice,
/// also after everything of the slice was removed; 0 is none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct ConfigNo(pub u32);

impl ConfigNo {
    /// Whether it is that of no configuration.
    pub fn is_none(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for ConfigNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("c{}", self.0))
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
    fn an_update_id_has_one_spelling() {
        for text in ["U1A", "u1A", "u-1", "u.1", "u_1", "", "ü1", &"u".repeat(65)] {
            let refused = text.parse::<UpdateId>().unwrap_err().to_string();
            assert!(refused.ends_with("must be 1 to 64 lower-case letters or digits"), "{refused}");
        }
        for text in ["u1a", "u", "current"] {
            assert_eq!(text.parse::<UpdateId>().unwrap().as_str(), text);
        }
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
