//! Watchers of the values: each reads the changes at one node, and goes on at
//! another, from the index that it has, when that one ends.

use aether_core::state::CONFIG_PREFIX;
use aether_tests::linearizability::watch::{Change, Watched};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::changes::Gone;

use super::clients::{key_of, value_of};
use super::cluster::Cluster;

pub(super) struct Watcher {
    pub watched: Watched,
    node: usize,
    life: u64,
    random: StdRng,
}

impl Watcher {
    pub fn new(seed: u64, node: usize) -> Self {
        Watcher { watched: Watched::default(), node, life: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// Takes what there is.
    pub fn look(&mut self, cluster: &Cluster) {
        let running = cluster.running();
        if running.is_empty() {
            return;
        }
        let is_there = cluster.life(self.node).is_some_and(|life| life.number == self.life);
        if !is_there {
            self.node = running[self.random.random_range(0..running.len())];
            self.life = cluster.life(self.node).map_or(0, |life| life.number);
        }
        let Some(life) = cluster.life(self.node) else { return };
        let at = self.watched.up_to;
        if life.shown.at().0 < at {
            // It is behind; a server would say that this is in the future.
            return;
        }
        match life.shown.changes.since(at) {
            Ok((entries, up_to)) => {
                for entry in entries {
                    for row in entry.rows.iter().filter(|row| row.key.starts_with(CONFIG_PREFIX)) {
                        let Some(key) = key_of(&row.key) else { continue };
                        let value = row.value.as_ref().map(|row| value_of(row));
                        self.watched.changes.push(Change { index: entry.index, key, value });
                    }
                }
                self.watched.up_to = self.watched.up_to.max(up_to);
            }
            Err(Gone { kept_after }) => {
                let anew = life.shown.at().0.max(kept_after);
                self.watched.gaps.push((at, anew));
                self.watched.up_to = anew;
            }
        }
    }
}
