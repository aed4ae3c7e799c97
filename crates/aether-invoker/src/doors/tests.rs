//! The doors on one thread; [`model`](super::model) has them on several.

use aether_core::schedule::Side;

use super::booths::Booths;
use super::calls::Calls;
use super::counter::Lane;
use super::gate::Gate;
use super::lane;
use super::sync::LightFence;

#[test]
fn a_closed_gate_hands_out_nothing_and_waits_for_those_inside() {
    let (mut gate, lane) = (Gate::open(lane::count()), lane::current());
    gate.set_first(7);
    assert_eq!(gate.enter(), Some(7));
    assert_eq!(gate.enter(), Some(8));
    gate.settle(lane, Side::New);
    let next = gate.close();
    assert_eq!(next, 9);
    assert_eq!(gate.enter(), None);
    assert!(!gate.is_settled(next));
    gate.settle(lane, Side::Old);
    assert!(gate.is_settled(next));
    assert_eq!(gate.settled(), (1, 1));
}

#[test]
fn closed_booths_let_nobody_in_and_wait_for_those_inside() {
    let (booths, lane, fence) = (Booths::open(lane::count()), lane::current(), LightFence::new());
    assert!(booths.enter(lane, fence));
    booths.close();
    assert!(!booths.enter(lane, fence));
    assert!(!booths.is_settled());
    booths.settle(lane, Side::Old);
    assert!(booths.is_settled());
    assert_eq!(booths.settled(), (0, 1));
}

#[test]
fn only_the_last_call_of_a_leaving_endpoint_says_so() {
    let (calls, lane) = (Calls::new(lane::count()), lane::current());
    (0..3).for_each(|_| calls.begin(lane));
    assert!(!calls.end(lane.index));
    calls.leave();
    assert_eq!(calls.in_flight(), 2);
    assert!(!calls.end(lane.index));
    assert!(calls.end(lane.index));
    assert_eq!(calls.in_flight(), 0);
    calls.begin_bound(lane);
    assert!(calls.end_bound(lane));
    calls.come_back();
    calls.begin(lane);
    assert!(!calls.end(lane.index));
    (0..2).for_each(|_| calls.begin_bound(lane));
    assert!(!calls.end_bound(lane));
    assert_eq!(calls.in_flight(), 1);
    assert!(!calls.end_bound(lane));
}

#[test]
fn the_bound_on_calls_in_flight_is_exact_where_it_is_small_and_close_elsewhere() {
    let calls = Calls::new(lane::count());
    let (lane, shared) = (lane::current(), Lane::shared());
    calls.begin(lane);
    assert_eq!(calls.above(1, lane.index), None);
    calls.begin(shared);
    assert_eq!(calls.above(1, lane.index), Some(2));
    // One lane within its share of an eighth does not look at the others.
    let max = 800 * lane::count() as u64;
    (0..max).for_each(|_| calls.begin(shared));
    assert_eq!(calls.above(max, lane.index), None);
    assert_eq!(calls.above(max, Lane::SHARED), Some(max + 2));
    (0..100).for_each(|_| calls.begin_bound(lane));
    assert_eq!(calls.above(max, lane.index), Some(max + 102));
}
