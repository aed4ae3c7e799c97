//! Too few voters are there: what was not done is said to be not done, and only
//! what may have been done is said to be unknown.

use std::time::{Duration, Instant};

use aether_cluster::Said;
use aether_cluster::artifacts::EXAMPLE;
use aether_proto::errors::is_outcome_unknown;
use aether_proto::v1::ScaleRequest;
use aether_proto::v1::slices_client::SlicesClient;
use aether_tests::evidence::equal_hashes;
use aether_tests::{PATIENCE, Stage, Topology, stage_with, until};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use serde_json::Value;
use tonic::{Code, Request, Status};

/// What a request may take that cannot be carried out.
const SHORT: Duration = Duration::from_secs(3);
/// What one may take that can.
const LONG: Duration = Duration::from_secs(20);

/// Three nodes that do everything and one instance of the example.
struct Scene {
    stage: Stage,
    leader: usize,
    followers: [usize; 2],
}

impl Scene {
    async fn set() -> Self {
        let stage = stage_with(&Topology::all_in_one(3), &[]).await;
        stage.push("1.0.0", &[]).await.unwrap();
        stage.deploy("1.0.0", 1).await.unwrap();
        // Each node has forwarded writes to the leader by now, so that there
        // are connections on which one could get lost.
        let held =
            |list: &Value| list["artifacts"][0]["heldBy"].as_array().map(Vec::len) == Some(3);
        stage.until_verb(&["artifact", "list"], "all nodes to hold it", held).await.unwrap();
        let leader = stage.cluster.leader(PATIENCE).await.unwrap();
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        Self { stage, leader, followers }
    }

    /// Stops the processes of nodes, and waits until they stand still.
    async fn freeze(&self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.stage.cluster.nodes[*node].signal(SIGSTOP));
        for node in nodes {
            let pid = self.stage.cluster.nodes[*node].pid().expect("it runs");
            until("a process to stand still", || all_threads_stopped(pid)).await;
        }
    }

    fn wake(&self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.stage.cluster.nodes[*node].signal(SIGCONT));
    }

    /// Runs a verb against these nodes only; what it said, and how long it took.
    async fn ask(&self, nodes: &[usize], verb: &[&str], timeout: Duration) -> (Said, Duration) {
        let address = |node: &usize| self.stage.cluster.nodes[*node].addresses.grpc.to_string();
        let addresses = nodes.iter().map(address).collect::<Vec<_>>().join(",");
        let timeout = format!("{}ms", timeout.as_millis());
        let options = ["--addr", &addresses, "--timeout", &timeout, "-o", "json"];
        let began = Instant::now();
        let said = self.stage.cluster.cli(&[verb, &options].concat()).await.unwrap();
        println!(
            "{verb:?} at {nodes:?}: {:?} after {:?}: {}",
            said.code,
            began.elapsed(),
            said.stderr
        );
        (said, began.elapsed())
    }

    /// Waits until a node knows that nobody leads it any more.
    async fn until_alone(&self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (said, _) = self.ask(&[node], &["status"], SHORT).await;
            let status: Value = serde_json::from_str(&said.stdout).unwrap();
            if status["quorum"] == false {
                return;
            }
            assert!(Instant::now() < deadline, "{status:#}");
        }
    }

    /// How many instances are wanted, by a read that the leader confirmed.
    async fn wanted(&self) -> Value {
        let fresh = |seen: &Value| seen["asOf"]["stale"] == false;
        let all = self.stage.until_verb(&["slices"], "a leader", fresh).await.unwrap();
        all["slices"][0]["instances"].clone()
    }

    async fn end(self) {
        equal_hashes(&self.stage).await;
        self.stage.end().await;
    }
}

/// On a busy machine a thread may go on for a while after the signal.
fn all_threads_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // "tid (name) state …"; the name may hold anything but ends at the last ')'.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

const SCALE: [&str; 4] = ["scale", EXAMPLE, "-i", "2"];

#[tokio::test]
async fn a_write_at_the_only_follower_left_is_not_done_and_says_so() {
    let mut scene = Scene::set().await;
    let [other, left] = scene.followers;
    let away = [scene.leader, other];

    scene.freeze(&away).await;
    scene.until_alone(left).await;
    scene.is_not_done(&[left]).await;
    scene.is_not_done(&[scene.leader, other, left]).await;
    scene.wake(&away);
    assert_eq!(scene.wanted().await, 1);

    scene.stage.cluster.leader(PATIENCE).await.unwrap();
    for node in away {
        scene.stage.cluster.nodes[node].kill();
    }
    scene.until_alone(left).await;
    scene.is_not_done(&[left]).await;
    scene.is_not_done(&[scene.leader, other, left]).await;
    scene.stage.cluster.start_all().unwrap();
    assert_eq!(scene.wanted().await, 1);

    scene.stage.cli(&SCALE).await.unwrap();
    assert_eq!(scene.wanted().await, 2);
    scene.end().await;
}

impl Scene {
    async fn is_not_done(&self, nodes: &[usize]) {
        let (said, took) = self.ask(nodes, &SCALE, SHORT).await;
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.stderr.contains("cannot serve this now"), "{said:?}");
        assert!(took < SHORT * 2, "{took:?}");
    }
}

#[tokio::test]
async fn a_write_that_a_leader_appended_without_its_majority_is_unknown() {
    let scene = Scene::set().await;
    // A leader appends for as long as its lease lasts, so the write has to come
    // soon after; on a busy machine not every round is soon enough.
    let mut appended = false;
    for round in 0..20 {
        let status = scene.lost_write(round).await;
        println!("round {round}: {status}");
        appended = status.code() == Code::Unknown;
        assert!(appended || status.code() == Code::Unavailable, "{status}");
        if appended {
            assert!(is_outcome_unknown(&status), "{status}");
            break;
        }
        assert_eq!(scene.wanted().await, 1, "it was said to be not done");
    }
    assert!(appended, "no write came within the lease");
    // Either way, but the same for all.
    let wanted = scene.wanted().await;
    assert!(wanted == 1 || wanted == 2, "{wanted}");
    scene.end().await;
}

impl Scene {
    /// A write at the leader whose followers have just been stopped.
    async fn lost_write(&self, round: u32) -> Status {
        let leader = self.stage.cluster.leader(PATIENCE).await.unwrap();
        let followers = [(leader + 1) % 3, (leader + 2) % 3];
        let mut slices = SlicesClient::new(self.stage.cluster.channel(leader));
        // So that the connection is there.
        let _ = slices.list(aether_proto::v1::ListSlicesRequest::default()).await;
        let mut request = Request::new(ScaleRequest {
            slice: EXAMPLE.to_owned(),
            instances: 2,
            request_id: format!("lost-{round}"),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(2));
        self.freeze(&followers).await;
        let answer = slices.scale(request).await;
        self.wake(&followers);
        answer.expect_err("two of three do not answer")
    }
}

#[tokio::test]
async fn one_frozen_address_does_not_use_up_the_time_of_the_others() {
    let scene = Scene::set().await;
    for (frozen, instances) in [(scene.followers[0], "2"), (scene.leader, "3")] {
        scene.freeze(&[frozen]).await;
        let other = scene.followers[1];
        let scale = ["scale", EXAMPLE, "-i", instances];
        let (said, took) = scene.ask(&[frozen, other], &scale, LONG).await;
        scene.wake(&[frozen]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(took < LONG / 3, "{took:?}");
    }
    assert_eq!(scene.wanted().await, 3);
    scene.end().await;
}
