//! The configurations in `cluster/examples` work as they stand, on the ports
//! they name.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aether_cluster::artifacts::example_slice;
use aether_cluster::{Said, kill_all_below};
use aether_tests::{PATIENCE, binary, rest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Every port that the examples name.
fn ports() -> impl Iterator<Item = u16> {
    [8070, 8080, 8090, 8091].into_iter().flat_map(|port| (0..4).map(move |node| port + node * 100))
}

/// Nodes that run by the examples' files.
struct Nodes {
    temp: TempDir,
    running: Vec<(&'static str, Child)>,
}

impl Nodes {
    /// Starts a node by a copy of its file, of which only the place of its data
    /// differs.
    fn start(&mut self, name: &'static str) {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/examples");
        let text = std::fs::read_to_string(examples.join(format!("{name}.toml"))).unwrap();
        let data = format!("data_dir = \"data/{name}\"");
        assert!(text.contains(&data), "{name}.toml: {text}");
        let place = self.temp.path().join(name);
        let text = text.replace(&data, &format!("data_dir = \"{}\"", place.display()));
        let config = self.temp.path().join(format!("{name}.toml"));
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.log(name)).unwrap();
        let child = Command::new(binary())
            .args(["node", "--exit-with-parent", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.push((name, child));
    }

    fn log(&self, name: &str) -> PathBuf {
        self.temp.path().join(format!("{name}.log"))
    }

    /// Asks all to end, which each must do with success.
    async fn end(&mut self) {
        for (_, child) in &self.running {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        for (name, mut child) in std::mem::take(&mut self.running) {
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                assert!(Instant::now() < deadline, "{name} does not end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            let log = std::fs::read_to_string(self.log(name)).unwrap();
            assert_eq!(status.code(), Some(0), "{name}: {log}");
        }
        // Instances outlive their node on purpose.
        kill_all_below(self.temp.path());
    }

    /// A verb at the default address, again and again until it succeeds and
    /// what it prints satisfies a condition.
    async fn until(&self, line: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let words = line.split_whitespace().chain(["-o", "json"]);
            let output = tokio::process::Command::new(binary())
                .args(words)
                .env_remove("AETHER_ADDR")
                // The contexts of whoever runs this are no part of it.
                .env("AETHER_CONFIG", "/dev/null")
                .stdin(Stdio::null())
                .output();
            let said = Said::from(output.await.unwrap());
            if let Ok(value) = serde_json::from_str(&said.stdout)
                && condition(&value)
            {
                return value;
            }
            assert!(Instant::now() < deadline, "'aether {line}': {said:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Deploys an example slice and calls it through an ingress.
    async fn serve(&self, instances: usize, ingress: u16) {
        let slice = example_slice(self.temp.path(), &binary(), "1.0.0", &[]).unwrap();
        self.until(&format!("artifact push {}", slice.display()), |_| true).await;
        let line = format!("deploy org.example:hello:1.0.0 -n {instances} --wait");
        let slice = self.until(&line, |_| true).await;
        assert_eq!(slice["ready"], instances, "{slice:#}");
        let to = (Ipv4Addr::LOCALHOST, ingress).into();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = rest::get(to, "/").await.unwrap();
            if answer.status == 200 {
                assert_eq!(answer.header("x-aether-version"), "1.0.0");
                return;
            }
            // The table is still on its way.
            assert!(Instant::now() < deadline, "{} {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (name, child) in &mut self.running {
            let log = std::fs::read_to_string(self.temp.path().join(format!("{name}.log")));
            eprintln!("{name}:\n{}", log.unwrap_or_default());
            drop(child.kill());
            drop(child.wait());
        }
        kill_all_below(self.temp.path());
    }
}

#[tokio::test]
async fn the_example_configurations_work_as_they_stand() {
    let taken = ports().find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err());
    if let Some(port) = taken {
        eprintln!("SKIPPED: port {port}, which cluster/examples name, is taken on this machine");
        return;
    }
    let mut single =
        Nodes { temp: TempDir::with_prefix("aether-example-").unwrap(), running: vec![] };
    single.start("single");
    single.until("status", |status| status["quorum"] == true).await;
    single.until("nodes", |nodes| nodes["nodes"].as_array().is_some_and(|n| n.len() == 1)).await;
    single.serve(1, 8070).await;
    single.end().await;

    let mut nodes =
        Nodes { temp: TempDir::with_prefix("aether-example-").unwrap(), running: vec![] };
    for name in ["voter-1", "voter-2", "voter-3", "worker"] {
        nodes.start(name);
    }
    let status = nodes.until("status", |s| s["quorum"] == true && s["leader"].is_string()).await;
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(3), "{status:#}");
    let seen =
        nodes.until("nodes", |nodes| nodes["nodes"].as_array().is_some_and(|n| n.len() == 4)).await;
    let worker = seen["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "worker");
    assert_eq!(worker.expect("it is there")["labels"]["zone"], "a", "{seen:#}");
    // One instance on each node, reached through the worker's ingress; and the
    // worker's REST answers for the voters.
    nodes.serve(4, 8370).await;
    let updates = rest::get((Ipv4Addr::LOCALHOST, 8380).into(), "/rolling-updates").await.unwrap();
    assert_eq!(updates.json().unwrap()["updates"].as_array().map(Vec::len), Some(0));
    nodes.end().await;
}
