//! Where an audit record stands, and what it is about: the two things by which
//! records are asked for. The record itself is in `records`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coordinates::{Artifact, SliceName};
use crate::ids::{InstanceId, NodeName, SessionId, UpdateId};

/// Place of a record: the log index that wrote it, and which of that entry's
/// records it is. The same on every voter. Written `index.n`; a plain `index`
/// is its first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct AuditPosition {
    /// Log index. No record has 0: a position with it is before all of them.
    pub index: u64,
    /// Counts the records of one entry from 0.
    pub n: u32,
}

impl AuditPosition {
    /// The `n`-th record of the entry at `index`.
    pub fn new(index: u64, n: u32) -> Self {
        Self { index, n }
    }

    /// The last place that an entry can have: after it comes the next entry.
    pub fn end_of(index: u64) -> Self {
        Self { index, n: u32::MAX }
    }
}

impl fmt::Display for AuditPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.index, self.n))
    }
}

/// A text that is no position, or that asks for no subject there can be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is no {what}; it must be {expected}")]
pub struct AuditError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

impl AuditError {
    fn new(what: &'static str, text: &str, expected: &'static str) -> Self {
        // What was given may be as long as a message allows.
        Self { what, text: text.chars().take(80).collect(), expected }
    }
}

impl FromStr for AuditPosition {
    type Err = AuditError;
    fn from_str(text: &str) -> Result<Self, AuditError> {
        // `parse` of an integer also takes a leading plus.
        fn number<T: FromStr>(digits: &str) -> Option<T> {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        }
        let (index, n) = text.split_once('.').unwrap_or((text, "0"));
        number(index).zip(number(n)).map(|(index, n)| Self { index, n }).ok_or_else(|| {
            AuditError::new("position", text, "a log index, or index.n, such as 120 or 120.1")
        })
    }
}

/// Kinds of things that audit records are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectKind {
    /// An update.
    Update,
    /// A slice.
    Slice,
    /// A node that runs instances.
    Node,
    /// A holder of routing tables.
    Session,
    /// A pushed artifact.
    Artifact,
    /// One running copy.
    Instance,
    /// The cluster as a whole, of which there is one: it has no id.
    Cluster,
}

impl SubjectKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Update,
        Self::Slice,
        Self::Node,
        Self::Session,
        Self::Artifact,
        Self::Instance,
        Self::Cluster,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Slice => "slice",
            Self::Node => "node",
            Self::Session => "session",
            Self::Artifact => "artifact",
            Self::Instance => "instance",
            Self::Cluster => "cluster",
        }
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a record is about, written `kind/id`; `cluster` stands alone.
///
/// Records of earlier versions have a blank where the slash is, and a session
/// its owner behind the id. They are understood, and kept as they were written:
/// a rewritten row would have another hash than on a voter that has not yet
/// rewritten it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

impl Subject {
    fn new(kind: SubjectKind, id: &dyn fmt::Display) -> Self {
        Self(format!("{kind}/{id}"))
    }

    /// An update.
    pub fn update(id: &UpdateId) -> Self {
        Self::new(SubjectKind::Update, id)
    }

    /// A slice.
    pub fn slice(slice: &SliceName) -> Self {
        Self::new(SubjectKind::Slice, slice)
    }

    /// A node.
    pub fn node(node: &NodeName) -> Self {
        Self::new(SubjectKind::Node, node)
    }

    /// A session.
    pub fn session(session: &SessionId) -> Self {
        Self::new(SubjectKind::Session, session)
    }

    /// An artifact.
    pub fn artifact(artifact: &Artifact) -> Self {
        Self::new(SubjectKind::Artifact, artifact)
    }

    /// An instance.
    pub fn instance(id: &InstanceId) -> Self {
        Self::new(SubjectKind::Instance, id)
    }

