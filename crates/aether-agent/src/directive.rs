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
use aether_core::records::{Configuration, Desired};
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
    /// Which reload it names, where what to run cannot be read; 0 for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unread_reload: u64,
}

impl Assignment {
    /// Names this reload, whether or not what to run can be read.
    pub fn new(desired: Desired, work: Result<Arc<Work>, String>, reload: u64) -> Self {
        let unread_reload = if work.is_err() { reload } else { 0 };
        Self { desired, work, unread_reload }
    }

    /// Which reload brings a running process to it; 0 for none.
    pub fn reload(&self) -> u64 {
        self.work.as_ref().map_or(self.unread_reload, |work| work.reload)
    }
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
    /// Digest of what is laid over the artifact, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// What that is. Kept once for all instances, in the directive.
    #[serde(skip)]
    pub config: Option<Arc<Configuration>>,
    /// Which reload brought a running process here; 0 for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub reload: u64,
}

/// Whether a number of a reload is that of none.
pub(crate) fn is_none(reload: &u64) -> bool {
    *reload == 0
}

impl Work {
    /// The digest as a type; checked when the work was read.
    pub fn digest(&self) -> Result<Digest, crate::artifact::DigestError> {
        self.digest.parse()
    }

    fn take_config(&mut self, configs: &Configs) -> Result<(), String> {
        let Some(digest) = &self.config_digest else { return Ok(()) };
        let config = configs.get(digest).ok_or("its configuration was not sent with it")?;
        self.config = Some(Arc::clone(config));
        Ok(())
    }
}

/// The complete desired set of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Directive {
    pub fence: Fence,
    pub lease_ms: u64,
    pub assignments: BTreeMap<InstanceId, Assignment>,
    /// What is laid over artifacts, by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: Configs,
}

type Configs = BTreeMap<String, Arc<Configuration>>;

impl Directive {
    /// Reads a message. An instance whose id cannot be read makes the whole
    /// set unusable: without it another one might be taken for an orphan.
    pub fn read(message: v1::AgentDown) -> Result<Self, String> {
        let fence =
            Fence { incarnation: message.incarnation, term: message.term, index: message.index };
        let configs = message.configs.into_iter().filter_map(config).collect();
        let mut assignments = BTreeMap::new();
        for wire in message.assignments {
            let id: InstanceId = wire.instance_id.parse().map_err(|e| format!("{e}"))?;
            let desired = desired(&wire.desired)?;
            let reload = wire.reload;
            let work = work(wire, &configs).map(Arc::new);
            assignments.insert(id, Assignment::new(desired, work, reload));
        }
        Ok(Self { fence, lease_ms: message.lease_ms, assignments, configs })
    }

    /// Gives each instance what is laid over its artifact, after what was kept was
    /// read.
    fn give_configs(&mut self) {
        for assignment in self.assignments.values_mut() {
            let Ok(work) = &mut assignment.work else { continue };
            // Nobody else has it yet.
            let given = Arc::get_mut(work).map_or(Ok(()), |work| work.take_config(&self.configs));
            if let Err(problem) = given {
                assignment.unread_reload = work.reload;
                assignment.work = Err(problem);
            }
        }
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

/// A configuration with its digest; none for one that is not what its digest says, or
/// that this node would not write.
fn config(wire: v1::InstanceConfig) -> Option<(String, Arc<Configuration>)> {
    let files = wire.files.into_iter().map(|(path, text)| (path, text.into()));
    let config = Configuration { files: files.collect(), env: wire.env.into_iter().collect() };
    let is_sound = config.check().is_ok() && config.digest() == wire.sha256;
    is_sound.then(|| (wire.sha256, Arc::new(config)))
}

fn work(wire: v1::Assignment, configs: &Configs) -> Result<Work, String> {
    let manifest: Manifest = serde_json::from_str(&wire.manifest_json)
        .map_err(|error| format!("the manifest cannot be read: {error}"))?;
    manifest.check().map_err(|error| error.to_string())?;
    wire.sha256.parse::<Digest>().map_err(|error| error.to_string())?;
    let mut work = Work {
        slice: wire.slice.parse().map_err(|e| format!("{e}"))?,
        artifact: wire.artifact.parse().map_err(|e| format!("{e}"))?,
        digest: wire.sha256,
        manifest,
        holders: wire.holders,
        config_digest: Some(wire.config_sha256).filter(|digest| !digest.is_empty()),
        reload: wire.reload,
        config: None,
    };
    work.take_config(configs)?;
    Ok(work)
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
                .map(|mut directive| {
                    directive.give_configs();
                    Some(Arc::new(directive))
                })
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
    fn a_configuration_is_given_to_all_that_name_it_and_must_be_what_it_says() {
        let files = [("a".to_owned(), "x".into())].into();
        let config = Configuration { files, env: BTreeMap::new() };
        let mut wire = message(0, 1, &["a", "b", "c"]);
        wire.assignments[0].config_sha256 = config.digest();
        wire.assignments[1].config_sha256 = config.digest();
        let sent = |path: &str, sha256| v1::InstanceConfig {
            sha256,
            files: [(path.to_owned(), "x".to_owned())].into(),
            env: BTreeMap::new(),
        };
        let read = |configs: Vec<v1::InstanceConfig>| {
            let directive = Directive::read(v1::AgentDown { configs, ..wire.clone() }).unwrap();
            let works = directive.assignments.values().map(|assignment| assignment.work.clone());
            (works.collect::<Vec<_>>(), directive)
        };
        let (works, directive) = read(vec![sent("a", config.digest())]);
        for work in &works[..2] {
            assert_eq!(work.as_ref().unwrap().config.as_deref(), Some(&config));
        }
        assert_eq!(works[2].as_ref().unwrap().config, None);
        let dir = tempfile::tempdir().unwrap();
        Keeper::open(dir.path()).unwrap().offer(directive.clone()).unwrap();
        let kept = Keeper::open(dir.path()).unwrap();
        assert_eq!(**kept.accepted().unwrap(), directive, "with what is laid over");

        let outside = Configuration { files: [("../a".to_owned(), "x".into())].into(), ..config };
        for wrong in [
            vec![],
            vec![sent("b", wire.assignments[0].config_sha256.clone())],
            vec![sent("../a", outside.digest())],
        ] {
            let (works, _) = read(wrong);
            assert!(works[0].as_ref().unwrap_err().contains("configuration was not sent"));
            assert!(works[2].is_ok(), "the others are told");
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
