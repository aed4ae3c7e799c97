//! Drops archives that this node holds and nobody here uses: those that belong
//! to no artifact any more, and of the others the ones used longest ago, beyond
//! what a cache is for.
//!
//! Unpacked trees are not its business: one goes with the last instance that
//! uses it. Nor are the archives of a voter, which keeps every artifact.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::v1::AgentDown;
use tokio::sync::watch;

use crate::artifact::{ArtifactStore, Digest, Held, SETTLED_AFTER};
use crate::instance::Shared;

/// Time between two looks. Nothing waits for them.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How many archives a node keeps that nothing here uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most of them. 16 by default: a node runs a few slices, and what comes
    /// back is one of the last versions.
    pub archives_max: usize,
    /// Their bytes together. 4 GiB by default.
    pub bytes_max: u64,
    /// Not before they have been out of use for this long.
    pub idle_min: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { archives_max: 16, bytes_max: 4 << 30, idle_min: SETTLED_AFTER }
    }
}

/// What the control plane says of the archives that this node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    needed: BTreeSet<Digest>,
    unnamed: BTreeSet<Digest>,
}

impl Listed {
    /// `None` if the message says nothing of them.
    pub fn read(message: &AgentDown) -> Option<Self> {
        let digests =
            |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        message.lists_archives.then(|| Self {
            needed: digests(&message.needed_sha256),
            unnamed: digests(&message.unnamed_sha256),
        })
    }
}

/// Looks at what is held, now and then and when the control plane says
/// something new. Until it has said something, nothing is dropped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    store: Arc<ArtifactStore>,
    limits: CacheLimits,
    mut listed: watch::Receiver<Option<Listed>>,
) {
    loop {
        let said = listed.borrow_and_update().clone();
        if let Some(said) = said {
            let in_use = shared.preparer.claimed();
            for digest in surplus(&store.archives(), &in_use, &said, &limits) {
                let (store, idle_min) = (store.clone(), limits.idle_min);
                // Removing a large file takes a while.
                let work = move || store.discard_settled(&digest, idle_min);
                if matches!(tokio::task::spawn_blocking(work).await, Ok(true)) {
                    tracing::info!(%digest, "archive dropped");
                }
            }
        }
        tokio::select! {
            changed = listed.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// What is to be dropped. Pure.
fn surplus(
    held: &[Held],
    in_use: &BTreeSet<Digest>,
    listed: &Listed,
    limits: &CacheLimits,
) -> Vec<Digest> {
    let mut unused: Vec<&Held> = held
        .iter()
        .filter(|held| !in_use.contains(&held.digest) && !listed.needed.contains(&held.digest))
        .filter(|held| held.idle >= limits.idle_min)
        .collect();
    unused.sort_unstable_by_key(|held| std::cmp::Reverse(held.used));
    let (mut archives, mut bytes) = (0, 0);
    let mut dropped = Vec::new();
    for held in unused {
        let bytes_then = held.size_bytes.saturating_add(bytes);
        let fits = archives < limits.archives_max && bytes_then <= limits.bytes_max;
        if fits && !listed.unnamed.contains(&held.digest) {
            (archives, bytes) = (archives + 1, bytes_then);
        } else {
            dropped.push(held.digest);
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn set(names: &[&str]) -> BTreeSet<Digest> {
        names.iter().map(|name| digest(name)).collect()
    }

    /// Archives named by letters, the last one used last; 10 bytes each.
    fn held(names: &[&str]) -> Vec<Held> {
        let idle = Duration::from_secs(60);
        let all = names.iter().zip(1..);
        all.map(|(name, used)| Held { digest: digest(name), size_bytes: 10, idle, used }).collect()
    }

    fn limits(archives_max: usize, bytes_max: u64) -> CacheLimits {
        CacheLimits { archives_max, bytes_max, idle_min: Duration::from_secs(60) }
    }

    #[test]
    fn the_ones_used_longest_ago_go_beyond_the_count_and_the_bytes() {
        let all = held(&["a", "b", "c", "d"]);
        let none = Listed::default();
        let go = |archives_max, bytes_max| {
            surplus(&all, &BTreeSet::new(), &none, &limits(archives_max, bytes_max))
        };
        assert_eq!(go(4, 40), []);
        assert_eq!(go(2, 40), [digest("b"), digest("a")]);
        assert_eq!(go(4, 39), [digest("a")]);
        assert_eq!(go(0, 40).len(), 4);
    }

    #[test]
    fn what_is_used_needed_or_young_stays_and_what_has_no_name_goes() {
        let mut all = held(&["used", "needed", "young", "nameless", "cached"]);
        all[2].idle = Duration::from_secs(59);
        let listed =
            Listed { needed: set(&["needed"]), unnamed: set(&["nameless", "used", "young"]) };
        let gone = surplus(&all, &set(&["used"]), &listed, &limits(9, 999));
        assert_eq!(gone, [digest("nameless")]);
        let gone = surplus(&all, &set(&["used"]), &listed, &limits(0, 0));
        assert_eq!(gone, [digest("cached"), digest("nameless")]);
    }
}