    /// The cluster as a whole.
    pub fn cluster() -> Self {
        Self(SubjectKind::Cluster.to_string())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Kind and id; no kind for a text of which this version knows none.
    pub fn parts(&self) -> (Option<SubjectKind>, &str) {
        let (kind, id) = self.0.split_once(['/', ' ']).unwrap_or((&self.0, ""));
        let kind = SubjectKind::named(kind);
        match kind.filter(|kind| (*kind == SubjectKind::Cluster) == id.is_empty()) {
            Some(kind) => (Some(kind), id.split(' ').next().unwrap_or_default()),
            None => (None, &self.0),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Which records are asked for: of one subject (`update/u1f`), or of all of a
/// kind (`update`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectFilter {
    kind: SubjectKind,
    id: Option<String>,
}

impl SubjectFilter {
    /// Whether it takes a record about this.
    pub fn takes(&self, subject: &Subject) -> bool {
        let (kind, id) = subject.parts();
        kind == Some(self.kind) && self.id.as_deref().is_none_or(|wanted| wanted == id)
    }
}

impl FromStr for SubjectFilter {
    type Err = AuditError;
    fn from_str(text: &str) -> Result<Self, AuditError> {
        let (kind, id) = match text.split_once('/') {
            Some((kind, id)) => (kind, Some(id)),
            None => (text, None),
        };
        let sensible = id.is_none_or(|id| !id.is_empty());
        let kind = SubjectKind::named(kind).filter(|_| sensible);
        kind.map(|kind| Self { kind, id: id.map(str::to_owned) }).ok_or_else(|| {
            AuditError::new(
                "subject",
                text,
                "a kind or kind/id, with the kinds update, slice, node, session, artifact, \
                 instance and cluster",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_one_order_and_two_spellings() {
        let parse = |text: &str| text.parse::<AuditPosition>();
        assert_eq!(parse("12"), Ok(AuditPosition::new(12, 0)));
        assert_eq!(parse("12.3"), Ok(AuditPosition::new(12, 3)));
        assert_eq!(parse("12.3").unwrap().to_string(), "12.3");
        assert!(AuditPosition::new(9, 7) < AuditPosition::new(10, 0));
        assert!(AuditPosition::new(10, 0) < AuditPosition::new(10, 1));
        for text in [
            "",
            ".",
            "1.",
            ".1",
            "+1",
            "-1",
            "1.+1",
            "1.2.3",
            " 1",
            "1 ",
            "x",
            "18446744073709551616",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let huge = parse(&"9".repeat(10_000)).unwrap_err().to_string();
        assert!(huge.len() < 250, "{huge}");
    }

    #[test]
    fn subjects_of_now_and_before_are_found_by_kind_and_id() {
        let old = |text: &str| Subject(text.to_owned());
        let update = Subject::update(&"u1f".parse().unwrap());
        let slice = Subject::slice(&"a.b:c@blue".parse().unwrap());
        assert_eq!((update.as_str(), slice.as_str()), ("update/u1f", "slice/a.b:c@blue"));
        assert_eq!(update.parts(), (Some(SubjectKind::Update), "u1f"));
        assert_eq!(old("update u1f").parts(), update.parts());
        assert_eq!(
            old("session s1 of caller").parts(),
            (Some(SubjectKind::Session), "s1"),
            "its owner is no part of the id"
        );
        for text in ["instances a, b", "update", "update/", "cluster/x", ""] {
            assert_eq!(old(text).parts(), (None, text));
        }
        assert_eq!(Subject::cluster().parts(), (Some(SubjectKind::Cluster), ""));
        fn takes(filter: &str, subject: &Subject) -> bool {
            filter.parse::<SubjectFilter>().unwrap().takes(subject)
        }
        for subject in [&update, &old("update u1f")] {
            assert!(takes("update/u1f", subject) && takes("update", subject));
            assert!(!takes("update/u1", subject) && !takes("slice", subject));
        }
        assert!(takes("slice/a.b:c@blue", &slice) && !takes("slice/a.b:c", &slice));
        assert!(takes("cluster", &Subject::cluster()) && !takes("node", &Subject::cluster()));
        for text in ["", "/", "update/", "colour/u1", "/u1", "updates", "Update/u1"] {
            assert!(text.parse::<SubjectFilter>().is_err(), "{text:?}");
        }
    }
}
