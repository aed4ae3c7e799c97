//! Reports that come late, twice, or from a life that is over.

use aether_core::apply::Position;
use aether_core::command::{Command, Refusal, Request};
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::records::{Analysis, Canary, SessionKind, Step, Strategy, UpdateOptions};

use super::*;
use crate::hub::Hub;

const LEASE: Duration = Duration::from_secs(3);
/// Longer than a lease.
const LONG_MS: u64 = 20_000;
const NOW_MS: u64 = 1_000_000;

fn leader() -> LeaderView {
    let leader = LeaderView::new(LEASE, LEASE);
    leader.set_now(NOW_MS, 1);
    leader
}

fn hub() -> Hub {
    Hub::new(LEASE, LEASE)
}

fn id() -> SessionId {
    "ingress-n1".parse().unwrap()
}

fn apply(state: &mut State, command: Command) -> aether_core::command::Outcome {
    let index = state.meta.index + 1;
    let at = Position { term: 1, index, log_time_ms: NOW_MS, wall_ms: NOW_MS };
    state.apply(at, &Request { request_id: None, actor: "test".to_owned(), command })
}

/// Opens the session, anew if it is open. Gives the index of this life.
fn open(state: &mut State) -> u64 {
    let follows = state.sessions.get(&id()).map_or(0, |record| record.opened);
    let (kind, name) = (SessionKind::Ingress, "n1".to_owned());
    let open = Command::OpenSession { session: id(), kind, name, fresh: true, follows };
    apply(state, open).unwrap().index
}

fn hello(attach: u64) -> v1::SessionHello {
    v1::SessionHello { session_id: id().to_string(), attach, ..Default::default() }
}

fn ack(applied: u64) -> v1::SessionReport {
    v1::SessionReport { incarnation: 1, applied, ..Default::default() }
}

/// What a node that a session is connected to would send now.
fn taken(hub: &Hub) -> peer::ReportRequest {
    hub.take(&mut hub.batch(), "n", usize::MAX).expect("something has changed")
}

/// The report of a session that is attached to one more node.
fn says(life: u64, attach: u64, applied: u64) -> (Hub, u64, peer::ReportRequest) {
    let hub = hub();
    let connection = hub.session_hello(life, hello(attach)).unwrap();
    assert!(hub.session_report(id().as_str(), connection, ack(applied)));
    let request = taken(&hub);
    (hub, connection, request)
}

fn view(leader: &LeaderView, state: &State) -> SessionView {
    leader.expect_sessions(state);
    leader.session_views(state, NOW_MS).remove(&id()).unwrap()
}

fn connected(applied: u64) -> SessionView {
    let (busy, holding) = (BTreeSet::new(), Holding::default());
    SessionView::Connected { applied, busy, holding }
}

fn agent(life: u64, attach: u64, silent_ms: u64) -> peer::ReportRequest {
    let hello = v1::AgentHello { node: "n1".to_owned(), life, attach, ..Default::default() };
    let report = Some(v1::AgentReport::default());
    let agent = peer::AgentState { hello: Some(hello), silent_ms, report, seq: 1 };
    peer::ReportRequest { agents: vec![agent], ..Default::default() }
}

/// Life and stream of what the leader takes for the agent's last word.
fn last_word(leader: &LeaderView) -> (u64, u64) {
    let inner = leader.inner();
    let agent = inner.agents.values().next().expect("an agent has spoken");
    (agent.hello.life, agent.hello.attach)
}

#[test]
fn a_late_report_of_a_node_that_was_frozen_changes_nothing() {
    let (leader, mut state) = (leader(), State::default());
    let life = open(&mut state);
    // Both were made just now: by their arrival the first would be the later.
    let (.., frozen) = says(life, 1, 5);
    let (.., present) = says(life, 2, 9);
    assert!(leader.absorb(0, present));
    assert!(leader.absorb(0, frozen));
    assert_eq!(view(&leader, &state), connected(9));

    assert!(leader.absorb(0, agent(1_000, 2, 0)));
    assert!(leader.absorb(0, agent(1_000, 1, 0)));
    assert_eq!(last_word(&leader), (1_000, 2));
}

