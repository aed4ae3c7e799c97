//! A service's configuration changes as its version does: by an update, under load,
//! and back everywhere when it does not work.

use std::path::{Path, PathBuf};

use aether_cluster::artifacts::{EXAMPLE, write};
use aether_cluster::load::Load;
use aether_tests::evidence::equal_hashes;
use aether_tests::rest::get;
use aether_tests::{PATIENCE, Stage, assert_none_failed, ids, phase, stage};
use serde_json::Value;

/// Where distributions put it.
const PYTHON: &str = "/usr/bin/python3";
/// Requests per second.
const RATE: u32 = 150;
/// Requests of each step.
const ENOUGH: u64 = 150;
const INSTANCES: usize = 4;

/// Answers with the value in its configuration, in the header that the load counts by.
/// Not ready with one that it does not understand.
const SERVER: &str = r#"
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

value, where = open("app.conf").read().split()

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{value} {os.environ['MODE']} {where}\n".encode()
        self.send_response(503 if self.path == "/ready" and value == "bad" else 200)
        self.send_header("X-Aether-Version", value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn artifact(dir: &Path) -> PathBuf {
    let manifest = format!(
        "artifact = '{EXAMPLE}:1.0.0'\n\n\
         [run]\n\
         command = ['{PYTHON}', '${{ARTIFACT_DIR}}/server.py']\n\
         config_files = ['app.conf']\n\
         env = {{ MODE = 'slow' }}\n\
         grace = '10s'\ndrain = '10s'\n\n\
         [ready]\nhttp = '/ready'\ninterval = '200ms'\n\n\
         [[ingress]]\npath = '/'\n"
    );
    let files = [("slice.toml", &*manifest), ("server.py", SERVER), ("app.conf", "one ${PORT}\n")];
    write(dir, "configured", &files).unwrap()
}

/// Pushes a configuration with this value; gives its number.
async fn push(stage: &Stage, value: &str) -> String {
    let path = stage.scratch().join(format!("{value}.conf"));
    std::fs::write(&path, format!("{value} ${{PORT}}\n")).unwrap();
    let file = format!("app.conf={}", path.display());
    let verb = ["config", "push", EXAMPLE, "--file", &file, "--env", "MODE=fast"];
    stage.cli(&verb).await.unwrap()["number"].to_string()
}

/// What each instance answers itself, asked past every table.
async fn answers(stage: &Stage) -> Vec<String> {
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    let mut answers = Vec::new();
    for instance in slice["instancesState"].as_array().unwrap() {
        let endpoint = instance["endpoint"].as_str().unwrap();
        let answer = get(endpoint.parse().unwrap(), "/").await.unwrap();
        let body = answer.text();
        assert_eq!(answer.status, 200, "{body}");
        // The names in what was pushed stand for this instance's own.
        let port = endpoint.rsplit_once(':').unwrap().1;
        answers.push(body.trim().strip_suffix(port).unwrap_or(&body).trim().to_owned());
    }
    answers
}

/// Waits until all instances are of the current revision, ready, and as many as wanted.
async fn until_whole(stage: &Stage) {
    let is_whole = |slice: &Value| {
        let instances = slice["instancesState"].as_array().unwrap();
        let is_current = |i: &Value| i["revision"] == slice["revision"] && i["state"] == "READY";
        instances.len() == INSTANCES && instances.iter().all(is_current)
    };
    stage.until_verb(&["slices", EXAMPLE], "one revision alone", is_whole).await.unwrap();
}

const ROLLING: [&str; 8] = [
    "--strategy",
    "rolling",
    "--max-unavailable",
    "1",
    "--healthy-time",
    "200ms",
    "--max-latency-ms",
    "60000",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_rolls_out_under_load_while_the_leader_dies_and_a_bad_one_goes_back() {
    if !Path::new(PYTHON).exists() {
        println!("SKIPPED: {PYTHON} is not installed");
        return;
    }
    let mut stage = stage(&[]).await;
    stage.push_dir(&artifact(stage.scratch())).await.unwrap();
    stage.deploy("1.0.0", INSTANCES as u32).await.unwrap();
    assert_eq!(answers(&stage).await, ["one slow"; INSTANCES]);
    let refused = stage.refused(&["update", "start", EXAMPLE, "1.0.0"]).await.unwrap();
    assert!(refused.contains("--config") && refused.contains("--restart"), "{refused}");
    let invoker = stage.invoker("caller").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE, "one");
    load.until_requests(ENOUGH).await;

    let two = push(&stage, "two").await;
    let plan = stage.cli(&["update", "plan", EXAMPLE, "1.0.0", "--config", &two]).await.unwrap();
    assert_eq!((&plan["sameVersion"], &plan["refused"]), (&true.into(), &Value::Null), "{plan:#}");
    let first = ids(&stage).await;
    load.phase("to two");
    let options = ["--config", &two];
    let update = stage.start("1.0.0", &[&options, &ROLLING[..]].concat()).await.unwrap();
    stage.until(&update, |update| update["progress"]["step"].as_u64() >= Some(1)).await.unwrap();
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].kill();
    stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].start().unwrap();
    stage.until_state(&update, "COMPLETED").await.unwrap();
    until_whole(&stage).await;
    assert_eq!(answers(&stage).await, ["two fast"; INSTANCES]);
    let second = ids(&stage).await;
    assert!(second.iter().all(|id| !first.contains(id)), "each was replaced: {second:?}");
    load.phase("two");
    load.until_requests(ENOUGH).await;

    let bad = push(&stage, "bad").await;
    load.phase("to bad and back");
    let options = ["--config", &bad, "--on-failure", "rollback", "--deploy-timeout", "3s"];
    let update = stage.start("1.0.0", &[&options, &ROLLING[..]].concat()).await.unwrap();
    let ended = stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    assert!(ended["outcome"]["message"].is_string(), "{ended:#}");
    until_whole(&stage).await;
    assert_eq!(answers(&stage).await, ["two fast"; INSTANCES]);
    load.phase("two again");
    load.until_requests(ENOUGH).await;

    let diff = stage.cluster.cli(&["update", "diff", &update]).await.unwrap();
    assert!(diff.stdout.contains("-two ${PORT}\n+bad ${PORT}"), "{}", diff.stdout);
    let phases = load.stop().await;
    assert_none_failed(&phases);
    for name in ["two", "two again"] {
        let phase = phase(&phases, name);
        assert_eq!(phase.answers("two"), phase.requests, "{name}: {:?}", phase.versions);
    }
    assert_eq!(phase(&phases, "to bad and back").answers("bad"), 0, "it never took a call");
    equal_hashes(&stage).await;
    invoker.close().await;
    stage.end().await;
}
