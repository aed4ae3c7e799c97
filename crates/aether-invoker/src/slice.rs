//! One slice: its current table, and picks by it.
//!
//! Picks read the table through an atomic pointer and enter it by its
//! [`Gate`]s; the applier is the one writer. A swap closes the gates of the old
//! table before it publishes the new one, so that tickets go on without a gap
//! and the split stays exact over the swap; picks that come in between spin for
//! the nanoseconds that takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use aether_core::coordinates::SliceName;
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::schedule::{Fraction, Schedule, Side};
use aether_core::table::SliceTable;
use aether_core::weights::Weights;
use arc_swap::ArcSwap;

use crate::endpoint::Endpoint;
use crate::error::PickError;
use crate::gate::Gate;
use crate::invoker::Invoker;
use crate::pick::Pick;
use crate::tally::{RouteTally, Tallies};

/// Rounds that a pick spins at a closed gate before it lets other threads run,
/// one of which must be the writer.
const SPINS_MAX: u32 = 64;

/// A table made ready for picks. Immutable but for its gates.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: Option<Arc<SliceTable>>,
    /// Present if any call can be made.
    schedule: Option<Schedule>,
    new: Vec<Arc<Endpoint>>,
    old: Vec<Arc<Endpoint>>,
    /// First attempts; its tickets are those of the schedule.
    tickets: Gate,
    /// Attempts on another endpoint, which take no ticket of the split.
    retries: Gate,
    /// Where (tickets, retries) were closed.
    closed_at: OnceLock<(u64, u64)>,
}

impl Plan {
    fn new(
        table: Option<Arc<SliceTable>>,
        new: Vec<Arc<Endpoint>>,
        old: Vec<Arc<Endpoint>>,
    ) -> Self {
        let (tickets, retries) = (Gate::open(0), Gate::open(0));
        Self { table, schedule: None, new, old, tickets, retries, closed_at: OnceLock::new() }
    }

    fn side(&self, side: Side) -> &[Arc<Endpoint>] {
        match side {
            Side::New => &self.new,
            Side::Old => &self.old,
        }
    }

    /// The endpoints of both sides.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.new.iter().chain(&self.old)
    }

    /// Whether no pick is inside any more. Never while the plan is current.
    pub(crate) fn is_settled(&self) -> bool {
        self.closed_at.get().is_some_and(|(tickets, retries)| {
            self.tickets.is_settled(*tickets) && self.retries.is_settled(*retries)
        })
    }

    fn route_revision(&self) -> u64 {
        self.table.as_ref().map_or(0, |table| table.route_revision)
    }

    /// What it has sent where so far; `None` if no call can be made by it.
    pub(crate) fn tally(&self) -> Option<RouteTally> {
        let (table, schedule) = (self.table.as_ref()?, self.schedule.as_ref()?);
        let (new, old) = self.tickets.settled();
        Some(RouteTally {
            route_revision: table.route_revision,
            weights: schedule.weights(),
            new_revision: table.new.as_ref().map(|set| set.revision),
            old_revision: table.old.as_ref().map(|set| set.revision),
            new,
            old,
        })
    }

    /// The endpoint of a slot: by rank, or the next after it that is not
    /// ejected. The side is not empty, because its weight is above zero.
    #[inline]
    fn by_rank(&self, side: Side, rank: u64) -> &Arc<Endpoint> {
        let endpoints = self.side(side);
        let first = (rank % endpoints.len() as u64) as usize;
        let chosen = &endpoints[first];
        if !chosen.is_ejected() {
            return chosen;
        }
        let (before, after) = endpoints.split_at(first);
        after.iter().chain(before).find(|endpoint| !endpoint.is_ejected()).unwrap_or(chosen)
    }

    /// An endpoint of a side with a weight that is not among `tried`, one that
    /// is not ejected if possible.
    fn untried(&self, side: Side, rank: u64, tried: &[InstanceId]) -> Option<&Arc<Endpoint>> {
        let weights = self.schedule.as_ref()?.weights();
        let weight = match side {
            Side::New => weights.new_side(),
            Side::Old => weights.old_side(),
        };
        let endpoints = self.side(side);
        if weight == 0 || endpoints.is_empty() {
            return None;
        }
        let (before, after) = endpoints.split_at((rank % endpoints.len() as u64) as usize);
        let untried =
            || after.iter().chain(before).filter(|endpoint| !tried.contains(&endpoint.instance));
        untried().find(|endpoint| !endpoint.is_ejected()).or_else(|| untried().next())
    }

    /// Skips an endpoint that refused a connection for a while, unless it is
    /// the last of its version that is not skipped.
    fn eject(&self, refused: &Arc<Endpoint>) {
        let is_it = |endpoint: &&Arc<Endpoint>| Arc::ptr_eq(endpoint, refused);
        let Some(side) =
            [&self.new, &self.old].into_iter().find(|side| side.iter().any(|e| is_it(&e)))
        else {
            return;
        };
        if side.iter().any(|endpoint| !is_it(&endpoint) && !endpoint.is_ejected()) {
            refused.eject();
        }
    }
}

