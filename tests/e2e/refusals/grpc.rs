//! What a client may send to gRPC by mistake or malice: an error that says to
//! programs what is wrong, and nothing changes.

use aether_proto::errors::{code_of, invalid_fields};
use aether_proto::v1;
use aether_proto::{MESSAGE_BYTES_MAX, REQUEST_BYTES_MAX};
use aether_tests::grpc::Call;
use bytes::Bytes;
use prost::Message;
use tonic::Code;

use super::asking::Desk;
use super::{EXAMPLE, desk};

/// A call, and how it must be refused.
type Row = (&'static str, Call, Vec<Bytes>, Code, &'static str);

fn of(message: &impl Message) -> Vec<Bytes> {
    vec![message.encode_to_vec().into()]
}

/// One field of a message: its number, its wire type, and its bytes.
fn field(number: u8, wire_type: u8, bytes: &[u8]) -> Bytes {
    let mut all = vec![number << 3 | wire_type];
    all.extend(bytes);
    all.into()
}

/// Whatever the method, these cannot be read.
fn unreadable() -> Vec<Row> {
    let row = |what, path: &str, bytes: Bytes| {
        (what, Call::of(path), vec![bytes], Code::InvalidArgument, "malformed_message")
    };
    const GET: &str = "/aether.v1.Updates/Get";
    vec![
        row("a tag that does not end", GET, vec![0xff; 9].into()),
        row("a length beyond the end", GET, field(1, 2, &[200])),
        row("a number where a text is", GET, field(1, 0, &[1])),
        row("text that is no UTF-8", GET, field(1, 2, &[2, 0xc0, 0xaf])),
        row("a group that does not end", GET, field(1, 3, &[])),
        row("garbage to a stream of an agent", "/aether.v1.Agents/Attach", vec![0xff; 9].into()),
        row("garbage to a stream of a session", "/aether.v1.Routing/Watch", vec![0xff; 9].into()),
        row("garbage to a push", "/aether.v1.Artifacts/Push", vec![0xff; 9].into()),
    ]
}

/// These can be read, and make no sense.
fn senseless() -> Vec<Row> {
    let row = |what, path: &str, messages: Vec<Bytes>| {
        (what, Call::of(path), messages, Code::InvalidArgument, "invalid_argument")
    };
    let start = v1::StartUpdateRequest {
        artifact_base: EXAMPLE.to_owned(),
        version: "2.0.0".to_owned(),
        ..Default::default()
    };
    let unknown_policy = v1::StartUpdateRequest { cleanup_policy: "7".into(), ..start.clone() };
    let no_number = v1::StartUpdateRequest { max_error_rate: Some(f64::NAN), ..start.clone() };
    let infinite = v1::StartUpdateRequest { max_error_rate: Some(f64::INFINITY), ..start };
    let long_actor = v1::ScaleRequest {
        slice: EXAMPLE.to_owned(),
        instances: 1,
        actor: "a".repeat(100_000),
        ..Default::default()
    };
    let hello = v1::SessionHello { session_id: "s".into(), protocol: 1, ..Default::default() };
    let kind = v1::routing_up::Message::Hello(v1::SessionHello { kind: "7".into(), ..hello });
    let agent = v1::AgentHello { node: "../x".into(), protocol: 1, ..Default::default() };
    let agent = v1::agent_up::Message::Hello(agent);
    vec![
        row("an update without a name", "/aether.v1.Updates/Get", vec![Bytes::new()]),
        row("an update without anything", "/aether.v1.Updates/Start", vec![Bytes::new()]),
        row("a value that is not enumerated", "/aether.v1.Updates/Start", of(&unknown_policy)),
        row("an error rate that is no number", "/aether.v1.Updates/Start", of(&no_number)),
        row("an infinite error rate", "/aether.v1.Updates/Start", of(&infinite)),
        row("an actor of 100 kB", "/aether.v1.Slices/Scale", of(&long_actor)),
        row("a push without its part", "/aether.v1.Artifacts/Push", vec![Bytes::new()]),
        row("a push of nothing", "/aether.v1.Artifacts/Push", Vec::new()),
        row("a session without its hello", "/aether.v1.Routing/Watch", vec![Bytes::new()]),
        row("a session that says nothing", "/aether.v1.Routing/Watch", Vec::new()),
        row(
            "a session of an unknown kind",
            "/aether.v1.Routing/Watch",
            of(&v1::RoutingUp { message: Some(kind) }),
        ),
        row("an agent without its hello", "/aether.v1.Agents/Attach", vec![Bytes::new()]),
        row(
            "an agent of a strange node",
            "/aether.v1.Agents/Attach",
            of(&v1::AgentUp { message: Some(agent) }),
        ),
    ]
}

