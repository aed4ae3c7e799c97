//! One slice: its current table, and picks by it.
//!
//! Picks read the table through an atomic pointer and enter it by its
//! [`Gate`]s; the applier is the one writer. A swap closes the gates of the old
//! table before it publishes the new one, so that tickets go on without a gap
//! and the split stays exact over the swap; picks that come in between spin for
//! the nanoseconds that takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};

use aether_core::coordinates::SliceName;
use aether_core::divisor::Divisor;
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::schedule::{Fraction, Schedule, Side, Slot};
use aether_core::table::{SliceTable, VersionSet};
use aether_core::weights::Weights;
use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::doors::booths::Booths;
use crate::doors::counter::Lane;
use crate::doors::gate::Gate;
use crate::doors::lane;
use crate::doors::sync::heavy_fence;
use crate::endpoint::{Endpoint, Member};
use crate::error::PickError;
use crate::hold::{Hold, NoPick, Patience, Waiting};
use crate::invoker::Invoker;
use crate::pick::Pick;
use crate::tally::{RouteTally, Tallies};

/// Rounds that a pick spins at a closed gate before it lets other threads run,
/// one of which must be the writer.
const SPINS_MAX: u32 = 64;

/// The instances of one version. Tables that name the same share them.
#[derive(Debug)]
pub(crate) struct Members {
    all: Vec<Member>,
    count: Divisor,
}

impl From<Vec<Member>> for Members {
    fn from(all: Vec<Member>) -> Self {
        let count = Divisor::new(all.len().max(1) as u64);
        Self { all, count }
    }
}

impl Default for Members {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl Members {
    /// All of them.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.all.iter().map(|member| &member.endpoint)
    }

    /// The next that is not ejected after one that is; that one if all are.
    #[cold]
    fn not_ejected(&self, first: usize) -> usize {
        let all = first + 1..first + self.all.len();
        let mut all = all.map(|index| index % self.all.len());
        all.find(|index| !self.all[*index].endpoint.is_ejected()).unwrap_or(first)
    }

    /// All, beginning with the one whose turn it is at this rank.
    fn in_turn(&self, rank: u64) -> impl Iterator<Item = &Member> {
        let (before, after) = self.all.split_at(self.count.div_rem(rank).1 as usize);
        after.iter().chain(before)
    }
}

/// A table made ready for picks. Immutable but for its gates.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: Option<Arc<SliceTable>>,
    /// Present if any call can be made now.
    pub(crate) schedule: Option<Schedule>,
    /// In its place while calls are held.
    held: Option<Schedule>,
    /// Set while calls are held.
    hold: Option<Arc<Hold>>,
    new: Arc<Members>,
    old: Arc<Members>,
    pub(crate) route_revision: u64,
    /// First attempts; its tickets are those of the schedule.
    tickets: Gate,
    /// Attempts on another endpoint, which take no ticket of the split.
    retries: Gate,
    /// First attempts of threads that split their calls by themselves.
    pub(crate) booths: Booths,
    /// Where (tickets, retries) were closed.
    closed_at: OnceLock<(u64, u64)>,
}

impl Plan {
    fn new(table: Option<Arc<SliceTable>>, new: Arc<Members>, old: Arc<Members>) -> Self {
        let route_revision = table.as_ref().map_or(0, |table| table.route_revision);
        let lanes = lane::count();
        Self {
            table,
            schedule: None,
            held: None,
            hold: None,
            new,
            old,
            route_revision,
            tickets: Gate::open(lanes),
            // Rare: all count in one lane.
            retries: Gate::open(Lane::SHARED + 1),
            booths: Booths::open(lanes),
            closed_at: OnceLock::new(),
        }
    }

    #[inline(always)]
    fn side(&self, side: Side) -> &Members {
        match side {
            Side::New => &self.new,
            Side::Old => &self.old,
        }
    }

