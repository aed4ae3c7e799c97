//! What a voter reads from others: entries of the log, reports of its peers and
//! clients, and calls of its services. Any bytes, and valid ones with changes.

mod calls;
mod messages;

use std::time::Duration;

use aether_core::apply::Position;
use aether_core::command::{Command, Refusal, Request};
use aether_core::lint::lint;
use aether_core::records::UpdateOptions;
use aether_core::state::State;
use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::{Index, select};
use aether_fuzz::{CASES, bytes, check, mutated};
use aether_proto::{peer, v1};
use aether_replica::{Machine, Stamp};
use prost::Message;

use crate::coordinator::agent_news;
use crate::hub::Hub;
use crate::leader::LeaderView;
use crate::machine::{StateMachine, decode_outcome, encode_request};

const LEASE: Duration = Duration::from_secs(3);

fn stamp(index: u64) -> Stamp {
    Stamp { term: 1, index, log_time_ms: index * 10, wall_ms: 5 }
}

fn request(command: Command) -> Request {
    Request { request_id: None, actor: "test".to_owned(), command }
}

/// Commands that bring a slice into the middle of an update.
fn commands() -> Vec<Command> {
    let artifact = |version: &str| format!("org.example:a:{version}").parse().unwrap();
    let manifest = |version: &str| {
        let text = format!("artifact='org.example:a:{version}'\n[run]\ncommand=['x']\n");
        std::sync::Arc::new(aether_core::manifest::Manifest::parse(&text).unwrap())
    };
    let register = |version: &str, digit: &str| Command::RegisterArtifact {
        artifact: artifact(version),
        digest: digit.repeat(64),
        size_bytes: 1,
        manifest: manifest(version),
        holder: "n2".parse().unwrap(),
        others: Default::default(),
    };
    let placements = vec!["n1".parse().unwrap(); 2];
    vec![
        Command::RegisterNode {
            node: "n1".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            instances_max: 10,
        },
        register("1.0.0", "1"),
        register("2.0.0", "2"),
        Command::Deploy {
            slice: "org.example:a".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            instances: 2,
        },
        Command::Assign {
            slice: "org.example:a".parse().unwrap(),
            revision: aether_core::ids::RevisionNo(1),
            placements,
            target_modified: 4,
        },
        Command::OpenSession {
            session: "s1".parse().unwrap(),
            kind: aether_core::records::SessionKind::Invoker,
            name: "caller".to_owned(),
            fresh: true,
            follows: 0,
        },
        Command::StartUpdate {
            slice: "org.example:a".parse().unwrap(),
            version: "2.0.0".parse().unwrap(),
            instances: None,
            options: UpdateOptions::default(),
        },
    ]
}

/// The state after all of [`commands`].
fn state() -> State {
    let mut state = State::default();
    for (command, index) in commands().into_iter().zip(1..) {
        let at = Position { term: 1, index, log_time_ms: index * 10, wall_ms: 5 };
        state.apply(at, &request(command)).unwrap();
    }
    state
}

#[test]
fn every_replica_makes_the_same_of_any_entry() {
    let valid: Vec<Vec<u8>> =
        commands().into_iter().map(|command| encode_request(&request(command)).to_vec()).collect();
    let entry = prop_oneof![
        3 => select(valid.clone()).prop_map(aether_fuzz::Shown),
        3 => mutated(valid),
        1 => bytes(60),
    ];
    check(CASES / 2, (vec(entry, 1..20), any::<Index>()), |(entries, restart)| {
        let (mut first, published) = StateMachine::new();
        let (mut second, _published) = StateMachine::new();
        let restart = restart.index(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let stamp = stamp(at as u64 + 1);
            let before: Vec<_> = first.image().filter(|(key, _)| key != "meta/cluster").collect();
            let told = first.apply(stamp, entry);
            assert_eq!(told, second.apply(stamp, entry), "of {entry:?}");
            if serde_json::from_slice::<Request>(entry).is_err() {
                let outcome = decode_outcome(&told);
                assert!(matches!(outcome, Err(Refusal::Unreadable { .. })), "{outcome:?}");
                let after: Vec<_> =
                    first.image().filter(|(key, _)| key != "meta/cluster").collect();
                assert_eq!(before, after);
            }
            if at == restart {
                // The second goes on from a snapshot.
                let rows: Vec<_> = second.image().collect();
                second = StateMachine::new().0;
                second.restore(stamp, &mut rows.into_iter()).unwrap();
            }
        }
        first.publish();
        second.publish();
        assert_eq!(first.hash(), second.hash());
        assert!(first.image().eq(second.image()));
        let state = published.newest.borrow().state.clone();
        assert_eq!(state.meta.index, entries.len() as u64);
        assert_eq!(lint(&state), Vec::<String>::new());
    });
}

