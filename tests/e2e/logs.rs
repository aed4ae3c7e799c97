//! `aether logs`: of instances that come, go and are gone, and of nodes that
//! are away for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aether_cluster::Said;
use aether_cluster::artifacts::EXAMPLE;
use aether_tests::evidence::{processes, starts};
use aether_tests::{PATIENCE, Stage, Topology, ids, stage_with, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Longest time until an answer without a node that hangs, on a busy machine.
/// The node is waited for during two seconds of it.
const WITHOUT_A_NODE_MAX: Duration = Duration::from_secs(8);

/// What `aether logs --follow` printed so far.
struct Following {
    child: tokio::process::Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Following {
    fn start(stage: &Stage, target: &str) -> Self {
        let addresses: Vec<String> =
            stage.cluster.control_plane().iter().map(ToString::to_string).collect();
        let mut child = tokio::process::Command::new(stage.cluster.binary())
            .args(["logs", "--follow", target])
            .env("AETHER_ADDR", addresses.join(","))
            // The contexts of whoever runs this are no part of it.
            .env("AETHER_CONFIG", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (to, stdout) = (Arc::clone(&lines), child.stdout.take().unwrap());
        tokio::spawn(async move {
            let mut stdout = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = stdout.next_line().await {
                to.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// How often each instance said a line with this text.
    fn said(&self, text: &str) -> BTreeMap<String, usize> {
        let mut said = BTreeMap::new();
        for line in self.lines.lock().unwrap().iter().filter(|line| line.contains(text)) {
            let (instance, _) = line.split_once(" | ").expect("who said it");
            *said.entry(instance.to_owned()).or_default() += 1;
        }
        said
    }
}

/// How often each instance started, as its node wrote it down.
fn started(stage: &Stage) -> BTreeMap<String, usize> {
    starts(&stage.cluster).into_iter().map(|((instance, _), count)| (instance, count)).collect()
}

/// Lines of the output, by instance.
fn by_instance(said: &Said) -> BTreeMap<String, Vec<&str>> {
    let mut lines: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for line in said.stdout.lines() {
        let (instance, text) = line.split_once(" | ").expect("who said it");
        lines.entry(instance.to_owned()).or_default().push(text);
    }
    lines
}

async fn logs(stage: &Stage, target: &str) -> Said {
    stage.cluster.cli(&["logs", target, "--timeout", "5s"]).await.unwrap()
}

#[tokio::test]
async fn lines_are_followed_and_found_wherever_and_however_their_instances_go() {
    let mut stage = stage_with(&Topology::split(1, 2), &[("1.0.0", &[])]).await;
    let mut following = Following::start(&stage, EXAMPLE);
    let listening = "listening on";
    until("the lines of what runs", || following.said(listening).len() == 3).await;

    // One that starts later.
    stage.cli(&["scale", EXAMPLE, "-i", "4"]).await.unwrap();
    until("the line of a fourth", || following.said(listening).len() == 4).await;

    // An agent that goes away and comes back; its instance starts meanwhile.
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    let instance = &slice["instancesState"][0];
    let id = instance["instanceId"].as_str().unwrap().to_owned();
    let worker = stage.cluster.position(instance["node"].as_str().unwrap()).unwrap();
    stage.cluster.nodes[worker].kill();
    kill(Pid::from_raw(processes(&stage.cluster)[&id]), Signal::SIGKILL).unwrap();
    until("its second start", || started(&stage)[&id] == 2).await;
    stage.cluster.nodes[worker].start().unwrap();
    until("the line of its second start", || following.said(listening)[&id] == 2).await;

    // One that goes.
    let before: BTreeSet<String> = ids(&stage).await.into_iter().collect();
    stage.cli(&["scale", EXAMPLE, "-i", "3"]).await.unwrap();
    until("its last line", || following.said("stopped").len() == 1).await;
    let (gone, _) = following.said("stopped").pop_first().unwrap();
    assert!(before.contains(&gone), "{gone} of {before:?}");

    // All of them.
    let all = started(&stage);
    stage.cli(&["undeploy", EXAMPLE]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, following.child.wait()).await;
    assert!(ended.expect("nothing more can come").unwrap().success());
    until("the last lines", || following.said("stopped").len() == 4).await;
    assert_eq!(following.said(listening), all, "none twice, none left out");
    assert!(following.said("stopped").values().all(|count| *count == 1));

    // They are gone, and so is the slice; not their logs.
    let version = format!("{EXAMPLE}:1.0.0");
    let said = logs(&stage, &version).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(by_instance(&said).keys().eq(all.keys()), "{said:?}");
    for id in all.keys() {
        assert!(said.stderr.contains(&format!("instance {id} (1.0.0) has ")), "{said:?}");
    }
    assert_eq!(logs(&stage, EXAMPLE).await.code, Some(4));
    without_a_node(&stage, all.into_keys().collect()).await;
    stage.end().await;
}

/// A node that hangs is named, and holds nobody's lines up.
async fn without_a_node(stage: &Stage, all: Vec<String>) {
    let asleep = stage.cluster.position("w1").unwrap();
    let (there, away): (Vec<String>, Vec<String>) = all
        .into_iter()
        .partition(|id| !stage.cluster.nodes[asleep].dir.join("data/logs").join(id).exists());
    assert!(!there.is_empty() && !away.is_empty(), "{there:?} {away:?}");
    stage.cluster.nodes[asleep].signal(Signal::SIGSTOP);
    for (target, shown) in
        [(format!("{EXAMPLE}:1.0.0"), there.clone()), (there[0].clone(), vec![there[0].clone()])]
    {
        let asked = Instant::now();
        let said = logs(stage, &target).await;
        println!("logs {target} without a node: {:?}", asked.elapsed());
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(by_instance(&said).into_keys().collect::<Vec<_>>(), shown);
        assert!(said.stderr.contains("node w1 does not answer"), "{said:?}");
        assert!(asked.elapsed() < WITHOUT_A_NODE_MAX, "{:?}", asked.elapsed());
    }
    let said = logs(stage, &away[0]).await;
    assert_eq!(said.code, Some(3), "it may be there: {said:?}");
    assert!(said.stderr.contains("w1: "), "{said:?}");
    stage.cluster.nodes[asleep].signal(Signal::SIGCONT);
    let said = logs(stage, &away[0]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}
