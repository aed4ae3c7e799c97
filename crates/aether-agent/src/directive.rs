//! What the control plane wants of this node: its complete desired set at one
//! log index, checked, ordered by its fence, and kept across restarts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use aether_core::coordinates::{Artifact, SliceName};
use aether_core::ids::{Fence, InstanceId};
use aether_core::manifest::Manifest;
use aether_core::records::Desired;
use aether_proto::v1;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::artifact::Digest;
use crate::fsio::{self, Survives};

/// Shortest lease taken from a voter: three reports within it are no burden.
const LEASE_MIN: Duration = Duration::from_millis(100);
/// Longest: whoever says more has not meant it.
const LEASE_MAX: Duration = Duration::from_secs(3_600);

/// One instance that this node is to run, drain or stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub desired: Desired,
    /// What to run, or why that cannot be read. Even then the instance can be
    /// stopped, and its state reported.
    #[serde(deserialize_with = "work_or_why_not")]
    pub work: Result<Arc<Work>, String>,
}

/// What was kept by a newer release and cannot be read by this one costs no more
/// than in a message: the one instance. The agent starts, and looks after the
/// others.
fn work_or_why_not<'de, D: Deserializer<'de>>(
    kept: D,
) -> Result<Result<Arc<Work>, String>, D::Error> {
    let kept = Result::<serde_json::Value, String>::deserialize(kept)?;
    Ok(kept.and_then(|kept| {
        serde_json::from_value(kept)
            .map(Arc::new)
            .map_err(|error| format!("what was kept of it cannot be read: {error}"))
    }))
}

/// What an instance runs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub slice: SliceName,
    pub artifact: Artifact,
    /// sha256 of the archive.
    pub digest: String,
    pub manifest: Manifest,
    /// Client addresses of nodes that hold the archive.
    pub holders: Vec<String>,
}

impl Work {
    /// The digest as a type; checked when the work was read.
    pub fn digest(&self) -> Result<Digest, crate::artifact::DigestError> {
        self.digest.parse()
    }
}

/// The complete desired set of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Directive {
    pub fence: Fence,
    pub lease_ms: u64,
    pub assignments: BTreeMap<InstanceId, Assignment>,
}

impl Directive {
    /// Reads a message. An instance whose id cannot be read makes the whole
    /// set unusable: without it another one might be taken for an orphan.
    pub fn read(message: v1::AgentDown) -> Result<Self, String> {
        let fence =
            Fence { incarnation: message.incarnation, term: message.term, index: message.index };
        let mut assignments = BTreeMap::new();
        for wire in message.assignments {
            let id: InstanceId = wire.instance_id.parse().map_err(|e| format!("{e}"))?;
            let assignment = Assignment { desired: desired(&wire.desired)?, work: work(wire) };
            assignments.insert(id, assignment);
        }
        Ok(Self { fence, lease_ms: message.lease_ms, assignments })
    }

    /// How long the control plane waits for a report before it counts the node
    /// as unreachable. 3 s while it hasn't said.
    pub fn lease(&self) -> Duration {
        match self.lease_ms {
            0 => Duration::from_secs(3),
            ms => Duration::from_millis(ms).clamp(LEASE_MIN, LEASE_MAX),
        }
    }
}

fn desired(text: &str) -> Result<Desired, String> {
    match text {
        "RUN" => Ok(Desired::Run),
        "DRAIN" => Ok(Desired::Drain),
        "STOP" => Ok(Desired::Stop),
        other => Err(format!("desired state '{other}' is none of RUN, DRAIN and STOP")),
    }
}

fn work(wire: v1::Assignment) -> Result<Arc<Work>, String> {
    let manifest: Manifest = serde_json::from_str(&wire.manifest_json)
        .map_err(|error| format!("the manifest cannot be read: {error}"))?;
    manifest.check().map_err(|error| error.to_string())?;
    wire.sha256.parse::<Digest>().map_err(|error| error.to_string())?;
    Ok(Arc::new(Work {
        slice: wire.slice.parse().map_err(|e| format!("{e}"))?,
        artifact: wire.artifact.parse().map_err(|e| format!("{e}"))?,
        digest: wire.sha256,
        manifest,
        holders: wire.holders,
    }))
}

/// The kept directive cannot be read or written.
#[derive(Debug, Error)]
#[error(
    "{path}: {source}; without it the agent could follow a deposed leader. Restore it, or remove it together with the node's instances"
)]
pub struct DirectiveError {
    path: PathBuf,
    source: io::Error,
}