#[test]
fn a_session_says_that_it_can_hold_calls_and_which_it_could_not() {
    let (leader, mut state) = (leader(), State::default());
    let life = open(&mut state);
    let says = |attach, features: &[&str], calls| {
        let hub = hub();
        let features = features.iter().map(ToString::to_string).collect();
        let hello = v1::SessionHello { features, ..hello(attach) };
        let connection = hub.session_hello(life, hello).unwrap();
        let slice = "org.example:a".to_owned();
        let late = vec![v1::LateCalls { slice, route_revision: 4, calls }];
        let report = v1::SessionReport { late, ..ack(5) };
        assert!(hub.session_report(id().as_str(), connection, report));
        taken(&hub)
    };
    let holding = |leader: &LeaderView| match view(leader, &state) {
        SessionView::Connected { holding, .. } => holding,
        other => panic!("{other:?}"),
    };
    assert!(leader.absorb(0, says(1, &["hold"], 2)));
    let slice: aether_core::coordinates::SliceName = "org.example:a".parse().unwrap();
    let late = |calls| [(slice.clone(), LateCalls { route_revision: 4, calls })].into();
    assert_eq!(holding(&leader), Holding { is_able: true, late: late(2) });
    // On another stream it is another release, as far as it says.
    assert!(leader.absorb(0, says(2, &["something-else"], 3)));
    assert_eq!(holding(&leader), Holding { is_able: false, late: late(3) });
}

#[test]
fn old_figures_are_not_counted_again() {
    let (leader, mut state) = (leader(), State::default());
    let life = open(&mut state);
    let says = |attach, requests| {
        let hub = hub();
        let connection = hub.session_hello(life, hello(attach)).unwrap();
        let row = v1::EndpointTelemetry {
            slice: "org.example:a".to_owned(),
            revision: 1,
            requests,
            ..Default::default()
        };
        let report = v1::SessionReport { telemetry: vec![row], ..ack(1) };
        assert!(hub.session_report(id().as_str(), connection, report));
        taken(&hub)
    };
    let frozen = says(1, 100);
    for request in [says(2, 150), frozen] {
        assert!(leader.absorb(0, request));
    }
    let version = ("org.example:a".parse().unwrap(), aether_core::ids::RevisionNo(1));
    assert_eq!(leader.total(&version).requests, 150);
}

#[test]
fn a_new_life_makes_what_the_old_one_says_late_void() {
    let (leader, mut state) = (leader(), State::default());
    let first = open(&mut state);
    let (hub, connection, late_report) = says(first, 7, 5);
    hub.session_goodbye(id().as_str(), connection);
    let late_goodbye = taken(&hub);
    let second = open(&mut state);
    let (.., report) = says(second, 1, 9);
    for request in [report, late_report, late_goodbye] {
        assert!(leader.absorb(0, request));
        assert_eq!(view(&leader, &state), connected(9));
        assert_eq!(leader.ended_sessions(), []);
    }
}

#[test]
fn a_goodbye_ends_only_the_life_that_said_it() {
    let (leader, mut state) = (leader(), State::default());
    let first = open(&mut state);
    let (hub, connection, _) = says(first, 7, 5);
    hub.session_goodbye(id().as_str(), connection);
    // It arrives before anything that the next life says.
    assert!(leader.absorb(0, taken(&hub)));
    let second = open(&mut state);
    assert_eq!(leader.ended_sessions(), [(id(), first)]);
    assert_eq!(view(&leader, &state), SessionView::Awaited, "the acks are of another process");
    let close = |opened| {
        let reason = "it ended in order".to_owned();
        Command::CloseSession { session: id(), opened, reason }
    };
    assert!(matches!(apply(&mut state, close(first)), Err(Refusal::Stale { .. })));
    assert_eq!(state.sessions[&id()].opened, second);
    assert!(apply(&mut state, close(second)).is_ok());
    assert!(state.sessions.is_empty());
}

