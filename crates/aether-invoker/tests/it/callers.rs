//! Callers that are bound to a thread.

use std::collections::BTreeMap;
use std::time::Duration;

use aether_invoker::{Caller, Outcome, PickError, Side, SliceHandle};

use crate::support::control::Control;
use crate::support::{dead_address, set, table, until};
use crate::{A, connect};

const LEASE: Duration = Duration::from_secs(30);

fn both(handle: &SliceHandle) -> [Caller; 2] {
    [handle.caller(), handle.independent_caller()]
}

fn instances(caller: &Caller, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let pick = caller.pick().unwrap();
        *counts.entry(pick.instance().to_string()).or_default() += 1;
        pick.finish(Outcome::Success);
    }
    counts
}

#[tokio::test]
async fn callers_follow_the_tables_and_a_weight_of_zero_gets_nothing() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let callers = both(&handle);
    for caller in &callers {
        assert!(matches!(caller.pick().unwrap_err(), PickError::NoTable { .. }));
    }
    let mut table = table(A, 5, "1:3");
    table.old = set(1, &[("a-1", dead_address()), ("a-2", dead_address())]);
    table.new = set(2, &[("a-3", dead_address())]);
    control.publish(5, &[table.clone()]);
    until("ack of 5", || control.acked() == 5).await;
    for caller in &callers {
        let counts = instances(caller, 400);
        assert_eq!(counts["a-3"], 100, "{counts:?}");
        assert!(counts["a-1"].abs_diff(counts["a-2"]) <= 1, "{counts:?}");
        let pick = caller.pick_untimed().unwrap();
        let version = if pick.side() == Side::New { "2.0.0" } else { "1.0.0" };
        assert_eq!((pick.route_revision(), &pick.version().to_string()[..]), (5, version));
    }
    (table.table_revision, table.route_revision) = (6, 6);
    table.weights = "0:1".parse().unwrap();
    control.publish(6, &[table.clone()]);
    until("ack of 6", || control.acked() == 6).await;
    assert!(callers.iter().all(|caller| !instances(caller, 400).contains_key("a-3")));
    control.remove(7, A);
    until("ack of 7", || control.acked() == 7).await;
    for caller in &callers {
        assert!(matches!(caller.pick().unwrap_err(), PickError::NoTable { .. }));
    }
    let tallied: u64 = handle.route_tallies().iter().map(|tally| tally.new + tally.old).sum();
    assert_eq!(tallied, 2 * (400 + 1 + 400));
}

#[tokio::test]
async fn an_instance_is_busy_until_the_last_call_of_a_caller_has_ended() {
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let mut table = table(A, 5, "0:1");
    table.old = set(1, &[("a-1", dead_address())]);
    control.publish(5, &[table.clone()]);
    until("ack of 5", || control.acked() == 5).await;
    let callers = both(&handle);
    let picks = callers.each_ref().map(|caller| caller.pick().unwrap());
    table.table_revision = 6;
    table.old = set(1, &[("a-2", dead_address())]);
    control.publish(6, &[table.clone()]);
    until("ack of 6", || control.acked() == 6).await;
    assert_eq!(control.busy(), [("a-1".to_owned(), 2)]);
    drop(picks);
    until("idle", || control.busy().is_empty()).await;
    // A caller that holds the last table, and makes no call, holds nobody up.
    assert!(callers.iter().all(|caller| instances(caller, 3).contains_key("a-2")));
}

#[tokio::test]
async fn picks_and_their_records_allocate_nothing() {
    const CALLS: usize = 10_000;
    let control = Control::start(LEASE);
    let handle = connect(&control).await;
    let mut table = table(A, 5, "3:17");
    let rows: Vec<(String, _)> = (0..32).map(|at| (format!("a-{at}"), dead_address())).collect();
    let rows: Vec<(&str, _)> = rows.iter().map(|(name, address)| (&name[..], *address)).collect();
    (table.new, table.old) = (set(2, &rows[..16]), set(1, &rows[16..]));
    control.publish(5, &[table]);
    until("ack of 5", || control.acked() == 5).await;
    let [caller, independent] = both(&handle);
    // How long a call takes decides in which bucket it counts; the first there makes it.
    let latency = Duration::from_micros(250);
    let call = |by: usize| match by {
        0 => drop(handle.pick().unwrap()),
        1 => caller.pick_untimed().unwrap().finish(Outcome::Success, latency),
        _ => independent.pick_untimed().unwrap().finish(Outcome::Error, latency),
    };
    for by in 0..3 {
        (0..CALLS).for_each(|_| call(by));
        let counted = allocation_counter::measure(|| (0..CALLS).for_each(|_| call(by)));
        assert_eq!(counted.count_total, 0, "{by}");
    }
    // Timed ones record by the clock: at most a bucket per instance and power of two.
    let timed = || handle.pick().unwrap().finish(Outcome::Success);
    let counted = allocation_counter::measure(|| (0..CALLS).for_each(|_| timed()));
    assert!(counted.count_total <= 32 * 30, "{}", counted.count_total);
}