/// What came of a directive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds from now on, and survives a power cut.
    Accepted,
    /// It already held.
    Known,
    /// Refused: this one was accepted before.
    Older(Fence),
}

/// The last accepted directive, on disk before anyone acts on it.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    accepted: Option<Arc<Directive>>,
}

impl Keeper {
    pub fn open(data_dir: &Path) -> Result<Self, DirectiveError> {
        let path = data_dir.join("directive.json");
        let accepted = match fs::read(&path) {
            // Not as an `Option`: that would read a `null` as nothing to run.
            Ok(bytes) => serde_json::from_slice::<Directive>(&bytes)
                .map(|directive| Some(Arc::new(directive)))
                .map_err(|e| DirectiveError { path: path.clone(), source: e.into() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(DirectiveError { path, source }),
        };
        Ok(Self { path, accepted })
    }

    /// The directive that holds; none before the first.
    pub fn accepted(&self) -> Option<&Arc<Directive>> {
        self.accepted.as_ref()
    }

    /// Accepts a directive unless a later one was seen.
    pub fn offer(&mut self, directive: Directive) -> Result<Verdict, DirectiveError> {
        if let Some(accepted) = &self.accepted {
            if directive.fence.is_older_than(&accepted.fence) {
                return Ok(Verdict::Older(accepted.fence));
            }
            if directive == **accepted {
                return Ok(Verdict::Known);
            }
        }
        let cannot = |source| DirectiveError { path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&directive).map_err(|e| cannot(e.into()))?;
        fsio::write_atomic(&self.path, &bytes, Survives::PowerCut).map_err(cannot)?;
        self.accepted = Some(Arc::new(directive));
        Ok(Verdict::Accepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(incarnation: u64, index: u64, ids: &[&str]) -> v1::AgentDown {
        let assignments = ids.iter().map(|id| v1::Assignment {
            instance_id: (*id).to_owned(),
            slice: "org.example:a".to_owned(),
            artifact: "org.example:a:1.0.0".to_owned(),
            sha256: Digest::of(b"").to_string(),
            manifest_json: r#"{"artifact":"org.example:a:1.0.0","run":{"command":["x"]}}"#
                .to_owned(),
            desired: "RUN".to_owned(),
            ..Default::default()
        });
        v1::AgentDown {
            incarnation,
            index,
            assignments: assignments.collect(),
            ..Default::default()
        }
    }

    fn read(incarnation: u64, index: u64, ids: &[&str]) -> Directive {
        Directive::read(message(incarnation, index, ids)).unwrap()
    }

    #[test]
    fn an_older_fence_is_refused_even_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(dir.path()).unwrap();
        assert!(keeper.accepted().is_none());
        assert_eq!(keeper.offer(read(0, 7, &["a"])).unwrap(), Verdict::Accepted);
        let mut keeper = Keeper::open(dir.path()).unwrap();
        assert_eq!(keeper.offer(read(0, 7, &["a"])).unwrap(), Verdict::Known);
        let seen = Fence { incarnation: 0, term: 0, index: 7 };
        assert_eq!(keeper.offer(read(0, 6, &[])).unwrap(), Verdict::Older(seen));
        assert_eq!(keeper.offer(read(1, 1, &["b"])).unwrap(), Verdict::Accepted);
        assert!(matches!(keeper.offer(read(0, 99, &[])).unwrap(), Verdict::Older(_)));
        assert_eq!(**keeper.accepted().unwrap(), read(1, 1, &["b"]));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_set() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["{", "", "null", "[]"] {
            fs::write(dir.path().join("directive.json"), damaged).unwrap();
            assert!(Keeper::open(dir.path()).is_err(), "{damaged}");
        }
    }

    #[test]
    fn what_cannot_be_run_can_still_be_stopped() {
        let mut wire = message(0, 1, &["a"]);
        wire.assignments[0].manifest_json = "{}".to_owned();
        wire.assignments[0].desired = "STOP".to_owned();
        let directive = Directive::read(wire).unwrap();
        let assignment = directive.assignments.values().next().unwrap();
        assert_eq!(assignment.desired, Desired::Stop);
        assert!(assignment.work.is_err());
        assert!(Directive::read(message(0, 1, &["../x"])).is_err());
        let mut wire = message(0, 1, &["a"]);
        wire.assignments[0].desired = "PAUSE".to_owned();
        assert!(Directive::read(wire).is_err());
    }
}
