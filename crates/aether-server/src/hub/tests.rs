//! What the hub sends, in which parts, and what it forgets.

use aether_core::coordinates::SliceName;
use aether_core::ids::RevisionNo;

use super::*;
use crate::leader::LeaderView;

const LEASE: Duration = Duration::from_secs(3);
const SLICE: &str = "org.example:a";

fn hub() -> Hub {
    Hub::new(LEASE, LEASE)
}

fn hello(id: &str, attach: u64) -> v1::SessionHello {
    v1::SessionHello { session_id: id.to_owned(), attach, ..Default::default() }
}

fn row(instance: usize, requests: u64) -> v1::EndpointTelemetry {
    v1::EndpointTelemetry {
        slice: SLICE.to_owned(),
        revision: 1,
        instance_id: format!("a-{instance}"),
        requests,
        bucket_index: (20..30).collect(),
        bucket_count: vec![requests; 10],
        ..Default::default()
    }
}

fn report(rows: impl Iterator<Item = v1::EndpointTelemetry>) -> v1::SessionReport {
    v1::SessionReport { incarnation: 1, telemetry: rows.collect(), ..Default::default() }
}

/// All requests of one batch.
fn take_all(hub: &Hub, bytes_max: usize) -> Vec<peer::ReportRequest> {
    let mut batch = hub.batch();
    std::iter::from_fn(|| hub.take(&mut batch, "n1", bytes_max)).collect()
}

fn rows_of(request: &peer::ReportRequest) -> Vec<&v1::EndpointTelemetry> {
    request.sessions.iter().filter_map(|s| s.report.as_ref()).flat_map(|r| &r.telemetry).collect()
}

#[test]
fn a_great_deal_of_telemetry_reaches_the_leader_in_small_requests() {
    const BYTES_MAX: usize = 1024 * 1024;
    let (hub, leader) = (hub(), LeaderView::new(LEASE, LEASE));
    for session in 0..100 {
        let id = format!("s{session}");
        let connection = hub.session_hello(1, hello(&id, 1)).unwrap();
        assert!(hub.session_report(&id, connection, report((0..1_000).map(|i| row(i, 7)))));
    }
    let node = v1::AgentHello { node: "n1".to_owned(), ..Default::default() };
    let agent = hub.agent_hello(node).unwrap();
    assert!(hub.agent_report("n1", agent, v1::AgentReport::default()));

    let requests = take_all(&hub, BYTES_MAX);
    let sizes: Vec<_> = requests.iter().map(Message::encoded_len).collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|bytes| *bytes <= BYTES_MAX), "{sizes:?}");
    assert_eq!(requests.iter().map(|request| request.agents.len()).sum::<usize>(), 1);
    for request in requests {
        assert!(leader.absorb(0, request));
    }
    let version = (SLICE.parse::<SliceName>().unwrap(), RevisionNo(1));
    assert_eq!(leader.total(&version).requests, 100 * 1_000 * 7);
    assert!(take_all(&hub, BYTES_MAX).is_empty(), "all of it was sent");
}

#[test]
fn what_fits_into_no_request_goes_alone() {
    let hub = hub();
    let connection = hub.session_hello(1, hello("s1", 1)).unwrap();
    hub.session_hello(1, hello("s2", 1)).unwrap();
    assert!(hub.session_report("s1", connection, report((0..3).map(|i| row(i, 1)))));
    let requests = take_all(&hub, 1);
    assert!(requests.iter().all(|request| request.sessions.len() == 1));
    assert_eq!(requests.iter().map(|request| rows_of(request).len()).sum::<usize>(), 3);
    assert!(take_all(&hub, 1).is_empty());
}

