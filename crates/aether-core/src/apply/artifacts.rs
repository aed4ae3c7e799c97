//! Artifacts become known, and known to be held somewhere; and are forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Tx;
use crate::audit::Subject;
use crate::command::{Answer, Outcome, Refusal};
use crate::coordinates::Artifact;
use crate::ids::NodeName;
use crate::manifest::Manifest;
use crate::records::ArtifactRecord;
use crate::state::State;

/// Artifacts kept: a manifest is at most 64 KiB, usually below 1 KiB.
const ARTIFACTS_MAX: usize = 10_000;

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl State {
    /// What the registration of an archive is refused for. A push asks this too,
    /// before it has others copy the archive.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn may_register(
        &self,
        artifact: &Artifact,
        digest: &str,
        manifest: &Manifest,
    ) -> Result<(), Refusal> {
        if !is_sha256(digest) {
            return Err(Refusal::BadOption {
                what: "digest".to_owned(),
                given: digest.chars().take(80).collect(),
                expected: "64 lower-case hexadecimal digits".to_owned(),
            });
        }
        if manifest.artifact != *artifact {
            return Err(Refusal::ArtifactMismatch {
                artifact: artifact.clone(),
                manifest: manifest.artifact.clone(),
            });
        }
        if let Err(error) = manifest.check() {
            return Err(Refusal::BadManifest {
                artifact: artifact.clone(),
                problem: error.to_string(),
            });
        }
        match self.artifacts.get(artifact) {
            Some(known) => known.is(digest),
            None if self.artifacts.len() >= ARTIFACTS_MAX => {
                Err(Refusal::TooMany { what: "artifacts".to_owned(), most: ARTIFACTS_MAX as u64 })
            }
            None => Ok(()),
        }
    }
}

impl ArtifactRecord {
    /// A pushed version is immutable.
    fn is(&self, digest: &str) -> Result<(), Refusal> {
        if self.digest == digest {
            return Ok(());
        }
        Err(Refusal::ArtifactDiffers {
            artifact: self.artifact.clone(),
            known: self.digest.clone(),
            given: digest.to_owned(),
        })
    }
}

impl Tx<'_> {
    pub(super) fn register_artifact(
        &mut self,
        artifact: &Artifact,
        digest: &str,
        size_bytes: u64,
        manifest: &Arc<Manifest>,
        holders: BTreeSet<NodeName>,
    ) -> Outcome {
        self.state.may_register(artifact, digest, manifest)?;
        if self.state.artifacts.contains_key(artifact) {
            return self.artifact_held(artifact, digest, holders);
        }
        let record = ArtifactRecord {
            artifact: artifact.clone(),
            digest: digest.to_owned(),
            size_bytes,
            manifest: Arc::clone(manifest),
            held_by: holders,
            pushed_at_index: self.index(),
            pushed_wall_ms: self.state.meta.wall_ms,
        };
        self.state.artifacts.insert(artifact.clone(), Arc::new(record));
        self.audit(Subject::artifact(artifact), format!("pushed with digest {digest}"));
        Ok(Answer::default())
    }

    pub(super) fn artifact_held(
        &mut self,
        artifact: &Artifact,
        digest: &str,
        holders: BTreeSet<NodeName>,
    ) -> Outcome {
        let Some(known) = self.state.artifacts.get(artifact) else {
            let artifact = artifact.clone();
            return Err(Refusal::UnknownArtifact { artifact, is_sought: false });
        };
        known.is(digest)?;
        if !holders.is_subset(&known.held_by) {
            let mut record = (**known).clone();
            record.held_by.extend(holders);
            self.state.artifacts.insert(artifact.clone(), Arc::new(record));
        }
        Ok(Answer::default())
    }

    /// What a node dropped of an artifact that was removed, or pushed anew with
    /// another digest, is no news.
    pub(super) fn artifact_dropped(
        &mut self,
        artifact: &Artifact,
        digest: &str,
        holder: &NodeName,
    ) -> Outcome {
        let known = self.state.artifacts.get(artifact).filter(|known| known.digest == digest);
        if let Some(known) = known.filter(|known| known.held_by.contains(holder)) {
            let mut record = (**known).clone();
            record.held_by.remove(holder);
            self.state.artifacts.insert(artifact.clone(), Arc::new(record));
        }
        Ok(Answer::default())
    }

    pub(super) fn remove_artifact(&mut self, artifact: &Artifact) -> Outcome {
        let Some(known) = self.state.artifacts.get(artifact) else {
            let artifact = artifact.clone();
            return Err(Refusal::UnknownArtifact { artifact, is_sought: true });
        };
        let digest = known.digest.clone();
        if let Some(user) = self.state.artifact_user(artifact) {
            return Err(Refusal::ArtifactInUse { artifact: artifact.clone(), user });
        }
        self.state.artifacts.remove(artifact);
        self.audit(Subject::artifact(artifact), format!("removed, digest {digest}"));
        Ok(Answer::default())
    }
}