/// What the writer keeps from one swap to the next.
#[derive(Debug, Default)]
struct Writer {
    /// The last schedule that was in force.
    schedule: Option<Schedule>,
}

/// One slice over the session.
#[derive(Debug)]
pub(crate) struct SliceState {
    pub(crate) name: Arc<SliceName>,
    pub(crate) tallies: Tallies,
    plan: ArcSwap<Plan>,
    writer: Mutex<Writer>,
    /// Where in the cycle this session starts.
    start: Fraction,
}

impl SliceState {
    /// A slice without a table. `seed` differs between sessions.
    pub(crate) fn new(name: SliceName, seed: u64) -> Self {
        let plan = Arc::new(Plan::new(None, Vec::new(), Vec::new()));
        let tallies = Tallies::default();
        tallies.open(Arc::clone(&plan));
        Self {
            name: Arc::new(name),
            tallies,
            plan: ArcSwap::new(plan),
            writer: Mutex::default(),
            start: Fraction::from_seed(seed),
        }
    }

    /// The current plan.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Replaces the table and gives the plan of the old one. Calls can still
    /// start by that until it [is settled](Plan::is_settled). Nothing is known
    /// of endpoints before all plans that were ever retired have settled: one
    /// that a pick is still inside may name an endpoint that a later one drops.
    pub(crate) fn swap(
        &self,
        table: Option<Arc<SliceTable>>,
        new: Vec<Arc<Endpoint>>,
        old: Vec<Arc<Endpoint>>,
    ) -> Arc<Plan> {
        let mut writer = self.writer.lock().expect("no code panics while it swaps a table");
        let weights = table.as_ref().and_then(|table| table.effective_weights());
        let retired = self.plan.load_full();
        let mut next = Arc::new(Plan::new(table, new, old));
        let draft = Arc::get_mut(&mut next).expect("nobody else has seen it");

        // From here to the store picks spin: no allocation, no call outside.
        let (tickets, retries) = (retired.tickets.close(), retired.retries.close());
        draft.schedule = weights.map(|weights| self.schedule(&writer, tickets, weights));
        draft.tickets.set_first(tickets);
        draft.retries.set_first(retries);
        let schedule = draft.schedule;
        self.plan.store(Arc::clone(&next));

        writer.schedule = schedule.or(writer.schedule);
        retired.closed_at.set((tickets, retries)).expect("a plan is retired once");
        self.tallies.open(next);
        retired
    }

    /// Goes on with the last schedule while the weights stay, and carries the
    /// part of a call that each side is owed when they change.
    fn schedule(&self, writer: &Writer, ticket: u64, weights: Weights) -> Schedule {
        match &writer.schedule {
            None => Schedule::starting(weights, self.start),
            Some(last) if last.weights() == weights => *last,
            Some(last) => last.carried(ticket, weights),
        }
    }

