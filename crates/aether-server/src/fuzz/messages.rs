//! For each method of the services that a voter offers, requests as a well-made
//! client sends them. The changes are made to these.

use aether_proto::{peer, v1};
use prost::Message;

use super::{agent_hello, agent_report, reports, session_hello, session_report};

/// Path of a method, and the messages of one call.
pub type Call = (&'static str, Vec<Vec<u8>>);

const UPDATE: &str = "current";

fn reference() -> v1::UpdateRef {
    v1::UpdateRef { update_id: UPDATE.to_owned(), ..Default::default() }
}

fn one(path: &'static str, message: impl Message) -> Call {
    (path, vec![message.encode_to_vec()])
}

fn start() -> v1::StartUpdateRequest {
    v1::StartUpdateRequest {
        artifact_base: "org.example:a".to_owned(),
        version: "2.0.0".to_owned(),
        instances: Some(1),
        max_error_rate: Some(0.01),
        max_latency_ms: Some(500),
        manual_approval: false,
        cleanup_policy: "GRACE_PERIOD".to_owned(),
        grace_ms: Some(1_000),
        deploy_timeout_ms: Some(60_000),
        on_deploy_failure: "ROLLBACK".to_owned(),
        healthy_ms: Some(100),
        preset: String::new(),
        min_requests: Some(100),
        config: "latest".to_owned(),
        restart: true,
        request_id: "r1".to_owned(),
        actor: "me".to_owned(),
        strategy: Some(v1::Strategy {
            name: "CANARY".to_owned(),
            steps: "1:9 5m, 10% pause, 1:0".to_owned(),
            hold_ms: Some(1_000),
            on_failure: "ROLLBACK".to_owned(),
            patience_ms: Some(1_000),
            warm_up_ms: Some(0),
            scale_with_weight: true,
            one_way_from: Some(3),
            ..Default::default()
        }),
        supersede: true,
    }
}

fn updates() -> Vec<Call> {
    let update_id = || UPDATE.to_owned();
    vec![
        one("/aether.v1.Updates/Start", start()),
        one("/aether.v1.Updates/Get", v1::GetUpdateRequest { update_id: update_id(), stale: true }),
        one("/aether.v1.Updates/List", v1::ListUpdatesRequest { all: true, ..Default::default() }),
        one(
            "/aether.v1.Updates/SetRouting",
            v1::SetRoutingRequest {
                update_id: update_id(),
                routing: "1:3".to_owned(),
                force: true,
                if_modified: Some(7),
                request_id: "r2".to_owned(),
                actor: "me".to_owned(),
            },
        ),
        one(
            "/aether.v1.Updates/Approve",
            v1::ApproveRequest {
                update_id: update_id(),
                routing: "1:3".to_owned(),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Updates/Complete",
            v1::CompleteRequest { update_id: update_id(), force: true, ..Default::default() },
        ),
        one(
            "/aether.v1.Updates/Rollback",
            v1::RollbackRequest { update_id: update_id(), now: true, ..Default::default() },
        ),
        one("/aether.v1.Updates/Resume", reference()),
        one(
            "/aether.v1.Updates/Pause",
            v1::PauseRequest { update_id: update_id(), why: "x".to_owned(), ..Default::default() },
        ),
        one(
            "/aether.v1.Updates/Promote",
            v1::PromoteRequest { update_id: update_id(), full: true, ..Default::default() },
        ),
        one("/aether.v1.Updates/Health", reference()),
        one("/aether.v1.Updates/Explain", reference()),
        one("/aether.v1.Updates/Watch", reference()),
        one(
            "/aether.v1.Updates/Undo",
            v1::UndoRequest {
                update_id: update_id(),
                routing: "1:0".to_owned(),
                cleanup_policy: "MANUAL".to_owned(),
                grace_ms: Some(5),
                ..Default::default()
            },
        ),
        one("/aether.v1.Updates/Cleanup", reference()),
        one(
            "/aether.v1.Updates/SetOptions",
            v1::SetOptionsRequest {
                update_id: update_id(),
                preset: "strict".to_owned(),
                max_error_rate: Some(0.5),
                grace_ms: Some(7),
                on_deploy_failure: "PAUSE".to_owned(),
                ..Default::default()
            },
        ),
        one("/aether.v1.Updates/Plan", start()),
        one("/aether.v1.Updates/History", reference()),
        one(
            "/aether.v1.Updates/Diff",
            v1::DiffRequest {
                slice: "org.example:a".to_owned(),
                from_revision: 1,
                to_revision: 2,
                ..Default::default()
            },
        ),
    ]
}

fn slices() -> Vec<Call> {
    let slice = || "org.example:a".to_owned();
    vec![
        one(
            "/aether.v1.Slices/Deploy",
            v1::DeployRequest {
                artifact: "org.example:a:1.0.0@blue".to_owned(),
                instances: Some(1),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Slices/SetCurrent",
            v1::SetCurrentRequest {
                slice: slice(),
                version: "2.0.0".to_owned(),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Slices/Scale",
            v1::ScaleRequest { slice: slice(), instances: 2, ..Default::default() },
        ),
        one(
            "/aether.v1.Slices/Undeploy",
            v1::UndeployRequest { slice: slice(), ..Default::default() },
        ),
        one(
            "/aether.v1.Slices/List",
            v1::ListSlicesRequest { slice: slice(), ..Default::default() },
        ),
        one(
            "/aether.v1.Slices/PushConfig",
            v1::PushConfigRequest {
                slice: slice(),
                files: [("app.conf".to_owned(), "x = 1\n".to_owned())].into(),
                env: [("MODE".to_owned(), "fast".to_owned())].into(),
                if_latest: Some(0),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Slices/GetConfig",
            v1::GetConfigRequest { slice: slice(), number: 1, ..Default::default() },
        ),
        one(
            "/aether.v1.Slices/ListConfigs",
            v1::ListConfigsRequest { slice: slice(), ..Default::default() },
        ),
        one(
            "/aether.v1.Slices/Logs",
            v1::LogsRequest { target: "a-5-0".to_owned(), ..Default::default() },
        ),
    ]
}

fn others() -> Vec<Call> {
    let key = "version-routing/org.example:a".to_owned();
    let artifact = || "org.example:a:1.0.0".to_owned();
    let up = |message| v1::RoutingUp { message: Some(message) }.encode_to_vec();
    let agent_up = |message| v1::AgentUp { message: Some(message) }.encode_to_vec();
    let push = |part| v1::PushRequest { part: Some(part) }.encode_to_vec();
    let header = v1::PushHeader {
        artifact: artifact(),
        sha256: aether_agent::artifact::Digest::of(b"no archive").to_string(),
        size_bytes: 10,
        ..Default::default()
    };
    vec![
        one("/aether.v1.Cluster/Status", v1::StatusRequest { verbose: true }),
        one("/aether.v1.Cluster/SnapshotSave", v1::SnapshotSaveRequest { stale: true }),
        one("/aether.v1.Cluster/Nodes", v1::NodesRequest::default()),
        one("/aether.v1.Cluster/KvGet", v1::KvGetRequest { key, stale: false }),
        one(
            "/aether.v1.Cluster/KvPut",
            v1::KvPutRequest {
                key: "config/a/b".to_owned(),
                value: "1".to_owned(),
                if_index: Some(0),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Cluster/KvDelete",
            v1::KvDeleteRequest { key: "config/a/b".to_owned(), ..Default::default() },
        ),
        one(
            "/aether.v1.Cluster/SetNodeSchedule",
            v1::SetNodeScheduleRequest {
                node: "n1".to_owned(),
                schedule: "CORDONED".to_owned(),
                ..Default::default()
            },
        ),
        one(
            "/aether.v1.Cluster/ForgetNode",
            v1::ForgetNodeRequest { node: "n9".to_owned(), force: true, ..Default::default() },
        ),
        one(
            "/aether.v1.Artifacts/List",
            v1::ListArtifactsRequest {
                artifact_base: "org.example:a".to_owned(),
                ..Default::default()
            },
        ),
        one("/aether.v1.Artifacts/Info", v1::ArtifactInfoRequest { artifact: artifact() }),
        one(
            "/aether.v1.Artifacts/Fetch",
            v1::FetchRequest { sha256: "1".repeat(64), local_only: true },
        ),
        (
            "/aether.v1.Artifacts/Push",
            vec![
                push(v1::push_request::Part::Header(header)),
                push(v1::push_request::Part::Chunk(b"no archive".to_vec())),
            ],
        ),
        (
            "/aether.v1.Routing/Watch",
            vec![
                up(v1::routing_up::Message::Hello(session_hello())),
                up(v1::routing_up::Message::Report(session_report())),
                up(v1::routing_up::Message::Goodbye(v1::SessionGoodbye {})),
            ],
        ),
        (
            "/aether.v1.Agents/Attach",
            vec![
                agent_up(v1::agent_up::Message::Hello(agent_hello())),
                agent_up(v1::agent_up::Message::Report(agent_report())),
            ],
        ),
        one("/aether.v1.Voters/List", v1::ListVotersRequest {}),
        one(
            "/aether.v1.Voters/Add",
            v1::AddVoterRequest {
                node: "n4".to_owned(),
                peer_address: "127.0.0.1:8091".to_owned(),
                replaces: Some("n9".to_owned()),
                request_id: "r9".to_owned(),
                actor: "me".to_owned(),
            },
        ),
        one(
            "/aether.v1.Voters/Remove",
            v1::RemoveVoterRequest { node: "n4".to_owned(), ..Default::default() },
        ),
        one(
            "/aether.v1.Voters/TransferLeader",
            v1::TransferLeaderRequest { to: Some("n4".to_owned()) },
        ),
        one(
            "/aether.v1.Voters/Join",
            v1::JoinRequest {
                cluster: "c".to_owned(),
                node: "n4".to_owned(),
                dir_id: "d".to_owned(),
                feature_level_max: 2,
            },
        ),
        one("/aether.peer.v1.Peer/Members", peer::MembersRequest {}),
        one("/aether.peer.v1.Peer/HandOver", peer::HandOverRequest { to: None }),
        ("/aether.peer.v1.Peer/Report", reports().into_iter().take(1).collect()),
        one(
            "/aether.peer.v1.Peer/LeaderView",
            peer::LeaderViewRequest { update_ids: vec!["u7".to_owned()], sessions: true },
        ),
    ]
}

/// Every method.
pub fn calls() -> Vec<Call> {
    [updates(), slices(), others()].concat()
}
