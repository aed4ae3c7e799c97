//! What becomes of the archives that nodes hold: which ones an agent has to
//! keep, and which ones voters drop.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aether_agent::artifact::{ArtifactStore, Digest, SETTLED_AFTER};
use aether_core::state::State;

use crate::control::Control;

/// Time between two looks at what an agent holds, and at what this voter
/// holds. Nothing waits for it: an archive that nobody needs costs disk only.
pub const LIST_EVERY: Duration = Duration::from_secs(10);

/// What an agent is told of the archives that it reports to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archives {
    /// Those that it must not drop, in order.
    pub needed: Vec<String>,
    /// Those that belong to no artifact, in order.
    pub unnamed: Vec<String>,
    /// The lists were made.
    pub listed: bool,
}

/// How old [`Known`] may be. What a list leaves out is kept by agents for
/// minutes after its last use, so a second is nothing.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Which archives the state has a use for, by digest.
pub struct Known {
    /// Those of all artifacts.
    named: BTreeSet<String>,
    /// Those that something deployed needs.
    needed: BTreeSet<String>,
}

impl Known {
    /// Looks through the state.
    pub fn of(state: &State) -> Self {
        Self {
            named: state.artifacts.values().map(|artifact| artifact.digest.clone()).collect(),
            needed: needed_digests(state).into_iter().map(str::to_owned).collect(),
        }
    }

    /// What to tell of the archives that somebody `holds`. Before anything is
    /// reported there is nothing to say.
    pub fn list(&self, holds: &[String]) -> Archives {
        if holds.is_empty() {
            return Archives::default();
        }
        let those = |wanted: &dyn Fn(&str) -> bool| {
            let mut digests: Vec<String> =
                holds.iter().filter(|digest| wanted(digest)).cloned().collect();
            digests.sort_unstable();
            digests
        };
        Archives {
            needed: those(&|digest| self.needed.contains(digest)),
            unnamed: those(&|digest| !self.named.contains(digest) && !self.needed.contains(digest)),
            listed: true,
        }
    }
}

/// [`Known`] for all agents together: with a thousand of them the state is
/// looked through once a second and not a hundred times.
#[derive(Default)]
pub struct Lists(Mutex<Option<(Instant, Arc<Known>)>>);

impl Lists {
    /// What was known at most a second ago.
    pub fn known(&self, state: &State) -> Arc<Known> {
        let mut last = self.0.lock().expect("no panic while held");
        if let Some((made, known)) = &*last
            && made.elapsed() < KNOWN_FOR
        {
            return Arc::clone(known);
        }
        let known = Arc::new(Known::of(state));
        *last = Some((Instant::now(), Arc::clone(&known)));
        known
    }
}

/// Digests of what something deployed needs. A revision keeps its own, should
/// its artifact be pushed anew with another one.
fn needed_digests(state: &State) -> BTreeSet<&str> {
    let artifacts = state.artifacts_needed();
    let known = artifacts.keys().filter_map(|artifact| state.artifacts.get(artifact));
    let revisions = state.revisions.values().filter(|revision| {
        artifacts.contains_key(&revision.slice.base().at(revision.version.clone()))
    });
    known.map(|r| r.digest.as_str()).chain(revisions.map(|r| r.digest.as_str())).collect()
}

/// Drops the archives of this voter that belong to no artifact: of removed
/// ones, and of pushes that were not done. Never ends.
pub async fn collect(control: Control, store: Arc<ArtifactStore>) {
    loop {
        tokio::time::sleep(LIST_EVERY).await;
        let published = control.local();
        // Before the first entry is applied this node knows of no artifact.
        if published.state.meta.index > 0 {
            drop_unnamed(&published.state, &store, SETTLED_AFTER);
        }
    }
}

/// One look. An archive that came, or was asked for, less than `settled_after`
/// ago may be about to get its name, and stays.
fn drop_unnamed(state: &State, store: &ArtifactStore, settled_after: Duration) {
    let holds: Vec<String> = store.holds().iter().map(Digest::to_string).collect();
    for digest in Known::of(state).list(&holds).unnamed {
        if let Ok(digest) = digest.parse()
            && store.discard_settled(&digest, settled_after)
        {
            tracing::info!(%digest, "archive of no artifact dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use aether_core::command::Command;
    use aether_core::manifest::Manifest;
    use bytes::Bytes;

    use super::*;
    use crate::testing::apply;

    fn push(state: &mut State, version: &str, digest: String) {
        let artifact = format!("org.example:a:{version}");
        let text = format!("artifact = '{artifact}'\n[run]\ncommand = ['x']\n");
        apply(
            state,
            Command::RegisterArtifact {
                artifact: artifact.parse().unwrap(),
                digest,
                size_bytes: 1,
                manifest: Manifest::parse(&text).unwrap().into(),
                holder: "n1".parse().unwrap(),
                others: BTreeSet::new(),
            },
        );
    }

    fn digest(of: &'static str) -> String {
        Digest::of(of.as_bytes()).to_string()
    }

    fn deploy(state: &mut State, version: &str) {
        apply(
            state,
            Command::RegisterNode {
                node: "n1".parse().unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                labels: Default::default(),
                instances_max: 10,
            },
        );
        apply(
            state,
            Command::Deploy {
                slice: "org.example:a".parse().unwrap(),
                version: version.parse().unwrap(),
                instances: 1,
            },
        );
    }

    #[test]
    fn what_is_deployed_is_needed_and_what_no_artifact_has_is_unnamed() {
        let mut state = State::default();
        push(&mut state, "1.0.0", digest("one"));
        push(&mut state, "2.0.0", digest("two"));
        deploy(&mut state, "1.0.0");
        let holds = ["three", "two", "one"].map(digest);
        let listed = Known::of(&state).list(&holds);
        assert_eq!(listed.needed, [digest("one")]);
        assert_eq!(listed.unnamed, [digest("three")]);
        assert!(listed.listed);
        assert!(!Known::of(&state).list(&[]).listed);
    }

    #[tokio::test]
    async fn a_voter_drops_what_has_no_name_once_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let mut state = State::default();
        push(&mut state, "1.0.0", digest("one"));
        for text in ["one", "three"] {
            let bytes = tokio_stream::iter([Ok::<_, String>(Bytes::from_static(text.as_bytes()))]);
            store.put(bytes, None).await.unwrap();
        }
        drop_unnamed(&state, &store, SETTLED_AFTER);
        assert_eq!(store.holds().len(), 2, "its push may not have come as far as its name");
        drop_unnamed(&state, &store, Duration::ZERO);
        let left: Vec<_> = store.holds().iter().map(Digest::to_string).collect();
        assert_eq!(left, [digest("one")]);
    }
}
