//! What the fake node answers: messages with everything in them that is shown.

use aether_proto::errors::{OUTCOME_UNKNOWN, Problem};
use aether_proto::v1;
use tonic::{Code, Status};

/// A copy of some node that was not compared with the leader.
pub fn old() -> Option<v1::AsOf> {
    Some(v1::AsOf { index: 41, stale: true, node: "n2".into() })
}

/// An answer that the leader confirmed.
pub fn fresh() -> Option<v1::AsOf> {
    Some(v1::AsOf { index: 42, stale: false, node: "n1".into() })
}

/// An instance, and why it is not ready if it is not.
pub fn instance(id: &str, version: &str, state: &str) -> v1::Instance {
    let ready = state == "READY";
    let reason = v1::Reason { code: "probe_failed".into(), message: "GET /ready: 503".into() };
    v1::Instance {
        instance_id: id.into(),
        slice: "org.example:my-slice".into(),
        version: version.into(),
        revision: 1,
        node: "n1".into(),
        state: state.into(),
        endpoint: "127.0.0.1:10001".into(),
        since_ms: 61_500,
        takes_calls: ready,
        reason: (!ready).then_some(reason),
        ..Default::default()
    }
}

/// An update at 1:3.
pub fn update(state: &str) -> v1::Update {
    let entry = |index, state: &str, routing: &str, event: &str| v1::HistoryEntry {
        index,
        wall_ms: 1_704_067_200_000,
        actor: "alice".into(),
        state: state.into(),
        routing: routing.into(),
        event: event.into(),
        reason: None,
    };
    v1::Update {
        update_id: "u1f".into(),
        artifact_base: "org.example:my-slice".into(),
        state: state.into(),
        old_version: Some("1.0.0".into()),
        new_version: "2.0.0".into(),
        routing: "1:3".into(),
        actual_new_ppm: Some(249_812),
        actual_requests: 1_203,
        counted_ms: Some(10_000),
        effective_routing: "1:3".into(),
        instances: 1,
        old_instances: 2,
        new_instances_state: vec![instance("my-slice-1f-0", "2.0.0", "READY")],
        old_instances_state: vec![
            instance("my-slice-5-0", "1.0.0", "READY"),
            instance("my-slice-5-1", "1.0.0", "UNREADY"),
        ],
        max_error_rate: 0.01,
        max_latency_ms: 500,
        min_requests: 100,
        cleanup_policy: "IMMEDIATE".into(),
        deadline: Some(v1::Deadline { in_ms: 86_399_400, action: "ALERT".into() }),
        actor: "alice".into(),
        modified: 41,
        created_at: 1_704_067_200_000,
        history: vec![
            entry(30, "PENDING", "0:1", "started"),
            entry(41, "ROUTING", "1:3", "routing set"),
        ],
        as_of: fresh(),
        ..Default::default()
    }
}

/// An update that has ended, and why.
pub fn ended(state: &str, code: &str, message: &str) -> v1::Update {
    let outcome = v1::Reason { code: code.into(), message: message.into() };
    v1::Update {
        outcome: (!code.is_empty()).then_some(outcome),
        deadline: None,
        effective_routing: String::new(),
        new_instances_state: Vec::new(),
        old_instances_state: Vec::new(),
        ..update(state)
    }
}

/// Why something is so.
pub fn reason(code: &str, message: &str) -> v1::Reason {
    v1::Reason { code: code.into(), message: message.into() }
}

/// A node in some state.
pub fn node(name: &str, lifecycle: &str, schedule: &str) -> v1::Node {
    v1::Node {
        name: name.into(),
        address: "10.0.0.1:8090".into(),
        lifecycle: lifecycle.into(),
        instances: 3,
        instances_max: 64,
        since_ms: 61_000,
        labels: [("zone", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        schedule: schedule.into(),
        note: String::new(),
        ..Default::default()
    }
}

/// The nodes of a cluster.
pub fn nodes(nodes: Vec<v1::Node>) -> v1::NodesResponse {
    v1::NodesResponse { nodes, as_of: fresh(), ..Default::default() }
}

/// A slice with so many instances, of which so many are ready.
pub fn slice(instances: u32, ready: u32) -> v1::Slice {
    let state = |n| if n < ready { "READY" } else { "STARTING" };
    let one = |n: u32| instance(&format!("my-slice-5-{n}"), "1.0.0", state(n));
    v1::Slice {
        slice: "org.example:my-slice".into(),
        version: Some("1.0.0".into()),
        instances,
        ready,
        routing: "0:1".into(),
        instances_state: (0..instances).map(one).collect(),
        modified: 12,
        ..Default::default()
    }
}

/// The slices of a cluster.
pub fn slices(slices: Vec<v1::Slice>) -> v1::ListSlicesResponse {
    v1::ListSlicesResponse { slices, as_of: fresh(), ..Default::default() }
}

/// An artifact.
pub fn artifact() -> v1::Artifact {
    v1::Artifact {
        artifact: "org.example:my-slice:1.0.0".into(),
        sha256: "0123456789abcdef".repeat(4),
        size_bytes: 1_536,
        held_by: vec!["n1".into(), "n2".into()],
        pushed_at: 1_704_067_200_000,
        manifest: "artifact = 'org.example:my-slice:1.0.0'\n\n[run]\ncommand = ['./server']\n"
            .into(),
        as_of: fresh(),
    }
}

/// Whatever was named is not there.
pub fn not_there() -> Status {
    Status::not_found("what was named does not exist; 'aether slices' lists what does")
}

/// The state does not allow it.
pub fn refused() -> Status {
    Status::failed_precondition(
        "the present state does not allow it; 'aether update explain' says why",
    )
}

/// A write whose outcome the node does not know.
pub fn lost() -> Status {
    let message = "leadership moved while the write was under way";
    Problem::new(Code::Unavailable, OUTCOME_UNKNOWN, message).status()
}
