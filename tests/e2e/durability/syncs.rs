//! Syncs that kill the voter, fail or are slow, by strace.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aether_proto::v1::TransferLeaderRequest;
use aether_proto::v1::voters_client::VotersClient;

use super::scene::{Scene, VOTERS};
use super::{chance, setting};
use aether_tests::evidence::eventually;
use aether_tests::{Cluster, PATIENCE};
use rand::RngExt;

const SKIPPED: &str = "skipped: strace is not there; 'cargo xtask test' installs it";
/// Syncs of a thread before the one that kills: within the start, and later.
const SYNCS: [u64; 3] = [1, 4, 40];
const SYNCS_MAX: u64 = 200;
/// Writes that others do meanwhile.
const WRITES: u64 = 100;
/// The sync that fails: one of the log, long after the start.
const FAILS: u64 = 60;
const DELAY: Duration = Duration::from_millis(30);
/// An election takes less, on a busy machine too.
const LATENCY_MAX: Duration = Duration::from_secs(5);

/// A program that does this to syncs of a node, such as
/// `fdatasync:error=EIO:when=3`, and writes a line for each into a file; `None`
/// where it can't be had. It is at the node's side: the node's process is that
/// which is started.
pub fn traced(injection: &str, trace: &Path) -> Option<Vec<String>> {
    let quiet = |mut command: Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut probe = Command::new("strace");
    probe.args(["-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"]);
    quiet(probe).then(|| {
        // By a filter in the kernel other calls are not slowed down, but strace 6.1
        // sends no signals then.
        let filter = ["--seccomp-bpf"];
        let filter = if injection.contains(":signal=") { &[][..] } else { &filter[..] };
        let words = [
            &["strace", "-D", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync"][..],
            filter,
            &["-e", &format!("inject={injection}"), "-o", &trace.display().to_string()],
        ];
        words.concat().into_iter().map(str::to_owned).collect()
    })
}

async fn until_exited(cluster: &mut Cluster, node: usize) {
    eventually("the voter to end", async || cluster.nodes[node].exited().is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_killed_at_any_of_their_syncs_lose_no_acknowledged_write() {
    let mut random = chance();
    let rounds = setting("AETHER_SYNC_ROUNDS", SYNCS.len() as u64);
    let mut scene = Scene::start().await;
    let trace = scene.temp.path().join("trace");
    for round in 0..rounds {
        let at = SYNCS.get(round as usize).copied();
        let at = at.unwrap_or_else(|| random.random_range(1..SYNCS_MAX));
        let victim = random.random_range(0..VOTERS as u64) as usize;
        let injection = format!("fsync,fdatasync:signal=SIGKILL:when={at}");
        let Some(program) = traced(&injection, &trace) else {
            println!("{SKIPPED}");
            return;
        };
        scene.cluster.nodes[victim].kill();
        let writers = scene.write();
        scene.cluster.nodes[victim].start_under(&program).unwrap();
        until_exited(&mut scene.cluster, victim).await;
        eventually("strace to say that it was killed", async || {
            std::fs::read_to_string(&trace).is_ok_and(|said| said.contains("killed by SIGKILL"))
        })
        .await;
        writers.more(WRITES).await;
        scene.cluster.nodes[victim].start().unwrap();
        writers.stop().await;
        let what = format!("round {round}: voter {victim} killed at its sync {at}");
        println!("{what}");
        scene.check(&what).await;
    }
    scene.end(&format!("{rounds} kills at syncs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_whose_sync_fails_ends_and_never_syncs_that_again() {
    let mut random = chance();
    let mut scene = Scene::start().await;
    let trace = scene.temp.path().join("trace");
    let victim = random.random_range(0..VOTERS as u64) as usize;
    let injection = format!("fdatasync:error=EIO:when={FAILS}");
    let Some(program) = traced(&injection, &trace) else {
        println!("{SKIPPED}");
        return;
    };
    scene.cluster.nodes[victim].kill();
    scene.cluster.nodes[victim].start_under(&program).unwrap();
    let writers = scene.write();
    let mut exited = None;
    eventually("the voter to end", async || {
        exited = scene.cluster.nodes[victim].exited();
        exited.is_some()
    })
    .await;
    assert_eq!(exited, Some(false), "it ends with a failure");
    let said = scene.cluster.nodes[victim].printed();
    let last = said.lines().last().unwrap_or_default();
    println!("{last}");
    assert!(last.starts_with("error: ") && last.contains("Input/output error"), "{said}");
    assert!(last.contains("data/replica") && last.contains("start this node again"), "{said}");

    let trace = std::fs::read_to_string(&trace).unwrap();
    let mut after = trace.lines().skip_while(|line| !line.contains("INJECTED"));
    let failed = after.next().unwrap();
    let file = failed.split(['<', '>']).nth(1).unwrap();
    assert!(file.contains("data/replica/wal/"), "{failed}");
    let again: Vec<&str> = after.filter(|line| line.contains(file)).collect();
    assert!(again.is_empty(), "{failed}, and again: {again:?}");

    // The others go on, and it catches up.
    writers.more(WRITES).await;
    scene.cluster.nodes[victim].start().unwrap();
    writers.more(WRITES).await;
    writers.stop().await;
    scene.check("after a sync that failed").await;
    scene.end("a sync that fails").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_with_a_slow_disk_loses_nothing_and_latency_stays_bounded() {
    let mut scene = Scene::start().await;
    let trace = scene.temp.path().join("trace");
    let injection = format!("fdatasync:delay_enter={}", DELAY.as_micros());
    let Some(program) = traced(&injection, &trace) else {
        println!("{SKIPPED}");
        return;
    };
    figures(&scene, "all disks are fast").await;
    let slow = scene.cluster.leader(PATIENCE).await.unwrap();
    assert!(scene.cluster.nodes[slow].stop(PATIENCE).await);
    scene.cluster.nodes[slow].start_under(&program).unwrap();
    scene.cluster.ready(PATIENCE).await.unwrap();
    let leader = scene.cluster.leader(PATIENCE).await.unwrap();
    figures(&scene, &format!("{slow} is slow, and {leader} leads")).await;

    // The same when it leads, as long as it does.
    eventually("the slow voter to lead", async || {
        let leader = scene.cluster.leader(PATIENCE).await.unwrap();
        let to = Some(scene.cluster.nodes[slow].name.clone());
        let request = TransferLeaderRequest { to };
        let mut voters = VotersClient::new(scene.cluster.channel(leader));
        leader == slow || voters.transfer_leader(request).await.is_ok()
    })
    .await;
    figures(&scene, &format!("{slow} is slow, and was made to lead")).await;
    let after = scene.cluster.leader(PATIENCE).await.unwrap();
    println!("at last {after} leads");
    let delayed = std::fs::read_to_string(&trace).unwrap().matches("DELAYED").count();
    println!("{delayed} syncs were delayed by {DELAY:?}");
    assert!(delayed > 0, "the disk was slow");
    scene.check("with a slow disk").await;
    scene.end("a slow disk").await;
}

/// Writes for a while, and prints how long that takes.
async fn figures(scene: &Scene, what: &str) {
    scene.ledger().forget_latency();
    let began = std::time::Instant::now();
    let before = scene.ledger().acknowledged();
    let writers = scene.write();
    writers.more(5 * WRITES).await;
    writers.stop().await;
    let (ledger, took) = (scene.ledger(), began.elapsed());
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| ledger.latency(quantile));
    let rate = (ledger.acknowledged() - before) as f64 / took.as_secs_f64();
    println!("{what}: {rate:.0} writes/s, p50 {p50:.1?}, p99 {p99:.1?}, at most {max:.1?}");
    assert!(max < LATENCY_MAX, "{what}: a write took {max:?}");
}
