//! What a test looks at from outside: processes, files and hashes; and calls
//! that it keeps in flight.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aether_cluster::{Cluster, PATIENCE, Stage};
use aether_invoker::{ResponseBody, SliceHandle};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use serde_json::Value;
use tokio::sync::oneshot;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a voter may take to say where it is.
const VERB_MAX: &str = "60s";

/// Waits until a condition holds.
///
/// # Panics
/// When it does not within [`PATIENCE`]; says what was waited for.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Names and directories of the instances below a directory of an agent.
fn instances_below(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
}

/// The process of every instance on this machine, as its shim wrote it down,
/// and only if it lives.
pub fn processes(cluster: &Cluster) -> BTreeMap<String, i32> {
    let nodes = cluster.nodes.iter().filter(|node| node.roles.agent);
    nodes.flat_map(|node| processes_below(&node.data_dir())).collect()
}

/// Likewise of one node, by its data directory.
pub fn processes_below(data_dir: &Path) -> BTreeMap<String, i32> {
    let mut processes = BTreeMap::new();
    for (instance, dir) in instances_below(&data_dir.join("instances")) {
        let state = std::fs::read_to_string(dir.join("state.json")).unwrap_or_default();
        let state: Value = serde_json::from_str(&state).unwrap_or_default();
        let Some(pid) = state["child"]["pid"].as_i64() else { continue };
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = format!("AETHER_INSTANCE={instance}");
        if environment.split(|byte| *byte == 0).any(|entry| entry == name.as_bytes()) {
            processes.insert(instance, pid as i32);
        }
    }
    processes
}

/// Every process on this machine that belongs to these instances, however it
/// was started and wherever it moved: by the working directory, which children
/// inherit, or by the arguments, as for a shim.
pub fn remains(cluster: &Cluster, instances: &[String]) -> Vec<String> {
    let nodes = cluster.nodes.iter().filter(|node| node.roles.agent);
    let dirs: Vec<_> = nodes
        .flat_map(|node| {
            instances.iter().map(|id| node.data_dir().join("instances").join(id).join(""))
        })
        .collect();
    let is_of = |process: &Path| {
        let working_dir = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned() + "/";
        dirs.iter().any(|dir| {
            let name = dir.to_string_lossy();
            working_dir.starts_with(dir) || arguments.replace('\0', "/").contains(name.as_ref())
        })
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes =
        entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    processes
        .filter(|entry| is_of(&entry.path()))
        .map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            stat.chars().take(60).collect()
        })
        .filter(|stat: &String| !stat.is_empty() && !stat.contains(") Z"))
        .collect()
}

/// How often each instance that ever was on this machine said that it had
/// started, by instance and node.
pub fn starts(cluster: &Cluster) -> BTreeMap<(String, String), usize> {
    let mut starts = BTreeMap::new();
    for node in cluster.nodes.iter().filter(|node| node.roles.agent) {
        let live = instances_below(&node.dir.join("data/instances"));
        let live = live.into_iter().map(|(instance, dir)| (instance, dir.join("logs")));
        for (instance, logs) in live.chain(instances_below(&node.dir.join("data/logs"))) {
            let log = std::fs::read_to_string(logs.join("stdout.log")).unwrap_or_default();
            let count = log.lines().filter(|line| line.contains(" listening on ")).count();
            *starts.entry((instance, node.name.clone())).or_default() += count;
        }
    }
    starts
}

/// Waits until all voters that run have applied the same log and have the same
/// hash over all rows of it; returns the hash.
///
/// # Panics
/// When two of them differ at the same index, or do not meet within
/// [`PATIENCE`].
pub async fn equal_hashes(stage: &Stage) -> String {
    equal_hashes_of(&stage.cluster).await
}

/// Likewise of a cluster without a stage.
///
/// # Panics
/// As [`equal_hashes`].
pub async fn equal_hashes_of(cluster: &Cluster) -> String {
    let voters = cluster.nodes.iter().filter(|n| n.roles.voter && n.pid().is_some());
    let addresses: Vec<String> = voters.map(|n| n.addresses.grpc.to_string()).collect();
    let mut by_index: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
    let mut common = None;
    eventually("all voters at the same index", async || {
        for address in &addresses {
            let verb = ["status", "-a", address, "--timeout", VERB_MAX];
            let Ok(status) = cluster.json(&verb).await else { return false };
            let (Some(applied), Some(hash)) =
                (status["applied"].as_u64(), status["stateHash"].as_str())
            else {
                panic!("no index or hash in {status}");
            };
            by_index.entry(applied).or_default().insert(address.clone(), hash.to_owned());
        }
        let met = by_index.values().find(|hashes| hashes.len() == addresses.len());
        common = met.and_then(|hashes| hashes.values().next().cloned());
        common.is_some()
    })
    .await;
    for (index, hashes) in by_index {
        let mut distinct: Vec<_> = hashes.values().collect();
        distinct.dedup();
        assert_eq!(distinct.len(), 1, "different hashes at index {index}: {hashes:?}");
    }
    common.expect("found above")
}

/// A call that is in flight until it is ended.
pub struct LongCall {
    release: oneshot::Sender<()>,
    response: Response<ResponseBody>,
}

/// A request body without content that does not end before it is told to.
struct Unfinished(oneshot::Receiver<()>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll(context).map(|_| None)
    }
}

impl LongCall {
    /// Makes a call; some instance has begun to answer it when this returns.
    ///
    /// # Panics
    /// When no instance does.
    pub async fn start(slice: &SliceHandle) -> Self {
        let (release, released) = oneshot::channel();
        let request = Request::post("/echo").body(Unfinished(released)).expect("a valid request");
        let response = slice.send(request).await.expect("the head of an answer");
        Self { release, response }
    }

    /// The version that answers it.
    pub fn version(&self) -> &str {
        let version = self.response.headers().get("x-aether-version");
        version.and_then(|value| value.to_str().ok()).expect("a version in the answer")
    }

    /// Lets it end, and checks that it does so in order.
    ///
    /// # Panics
    /// When it was cut off.
    pub async fn end(self) {
        let version = self.version().to_owned();
        assert_eq!(self.release.send(()), Ok(()), "the call to {version} was cut off");
        let body = self.response.into_body().collect().await;
        body.unwrap_or_else(|error| panic!("the call to {version} was cut off: {error}"));
    }
}