    /// The instances of each side, with what the table says of them.
    pub(crate) fn sets(&self) -> [(Option<&VersionSet>, &Arc<Members>); 2] {
        let of = |set: fn(&SliceTable) -> &Option<VersionSet>| set(self.table.as_deref()?).as_ref();
        [(of(|table| &table.new), &self.new), (of(|table| &table.old), &self.old)]
    }

    /// Whether no pick is inside any more. Never while the plan is current.
    pub(crate) fn is_settled(&self) -> bool {
        self.closed_at.get().is_some_and(|(tickets, retries)| {
            self.tickets.is_settled(*tickets)
                && self.retries.is_settled(*retries)
                && self.booths.is_settled()
        })
    }

    /// How calls are split by it, those that are late too.
    fn splits(&self) -> Option<&Schedule> {
        self.schedule.as_ref().or(self.held.as_ref())
    }

    /// How calls that are held are split, once they go on all the same.
    #[cold]
    pub(crate) fn past_hold(&self, patience: Patience) -> Result<(&Schedule, &Hold), NoPick> {
        let (Some(schedule), Some(hold)) = (&self.held, &self.hold) else {
            return Err(NoPick::Nothing);
        };
        match patience == Patience::WhileHeld && !hold.is_over() {
            true => Err(NoPick::Held(Arc::clone(hold))),
            false => Ok((schedule, hold)),
        }
    }

    /// What it has sent where so far; `None` if no call can be made by it.
    pub(crate) fn tally(&self) -> Option<RouteTally> {
        let (table, schedule) = (self.table.as_ref()?, self.splits()?);
        let ((new, old), (new_apart, old_apart)) = (self.tickets.settled(), self.booths.settled());
        Some(RouteTally {
            route_revision: table.route_revision,
            weights: schedule.weights(),
            new_revision: table.new.as_ref().map(|set| set.revision),
            old_revision: table.old.as_ref().map(|set| set.revision),
            new: new + new_apart,
            old: old + old_apart,
        })
    }

    /// The instance of a slot: by rank, or the next after it that is not
    /// ejected. The side is not empty, because its weight is above zero.
    #[inline(always)]
    fn by_rank(&self, side: Side, rank: u64) -> usize {
        let members = self.side(side);
        let first = members.count.div_rem(rank).1 as usize;
        match members.all[first].endpoint.is_ejected() {
            false => first,
            true => members.not_ejected(first),
        }
    }

    /// The instance of this index, as given by a pick.
    #[inline(always)]
    pub(crate) fn member(&self, side: Side, index: usize) -> &Member {
        &self.side(side).all[index]
    }

    /// Enters by the next ticket, if the table is still the current one. `late` is the
    /// hold that the call should have waited for. `announce` counts the call.
    #[inline(always)]
    pub(crate) fn enter<C>(
        &self,
        schedule: &Schedule,
        late: Option<&Hold>,
        lane: Lane,
        announce: impl FnOnce(&Member, usize) -> C,
    ) -> Option<(Side, C)> {
        let ticket = self.tickets.enter()?;
        // From here to settling: no panic, no wait.
        #[cfg(test)]
        crate::stress::pause(ticket);
        let slot = schedule.slot(ticket);
        let call = self.announce(slot, late, announce);
        self.tickets.settle(lane, slot.side);
        Some((slot.side, call))
    }

    /// The same, for a call that may end on any thread.
    #[inline(always)]
    fn pick(&self, schedule: &Schedule, late: Option<&Hold>) -> Option<Pick> {
        let lane = lane::current();
        let entered = self.enter(schedule, late, lane, |member, _| member.announce(lane));
        entered.map(|(side, call)| Pick::of(call, side, self.route_revision, true))
    }

    /// Counts the call of a slot at its endpoint. Only from inside of a door.
    #[inline(always)]
    pub(crate) fn announce<C>(
        &self,
        slot: Slot,
        late: Option<&Hold>,
        announce: impl FnOnce(&Member, usize) -> C,
    ) -> C {
        let index = self.by_rank(slot.side, slot.rank);
        if let Some(hold) = late {
            hold.note_late();
        }
        announce(self.member(slot.side, index), index)
    }

