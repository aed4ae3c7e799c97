//! Envoy's weighted round robin: a heap of deadlines, where each endpoint comes again after
//! the inverse of its weight (`edf_scheduler.h`). Envoy has one for each worker thread, and so
//! has this.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Peer;
use crate::fleet::Fleet;

struct Entry {
    deadline: f64,
    /// Ties go to the one that was entered first.
    order: u64,
    index: usize,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap's greatest is the earliest.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

struct Heap {
    now: f64,
    order: u64,
    entries: BinaryHeap<Entry>,
    weights: Vec<u32>,
}

impl Heap {
    fn new(weights: Vec<u32>) -> Self {
        let mut heap = Self { now: 0.0, order: 0, entries: BinaryHeap::new(), weights };
        (0..heap.weights.len()).for_each(|index| heap.enter(index));
        heap
    }

    fn enter(&mut self, index: usize) {
        let deadline = self.now + 1.0 / f64::from(self.weights[index]);
        self.entries.push(Entry { deadline, order: self.order, index });
        self.order += 1;
    }

    fn pick(&mut self) -> usize {
        let Entry { deadline, index, .. } = self.entries.pop().expect("each goes back at once");
        self.now = deadline;
        self.enter(index);
        index
    }
}

pub fn peer(fleet: Fleet) -> Peer {
    let endpoints = usize::from(fleet.endpoints);
    Peer::picking("Envoy-style heap (per thread)", true, move || {
        let mut heap = Heap::new(fleet.weights());
        Box::new(move || heap.pick() < endpoints)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_the_inverse_of_its_weight() {
        let mut heap = Heap::new(vec![1, 3]);
        let picks: Vec<usize> = (0..8).map(|_| heap.pick()).collect();
        assert_eq!(picks.iter().filter(|index| **index == 0).count(), 2, "{picks:?}");
    }
}