    /// Picks by ticket. `None` if the table leads to no instance.
    pub(crate) fn pick(&self) -> Option<Pick> {
        let mut spins = 0;
        loop {
            let plan = self.plan.load();
            let schedule = plan.schedule.as_ref()?;
            if let Some(ticket) = plan.tickets.enter() {
                // From here to settling: no panic, no wait, no allocation.
                let slot = schedule.slot(ticket);
                let endpoint = plan.by_rank(slot.side, slot.rank);
                #[cfg(test)]
                crate::stress::pause(ticket);
                endpoint.announce();
                let endpoint = Arc::clone(endpoint);
                plan.tickets.settle(slot.side);
                return Some(Pick::announced(endpoint, slot.side, plan.route_revision(), true));
            }
            wait_for_writer(&mut spins);
        }
    }

    /// Picks an endpoint that is not among `tried`, of `side` if there is one.
    /// Takes no ticket and gives no evidence.
    pub(crate) fn pick_other(&self, side: Side, tried: &[InstanceId]) -> Option<Pick> {
        let mut spins = 0;
        loop {
            let plan = self.plan.load();
            plan.schedule.as_ref()?;
            if let Some(rank) = plan.retries.enter() {
                // From here to settling: no panic, no wait, no allocation.
                let chosen = [side, side.other()]
                    .into_iter()
                    .find_map(|side| Some((side, plan.untried(side, rank, tried)?)));
                if let Some((_, endpoint)) = chosen {
                    endpoint.announce();
                }
                let chosen = chosen.map(|(side, endpoint)| (side, Arc::clone(endpoint)));
                plan.retries.settle(side);
                let (side, endpoint) = chosen?;
                return Some(Pick::announced(endpoint, side, plan.route_revision(), false));
            }
            wait_for_writer(&mut spins);
        }
    }

    /// See [`Plan::eject`].
    pub(crate) fn eject(&self, refused: &Arc<Endpoint>) {
        self.plan.load().eject(refused);
    }
}

#[cold]
fn wait_for_writer(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_MAX {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// One slice, as callers hold it. Cheap to clone. It stays valid over all
/// changes of the tables, also while they do not name the slice.
#[derive(Debug, Clone)]
pub struct SliceHandle {
    pub(crate) invoker: Invoker,
    pub(crate) state: Arc<SliceState>,
}

impl SliceHandle {
    /// The slice.
    pub fn name(&self) -> &SliceName {
        &self.state.name
    }

    /// Picks the instance for the next call: the version by the exact ratio of
    /// the route, then the instances of the version in turn.
    ///
    /// # Errors
    /// If the tables lead to no instance.
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.state.pick().ok_or_else(|| self.no_pick())
    }

    #[cold]
    fn no_pick(&self) -> PickError {
        let slice = SliceName::clone(&self.state.name);
        let shared = self.invoker.shared();
        if shared.is_closed() {
            PickError::Closed { slice }
        } else if shared.applied().is_none() {
            PickError::NotReady { slice }
        } else if self.state.plan().table.is_none() {
            PickError::NoTable { slice }
        } else {
            PickError::NoEndpoint { slice }
        }
    }

    /// The current table.
    pub fn table(&self) -> Option<Arc<SliceTable>> {
        self.state.plan().table.clone()
    }

    /// First attempts sent to each revision since the session began.
    pub fn tally(&self) -> BTreeMap<RevisionNo, u64> {
        self.state.tallies.revisions()
    }

    /// First attempts sent to each side by each route, oldest first. Exact at
    /// any moment: an entry of the current route counts the calls that have
    /// been picked so far.
    pub fn route_tallies(&self) -> Vec<RouteTally> {
        self.state.tallies.routes()
    }
}