    /// An endpoint of a side with a weight that is not among `tried`, one that
    /// is not ejected if possible.
    fn untried(&self, side: Side, rank: u64, tried: &[InstanceId]) -> Option<&Member> {
        let weights = self.splits()?.weights();
        let weight = match side {
            Side::New => weights.new_side(),
            Side::Old => weights.old_side(),
        };
        if weight == 0 {
            return None;
        }
        let is_untried = |member: &&Member| !tried.contains(&member.endpoint.instance);
        let untried = || self.side(side).in_turn(rank).filter(is_untried);
        let found = untried().find(|member| !member.endpoint.is_ejected());
        found.or_else(|| untried().next())
    }

    /// Skips an endpoint that refused a connection for a while, unless it is
    /// the last of its version that is not skipped.
    fn eject(&self, refused: &Arc<Endpoint>) {
        let is_it = |member: &&Member| Arc::ptr_eq(&member.endpoint, refused);
        let sides = [&self.new, &self.old];
        let Some(side) = sides.into_iter().find(|side| side.all.iter().any(|m| is_it(&m))) else {
            return;
        };
        if side.all.iter().any(|member| !is_it(&member) && !member.endpoint.is_ejected()) {
            refused.eject();
        }
    }
}

/// What the writer keeps from one swap to the next.
#[derive(Debug, Default)]
struct Writer {
    /// The last schedule that was in force.
    schedule: Option<Schedule>,
    /// The last hold.
    hold: Option<Arc<Hold>>,
}

/// One slice over the session.
#[derive(Debug)]
pub(crate) struct SliceState {
    pub(crate) name: Arc<SliceName>,
    pub(crate) tallies: Tallies,
    plan: ArcSwap<Plan>,
    writer: Mutex<Writer>,
    waiting: Waiting,
    /// Set while it may be about to be forgotten.
    is_leaving: AtomicBool,
    /// Callers that split their calls by themselves: those that there are, and all that
    /// there have been.
    independent: AtomicU64,
    independent_ever: AtomicU64,
    /// Where in the cycle this session starts.
    start: Fraction,
}

impl SliceState {
    /// A slice without a table. `seed` differs between sessions.
    pub(crate) fn new(name: SliceName, seed: u64) -> Self {
        let plan = Arc::new(Plan::new(None, Arc::default(), Arc::default()));
        let tallies = Tallies::default();
        tallies.open(Arc::clone(&plan));
        Self {
            name: Arc::new(name),
            tallies,
            plan: ArcSwap::new(plan),
            writer: Mutex::default(),
            waiting: Waiting::default(),
            is_leaving: AtomicBool::new(false),
            independent: AtomicU64::new(0),
            independent_ever: AtomicU64::new(0),
            start: Fraction::from_seed(seed),
        }
    }

    /// Whether this is kept while somebody has just taken a reference: a look at one side
    /// of a pair, of which [`leave`](Self::leave) is the other.
    pub(crate) fn stays(&self) -> bool {
        fence(Ordering::SeqCst);
        !self.is_leaving.load(Ordering::Relaxed)
    }