#[test]
fn an_answer_is_read_or_unreadable() {
    let refusal = Refusal::UnknownUpdate { update: "u1".to_owned() };
    let answer =
        aether_core::command::Answer { index: 7, note: Some("x".to_owned()), ..Default::default() };
    let valid = [Ok(answer), Err(refusal)]
        .map(|outcome: aether_core::command::Outcome| serde_json::to_vec(&outcome).unwrap());
    check(4 * CASES, mutated(valid.into()), |bytes| drop(decode_outcome(&bytes)));
}

fn session_report() -> v1::SessionReport {
    v1::SessionReport {
        incarnation: 1,
        applied: 7,
        busy: vec![v1::BusyInstance { instance_id: "a-5-0".to_owned(), in_flight: 1 }],
        telemetry: vec![v1::EndpointTelemetry {
            slice: "org.example:a".to_owned(),
            revision: 2,
            instance_id: "a-7-0".to_owned(),
            requests: 100,
            errors: 1,
            latency_sum_us: 50_000,
            bucket_index: vec![20, 30],
            bucket_count: vec![60, 40],
        }],
        late: vec![v1::LateCalls {
            slice: "org.example:a".to_owned(),
            route_revision: 5,
            calls: 2,
        }],
    }
}

fn session_hello() -> v1::SessionHello {
    v1::SessionHello {
        session_id: "s1".to_owned(),
        kind: "INVOKER".to_owned(),
        name: "caller".to_owned(),
        protocol: 1,
        incarnation: 1,
        revision: 3,
        attach: 1,
        features: vec!["hold".to_owned()],
    }
}

fn agent_hello() -> v1::AgentHello {
    v1::AgentHello {
        node: "n1".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        instances_max: 10,
        protocol: 1,
        life: 1,
        attach: 1,
        takes_configs: true,
    }
}

fn agent_report() -> v1::AgentReport {
    let observation = |id: &str, observed: &str| v1::InstanceObservation {
        instance_id: id.to_owned(),
        observed: observed.to_owned(),
        endpoint: "127.0.0.1:10000".to_owned(),
        restarts: 0,
        reason_code: "probe_failed".to_owned(),
        reason_message: "connection refused".to_owned(),
        reloaded: 7,
    };
    v1::AgentReport {
        instances: vec![observation("a-5-0", "READY"), observation("a-5-1", "STARTING")],
        holds_sha256: vec!["1".repeat(64), "2".repeat(64)],
        receipt: 1,
        dropped_sha256: vec!["3".repeat(64)],
    }
}

/// What a voter reports of its clients, one part each and all together.
fn reports() -> Vec<Vec<u8>> {
    let session = peer::SessionState {
        hello: Some(session_hello()),
        silent_ms: 5,
        report: Some(session_report()),
        goodbye: false,
        life: 6,
        seq: 1,
        partial: false,
    };
    let agent = peer::AgentState {
        hello: Some(agent_hello()),
        silent_ms: 5,
        report: Some(agent_report()),
        seq: 1,
    };
    let report = |sessions: &[peer::SessionState], agents: &[peer::AgentState]| {
        peer::ReportRequest {
            node: "n2".to_owned(),
            sessions: sessions.to_vec(),
            agents: agents.to_vec(),
        }
        .encode_to_vec()
    };
    let mut left = session.clone();
    (left.goodbye, left.seq) = (true, 2);
    vec![
        report(&[session.clone(), left], std::slice::from_ref(&agent)),
        report(&[session], &[]),
        report(&[], &[agent]),
    ]
}

