//! `[placement]` of a manifest: on which nodes instances may run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// On which nodes instances may run, and how they are spread over them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Labels that a node must have, with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub require: BTreeMap<String, String>,
    /// Label whose values are failure domains, such as `zone`: each revision is
    /// spread over them first, then over the nodes. Nodes without it form one
    /// domain of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
}

/// Labels that can be required; each is looked up for each node and placement.
const REQUIRED_MAX: usize = 16;

/// Longest name or value of a label, in bytes.
const LABEL_BYTES_MAX: usize = 100;

impl Placement {
    /// Whether any node will do, which manifests leave out.
    pub fn is_anywhere(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a node with these labels may run instances.
    pub fn suits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.require.iter().all(|(label, value)| labels.get(label) == Some(value))
    }

    /// The labels that a node must have, for a sentence: `disk=ssd, zone=a`.
    pub fn required(&self) -> String {
        let labels = self.require.iter().map(|(label, value)| format!("{label}={value}"));
        labels.collect::<Vec<_>>().join(", ")
    }

    /// The failure domain of a node with these labels.
    pub fn domain<'a>(&self, labels: &'a BTreeMap<String, String>) -> Option<&'a str> {
        labels.get(self.spread.as_ref()?).map(String::as_str)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The sentence that says what cannot work.
    pub fn check(&self) -> Result<(), String> {
        if self.require.len() > REQUIRED_MAX {
            return Err(format!("at most {REQUIRED_MAX} labels can be required"));
        }
        let texts = self.require.iter().flat_map(|(label, value)| [label, value]);
        let is_label = |text: &String| {
            (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        match texts.chain(&self.spread).find(|text| !is_label(text)) {
            None => Ok(()),
            Some(_) => Err(format!(
                "labels and their values are 1 to {LABEL_BYTES_MAX} bytes long, without control \
                 characters"
            )),
        }
    }
}

/// As part of a sentence about nodes: empty, or ` and have disk=ssd`.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.require.is_empty() {
            true => Ok(()),
            false => write!(f, " and have {}", self.required()),
        }
    }
}