#[test]
fn an_agent_whose_clock_was_set_back_is_heard_after_a_lease() {
    let leader = leader();
    assert!(leader.absorb(0, agent(1_000, 1, 0)));
    assert!(leader.absorb(0, agent(500, 1, 0)));
    assert_eq!(last_word(&leader), (1_000, 1));

    let leader = self::leader();
    assert!(leader.absorb(0, agent(1_000, 1, LONG_MS)));
    // As silent as what is known: nothing speaks for it.
    assert!(leader.absorb(0, agent(500, 1, LONG_MS)));
    assert_eq!(last_word(&leader), (1_000, 1));
    assert!(leader.absorb(0, agent(500, 1, 0)));
    assert_eq!(last_word(&leader), (500, 1));
}

#[test]
fn a_report_that_is_repeated_does_not_look_fresher() {
    let (leader, mut state) = (leader(), State::default());
    let (.., repeated) = says(open(&mut state), 1, 5);
    let mut first = repeated.clone();
    first.sessions[0].silent_ms = LONG_MS;
    assert!(leader.absorb(0, first));
    assert_eq!(view(&leader, &state), SessionView::Awaited);
    assert!(leader.absorb(0, repeated));
    assert_eq!(view(&leader, &state), SessionView::Awaited);
}

/// Moves back what a leader counts silence from.
fn led_for(leader: &LeaderView, long: Duration) {
    leader.inner().listening_since = Instant::now().checked_sub(long).unwrap();
}

