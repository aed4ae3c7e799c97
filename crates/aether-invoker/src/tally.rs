//! How many calls each route sent to which side, exactly.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use aether_core::ids::RevisionNo;
use aether_core::weights::Weights;

use crate::slice::Plan;

/// Routes of one slice that are remembered. An update has a few dozen.
const ROUTES_MAX: usize = 256;
/// Revisions of one slice that are remembered.
const REVISIONS_MAX: usize = 256;

/// Calls that one route sent to each side: first attempts by ticket, without
/// retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTally {
    /// The route.
    pub route_revision: u64,
    /// The weights by which calls were really split: the route's, or all to
    /// one side while the other had no ready instance. A route has an entry for
    /// each.
    pub weights: Weights,
    /// Revision of the new side.
    pub new_revision: Option<RevisionNo>,
    /// Revision of the old side.
    pub old_revision: Option<RevisionNo>,
    /// Calls to the new side.
    pub new: u64,
    /// Calls to the old side.
    pub old: u64,
}

impl RouteTally {
    fn is_same_route(&self, other: &Self) -> bool {
        (self.route_revision, self.weights, self.new_revision, self.old_revision)
            == (other.route_revision, other.weights, other.new_revision, other.old_revision)
    }

    fn add_to(self, routes: &mut VecDeque<Self>) {
        match routes.back_mut().filter(|last| last.is_same_route(&self)) {
            Some(last) => {
                last.new += self.new;
                last.old += self.old;
            }
            None => routes.push_back(self),
        }
    }

    fn by_revision(&self) -> impl Iterator<Item = (RevisionNo, u64)> {
        let sides = [(self.new_revision, self.new), (self.old_revision, self.old)];
        sides.into_iter().filter_map(|(revision, count)| Some((revision?, count)))
    }
}

#[derive(Debug, Default)]
struct Book {
    /// Of plans that nobody is inside any more.
    routes: VecDeque<RouteTally>,
    revisions: BTreeMap<RevisionNo, u64>,
    /// Plans that still count, oldest first; the last is the current one.
    live: VecDeque<Arc<Plan>>,
}

/// The tallies of one slice over the session.
#[derive(Debug, Default)]
pub(crate) struct Tallies(Mutex<Book>);

impl Tallies {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("no code panics while it holds the tallies")
    }

    /// Counts a plan from now on.
    pub(crate) fn open(&self, plan: Arc<Plan>) {
        self.book().live.push_back(plan);
    }

    /// Takes down what retired plans counted. They must have settled.
    pub(crate) fn retire(&self) {
        let mut book = self.book();
        while book.live.front().is_some_and(|plan| plan.is_settled()) {
            let plan = book.live.pop_front().expect("the front was just seen");
            if let Some(tally) = plan.tally() {
                for (revision, count) in tally.by_revision().filter(|(_, count)| *count > 0) {
                    *book.revisions.entry(revision).or_default() += count;
                }
                tally.add_to(&mut book.routes);
            }
        }
        while book.routes.len() > ROUTES_MAX {
            book.routes.pop_front();
        }
        while book.revisions.len() > REVISIONS_MAX {
            book.revisions.pop_first();
        }
    }

    /// All remembered routes, oldest first.
    pub(crate) fn routes(&self) -> Vec<RouteTally> {
        let book = self.book();
        let mut routes = book.routes.clone();
        for tally in book.live.iter().filter_map(|plan| plan.tally()) {
            tally.add_to(&mut routes);
        }
        routes.into()
    }

    /// Calls to each revision that got any.
    pub(crate) fn revisions(&self) -> BTreeMap<RevisionNo, u64> {
        let book = self.book();
        let mut revisions = book.revisions.clone();
        for tally in book.live.iter().filter_map(|plan| plan.tally()) {
            for (revision, count) in tally.by_revision().filter(|(_, count)| *count > 0) {
                *revisions.entry(revision).or_default() += count;
            }
        }
        revisions
    }
}
