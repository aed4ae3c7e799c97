//! What the services show of age and freshness, over a replica of one voter.

mod following;

use std::sync::Arc;
use std::time::Duration;

use aether_agent::artifact::ArtifactStore;
use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::level::FEATURE_LEVEL_MAX;
use aether_core::manifest::Manifest;
use aether_core::planner::{SESSION_UNREACHABLE, Wait};
use aether_core::records::{
    Desired, InstanceRecord, NodeLifecycle, Observed, Pause, Reason, UpdateOptions, UpdateRecord,
    UpdateState,
};
use aether_core::state::State;
use aether_proto::errors::code_of;
use aether_proto::peer::UpdateView;
use aether_proto::v1;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_server::Slices;
use aether_proto::v1::updates_server::Updates;
use aether_replica::{Config, Handle, Replica, Voter};
use futures::StreamExt;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Code, Request};

use super::artifacts::ArtifactsService;
use super::cluster::ClusterService;
use super::slices::SlicesService;
use super::updates::UpdatesService;
use crate::control::Control;
use crate::deadline::Deadline;
use crate::leader::LeaderView;
use crate::machine::{Published, StateMachine};
use crate::render;
use crate::views::Views;

const SLICE: &str = "org.example:a";
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// A voter without a coordinator: nothing is written but by the test.
struct Node {
    cluster: ClusterService,
    slices: SlicesService,
    updates: UpdatesService,
    artifacts: ArtifactsService,
    control: Control,
    leader: Arc<LeaderView>,
    replica: Handle,
    _replica: Replica,
    // Other parts of a node live on when it loses the leader.
    _publisher: [watch::Sender<Arc<Published>>; 2],
    _dir: TempDir,
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (machine, published) = StateMachine::new();
        let (publisher, changes) = (machine.publisher(), machine.watched());
        let config = Config {
            node_name: "n1".to_owned(),
            data_dir: dir.path().join("replica"),
            // Of a single voter, nobody connects to it.
            voters: vec![Voter { name: "n1".to_owned(), peer_addr: "127.0.0.1:1".to_owned() }],
            feature_level_max: FEATURE_LEVEL_MAX,
            ..Config::default()
        };
        let opened = Replica::open(config, machine).await.unwrap();
        let replica = opened.handle();
        let mut leadership = replica.leadership();
        let leads = leadership.wait_for(|now| now.is_leader && now.ready);
        drop(tokio::time::timeout(PATIENCE, leads).await.expect("it leads alone").unwrap());
        let control = Control::new(replica.clone(), published, "n1");
        let lease = Duration::from_secs(3);
        let leader = Arc::new(LeaderView::new(lease, lease));
        let views = Views::new(control.clone(), Arc::clone(&leader));
        let store = ArtifactStore::open_dir(dir.path()).unwrap();
        let node = Self {
            cluster: ClusterService::new(views.clone(), changes),
            slices: SlicesService::new(views.clone()),
            updates: UpdatesService::new(views),
            artifacts: ArtifactsService::new(control.clone(), store, "n1".parse().unwrap()),
            control,
            leader,
            replica,
            _replica: opened,
            _publisher: publisher,
            _dir: dir,
        };
        node.write(Command::RaiseFeatureLevel { to: FEATURE_LEVEL_MAX }).await;
        node.write(Command::RegisterNode {
            node: "n1".parse().unwrap(),
            address: "127.0.0.1:8090".parse().unwrap(),
            labels: Default::default(),
            instances_max: 10,
        })
        .await;
        node
    }

    async fn write(&self, command: Command) {
        self.control.write(Deadline::default(), "test", "", command).await.unwrap();
    }

    /// Starts a first update, which waits for somebody to plan it.
    async fn update(&self) -> Arc<UpdateRecord> {
        let artifact = format!("{SLICE}:1.0.0");
        let text = format!("artifact = \"{artifact}\"\n[run]\ncommand = [\"x\"]\n");
        self.write(Command::RegisterArtifact {
            artifact: artifact.parse().unwrap(),
            digest: "0".repeat(64),
            size_bytes: 1,
            manifest: Arc::new(Manifest::parse(&text).unwrap()),
            holder: "n1".parse().unwrap(),
            others: Default::default(),
        })
        .await;
        self.write(Command::StartUpdate {
            slice: SLICE.parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            instances: Some(1),
            options: UpdateOptions::default(),
        })
        .await;
        let state = self.state();
        Arc::clone(state.live_update(&SLICE.parse().unwrap()).unwrap())
    }

    fn state(&self) -> State {
        self.control.local().state.clone()
    }

    async fn nodes(&self) -> v1::NodesResponse {
        self.cluster.nodes(Request::new(v1::NodesRequest::default())).await.unwrap().into_inner()
    }

    async fn list(&self) -> v1::ListUpdatesResponse {
        let request = v1::ListUpdatesRequest::default();
        self.updates.list(Request::new(request)).await.unwrap().into_inner()
    }
}

fn reference(update: &UpdateRecord) -> Request<v1::UpdateRef> {
    Request::new(v1::UpdateRef { update_id: update.id.to_string(), ..Default::default() })
}