    /// Marks it as forgotten, if nobody has a reference then.
    pub(crate) fn leave(&self, is_unused: impl Fn() -> bool) -> bool {
        if !is_unused() {
            return false;
        }
        self.is_leaving.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let leaves = is_unused();
        self.is_leaving.store(leaves, Ordering::Relaxed);
        leaves
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
        new: Arc<Members>,
        old: Arc<Members>,
    ) -> Arc<Plan> {
        let mut writer = self.writer.lock().expect("no code panics while it swaps a table");
        let weights = table.as_ref().and_then(|table| table.effective_weights());
        let retired = self.plan.load_full();
        let hold = table.as_deref().and_then(|table| self.hold(&writer, table));
        let mut next = Arc::new(Plan::new(table, new, old));
        let draft = Arc::get_mut(&mut next).expect("nobody else has seen it");
        draft.hold.clone_from(&hold);

        // From here to the store picks spin: no allocation, no call outside.
        let (tickets, retries) = (retired.tickets.close(), retired.retries.close());
        retired.booths.close();
        let schedule = weights.map(|weights| self.schedule(&writer, tickets, weights));
        match hold.is_some() {
            true => draft.held = schedule,
            false => draft.schedule = schedule,
        }
        draft.tickets.set_first(tickets);
        draft.retries.set_first(retries);
        self.plan.store(Arc::clone(&next));

        self.waiting.wake();
        writer.schedule = schedule.or(writer.schedule);
        writer.hold = hold.or(writer.hold.take());
        // Before anybody looks who is inside. Who begins to split by itself only now
        // finds this table closed.
        fence(Ordering::SeqCst);
        if self.independent.load(Ordering::SeqCst) > 0 {
            heavy_fence();
        }
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

    /// The hold of a table, if it has one: tables of one route revision share it, so
    /// that its time does not begin anew with each.
    fn hold(&self, writer: &Writer, table: &SliceTable) -> Option<Arc<Hold>> {
        let (route_revision, hold_ms) = (table.route_revision, table.hold_ms);
        let known = writer.hold.as_ref().filter(|hold| hold.route_revision == route_revision);
        (hold_ms > 0).then(|| match known {
            Some(known) => Arc::clone(known),
            None => Arc::new(Hold::starting(route_revision, hold_ms)),
        })
    }

    /// A caller is about to split its calls by itself. Its number among those, and
    /// where in the cycle it starts.
    pub(crate) fn begin_apart(&self) -> (u64, Fraction) {
        self.independent.fetch_add(1, Ordering::SeqCst);
        // Before its first look at a table.
        fence(Ordering::SeqCst);
        let number = self.independent_ever.fetch_add(1, Ordering::Relaxed);
        (number, self.start.spread(number))
    }

    /// It will not do so any more.
    pub(crate) fn end_apart(&self) {
        self.independent.fetch_sub(1, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// The last route that held calls, and how many began all the same, if any did.
    pub(crate) fn late(&self) -> Option<(u64, u64)> {
        let writer = self.writer.lock().expect("no code panics while it swaps a table");
        let hold = writer.hold.as_ref()?;
        let late = hold.late();
        (late > 0).then_some((hold.route_revision, late))
    }

    /// Picks by ticket, if calls are not held.
    #[inline(always)]
    pub(crate) fn pick(&self) -> Result<Pick, NoPick> {
        // Inlined, so that what is picked stays in registers.
        let plan = self.plan.load();
        match plan.schedule.as_ref().and_then(|schedule| plan.pick(schedule, None)) {
            Some(pick) => Ok(pick),
            None => self.pick_with(Patience::WhileHeld),
        }
    }

    #[cold]
    fn pick_with(&self, patience: Patience) -> Result<Pick, NoPick> {
        let mut spins = 0;
        loop {
            let plan = self.plan.load();
            let entered = match &plan.schedule {
                Some(schedule) => plan.pick(schedule, None),
                None => {
                    let (schedule, hold) = plan.past_hold(patience)?;
                    plan.pick(schedule, Some(hold))
                }
            };
            match entered {
                Some(pick) => return Ok(pick),
                None => wait_for_writer(&mut spins),
            }
        }
    }

    /// Picks by ticket, and waits while calls are held. `None` if the table leads to
    /// no instance.
    pub(crate) async fn pick_when_open(&self) -> Option<Pick> {
        self.waiting.until_open(|patience| self.pick_with(patience)).await
    }

    /// Picks an endpoint that is not among `tried`, of `side` if there is one, and
    /// waits while calls are held: an attempt is a call that begins. Takes no ticket
    /// and gives no evidence.
    pub(crate) async fn pick_other(&self, side: Side, tried: &[InstanceId]) -> Option<Pick> {
        match self.other(side, tried, Patience::WhileHeld) {
            Ok(pick) => Some(pick),
            Err(NoPick::Nothing) => None,
            Err(NoPick::Held(_)) => {
                self.waiting.until_open(|patience| self.other(side, tried, patience)).await
            }
        }
    }

    pub(crate) fn other(
        &self,
        side: Side,
        tried: &[InstanceId],
        patience: Patience,
    ) -> Result<Pick, NoPick> {
        let mut spins = 0;
        loop {
            let plan = self.plan.load();
            let late = match plan.schedule {
                Some(_) => None,
                None => Some(plan.past_hold(patience)?.1),
            };
            if let Some(rank) = plan.retries.enter() {
                // From here to settling: no panic, no wait.
                let lane = lane::current();
                let chosen = [side, side.other()]
                    .into_iter()
                    .find_map(|side| Some((side, plan.untried(side, rank, tried)?)));
                let call = chosen.map(|(side, member)| {
                    late.inspect(|hold| hold.note_late());
                    (side, member.announce(lane))
                });
                plan.retries.settle(Lane::shared(), side);
                let (side, call) = call.ok_or(NoPick::Nothing)?;
                return Ok(Pick::of(call, side, plan.route_revision, false));
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
pub(crate) fn wait_for_writer(spins: &mut u32) {
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
    /// Does not wait: while calls are held for a switch without overlap, this fails.
    ///
    /// # Errors
    /// If the tables lead to no instance, or calls are held.
    #[inline(always)]
    pub fn pick(&self) -> Result<Pick, PickError> {
        match self.state.pick() {
            Ok(pick) => Ok(pick),
            Err(why) => Err(self.why_none(why)),
        }
    }

    /// The same, and waits while calls are held for a switch without overlap: a
    /// quarter of a second at most. Costs what [`pick`](Self::pick) costs while they
    /// are not.
    ///
    /// # Errors
    /// If the tables lead to no instance.
    pub async fn pick_when_open(&self) -> Result<Pick, PickError> {
        match self.state.pick() {
            Ok(pick) => Ok(pick),
            Err(NoPick::Nothing) => Err(self.no_pick()),
            Err(NoPick::Held(_)) => self.state.pick_when_open().await.ok_or_else(|| self.no_pick()),
        }
    }

    /// The same, but not beyond `deadline`.
    pub(crate) async fn pick_until(&self, deadline: Option<Instant>) -> Result<Pick, PickError> {
        match (self.state.pick(), deadline) {
            (Ok(pick), _) => Ok(pick),
            (Err(NoPick::Nothing), _) => Err(self.no_pick()),
            // Rare, and so not a part of each call.
            (Err(NoPick::Held(_)), None) => Box::pin(self.pick_when_open()).await,
            (Err(NoPick::Held(_)), Some(deadline)) => {
                let open = tokio::time::timeout_at(deadline, self.pick_when_open());
                Box::pin(open).await.unwrap_or_else(|_| Err(self.held()))
            }
        }
    }

    #[cold]
    pub(crate) fn why_none(&self, why: NoPick) -> PickError {
        match why {
            NoPick::Held(_) => self.held(),
            NoPick::Nothing => self.no_pick(),
        }
    }

    #[cold]
    fn held(&self) -> PickError {
        PickError::Held { slice: SliceName::clone(&self.state.name) }
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

    /// A caller for the calling thread alone, which costs less; see [`Caller`].
    pub fn caller(&self) -> Caller {
        Caller::new(self.clone(), false)
    }

    /// The same, and the thread splits its calls by itself, so that it writes nothing
    /// that other threads write. The split is then exact for each thread in any number
    /// of calls, and over all threads to within one call for each of them, where
    /// [`pick`](Self::pick) and [`caller`](Self::caller) are exact over all. For
    /// millions of calls per second.
    pub fn independent_caller(&self) -> Caller {
        Caller::new(self.clone(), true)
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