fn silent_ms(view: &SessionView) -> u64 {
    match view {
        SessionView::Unreachable { since_ms } => NOW_MS - since_ms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn silence_counts_from_when_the_leader_could_have_heard() {
    let long = Duration::from_millis(LONG_MS);
    let (leader, mut state) = (leader(), State::default());
    led_for(&leader, long);
    let (.., mut report) = says(open(&mut state), 1, 5);
    assert_eq!(view(&leader, &state), SessionView::Awaited, "it was opened just now");

    // Known for long, and never heard of.
    leader.inner().expected.get_mut(&id()).unwrap().1 -= long;
    assert!((LONG_MS..LONG_MS + 5_000).contains(&silent_ms(&view(&leader, &state))));
    // What this process slept through is nobody's silence.
    leader.listen_anew();
    assert_eq!(view(&leader, &state), SessionView::Awaited);
    led_for(&leader, long / 2);
    assert!((LONG_MS / 2..LONG_MS / 2 + 5_000).contains(&silent_ms(&view(&leader, &state))));
    report.sessions[0].silent_ms = LONG_MS / 4;
    assert!(leader.absorb(0, report));
    assert!((LONG_MS / 4..LONG_MS / 4 + 5_000).contains(&silent_ms(&view(&leader, &state))));
    // A new life has not been silent yet.
    open(&mut state);
    assert_eq!(view(&leader, &state), SessionView::Awaited);
}

/// A session's report, made by hand.
fn counted(life: u64, (attach, seq): (u64, u64), counts: &[(&str, u64)]) -> peer::SessionState {
    let counter = |(instance, requests): &(&str, u64)| v1::EndpointTelemetry {
        slice: "org.example:a".to_owned(),
        revision: 1,
        instance_id: (*instance).to_owned(),
        requests: *requests,
        ..Default::default()
    };
    let telemetry = counts.iter().map(counter).collect();
    let report = Some(v1::SessionReport { telemetry, ..ack(1) });
    peer::SessionState { hello: Some(hello(attach)), report, life, seq, ..Default::default() }
}

#[test]
fn calls_to_an_instance_that_is_new_are_of_the_window_at_once() {
    let version = ("org.example:a".parse().unwrap(), aether_core::ids::RevisionNo(1));
    let seen = |leader: &LeaderView, state: peer::SessionState| {
        let request = peer::ReportRequest { sessions: vec![state], ..Default::default() };
        assert!(leader.absorb(1, request));
        leader.inner().telemetry.window(&version, 0, NOW_MS).requests
    };
    let follows = |life_before: u64| {
        let leader = leader();
        leader.take_over(1, life_before);
        leader.set_now(NOW_MS, 1);
        leader
    };
    // A session of before the leader: when it counted that, nobody knows.
    let leader = follows(100);
    assert_eq!(seen(&leader, counted(5, (1, 0), &[])), 0, "only a hello");
    let first = peer::SessionState { partial: true, ..counted(5, (1, 1), &[("a-1-0", 70)]) };
    assert_eq!(seen(&leader, first), 0);
    assert_eq!(seen(&leader, counted(5, (1, 2), &[("a-1-1", 80)])), 0, "the rest of it");
    // But it has told all now.
    assert_eq!(seen(&leader, counted(5, (1, 3), &[("a-1-2", 9)])), 9);
    assert_eq!(seen(&leader, counted(5, (2, 1), &[("a-1-2", 9), ("a-1-3", 2)])), 11);
    // A process that began under this leader counted all of it under it.
    assert_eq!(seen(&leader, counted(101, (1, 1), &[("a-1-0", 4)])), 15);
    // Unless that was on another stream, of which nobody told.
    let leader = follows(100);
    assert_eq!(seen(&leader, counted(101, (2, 1), &[("a-1-0", 4)])), 0);
}

/// A first deployment of two instances, in DEPLOYED.
fn deployed(state: &mut State) -> UpdateId {
    let start = Command::StartUpdate {
        slice: "org.example:a".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        instances: Some(2),
        options: UpdateOptions::default(),
    };
    deployed_by(state, start, 2)
}

fn deployed_by(state: &mut State, start: Command, instances: usize) -> UpdateId {
    use aether_core::command::Observation;
    use aether_core::manifest::Manifest;
    use aether_core::records::Observed;
    let text = "artifact = 'org.example:a:1.0.0'\n[run]\ncommand = ['./a']\n";
    let node: NodeName = "n1".parse().unwrap();
    let manifest = std::sync::Arc::new(Manifest::parse(text).unwrap());
    let (artifact, digest) = (manifest.artifact.clone(), "0".repeat(64));
    let register = Command::RegisterNode {
        node: node.clone(),
        address: "127.0.0.1:1".parse().unwrap(),
        labels: BTreeMap::new(),
        instances_max: 9,
    };
    apply(state, register).unwrap();
    let holder = node.clone();
    let others = BTreeSet::new();
    let register =
        Command::RegisterArtifact { artifact, digest, size_bytes: 1, manifest, holder, others };
    apply(state, register).unwrap();
    let update = apply(state, start).unwrap().update.unwrap();
    let placements = vec![node.clone(); instances];
    let begin = Command::BeginDeploy { update: update.clone(), placements };
    let instances = apply(state, begin).unwrap().instances;
    let ready = |instance: &aether_core::ids::InstanceId| Observation {
        instance: instance.clone(),
        observed: Observed::Ready,
        endpoint: Some("127.0.0.1:2".parse().unwrap()),
        restarts: 0,
        reason: None,
        reloaded: None,
    };
    let observations = instances.iter().map(ready).collect();
    apply(state, Command::Observe { node, observations }).unwrap();
    apply(state, Command::MarkDeployed { update: update.clone() }).unwrap();
    update
}

#[test]
fn health_names_each_instance_and_each_figure_beyond_its_threshold_and_since_when() {
    let (leader, mut state) = (leader(), State::default());
    let update = deployed(&mut state);
    let record = state.updates[&update].clone();
    let ids: Vec<String> = state.instances.keys().map(ToString::to_string).collect();
    let life = open(&mut state);
    let hub = hub();
    let connection = hub.session_hello(life, hello(1)).unwrap();
    // One instance fails every tenth call, the other is slow.
    let row = |id: &str, errors: u64, latency_ms: u64| v1::EndpointTelemetry {
        slice: "org.example:a".to_owned(),
        revision: record.new.revision.0,
        instance_id: id.to_owned(),
        requests: 100,
        errors,
        latency_sum_us: 100_000 * latency_ms,
        bucket_index: vec![aether_core::latency::bucket_of(latency_ms * 1_000) as u32],
        bucket_count: vec![100],
    };
    let telemetry = vec![row(&ids[0], 10, 5), row(&ids[1], 0, 900)];
    let report = v1::SessionReport { incarnation: 1, telemetry, ..Default::default() };
    assert!(hub.session_report(id().as_str(), connection, report));
    assert!(leader.absorb(0, taken(&hub)));

    let verdict = leader.verdicts(&state, NOW_MS).remove(&update).unwrap();
    let Verdict::Exceeded { detail } = verdict else { panic!("{verdict:?}") };
    assert!(detail.contains("error rate 5.00 %") && detail.contains("p99 latency"), "{detail}");
    leader.verdicts(&state, NOW_MS + 3_000);
    let request = peer::LeaderViewRequest { update_ids: vec![update.to_string()], sessions: false };
    let view = leader.answer(&state, &request, NOW_MS + 3_000).updates.remove(0);
    let health = view.health.unwrap();
    let exceeded: Vec<_> =
        health.exceeded.iter().map(|e| (e.figure.as_str(), e.threshold, e.since_ms)).collect();
    assert_eq!(exceeded, [("error_rate", 0.01, 3_000), ("p99_latency_ms", 500.0, 3_000)]);
    let instances = health.new_version.unwrap().instances;
    let counted: Vec<_> = instances
        .iter()
        .map(|i| (i.instance_id.as_str(), i.request_count, i.error_count, i.avg_latency_ms))
        .collect();
    assert_eq!(counted, [(ids[0].as_str(), 100, 10, 5.0), (ids[1].as_str(), 100, 0, 900.0)]);
    // Once the window has passed, nothing is exceeded, and a later time counts anew.
    leader.verdicts(&state, NOW_MS + LONG_MS);
    let later = leader.answer(&state, &request, NOW_MS + LONG_MS).updates.remove(0);
    assert!(later.health.unwrap().exceeded.is_empty());
}

#[test]
fn a_node_is_awaited_for_a_lease_and_silent_only_then() {
    let mut state = State::default();
    deployed(&mut state);
    let node: NodeName = "n1".parse().unwrap();
    let seen = |leader: &LeaderView| leader.node_views(&state, NOW_MS)[&node];
    let leader = leader();
    assert_eq!(seen(&leader), NodeView::Awaited);
    assert!(leader.absorb(0, agent(1, 1, 0)));
    assert_eq!(seen(&leader), NodeView::Reporting);
    // A leader with no patience at all has waited for its lease already.
    let strict = LeaderView::new(Duration::ZERO, Duration::ZERO);
    strict.set_now(NOW_MS, 1);
    std::thread::yield_now();
    let NodeView::Silent { since_ms } = seen(&strict) else { panic!("{:?}", seen(&strict)) };
    assert!(since_ms <= NOW_MS);
}

#[test]
fn what_an_agent_said_that_is_silent_since_is_no_news() {
    let leader = leader();
    assert!(leader.absorb(0, agent(1, 1, 0)));
    assert_eq!(leader.agents().len(), 1);
    assert!(leader.absorb(0, agent(2, 1, LONG_MS)));
    assert!(leader.agents().is_empty(), "its node may have been forgotten");
}

#[test]
fn an_ended_update_waits_for_nothing_whatever_its_slice_waits_for() {
    let (leader, mut state) = (leader(), State::default());
    let id = deployed(&mut state);
    let mut update = (*state.updates[&id]).clone();
    let wait = Wait {
        code: "operator",
        message: "a person's next step".to_owned(),
        since_ms: NOW_MS,
        unblock: "it is taken".to_owned(),
    };
    leader.set_waits([(update.slice.clone(), vec![wait])].into(), update.modified);
    assert_eq!(leader.update_view(&State::default(), &update, NOW_MS).waits.len(), 1);
    for ended in [UpdateState::Completed, UpdateState::RolledBack, UpdateState::Failed] {
        update.state = ended;
        assert!(leader.update_view(&State::default(), &update, NOW_MS).waits.is_empty(), "{ended}");
    }
}

/// What the leader would commit of what a session counted: its requests, and how many
/// of them reached which instance since what is committed.
fn evidence(
    leader: &LeaderView,
    state: &mut State,
    now_ms: u64,
    told: peer::SessionState,
) -> Vec<(u64, Vec<u64>)> {
    let request = peer::ReportRequest { sessions: vec![told], ..Default::default() };
    assert!(leader.absorb(1, request));
    let commands = leader.evidence(state, now_ms);
    let mut said = Vec::new();
    for command in commands {
        let Command::RecordEvidence { sums, instances, .. } = &command else { panic!() };
        let requests = sums.values().map(|sums| sums.tallies.new.requests).sum();
        let by_instance = instances.values().map(|counts| counts.side.requests).collect();
        said.push((requests, by_instance));
        apply(state, command).unwrap();
    }
    said
}

#[test]
fn evidence_is_told_by_instance_once_there_is_a_baseline_of_this_leader() {
    let mut state = State::default();
    apply(&mut state, Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX }).unwrap();
    let analysis = Analysis { warm_up_ms: 0, ..Analysis::default() };
    let steps = Step::list("1:0", 60_000).unwrap();
    let (scale_with_weight, one_way_from) = Default::default();
    let canary = Canary { steps, analysis, scale_with_weight, one_way_from };
    let start = Command::StartWith {
        slice: "org.example:a".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        instances: Some(3),
        options: UpdateOptions::default(),
        strategy: Strategy::Canary(canary),
        supersede: false,
        remake: Default::default(),
    };
    let update = deployed_by(&mut state, start, 3);
    let if_modified = state.updates[&update].modified;
    let opened_max = None;
    let enter = Command::EnterStep { update: update.clone(), step: 1, if_modified, opened_max };
    apply(&mut state, enter).unwrap();
    let ids: Vec<String> = state.instances.keys().map(ToString::to_string).collect();
    let life = open(&mut state);
    let takes_over = || {
        let leader = leader();
        leader.take_over(1, 0);
        leader.set_now(NOW_MS, 1);
        leader
    };
    let told = |seq: u64, counts: [u64; 3]| {
        let counts: Vec<_> = ids.iter().map(String::as_str).zip(counts).collect();
        counted(life, (1, seq), &counts)
    };
    let mut now_ms = NOW_MS;
    let mut commits = |leader: &LeaderView, state: &mut State, seq, counts| {
        now_ms += 1_000;
        evidence(leader, state, now_ms, told(seq, counts))
    };
    let leader = takes_over();
    assert_eq!(commits(&leader, &mut state, 1, [10, 20, 30]), [(60, vec![])], "a baseline");
    assert_eq!(commits(&leader, &mut state, 2, [11, 22, 33]), [(66, vec![1, 2, 3])]);
    assert_eq!(commits(&leader, &mut state, 3, [11, 29, 33]), [(73, vec![7])]);
    // Another leader knows the sums that are committed, but not what they were made of.
    let next = takes_over();
    assert_eq!(commits(&next, &mut state, 4, [12, 29, 33]), [(74, vec![])]);
    assert_eq!(commits(&next, &mut state, 5, [12, 30, 33]), [(75, vec![1])]);
    // An instance began anew: which of them had more, nobody can say.
    assert_eq!(commits(&next, &mut state, 6, [2, 90, 33]), [(125, vec![])]);
    let of_instances = |(_, by): (_, aether_core::records::InstanceEvidence)| {
        by.epochs.values().map(|side| side.requests).sum::<u64>()
    };
    let record = &state.evidence[&update];
    assert_eq!(record.present().new.requests, 15 + 50);
    let told: Vec<u64> = record.instances.clone().into_iter().map(of_instances).collect();
    assert_eq!(told, [1, 10, 3]);
}