/// Applies what an agent's report is news of; there must be an end to it.
fn take_in(state: &mut State, hello: &v1::AgentHello, report: &v1::AgentReport) {
    for command in agent_news(hello, report, state) {
        // Too many instances are refused when the agent says hello.
        let refusable = matches!(&command, Command::RegisterNode { .. });
        let index = state.meta.index + 1;
        let at = Position { term: 1, index, log_time_ms: index * 10, wall_ms: 5 };
        let outcome = state.apply(at, &request(command.clone()));
        assert!(outcome.is_ok() || refusable, "{command:?}: {outcome:?}");
        assert_eq!(lint(state), Vec::<String>::new(), "after {command:?}");
    }
    let again = agent_news(hello, report, state);
    let again = again.iter().filter(|command| !matches!(command, Command::RegisterNode { .. }));
    assert_eq!(again.count(), 0, "the same report is news again");
}

#[test]
fn a_leader_takes_in_any_report_and_goes_on() {
    let report = prop_oneof![6 => mutated(reports()), 1 => bytes(100)];
    let whole = state();
    check(CASES, vec(report, 1..6), |reports| {
        let mut state = whole.clone();
        let leader = LeaderView::new(LEASE, LEASE);
        leader.set_now(1_000, 1);
        leader.take_over(1, 3);
        for report in reports {
            let Ok(report) = peer::ReportRequest::decode(&report[..]) else { continue };
            assert!(leader.absorb(1, report));
            leader.expect_sessions(&state);
            drop(leader.session_views(&state, 1_000));
            drop((leader.ended_sessions(), leader.node_views(&state, 1_000)));
            drop(leader.verdicts(&state, 1_000));
            let all: Vec<String> = state.updates.keys().map(ToString::to_string).collect();
            let asked = peer::LeaderViewRequest { update_ids: all, sessions: true };
            let answer = leader.answer(&state, &asked, 1_000);
            assert_eq!(answer.updates.len(), 1);
            for agent in leader.agents() {
                take_in(&mut state, &agent.hello, &agent.report);
            }
        }
    });
}

#[test]
fn what_a_hub_heard_reaches_the_leader_in_requests_of_the_size_asked_for() {
    const BYTES_MAX: usize = 400;
    let hello = mutated(vec![session_hello().encode_to_vec()]);
    let report = mutated(vec![session_report().encode_to_vec()]);
    let agent = (
        mutated(vec![agent_hello().encode_to_vec()]),
        mutated(vec![agent_report().encode_to_vec()]),
    );
    check(CASES, (hello, vec(report, 0..4), agent), |(hello, reports, (agent, said))| {
        let hub = Hub::new(LEASE, LEASE);
        let hello = v1::SessionHello::decode(&hello[..]).unwrap_or_else(|_| session_hello());
        let id = hello.session_id.clone();
        let connection = hub.session_hello(6, hello).unwrap();
        for report in reports {
            if let Ok(report) = v1::SessionReport::decode(&report[..]) {
                assert!(hub.session_report(&id, connection, report));
            }
        }
        let agent = v1::AgentHello::decode(&agent[..]).unwrap_or_else(|_| agent_hello());
        let node = agent.node.clone();
        let connection = hub.agent_hello(agent).unwrap();
        if let Ok(report) = v1::AgentReport::decode(&said[..]) {
            assert!(hub.agent_report(&node, connection, report));
        }
        let leader = LeaderView::new(LEASE, LEASE);
        let mut batch = hub.batch();
        let mut requests = 0;
        while let Some(request) = hub.take(&mut batch, "n1", BYTES_MAX) {
            requests += 1;
            assert!(requests < 100, "there is an end to it");
            let clients = request.sessions.len() + request.agents.len();
            assert!(request.encoded_len() <= BYTES_MAX || clients <= 1);
            // It comes back if it did not arrive, and once only.
            if requests == 1 {
                hub.put_back(&request);
            }
            assert!(leader.absorb(0, request));
        }
        let mut batch = hub.batch();
        while let Some(request) = hub.take(&mut batch, "n1", BYTES_MAX) {
            assert!(leader.absorb(0, request));
        }
        assert!(hub.take(&mut hub.batch(), "n1", BYTES_MAX).is_none(), "all of it was sent");
    });
}