#[test]
fn a_failed_request_is_all_that_is_sent_again() {
    let hub = hub();
    for session in 0..10 {
        let id = format!("s{session}");
        let connection = hub.session_hello(1, hello(&id, 1)).unwrap();
        assert!(hub.session_report(&id, connection, report((0..50).map(|i| row(i, 1)))));
    }
    let requests = take_all(&hub, 10_000);
    assert!(requests.len() > 2);
    hub.put_back(&requests[1]);
    let again = take_all(&hub, usize::MAX);
    assert_eq!(again.len(), 1);
    assert_eq!(rows_of(&again[0]).len(), rows_of(&requests[1]).len());
    let names = |request: &peer::ReportRequest| -> BTreeSet<String> {
        let hellos = request.sessions.iter().filter_map(|s| s.hello.as_ref());
        hellos.map(|hello| hello.session_id.clone()).collect()
    };
    assert_eq!(names(&again[0]), names(&requests[1]));
}

#[test]
fn counters_that_changed_longest_ago_give_way_to_new_ones() {
    let hub = hub();
    let connection = hub.session_hello(1, hello("s1", 1)).unwrap();
    let say = |rows: &mut dyn Iterator<Item = v1::EndpointTelemetry>| {
        assert!(hub.session_report("s1", connection, report(rows)));
    };
    say(&mut (0..COUNTERS_MAX).map(|i| row(i, 1)));
    assert_eq!(take_all(&hub, usize::MAX).len(), 1);
    // The first of them goes on, the others don't, and two more appear.
    say(&mut std::iter::once(row(0, 2)));
    say(&mut (COUNTERS_MAX..COUNTERS_MAX + 2).map(|i| row(i, 1)));
    let requests = take_all(&hub, usize::MAX);
    let sent: Vec<_> = rows_of(&requests[0]).iter().map(|row| row.instance_id.clone()).collect();
    assert_eq!(
        sent,
        ["a-0".to_owned(), row(COUNTERS_MAX, 1).instance_id, row(COUNTERS_MAX + 1, 1).instance_id]
    );
    hub.mark_all();
    let requests = take_all(&hub, usize::MAX);
    let kept = rows_of(&requests[0]);
    assert_eq!(kept.len(), COUNTERS_KEPT);
    assert!(sent.iter().all(|id| kept.iter().any(|row| row.instance_id == *id)));
}

#[test]
fn an_older_stream_does_not_displace_a_newer_one() {
    let hub = hub();
    let newer = hub.session_hello(5, hello("s1", 2)).unwrap();
    assert_eq!(hub.session_hello(5, hello("s1", 1)), None);
    assert_eq!(hub.session_hello(4, hello("s1", 9)), None);
    assert!(hub.session_report("s1", newer, v1::SessionReport::default()));
    let next_life = hub.session_hello(6, hello("s1", 1)).unwrap();
    assert!(!hub.session_report("s1", newer, v1::SessionReport::default()));
    assert!(hub.session_report("s1", next_life, v1::SessionReport::default()));

    let agent =
        |life, attach| v1::AgentHello { node: "n1".to_owned(), life, attach, ..Default::default() };
    let newer = hub.agent_hello(agent(1_000, 2)).unwrap();
    assert_eq!(hub.agent_hello(agent(1_000, 1)), None);
    assert_eq!(hub.agent_hello(agent(999, 3)), None);
    assert!(hub.agent_report("n1", newer, v1::AgentReport::default()));
}

#[test]
fn a_goodbye_is_kept_until_the_life_that_said_it_is_over() {
    let hub = hub();
    let connection = hub.session_hello(5, hello("s1", 1)).unwrap();
    hub.session_goodbye("s1", connection);
    hub.session_lost("s1", connection);
    hub.forget_ended(|id, life| (id, life) == ("s1", 5));
    assert_eq!(take_all(&hub, usize::MAX).len(), 1);
    hub.mark_all();
    // Opened anew: whoever said goodbye is gone in any case.
    hub.forget_ended(|id, life| (id, life) == ("s1", 6));
    assert!(take_all(&hub, usize::MAX).is_empty());
}
