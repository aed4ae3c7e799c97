//! Picks of one thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aether_core::coordinates::{SliceName, Version};
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::schedule::{Fraction, Schedule, Side, Slot, Walk};
use aether_core::weights::Weights;

use crate::clock::Moment;
use crate::doors::counter::Lane;
use crate::doors::lane::{self, Lease};
use crate::doors::sync::LightFence;
use crate::endpoint::{Endpoint, Member};
use crate::error::PickError;
use crate::hold::{Hold, Patience};
use crate::pick::Outcome;
use crate::slice::{Plan, SliceHandle, wait_for_writer};

/// A table as one thread holds it. Its calls hold it too, without a shared count.
#[derive(Debug)]
struct Held {
    plan: Arc<Plan>,
    lane: Lane,
    /// For as long as something may be counted in the lane.
    lease: Rc<Lease>,
}

/// How a thread splits its calls by itself, over all tables.
#[derive(Debug)]
struct Split {
    fence: LightFence,
    /// By how much the turn of the instances is shifted, so that not all threads begin
    /// with the same.
    shift: u64,
    /// Where in the cycle it starts.
    start: Fraction,
    /// From the first table on.
    going: Option<Going>,
}

#[derive(Debug)]
struct Going {
    schedule: Schedule,
    /// Slots from `ticket` on.
    walk: Walk,
    ticket: u64,
}

impl Split {
    /// Goes on by these weights, and carries what each side is owed.
    #[cold]
    fn turn_to(&mut self, weights: Weights) {
        let (schedule, ticket) = match &self.going {
            None => (Schedule::starting(weights, self.start), 0),
            Some(Going { schedule, ticket, .. }) => (schedule.carried(*ticket, weights), *ticket),
        };
        self.going = Some(Going { schedule, walk: schedule.walk(ticket), ticket });
    }

    /// Where the next call goes.
    #[inline(always)]
    fn step(&mut self, weights: Weights) -> Slot {
        if self.going.as_ref().is_none_or(|going| going.schedule.weights() != weights) {
            self.turn_to(weights);
        }
        let going = self.going.as_mut().expect("it was just turned to");
        going.ticket += 1;
        let Slot { side, rank } = going.walk.step();
        Slot { side, rank: rank.wrapping_add(self.shift) }
    }
}

#[derive(Debug)]
struct State {
    held: Rc<Held>,
    /// If it splits its calls by itself.
    split: Option<Split>,
}

/// Picks calls to one slice on one thread, with what no other thread writes to, and so
/// for less than [`SliceHandle::pick`]. It keeps the last table it picked by, so keep it
/// as long as there are calls and drop it then.
///
/// For a program that has a thread, or a single-threaded runtime, for each processor.
/// Neither this nor its picks can be sent to another thread.
#[derive(Debug)]
pub struct Caller {
    slice: SliceHandle,
    state: RefCell<State>,
}

impl Caller {
    pub(crate) fn new(slice: SliceHandle, is_independent: bool) -> Self {
        let split = is_independent.then(|| {
            let (shift, start) = slice.state.begin_apart();
            Split { fence: LightFence::new(), shift, start, going: None }
        });
        let (lane, lease) = lane::leased();
        let held = Held { plan: slice.state.plan(), lane, lease };
        let state = RefCell::new(State { held: Rc::new(held), split });
        Self { slice, state }
    }

    /// The slice.
    pub fn name(&self) -> &SliceName {
        self.slice.name()
    }

    /// Picks the instance for the next call, as [`SliceHandle::pick`] does, and notes
    /// the time.
    ///
    /// # Errors
    /// If the tables lead to no instance, or calls are held.
    #[inline(always)]
    pub fn pick(&self) -> Result<LocalPick, PickError> {
        let call = self.pick_untimed()?;
        Ok(LocalPick { call, started_at: Moment::now() })
    }

    /// The same, for who knows by other means how long the call takes.
    ///
    /// # Errors
    /// If the tables lead to no instance, or calls are held.
    #[inline(always)]
    pub fn pick_untimed(&self) -> Result<UntimedPick, PickError> {
        let entered = self.state.borrow_mut().enter();
        match entered {
            Some((held, side, index)) => Ok(UntimedPick { held, side, index }),
            None => self.pick_slowly(),
        }
    }

    /// When the table at hand is closed, or there is no call by it.
    #[cold]
    fn pick_slowly(&self) -> Result<UntimedPick, PickError> {
        let mut spins = 0;
        loop {
            // The table before may be the last reference to all that hangs on it: it
            // goes when nothing is borrowed any more.
            let (_before, entered) = self.renew_and_enter();
            if let Some(pick) = entered? {
                return Ok(pick);
            }
            wait_for_writer(&mut spins);
        }
    }

