//! What somebody may send to the peer listener who is no peer, or one that went
//! mad: a typed refusal, and the voters go on together.

use aether_proto::errors::code_of;
use aether_proto::peer;
use aether_proto::peer::peer_client::PeerClient;
use aether_proto::raft::raft_client::RaftClient;
use aether_proto::raft::{self, Ballot, Route};
use aether_proto::v1;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::slices_client::SlicesClient;
use aether_tests::grpc::Call;
use aether_tests::{PATIENCE, Topology};
use bytes::Bytes;
use prost::Message;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::asking::Desk;
use super::desk_on;

/// The cluster's name in these tests.
const CLUSTER: &str = "test";

fn peer(desk: &Desk, node: usize) -> Channel {
    let address = desk.stage.cluster.nodes[node].addresses.peer;
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// How a peer addresses this node, as anybody can find out who knows the name
/// of the cluster.
async fn route_to(desk: &Desk, node: usize) -> Route {
    let request = raft::IdentifyRequest { cluster: CLUSTER.to_owned(), ..Default::default() };
    let mut client = RaftClient::new(peer(desk, node));
    let me = client.identify(request).await.unwrap().into_inner();
    assert_eq!(me.members.len(), 3, "{me:?}");
    let source = me.members.iter().find(|member| member.raft_id != me.raft_id).unwrap();
    Route {
        cluster: CLUSTER.to_owned(),
        target_id: me.raft_id,
        target_dir_id: me.dir_id,
        source_id: source.raft_id,
    }
}

fn raft(method: &str) -> Call {
    Call::of(&format!("/aether.raft.v1.Raft/{method}"))
}

fn of(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// A call, its messages, and how it must be refused.
type Row = (&'static str, Call, Vec<Bytes>, Code);

/// Calls that are not for this node, or cannot be read.
fn not_for_this_node(route: &Route) -> Vec<Row> {
    let ballot = Some(Ballot { term: 1, node_id: 1, committed: false });
    let vote = vec![of(&raft::VoteRequest { ballot, ..Default::default() })];
    let other = Route { cluster: "other".to_owned(), ..route.clone() };
    let stranger = Route { target_dir_id: "gone".to_owned(), ..route.clone() };
    let identify = of(&raft::IdentifyRequest { cluster: "other".into(), ..Default::default() });
    let garbage = || vec![Bytes::from_static(&[0xff; 9])];
    let mut rows = vec![
        ("another cluster asks", raft("Identify"), vec![identify], Code::FailedPrecondition),
        ("a vote without a route", raft("Vote"), vote.clone(), Code::InvalidArgument),
        (
            "a vote of another cluster",
            raft("Vote").route(&other),
            vote.clone(),
            Code::FailedPrecondition,
        ),
        (
            "a vote for an earlier data directory",
            raft("Vote").route(&stranger),
            vote,
            Code::FailedPrecondition,
        ),
    ];
    for method in ["Vote", "PreVote", "Heartbeat", "TransferLeader", "ReadIndex"] {
        rows.push(("garbage", raft(method).route(route), garbage(), Code::InvalidArgument));
        if method != "ReadIndex" {
            let empty = vec![Bytes::new()];
            rows.push(("nothing", raft(method).route(route), empty, Code::InvalidArgument));
        }
    }
    rows
}

/// Terms that would leave no room for elections, and logs with a gap.
fn out_of_reach(route: &Route) -> Vec<Row> {
    let mut rows = Vec::new();
    for term in [u64::MAX, (1 << 62) + 1, 1 << 62, 1 << 40] {
        let ballot = Some(Ballot { term, node_id: route.source_id, committed: true });
        let vote = of(&raft::VoteRequest { ballot, ..Default::default() });
        let append = of(&raft::AppendRequest { ballot, ..Default::default() });
        let from = of(&raft::TransferLeaderRequest { from: ballot, ..Default::default() });
        let start = Some(raft::SnapshotStart { ballot, ..Default::default() });
        let offer = of(&raft::SnapshotOffer { ballot, ..Default::default() });
        let snapshot = of(&raft::SnapshotChunk { start, ..Default::default() });
        for (method, message) in [
            ("Vote", vote.clone()),
            ("PreVote", vote),
            ("Heartbeat", append),
            ("TransferLeader", from),
            ("InstallSnapshot", snapshot),
            ("SnapshotKept", offer),
        ] {
            let call = raft(method).route(route);
            rows.push(("a term out of reach", call, vec![message], Code::InvalidArgument));
        }
    }
    let ballot = Some(Ballot { term: 1, node_id: route.source_id, committed: true });
    let id = |index| Some(raft::LogId { term: 1, index });
    let entry = |index| raft::Entry { log_id: id(index), payload: None };
    for (previous, entries) in [
        (id(3), vec![entry(5)]),
        (id(3), vec![entry(4), entry(4)]),
        (None, vec![entry(7)]),
        (id(u64::MAX - 1), vec![entry(u64::MAX)]),
        (id(u64::MAX), Vec::new()),
        (id(3), vec![raft::Entry::default()]),
    ] {
        let message = of(&raft::AppendRequest { ballot, previous, entries, committed: None });
        let call = raft("Heartbeat").route(route);
        rows.push(("a log with a gap", call, vec![message], Code::InvalidArgument));
    }
    rows
}

/// Snapshots of which a piece is missing, too many, or damaged.
fn no_snapshots(route: &Route) -> Vec<Row> {
    let start = |bytes| {
        let ballot = Some(Ballot { term: 1, node_id: route.source_id, committed: true });
        let start = Some(raft::SnapshotStart { ballot, bytes, ..Default::default() });
        of(&raft::SnapshotChunk { start, ..Default::default() })
    };
    let data = |bytes: usize| {
        of(&raft::SnapshotChunk { data: vec![7; bytes].into(), ..Default::default() })
    };
    let row = |what, messages, code| (what, raft("InstallSnapshot").route(route), messages, code);
    vec![
        row("a snapshot without its start", vec![data(9)], Code::InvalidArgument),
        row("a snapshot of nothing", Vec::new(), Code::InvalidArgument),
        row("a snapshot with a gap", vec![start(300), data(100), data(100)], Code::DataLoss),
        row("a snapshot that is too long", vec![start(50), data(100)], Code::InvalidArgument),
        row("a snapshot that is none", vec![start(200), data(100), data(100)], Code::DataLoss),
        row("an empty snapshot", vec![start(0)], Code::DataLoss),
    ]
}

/// The term that a voter is in.
async fn term(desk: &Desk, node: usize) -> u64 {
    let mut client = ClusterClient::new(desk.stage.cluster.channel(node));
    client.status(v1::StatusRequest::default()).await.unwrap().into_inner().term
}

/// A command that is refused once it is committed.
async fn commits(desk: &Desk) {
    let deadline = Instant::now() + PATIENCE;
    let mut slices = SlicesClient::new(desk.stage.cluster.channel(0));
    loop {
        let artifact = "a.b:c:1.0.0".to_owned();
        let asked = slices.deploy(v1::DeployRequest { artifact, ..Default::default() }).await;
        match asked.map_err(|status| status.code()) {
            Err(Code::NotFound) => return,
            other => assert!(Instant::now() < deadline, "nothing is committed: {other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_no_peer_sends_is_refused_and_the_voters_go_on() {
    let desk = desk_on(&Topology::split(3, 0), &[]).await;
    let leader = desk.stage.cluster.leader(PATIENCE).await.unwrap();
    let before = desk.rows().await;
    let mut wrong = Vec::new();
    for node in 0..3 {
        let route = route_to(&desk, node).await;
        let mut rows = not_for_this_node(&route);
        rows.extend(out_of_reach(&route));
        rows.extend(no_snapshots(&route));
        for (what, call, messages, code) in rows {
            match call.send(peer(&desk, node), messages).await {
                Err(status) if status.code() == code && code_of(&status).is_some() => {}
                Err(status) => wrong.push(format!("{what}: {:?} {status}", status.code())),
                Ok(answer) => wrong.push(format!("{what}: answered with {answer:?}")),
            }
        }
        deposed(&desk, node, &route).await;
        if node != leader {
            only_the_leader_hears_reports(&desk, node).await;
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(desk.rows().await, before, "the state changed");
    for node in 0..3 {
        // A busy machine may hold an election or two meanwhile.
        assert!(term(&desk, node).await < 1_000, "node {node} took a term from a stranger");
    }
    commits(&desk).await;
    desk.assert_well();
    desk.stage.end().await;
}

/// Votes and heartbeats in the name of each member, at each member: what they
/// cost is elections. Nobody takes a candidacy for its own that it never began.
#[tokio::test]
async fn a_forged_ballot_costs_an_election_and_no_more() {
    let desk = desk_on(&Topology::split(3, 0), &[]).await;
    desk.stage.cluster.leader(PATIENCE).await.unwrap();
    for committed in [false, true] {
        for named in 0..3 {
            for receiver in 0..3 {
                forged(&desk, receiver, named, committed).await;
            }
        }
    }
    // Every voter counts: with one away, the two others must do.
    for node in 0..3 {
        follows(&desk, node).await;
    }
    desk.assert_well();
    desk.stage.end().await;
}

/// Sends a ballot of a term ahead to `receiver` that names `named`, and waits
/// until the cluster commits again.
async fn forged(desk: &Desk, receiver: usize, named: usize, committed: bool) {
    let route = route_to(desk, receiver).await;
    let named_id = route_to(desk, named).await.target_id;
    let term = term(desk, receiver).await + 1_000;
    let ballot = Some(Ballot { term, node_id: named_id, committed });
    let last = Some(raft::LogId { term, index: 1 << 40 });
    let (method, message) = if committed {
        // A log that nobody has: the ballot is taken, the entries are not.
        let append = raft::AppendRequest { ballot, previous: last, ..Default::default() };
        ("Heartbeat", of(&append))
    } else {
        ("Vote", of(&raft::VoteRequest { ballot, last, leadership_transfer: true }))
    };
    let answer = raft(method).route(&route).send(peer(desk, receiver), vec![message]).await;
    let what = format!("{method} to {receiver} in the name of {named}");
    if named == receiver {
        let refused = answer.expect_err(&what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        return;
    }
    let answer = answer.unwrap_or_else(|e| panic!("{what}: {e}"));
    if !committed {
        let answer = raft::VoteResponse::decode(answer).unwrap();
        assert!(answer.granted, "{what}: {answer:?}");
    }
    desk.stage.cluster.leader(PATIENCE).await.unwrap();
    commits(desk).await;
}

/// Waits until this voter has applied what is committed now.
async fn follows(desk: &Desk, node: usize) {
    let status = |node: usize| {
        let mut client = ClusterClient::new(desk.stage.cluster.channel(node));
        async move { client.status(v1::StatusRequest::default()).await.unwrap().into_inner() }
    };
    let committed = status(desk.stage.cluster.leader(PATIENCE).await.unwrap()).await.applied;
    let deadline = Instant::now() + PATIENCE;
    while status(node).await.applied < committed {
        assert!(Instant::now() < deadline, "node {node} does not follow");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A leader of an earlier term is told of the present one.
async fn deposed(desk: &Desk, node: usize, route: &Route) {
    let ballot = Some(Ballot { term: 0, node_id: route.source_id, committed: true });
    let message = of(&raft::AppendRequest { ballot, ..Default::default() });
    let answer = raft("Heartbeat").route(route).send(peer(desk, node), vec![message]).await;
    let answer = raft::AppendResponse::decode(answer.unwrap()).unwrap();
    let result = answer.result;
    assert!(matches!(result, Some(raft::append_response::Result::HigherBallot(_))), "{result:?}");
}

async fn only_the_leader_hears_reports(desk: &Desk, node: usize) {
    let mut client = PeerClient::new(peer(desk, node));
    let refused = client.report(peer::ReportRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = client.leader_view(peer::LeaderViewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}
