//! `aether dev` as a person runs it in a terminal, and the lines typed in
//! another one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aether_cluster::{Lease, Said, kill_all_below};
use aether_proto::v1::ListSlicesRequest;
use aether_proto::v1::slices_client::SlicesClient;
use aether_tests::evidence::processes_below;
use aether_tests::{PATIENCE, binary, rest, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tonic::transport::Endpoint;

/// Nodes of the guide's cluster, and how far apart `dev` sets their ports.
pub const NODES: u16 = 3;
const STEP: u16 = 100;
/// Ports of the first node, by their distance from its REST port. The peers'
/// port is next to that of gRPC.
const GRPC: u16 = 10;
const INGRESS: u16 = 20;

/// A running `aether dev`, its data, and who types.
pub struct Dev {
    temp: TempDir,
    leases: Vec<Lease>,
    child: Option<Child>,
    // Any node answers: each line goes to the next one.
    next: Cell<u16>,
}

impl Dev {
    /// Finds free ports; starts nothing.
    pub fn new() -> Self {
        let of_node = |node| [0, GRPC, GRPC + 1, INGRESS].map(|port| node * STEP + port);
        let distances: Vec<u16> = (0..NODES).flat_map(of_node).collect();
        Self {
            temp: TempDir::with_prefix("aether-guide-").unwrap(),
            leases: Lease::take_pattern(&distances).unwrap(),
            child: None,
            next: Cell::new(0),
        }
    }

    /// A directory for artifacts.
    pub fn scratch(&self) -> &Path {
        self.temp.path()
    }

    fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("dev.log")
    }

    fn address(&self, node: u16, distance: u16) -> SocketAddr {
        let port = self.leases[0].port() + node * STEP + distance;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// A node's REST.
    pub fn http(&self, node: u16) -> SocketAddr {
        self.address(node, 0)
    }

    /// A node's ingress.
    pub fn ingress(&self, node: u16) -> SocketAddr {
        self.address(node, INGRESS)
    }

    /// Starts `aether dev --nodes 3` in a process group of its own, as a
    /// terminal does, and waits until it says that it is up: all nodes serve.
    pub async fn start(&mut self) {
        self.launch();
        self.until_up().await;
    }

    /// Starts it and waits for nothing.
    pub fn launch(&mut self) {
        let log = File::create(self.log()).unwrap();
        let port = |distance| self.address(0, distance).port().to_string();
        let child = Command::new(binary())
            .args(["dev", "--nodes", &NODES.to_string()])
            .args(["--http", &port(0), "--grpc", &port(GRPC), "--ingress", &port(INGRESS)])
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until it says that it is up.
    pub async fn until_up(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains("Ctrl-C stops everything") {
            assert!(!self.said().contains("error: "), "'aether dev' ended: {}", self.said());
            assert!(Instant::now() < deadline, "'aether dev' does not start: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for node in 0..NODES {
            let line = format!("node n{node}: REST http://{}", self.http(node));
            assert!(self.said().contains(&line), "'{line}' is not in: {}", self.said());
        }
        assert_eq!(self.said().matches("(leads)").count(), 1, "{}", self.said());
    }

    /// What `aether dev` printed.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Ctrl-C, and once more before it has ended: everything is killed.
    pub async fn interrupt_twice(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32);
        kill(pid, Signal::SIGINT).unwrap();
        until("it to stop", || self.said().contains("Ctrl-C again kills everything")).await;
        kill(pid, Signal::SIGINT).unwrap();
        let mut child = self.child.take().expect("it runs");
        until("it to end", || child.try_wait().unwrap().is_some()).await;
        assert_eq!(child.wait().unwrap().code(), Some(1), "{}", self.said());
        assert_eq!(kill_all_below(self.temp.path()), 0, "processes were left: {}", self.said());
    }

    /// SIGINT to `aether dev` alone, or to the whole group as Ctrl-C sends it.
    /// It must end with success and leave no process behind.
    pub async fn interrupt(&mut self, group: bool) {
        let mut child = self.child.take().expect("it runs");
        let pid = child.id() as i32;
        kill(Pid::from_raw(if group { -pid } else { pid }), Signal::SIGINT).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "'aether dev' does not end: {}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(0), "{}", self.said());
        assert_eq!(kill_all_below(self.temp.path()), 0, "processes were left: {}", self.said());
        for node in 0..NODES {
            let log = std::fs::read_to_string(self.data().join(format!("n{node}/node.log")));
            assert!(!log.as_deref().unwrap().contains("panicked"), "{log:?}");
        }
    }

    /// Types a line of the guide; the node it asks is the next in turn.
    pub async fn type_in(&self, line: &str) -> Said {
        let node = self.next.replace((self.next.get() + 1) % NODES);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "aether", "{line}");
        let output = tokio::process::Command::new(binary())
            .args(&words[1..])
            .args(["--timeout", "60s"])
            .env("AETHER_ADDR", self.address(node, GRPC).to_string())
            .stdin(Stdio::null())
            .output();
        Said::from(output.await.unwrap())
    }

    /// Types a line that must succeed; what it printed for people.
    pub async fn line(&self, line: &str) -> String {
        let said = self.type_in(line).await;
        assert_eq!(said.code, Some(0), "'{line}': {}", said.stderr);
        assert!(!said.stdout.trim().is_empty(), "'{line}' prints nothing");
        said.stdout
    }

    /// Likewise with `-o json`.
    pub async fn json(&self, line: &str) -> Value {
        let printed = self.line(&format!("{line} -o json")).await;
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("'{line}': {e}: {printed}"))
    }

    /// Types a line again and again until what it prints satisfies a condition.
    pub async fn until(&self, line: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.json(line).await;
            if condition(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "'{line}' for {PATIENCE:?}; at last: {seen:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an update is in a state.
    pub async fn until_state(&self, id: &str, state: &str) -> Value {
        self.until(&format!("aether update status {id}"), |update| update["state"] == state).await
    }

    /// Starts an update by a line of the guide, and waits until it is DEPLOYED.
    pub async fn start_update(&self, line: &str) -> (String, Value) {
        let started = self.json(line).await;
        let id = started["updateId"].as_str().expect("an update has an id").to_owned();
        let state = started["state"].as_str().unwrap();
        assert!(["PENDING", "DEPLOYING"].contains(&state), "{started:#}");
        assert_eq!(started["routing"], "0:1", "no traffic at first: {started:#}");
        let deployed = self.until_state(&id, "DEPLOYED").await;
        (id, deployed)
    }

    /// Shifts traffic as the guide does, and waits until every ingress splits
    /// exactly so. Returns how many calls the new version got meanwhile.
    pub async fn shift(&self, id: &str, ratio: &str, new: &str, old: &str) -> u64 {
        let changed = self.json(&format!("aether update routing {id} -r {ratio}")).await;
        assert_eq!((&changed["routing"], &changed["state"]), (&ratio.into(), &"ROUTING".into()));
        self.split(ratio, new, old).await
    }

    /// Waits until every ingress splits exactly by a ratio.
    pub async fn split(&self, ratio: &str, new: &str, old: &str) -> u64 {
        let (weight_new, weight_old) = ratio.split_once(':').unwrap();
        let weights: [u64; 2] = [weight_new.parse().unwrap(), weight_old.parse().unwrap()];
        // Three cycles: one could fit by chance before the table arrives.
        let window = 3 * weights.iter().sum::<u64>();
        let expected: BTreeMap<String, u64> = [(new, weights[0]), (old, weights[1])]
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(version, weight)| (version.to_owned(), 3 * weight))
            .collect();
        let mut to_new = 0;
        let deadline = Instant::now() + PATIENCE;
        for node in 0..NODES {
            loop {
                let seen = self.calls(node, window).await;
                to_new += seen.get(new).copied().unwrap_or(0);
                if seen == expected {
                    break;
                }
                assert!(Instant::now() < deadline, "{ratio} at ingress {node}: {seen:?}");
            }
            // From now on every window is exact.
            let seen = self.calls(node, window).await;
            to_new += seen.get(new).copied().unwrap_or(0);
            assert_eq!(seen, expected, "{ratio} at ingress {node}");
        }
        to_new
    }

    /// Looks at the instances of a slice through each node in turn, until the
    /// future ends. None may be READY where nothing listens, unless the answer
    /// says of itself that it is old. Returns the answers that were looked at.
    pub async fn never_ready_in_vain(&self, slice: &str, until: impl Future<Output = ()>) -> u64 {
        let connect = |instance: &Value| -> std::io::Result<TcpStream> {
            let at = instance["endpoint"].as_str().and_then(|at| at.parse().ok());
            TcpStream::connect_timeout(&at.expect("it has an endpoint"), PATIENCE)
        };
        let mut looks = 0;
        let mut until = std::pin::pin!(until);
        let path = format!("/api/slices?slice={slice}");
        for node in (0..NODES).cycle() {
            let asked = rest::get(self.http(node), &path);
            let answer = tokio::select! {
                answer = asked => answer,
                () = &mut until => return looks,
            };
            // So that the looks themselves are no load.
            tokio::time::sleep(Duration::from_millis(5)).await;
            // Refused: the node does not run yet.
            let Ok(answer) = answer.and_then(|answer| answer.json()) else { continue };
            let (known, stale) = (&answer["slices"][0], &answer["asOf"]["stale"]);
            for instance in known["instancesState"].as_array().into_iter().flatten() {
                if instance["state"] == "READY" && *stale == false {
                    let connected = connect(instance);
                    assert!(connected.is_ok(), "READY, but {connected:?}: {instance:#} {answer:#}");
                }
                looks += 1;
            }
        }
        unreachable!("the cycle never ends")
    }

    /// Sends calls through every ingress, all of which must be answered.
    pub async fn all_served(&self) {
        for node in 0..NODES {
            self.calls(node, 20).await;
        }
    }

    /// Process ids of the instances of an artifact, by id, while they live.
    pub fn processes_of(&self, artifact: &str) -> BTreeMap<String, i32> {
        let node_dirs = (0..NODES).map(|node| self.data().join(format!("n{node}/data")));
        let all = node_dirs.flat_map(|dir| processes_below(&dir));
        all.filter(|(id, _)| id.starts_with(artifact)).collect()
    }

    /// Every node's gRPC.
    pub fn grpc(&self) -> Vec<SocketAddr> {
        (0..NODES).map(|node| self.address(node, GRPC)).collect()
    }

    /// `kill -9` of `aether dev` and all of its nodes at once. What they run
    /// goes on.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(Pid::from_raw(-(child.id() as i32)), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        let ports = [0, GRPC, GRPC + 1, INGRESS];
        let all = (0..NODES).flat_map(|node| ports.map(|port| self.address(node, port)));
        let all: Vec<SocketAddr> = all.collect();
        // The nodes are nobody's children any more: who listens is still there.
        until("the nodes to be gone", || all.iter().all(|at| TcpListener::bind(at).is_ok())).await;
    }

    /// Sends calls through one ingress; how many each version answered.
    async fn calls(&self, node: u16, calls: u64) -> BTreeMap<String, u64> {
        let mut by_version = BTreeMap::new();
        for _ in 0..calls {
            let answer = rest::get(self.ingress(node), "/").await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            *by_version.entry(answer.header("x-aether-version").to_owned()).or_default() += 1;
        }
        by_version
    }

    /// A curl line of the guide: with `curl` where it is installed.
    pub async fn curl(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let node = self.next.replace((self.next.get() + 1) % NODES);
        let url = format!("http://localhost:{}{path}", self.http(node).port());
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "-w", "\n%{http_code}", &url]);
        if method != "GET" {
            curl.args(["-X", method]);
        }
        let text = body.as_ref().map(Value::to_string);
        if let Some(text) = &text {
            curl.args(["-H", "Content-Type: application/json", "-d", text]);
        }
        let (status, body) = match curl.stdin(Stdio::null()).output().await {
            Ok(output) => {
                let said = Said::from(output);
                assert_eq!(said.code, Some(0), "curl {url}: {}", said.stderr);
                let (body, status) = said.stdout.rsplit_once('\n').unwrap();
                (status.parse().unwrap(), body.to_owned())
            }
            Err(error) => {
                eprintln!("no curl ({error}): asking without it");
                let kind = [("content-type", "application/json")];
                let headers = if text.is_some() { &kind[..] } else { &[] };
                let body = text.unwrap_or_default();
                let answer = rest::send(self.http(node), method, path, headers, body).await;
                answer.map(|answer| (answer.status, answer.text())).unwrap()
            }
        };
        let json = serde_json::from_str(&body).unwrap_or(Value::String(body));
        (status, json)
    }

    /// A curl line that must succeed.
    pub async fn curled(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.curl(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer:#}");
        answer
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            eprintln!("what 'aether dev' said:\n{}", self.said());
            // Its nodes end with it; what they started is found by its path.
            drop(child.kill());
            drop(child.wait());
            kill_all_below(self.temp.path());
        }
    }
}

/// Asks the nodes in turn for the instances of a slice until the future ends.
/// What was heard last of each, but not what a node says without the leader.
pub async fn last_seen(
    nodes: Vec<SocketAddr>,
    slice: &str,
    until: impl Future<Output = ()>,
) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    let mut until = std::pin::pin!(until);
    for node in nodes.iter().cycle() {
        let endpoint = Endpoint::from_shared(format!("http://{node}")).unwrap();
        let mut slices = SlicesClient::new(endpoint.connect_lazy());
        let asked =
            slices.list(ListSlicesRequest { slice: slice.to_owned(), ..Default::default() });
        let answer = tokio::select! {
            answer = asked => answer,
            () = &mut until => break,
        };
        let Ok(answer) = answer.map(tonic::Response::into_inner) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if answer.as_of.is_some_and(|as_of| !as_of.stale) {
            let instances = answer.slices.into_iter().flat_map(|slice| slice.instances_state);
            last.extend(instances.map(|instance| (instance.instance_id, instance.state)));
        }
    }
    last
}

/// Members of a JSON object, by name.
pub fn members(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}"))
}
