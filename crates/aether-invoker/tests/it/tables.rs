//! Tables down, acknowledgements up.

use std::time::Duration;

use aether_invoker::{Config, Invoker, NotReady, Outcome, PickError, SessionKind, SliceName};
use aether_proto::v1;

use crate::support::backend::Backend;
use crate::support::control::Control;
use crate::support::{LIMIT, dead_address, set, table, until};

const A: &str = "org.example:a";
const LEASE: Duration = Duration::from_secs(3);

fn a() -> SliceName {
    A.parse().unwrap()
}

fn config(nodes: &[&Control]) -> Config {
    let nodes = nodes.iter().map(|node| node.address).collect();
    Config::new("test", SessionKind::Invoker, nodes)
}

async fn connect(nodes: &[&Control]) -> Invoker {
    let invoker = Invoker::connect(config(nodes)).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    invoker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_says_hello_applies_deltas_and_acknowledges_each() {
    let control = Control::start(LEASE);
    let invoker = connect(&[&control]).await;
    until("first report", || control.acked() == 1).await;
    let hello = control.hellos().remove(0);
    assert_eq!((hello.kind.as_str(), hello.name.as_str(), hello.protocol), ("INVOKER", "test", 1));
    assert_eq!(hello.session_id, invoker.session().as_str());

    let handle = invoker.slice(&a());
    assert!(matches!(handle.pick(), Err(PickError::NoTable { .. })));
    let (one, two) = (dead_address(), dead_address());
    let mut one_old = table(A, 5, "0:1");
    one_old.old = set(1, &[("a-1", one)]);
    control.publish(5, std::slice::from_ref(&one_old));
    until("ack of 5", || control.acked() == 5).await;
    assert_eq!(handle.pick().unwrap().address(), one);
    assert_eq!(invoker.table(&a()).as_deref(), Some(&one_old));

    let mut two_old = one_old.clone();
    two_old.table_revision = 6;
    two_old.old = set(1, &[("a-2", two)]);
    control.publish(6, &[two_old]);
    until("ack of 6", || control.acked() == 6).await;
    assert_eq!(handle.pick().unwrap().address(), two);

    control.remove(7, A);
    until("ack of 7", || control.acked() == 7).await;
    assert!(matches!(handle.pick(), Err(PickError::NoTable { .. })));
    assert_eq!(invoker.status().applied, Some((1, 7)));
    assert_eq!(invoker.status().node, Some(control.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_revision_is_refused_and_a_higher_incarnation_needs_a_snapshot() {
    let control = Control::start(LEASE);
    let mut current = table(A, 10, "0:1");
    current.old = set(1, &[("a-1", dead_address())]);
    control.publish(10, &[current.clone()]);
    let invoker = connect(&[&control]).await;
    let wire = |table: &aether_core::table::SliceTable| vec![v1::SliceTable::from(table)];

    let mut older = current.clone();
    older.old = set(1, &[("a-stale", dead_address())]);
    let stale =
        v1::RoutingDown { incarnation: 1, revision: 9, tables: wire(&older), ..Default::default() };
    // An older change is passed over; one without content acknowledges itself.
    control.send(stale.clone());
    control.send(v1::RoutingDown { incarnation: 1, revision: 11, ..Default::default() });
    until("ack of 11", || control.acked() == 11).await;
    assert_eq!(invoker.table(&a()).as_deref(), Some(&current));
    // An older snapshot comes from a node that has not caught up.
    control.set_revision(1, 11);
    control.send(v1::RoutingDown { snapshot: true, ..stale });
    until("the stream is opened again", || control.hellos().len() == 2).await;
    assert_eq!(invoker.table(&a()).as_deref(), Some(&current));
    // A reconnect says what is applied.
    assert_eq!((control.hellos()[1].incarnation, control.hellos()[1].revision), (1, 11));
    let numbers: Vec<u64> = control.hellos().iter().map(|hello| hello.attach).collect();
    assert_eq!(numbers, [1, 2]);

    let mut restored = current.clone();
    restored.old = set(1, &[("a-restored", dead_address())]);
    let delta = v1::RoutingDown {
        incarnation: 2,
        revision: 3,
        tables: wire(&restored),
        ..Default::default()
    };
    until("connected again", || invoker.status().node.is_some()).await;
    control.send(delta.clone());
    until("the stream is opened a third time", || control.hellos().len() == 3).await;
    assert_eq!(invoker.table(&a()).as_deref(), Some(&current));
    until("connected again", || invoker.status().node.is_some()).await;
    control.send(v1::RoutingDown { snapshot: true, ..delta });
    until("the snapshot is applied", || invoker.status().applied == Some((2, 3))).await;
    assert_eq!(invoker.table(&a()).as_deref(), Some(&restored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_read_is_neither_applied_nor_acknowledged() {
    let control = Control::start(LEASE);
    let invoker = connect(&[&control]).await;
    let bad = v1::SliceTable { slice: "nonsense".into(), ..Default::default() };
    control.send(v1::RoutingDown {
        incarnation: 1,
        revision: 2,
        tables: vec![bad],
        ..Default::default()
    });
    until("the stream is opened again", || control.hellos().len() == 2).await;
    assert_eq!(invoker.status().applied, Some((1, 1)));
    assert!(control.reports().iter().all(|report| report.applied == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_busy_until_its_last_call_has_ended() {
    let control = Control::start(LEASE);
    let mut both = table(A, 2, "0:1");
    both.old = set(1, &[("a-1", dead_address()), ("a-2", dead_address())]);
    control.publish(2, &[both.clone()]);
    let invoker = connect(&[&control]).await;
    let handle = invoker.slice(&a());
    let picks: Vec<_> = (0..4).map(|_| handle.pick().unwrap()).collect();
    assert_eq!(picks.iter().filter(|pick| pick.instance().as_str() == "a-1").count(), 2);

    let mut one = both.clone();
    one.table_revision = 3;
    one.old.as_mut().unwrap().endpoints.remove(0);
    control.publish(3, &[one]);
    until("ack of 3", || control.acked() == 3).await;
    assert_eq!(control.busy(), [("a-1".to_owned(), 2)]);
    assert!((0..10).all(|_| handle.pick().unwrap().instance().as_str() == "a-2"));
    // Reported at once, not at the next third of the lease.
    let reports = control.reports().len();
    drop(picks);
    until("idle", || control.busy().is_empty()).await;
    assert!(control.reports().len() > reports);

    // An instance that comes back while calls are in flight is not busy.
    let pick = handle.pick().unwrap();
    control.remove(4, A);
    until("busy again", || control.busy() == [("a-2".to_owned(), 1)]).await;
    both.table_revision = 5;
    control.publish(5, &[both]);
    until("ack of 5", || control.acked() == 5).await;
    assert!(control.busy().is_empty());
    drop(pick);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_by_the_last_table_and_the_next_node_takes_over() {
    let (mut first, second) = (Control::start(LEASE), Control::start(LEASE));
    let mut old = table(A, 2, "0:1");
    old.old = set(1, &[("a-1", dead_address())]);
    first.publish(2, &[old.clone()]);
    second.publish(2, &[old.clone()]);
    let invoker = connect(&[&first, &second]).await;
    let handle = invoker.slice(&a());
    until("connected to the first", || invoker.status().node == Some(first.address)).await;
    handle.pick().unwrap().finish(Outcome::Error);
    until("telemetry", || first.reports().iter().any(|report| !report.telemetry.is_empty())).await;
    first.stop();
    let mut picks = 0;
    until("connected to the second", || {
        handle.pick().unwrap();
        picks += 1;
        invoker.status().node == Some(second.address)
    })
    .await;
    assert!(picks > 0);
    until("hello", || !second.hellos().is_empty()).await;
    let hello = second.hellos().remove(0);
    assert_eq!(hello.session_id, invoker.session().as_str());
    assert_eq!((hello.incarnation, hello.revision), (1, 2));
    // All figures again, though they have not changed.
    until("telemetry", || second.reports().iter().any(|report| !report.telemetry.is_empty())).await;
    let report = second.reports().into_iter().find(|report| !report.telemetry.is_empty()).unwrap();
    let figures = &report.telemetry[0];
    assert_eq!(
        (figures.slice.as_str(), figures.revision, figures.instance_id.as_str()),
        (A, 1, "a-1")
    );
    assert_eq!((figures.requests, figures.errors), (1, 1));
    assert_eq!(figures.bucket_count.iter().sum::<u64>(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_left_after_a_lease() {
    let lease = Duration::from_millis(600);
    let (first, second) = (Control::start(lease), Control::start(lease));
    let invoker = connect(&[&first, &second]).await;
    until("connected to the first", || invoker.status().node == Some(first.address)).await;
    first.mute(true);
    until("connected to the second", || invoker.status().node == Some(second.address)).await;
    assert!(invoker.age().unwrap() < LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_come_every_third_of_the_lease() {
    let control = Control::start(Duration::from_millis(300));
    let _invoker = connect(&[&control]).await;
    until("ten reports", || control.reports().len() >= 10).await;
    assert_eq!(control.hellos().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_calls_in_flight_and_says_goodbye() {
    let control = Control::start(LEASE);
    let mut old = table(A, 2, "0:1");
    old.old = set(1, &[("a-1", dead_address())]);
    control.publish(2, &[old]);
    let invoker = connect(&[&control]).await;
    let handle = invoker.slice(&a());
    let pick = handle.pick().unwrap();
    let closing = tokio::spawn({
        let invoker = invoker.clone();
        async move { invoker.close().await }
    });
    until("busy", || control.busy() == [("a-1".to_owned(), 1)]).await;
    assert!(matches!(handle.pick(), Err(PickError::Closed { .. })));
    assert!(!control.said_goodbye());
    drop(pick);
    closing.await.unwrap();
    until("goodbye", || control.said_goodbye()).await;
    assert!(invoker.status().closed);
    invoker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoker_that_is_dropped_says_goodbye_too() {
    let control = Control::start(LEASE);
    let invoker = connect(&[&control]).await;
    let handle = invoker.slice(&a());
    drop(invoker);
    until("a report after the drop", {
        let before = control.reports().len();
        let control = &control;
        move || control.reports().len() > before
    })
    .await;
    assert!(!control.said_goodbye(), "a handle is left");
    drop(handle);
    until("goodbye", || control.said_goodbye()).await;
}

#[tokio::test]
async fn without_a_control_plane_nothing_is_ready_and_errors_say_so() {
    let nodes = vec![dead_address()];
    let invoker = Invoker::connect(Config::new("test", SessionKind::Invoker, nodes)).unwrap();
    let not_ready: NotReady = invoker.ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(not_ready.to_string().contains("127.0.0.1"));
    assert!(matches!(invoker.slice(&a()).pick(), Err(PickError::NotReady { .. })));
    invoker.close().await;
    assert!(matches!(invoker.slice(&a()).pick(), Err(PickError::Closed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_without_instances_gets_nothing_and_the_tally_says_what_was_split() {
    let control = Control::start(LEASE);
    let (old, new) = (Backend::start("a-1").await, Backend::start("a-2").await);
    let mut route = table(A, 2, "1:3");
    route.old = set(1, &[old.row()]);
    route.new = set(2, &[]);
    control.publish(2, &[route.clone()]);
    let invoker = connect(&[&control]).await;
    let handle = invoker.slice(&a());
    assert!((0..8).all(|_| handle.pick().unwrap().revision().0 == 1));
    route.table_revision = 3;
    route.new = set(2, &[new.row()]);
    control.publish(3, &[route.clone()]);
    until("ack of 3", || control.acked() == 3).await;
    assert_eq!((0..8).filter(|_| handle.pick().unwrap().revision().0 == 2).count(), 2);
    let tallies = invoker.route_tallies(&a());
    let split: Vec<_> =
        tallies.iter().map(|t| (t.route_revision, t.weights.to_string(), t.new, t.old)).collect();
    assert_eq!(split, [(2, "0:1".to_owned(), 0, 8), (2, "1:3".to_owned(), 2, 6)]);
    let by_revision: Vec<_> = invoker.tally(&a()).into_iter().map(|(r, n)| (r.0, n)).collect();
    assert_eq!(by_revision, [(1, 14), (2, 2)]);
}