    fn renew_and_enter(&self) -> (Option<Rc<Held>>, Result<Option<UntimedPick>, PickError>) {
        let mut state = self.state.borrow_mut();
        let before = state.renew(self.slice.state.plan());
        let held = Rc::clone(&state.held);
        let entered = match &held.plan.schedule {
            Some(schedule) => state.enter_by(schedule, None),
            None => match held.plan.past_hold(Patience::WhileHeld) {
                Ok((schedule, hold)) => state.enter_by(schedule, Some(hold)),
                Err(why) => return (before, Err(self.slice.why_none(why))),
            },
        };
        let pick = entered.map(|(side, index)| UntimedPick { held, side, index });
        (before, Ok(pick))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.state.get_mut().split.is_some() {
            self.slice.state.end_apart();
        }
    }
}

impl State {
    /// Takes another table, and gives the one before.
    fn renew(&mut self, plan: Arc<Plan>) -> Option<Rc<Held>> {
        if Arc::ptr_eq(&plan, &self.held.plan) {
            return None;
        }
        let (lane, lease) = (self.held.lane, Rc::clone(&self.held.lease));
        let held = Rc::new(Held { plan, lane, lease });
        Some(std::mem::replace(&mut self.held, held))
    }

    /// Enters the table, unless it is closed or there is no call by it: gives the
    /// table, the side and which of its instances.
    #[inline(always)]
    fn enter(&mut self) -> Option<(Rc<Held>, Side, usize)> {
        let held = &*self.held;
        let schedule = held.plan.schedule.as_ref()?;
        let (side, index) = enter(held, &mut self.split, schedule, None)?;
        Some((Rc::clone(&self.held), side, index))
    }

    fn enter_by(&mut self, schedule: &Schedule, late: Option<&Hold>) -> Option<(Side, usize)> {
        enter(&self.held, &mut self.split, schedule, late)
    }
}

#[inline(always)]
fn enter(
    held: &Held,
    split: &mut Option<Split>,
    schedule: &Schedule,
    late: Option<&Hold>,
) -> Option<(Side, usize)> {
    let Held { plan, lane, .. } = held;
    let announce = |member: &Member, index| {
        member.endpoint.begin_bound(*lane);
        index
    };
    let Some(split) = split else { return plan.enter(schedule, late, *lane, announce) };
    if !plan.booths.enter(*lane, split.fence) {
        return None;
    }
    // From here to settling: no panic, no wait.
    let slot = split.step(schedule.weights());
    #[cfg(test)]
    crate::stress::pause(slot.rank);
    let index = plan.announce(slot, late, announce);
    plan.booths.settle(*lane, slot.side);
    Some((slot.side, index))
}

/// One call on one instance, bound to its thread; otherwise as a
/// [`Pick`](crate::Pick). Dropped without an outcome, the call counts as cancelled.
#[derive(Debug)]
pub struct UntimedPick {
    held: Rc<Held>,
    side: Side,
    index: usize,
}

impl UntimedPick {
    #[inline(always)]
    fn endpoint(&self) -> &Endpoint {
        &self.held.plan.member(self.side, self.index).endpoint
    }

    /// Where the instance listens.
    #[inline(always)]
    pub fn address(&self) -> SocketAddr {
        self.endpoint().address
    }

    /// The instance.
    pub fn instance(&self) -> &InstanceId {
        &self.endpoint().instance
    }

    /// The version of the instance.
    pub fn version(&self) -> &Version {
        &self.endpoint().info.version
    }

    /// The revision of the instance.
    pub fn revision(&self) -> RevisionNo {
        self.endpoint().info.revision
    }

    /// The side of the route.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The route by which it was picked.
    pub fn route_revision(&self) -> u64 {
        self.held.plan.route_revision
    }

    /// Records the outcome and how long the call took, and ends it.
    #[inline(always)]
    pub fn finish(self, outcome: Outcome, latency: Duration) {
        self.record(outcome, u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    #[inline(always)]
    fn record(&self, outcome: Outcome, latency_us: u64) {
        self.endpoint().meter.record(latency_us, outcome == Outcome::Error);
    }
}

impl Drop for UntimedPick {
    #[inline(always)]
    fn drop(&mut self) {
        self.endpoint().end_bound(self.held.lane);
    }
}

/// One call on one instance, bound to its thread and timed from the pick on.
#[derive(Debug)]
pub struct LocalPick {
    call: UntimedPick,
    started_at: Moment,
}

impl std::ops::Deref for LocalPick {
    type Target = UntimedPick;

    #[inline(always)]
    fn deref(&self) -> &UntimedPick {
        &self.call
    }
}

impl LocalPick {
    /// Records the outcome and the time since the pick, and ends the call.
    #[inline(always)]
    pub fn finish(self, outcome: Outcome) {
        self.call.record(outcome, self.started_at.elapsed_us());
    }
}