/// A token of another method or filter, or of nobody.
async fn wrong_tokens(desk: &Desk) -> Vec<Row> {
    let mut artifacts = v1::artifacts_client::ArtifactsClient::new(desk.stage.cluster.channel(0));
    let first = v1::ListArtifactsRequest { page_size: 1, ..Default::default() };
    let token = artifacts.list(first).await.unwrap().into_inner().next_page_token;
    assert!(!token.is_empty(), "there are two artifacts");
    let row = |what, path: &str, message: Vec<Bytes>| {
        (what, Call::of(path), message, Code::InvalidArgument, "invalid_argument")
    };
    let artifacts = |page_token: &str, artifact_base: &str| {
        of(&v1::ListArtifactsRequest {
            page_token: page_token.to_owned(),
            artifact_base: artifact_base.to_owned(),
            ..Default::default()
        })
    };
    let page_token = token.clone();
    let nodes = of(&v1::NodesRequest { page_token, ..Default::default() });
    let page_token = token.clone();
    let updates = of(&v1::ListUpdatesRequest { page_token, ..Default::default() });
    let page_token = token.clone();
    let slices = of(&v1::ListSlicesRequest { page_token, ..Default::default() });
    const LIST: &str = "/aether.v1.Artifacts/List";
    vec![
        row("a token of artifacts for nodes", "/aether.v1.Cluster/Nodes", nodes),
        row("a token of artifacts for updates", "/aether.v1.Updates/List", updates),
        row("a token of artifacts for slices", "/aether.v1.Slices/List", slices),
        row("a token of another filter", LIST, artifacts(&token, EXAMPLE)),
        row("a token that was cut", LIST, artifacts(&token[..token.len() - 4], "")),
        row("a token of nobody", LIST, artifacts("bm9ib2R5IGhhcyBnaXZlbg", "")),
        row("a token of a megabyte", LIST, artifacts(&"A".repeat(1 << 20), "")),
    ]
}

/// Too much, too late, or for nobody.
fn out_of_bounds() -> Vec<Row> {
    const SCALE: &str = "/aether.v1.Slices/Scale";
    let scale = v1::ScaleRequest { slice: EXAMPLE.to_owned(), instances: 2, ..Default::default() };
    let large = |bytes: usize| {
        of(&v1::GetUpdateRequest { update_id: "u".repeat(bytes), ..Default::default() })
    };
    let stream = |bytes: usize| {
        let hello = v1::AgentHello { node: "n".repeat(bytes), ..Default::default() };
        of(&v1::AgentUp { message: Some(v1::agent_up::Message::Hello(hello)) })
    };
    let expired = |what, timeout: &str| {
        let call = Call::of(SCALE).timeout(timeout);
        (what, call, of(&scale), Code::DeadlineExceeded, "expired_deadline")
    };
    let absurd = |what, timeout: &str| {
        let call = Call::of(SCALE).timeout(timeout);
        (what, call, of(&scale), Code::InvalidArgument, "invalid_argument")
    };
    vec![
        (
            "a message over the cap",
            Call::of("/aether.v1.Updates/Get"),
            large(REQUEST_BYTES_MAX),
            Code::ResourceExhausted,
            "message_too_large",
        ),
        (
            "a hello over the cap",
            Call::of("/aether.v1.Agents/Attach"),
            stream(MESSAGE_BYTES_MAX),
            Code::ResourceExhausted,
            "message_too_large",
        ),
        expired("a deadline that has passed", "0m"),
        expired("a deadline in a microsecond", "1u"),
        absurd("a deadline that is no time", "soon"),
        absurd("a deadline below zero", "-1S"),
        absurd("a deadline of nine digits", "999999999n"),
        (
            "a method that does not exist",
            Call::of("/aether.v1.Updates/Undo/Redo"),
            vec![Bytes::new()],
            Code::Unimplemented,
            "unimplemented",
        ),
        (
            "Raft, which is not spoken here",
            Call::of("/aether.raft.v1.Raft/Vote"),
            vec![Bytes::new()],
            Code::Unimplemented,
            "unimplemented",
        ),
    ]
}

#[tokio::test]
async fn grpc_calls_that_make_no_sense_change_nothing() {
    let desk = desk(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    desk.unchanged_by("every call", async || {
        let mut wrong = Vec::new();
        let mut rows = unreadable();
        rows.extend(senseless());
        rows.extend(out_of_bounds());
        rows.extend(wrong_tokens(&desk).await);
        for (what, call, messages, code, reason) in rows {
            let Err(status) = call.send(desk.stage.cluster.channel(0), messages).await else {
                wrong.push(format!("{what}: it was answered"));
                continue;
            };
            if status.code() != code || code_of(&status).as_deref() != Some(reason) {
                wrong.push(format!("{what}: {:?} {:?}: {status}", status.code(), code_of(&status)));
            }
            if status.message().is_empty() || status.message().len() > 2_048 {
                wrong.push(format!("{what}: {} bytes of message", status.message().len()));
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    })
    .await;
    all_fields_at_once(&desk).await;
    desk.assert_well();
    desk.stage.end().await;
}

async fn all_fields_at_once(desk: &Desk) {
    let mut updates = v1::updates_client::UpdatesClient::new(desk.stage.cluster.channel(0));
    let message = v1::StartUpdateRequest {
        artifact_base: "../x".into(),
        version: "two".into(),
        max_error_rate: Some(2.0),
        cleanup_policy: "SOMETIMES".into(),
        on_deploy_failure: "SOMETIMES".into(),
        ..Default::default()
    };
    let refused = updates.start(message).await.unwrap_err();
    let named: Vec<String> = invalid_fields(&refused).into_iter().map(|(field, _)| field).collect();
    let all = ["artifact_base", "version", "max_error_rate", "cleanup_policy", "on_deploy_failure"];
    assert_eq!(named, all, "{refused}");
}