fn as_of() -> v1::AsOf {
    v1::AsOf { index: 1, stale: false, node: "n1".to_owned() }
}

#[tokio::test]
async fn ages_go_on_while_nothing_is_written() {
    let node = Node::start().await;
    let first = node.nodes().await;
    let later = tokio::time::timeout(PATIENCE, async {
        loop {
            let now = node.nodes().await;
            if now.nodes[0].since_ms >= first.nodes[0].since_ms + 300 {
                return now;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let later = later.await.expect("the age grows");
    assert_eq!(first.as_of.unwrap().index, later.as_of.unwrap().index, "nothing was written");
}

#[tokio::test]
async fn without_the_leader_ages_go_on_by_the_nodes_own_estimate() {
    let node = Node::start().await;
    node.replica.shutdown().await;
    let entry_ms = node.state().meta.log_time_ms;
    let grows = async {
        while node.control.local().now_ms() < entry_ms + 100 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, grows).await.expect("time goes on");
    assert!(node.nodes().await.nodes[0].since_ms >= 100);
}

#[tokio::test]
async fn a_list_tells_what_only_the_leader_knows() {
    let node = Node::start().await;
    let update = node.update().await;
    let wait = |message: &str| Wait {
        code: "no_capacity",
        message: message.to_owned(),
        since_ms: 0,
        unblock: "add a node".to_owned(),
    };
    let waits = vec![wait("room"), wait("room"), wait("time")];
    node.leader.set_waits([(update.slice.clone(), waits)].into(), update.modified);
    let list = node.list().await;
    assert_eq!(list.updates[0].waits_for, ["room", "time"], "each once");
    assert!(list.updates[0].counted_ms.is_some());
    let explained = node.updates.explain(reference(&update)).await.unwrap().into_inner();
    assert_eq!(explained.waits.len(), 2, "{explained:?}");
    assert_eq!(explained.next.iter().filter(|next| *next == "add a node").count(), 1);
}

#[tokio::test]
async fn an_answer_that_may_be_old_says_so() {
    let node = Node::start().await;
    let update = node.update().await;
    let key = format!("rolling-update/{}", update.id);
    let artifact = format!("{SLICE}:1.0.0");
    let kv_get = async |key: &str| {
        let answer = node
            .cluster
            .kv_get(Request::new(v1::KvGetRequest { key: key.to_owned(), stale: false }));
        answer.await.map(|answer| answer.into_inner().as_of.unwrap().stale)
    };
    let info = async |artifact: &str| {
        let request = v1::ArtifactInfoRequest { artifact: artifact.to_owned() };
        let answer = node.artifacts.info(Request::new(request)).await;
        answer.map(|answer| answer.into_inner().as_of.unwrap().stale)
    };
    let health = node.updates.health(reference(&update)).await.unwrap().into_inner();
    assert!(!health.as_of.unwrap().stale);
    let mut watch = node.updates.watch(reference(&update)).await.unwrap().into_inner();
    let watched = watch.next().await.unwrap().unwrap();
    assert!(!watched.as_of.unwrap().stale);
    assert!(!kv_get(&key).await.unwrap() && !info(&artifact).await.unwrap());
    assert_eq!(kv_get("none").await.unwrap_err().code(), Code::NotFound);

    node.replica.shutdown().await;
    assert!(kv_get(&key).await.unwrap() && info(&artifact).await.unwrap());
    let request = Request::new(v1::ListArtifactsRequest::default());
    let artifacts = node.artifacts.list(request).await.unwrap().into_inner();
    assert!(artifacts.as_of.unwrap().stale);
    assert!(node.nodes().await.as_of.unwrap().stale && node.list().await.as_of.unwrap().stale);
    let request = Request::new(v1::ListSlicesRequest::default());
    assert!(node.slices.list(request).await.unwrap().into_inner().as_of.unwrap().stale);
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let update = watch.next().await.unwrap().unwrap();
            if update.as_of.unwrap().stale {
                return;
            }
        }
    });
    told.await.expect("a watcher is told");
    // What this copy does not have may exist all the same.
    assert_eq!(kv_get("none").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(info("a.b:c:9.9.9").await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn what_nobody_decided_cannot_be_decided_again() {
    let node = Node::start().await;
    let update = node.update().await;
    let refused = node.updates.replay(reference(&update)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(code_of(&refused).as_deref(), Some("inputs_unknown"));
    assert!(refused.message().contains(&update.id.to_string()), "{}", refused.message());
    let unknown = v1::UpdateRef { update_id: "u0".into(), ..Default::default() };
    let refused = node.updates.replay(Request::new(unknown)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn an_ended_update_has_no_instances() {
    let node = Node::start().await;
    let mut update = (*node.update().await).clone();
    let state = with_instance(node.state(), &instance(&update, Observed::Ready));
    let shown = render::update(&state, &update, None, 5_000, as_of());
    assert_eq!(shown.new_instances_state.len(), 1);
    update.state = UpdateState::Completed;
    let shown = render::update(&state, &update, None, 5_000, as_of());
    assert!(shown.new_instances_state.is_empty(), "they are the slice's by now");
}

#[tokio::test]
async fn an_instance_on_a_silent_node_takes_calls_and_is_as_old_as_the_silence() {
    let node = Node::start().await;
    let update = node.update().await;
    let state = with_instance(node.state(), &instance(&update, Observed::Ready));
    let record = state.instances.values().next().unwrap();
    let shown = render::instance(&state, record, 9_000);
    assert_eq!((shown.state.as_str(), shown.since_ms, shown.takes_calls), ("READY", 8_000, true));
    let mut silent = state.clone();
    let mut lost = (**state.nodes.values().next().unwrap()).clone();
    (lost.lifecycle, lost.since_ms) = (NodeLifecycle::Unreachable, 7_000);
    silent.nodes.insert(lost.name.clone(), Arc::new(lost));
    let shown = render::instance(&silent, record, 9_000);
    assert_eq!(shown.state, "UNREACHABLE");
    assert_eq!((shown.since_ms, shown.takes_calls), (2_000, true));
}

#[tokio::test]
async fn instances_without_a_place_are_told_with_their_slice_their_node_and_as_an_alert() {
    let node = Node::start().await;
    node.update().await;
    let slice: SliceName = "org.example:a@blue".parse().unwrap();
    let version = "1.0.0".parse().unwrap();
    node.write(Command::Deploy { slice: slice.clone(), version, instances: 1 }).await;
    let state = node.state();
    let target = state.targets.values().find(|target| target.slice == slice).unwrap();
    let (revision, target_modified) = (target.revision, target.modified);
    let placements = vec!["n1".parse().unwrap()];
    let assign = Command::Assign { slice: slice.clone(), revision, placements, target_modified };
    node.write(assign).await;
    let request = v1::SetNodeScheduleRequest {
        node: "n1".to_owned(),
        schedule: "DRAINING".to_owned(),
        ..Default::default()
    };
    let drained = node.cluster.set_node_schedule(Request::new(request)).await.unwrap().into_inner();
    let said = "1 instance of r1 has no other place: no node reports and takes new instances";
    assert!(drained.note.contains(&format!("{slice}: {said}")), "{}", drained.note);
    assert_eq!(node.nodes().await.nodes[0].waits_for[0], format!("{slice}: {said}"));
    let request = v1::ListSlicesRequest { slice: slice.to_string(), ..Default::default() };
    let list = node.slices.list(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(list.slices[0].waits_for[0], said);
    let status = node.cluster.status(Request::new(v1::StatusRequest::default())).await.unwrap();
    let alert = status.into_inner().alerts.remove(0);
    assert_eq!(alert.code, "no_capacity");
    assert!(alert.message.contains(said) && alert.message.contains("add a node"), "{alert:?}");
}

#[tokio::test]
async fn only_a_pause_that_a_resume_ends_offers_one() {
    let node = Node::start().await;
    let mut update = (*node.update().await).clone();
    let mut next = |state, code: &str, view: Option<&UpdateView>| {
        update.state = state;
        let reason = Reason::new(code, "why".to_owned());
        update.pause = Some(Pause { reason, since_ms: 0 });
        render::explanation(&update, view, 1_000, as_of()).next.join("\n")
    };
    let over_errors = next(UpdateState::Routing, "threshold_exceeded", None);
    assert!(over_errors.contains("update resume"), "{over_errors}");
    let alone = next(UpdateState::Completing, SESSION_UNREACHABLE, None);
    assert!(!alone.contains("resume") && alone.contains("update complete"), "{alone}");
    assert!(alone.contains("--force"), "{alone}");
    let back = next(UpdateState::RollingBack, SESSION_UNREACHABLE, None);
    assert!(back.contains("update rollback") && back.contains("--force"), "{back}");
    let wait = v1::Wait {
        code: SESSION_UNREACHABLE.to_owned(),
        unblock: "bring them back, or '… --force'".to_owned(),
        ..Default::default()
    };
    let view = UpdateView { waits: vec![wait], ..Default::default() };
    let said = next(UpdateState::Completing, SESSION_UNREACHABLE, Some(&view));
    assert!(!said.contains("resume") && said.matches("--force").count() == 1, "{said}");
}

fn instance(update: &UpdateRecord, observed: Observed) -> InstanceRecord {
    InstanceRecord {
        id: "a-1-0".parse().unwrap(),
        slice: update.slice.clone(),
        revision: update.new.revision,
        node: "n1".parse().unwrap(),
        desired: Desired::Run,
        fence: Default::default(),
        desired_since_ms: 500,
        observed,
        observed_since_ms: 1_000,
        endpoint: Some("127.0.0.1:10000".parse().unwrap()),
        restarts: 0,
        reason: None,
        left_table: 0,
        reload: None,
    }
}

/// The state with one more instance, by way of its rows.
fn with_instance(state: State, instance: &InstanceRecord) -> State {
    let key = format!("instances/{}/{}", instance.node, instance.id);
    let mut rows = state.rows();
    rows.push((key, serde_json::to_vec(instance).unwrap()));
    State::from_rows(rows.into_iter()).unwrap()
}
