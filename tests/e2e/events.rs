//! What happens is told by every node alike: to `aether events`, over SSE and
//! as rows, each event once and in order, whoever dies meanwhile.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_cluster::artifacts::EXAMPLE;
use aether_tests::evidence::eventually;
use aether_tests::{PATIENCE, Stage, rest, stage, until};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Where an event stands: log index, and which of that entry's it is.
type Position = (u64, u64);

/// What a reader got so far.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Position, Value)>>>);

impl Seen {
    fn note(&self, event: Value) {
        self.0.lock().unwrap().push((position(&event), event));
    }

    fn positions(&self) -> Vec<Position> {
        self.0.lock().unwrap().iter().map(|(position, _)| *position).collect()
    }

    fn reached(&self, position: Position) -> bool {
        self.positions().last().is_some_and(|last| *last >= position)
    }
}

/// Of an event, or of an audit record, which leaves a zero out.
fn position(event: &Value) -> Position {
    (event["index"].as_u64().expect("an index"), event["n"].as_u64().unwrap_or(0))
}

/// A verb that prints a line of JSON for everything that happens, until it is
/// dropped. It knows the addresses in this order.
fn followed(
    stage: &Stage,
    verb: &[&str],
    addresses: &[SocketAddr],
) -> (tokio::process::Child, Seen) {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut child = tokio::process::Command::new(stage.cluster.binary())
        .args(verb)
        .args(["-o", "json"])
        .env("AETHER_ADDR", addresses.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (seen, stdout) = (Seen::default(), child.stdout.take().unwrap());
    let to = seen.clone();
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            to.note(serde_json::from_str(&line).unwrap());
        }
    });
    (child, seen)
}

/// A client of `/events` as browsers are: when its stream ends, it goes on with
/// the last id it got, here at the next of its addresses.
struct EventSource {
    addresses: Vec<SocketAddr>,
    last_id: String,
    seen: Seen,
    connections: Arc<Mutex<usize>>,
}

impl EventSource {
    fn start(addresses: Vec<SocketAddr>) -> (Seen, Arc<Mutex<usize>>) {
        let (seen, connections) = (Seen::default(), Arc::default());
        let source = Self {
            addresses,
            last_id: "0".to_owned(),
            seen: seen.clone(),
            connections: Arc::clone(&connections),
        };
        tokio::spawn(source.run());
        (seen, connections)
    }

    async fn run(mut self) {
        for attempt in 0.. {
            let address = self.addresses[attempt % self.addresses.len()];
            // A node that is away is what this is about.
            let _ = self.read(address, attempt == 0).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads until the stream ends; the first one is broken off in the middle.
    async fn read(&mut self, address: SocketAddr, break_off: bool) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://{address}/events?after=0"))
            .header("last-event-id", &self.last_id)
            .body(Empty::<Bytes>::new())?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
        *self.connections.lock().unwrap() += 1;
        let (mut body, mut text) = (answer.into_body(), String::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            text.push_str(std::str::from_utf8(&data)?);
            while let Some((block, rest)) = text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.take(&block)?;
                text = rest;
                if break_off && self.seen.positions().len() >= 3 {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, block: &str) -> anyhow::Result<()> {
        let field = |name: &str| {
            let mut fields = block.lines().filter_map(|line| line.split_once(':'));
            let found = fields.find(|(field, _)| *field == name);
            found.map(|(_, value)| value.trim_start().to_owned())
        };
        if let Some(id) = field("id") {
            self.last_id = id;
        }
        if let Some(data) = field("data") {
            let event: Value = serde_json::from_str(&data)?;
            let (index, n) = position(&event);
            assert_eq!(self.last_id, format!("{index}.{n}"));
            assert_eq!(field("event").as_deref(), event["kind"].as_str());
            self.seen.note(event);
        }
        Ok(())
    }
}

/// All audit records, as rows.
async fn audit(stage: &Stage) -> Vec<Value> {
    let list = stage.cli(&["kv", "list", "audit/"]).await.unwrap();
    let entries = list["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["value"].clone()).collect()
}

/// A whole update, in the middle of which the leader is killed.
async fn update(stage: &mut Stage, leader: usize) -> String {
    let update = stage.start("2.0.0", &["--latency-ms", "60000"]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:3").await.unwrap();
    stage.cluster.nodes[leader].kill();
    stage.route("1:1").await.unwrap();
    stage.route("1:0").await.unwrap();
    stage.cli(&["update", "complete", &update]).await.unwrap();
    stage.until_state(&update, "COMPLETED").await.unwrap();
    update
}

#[tokio::test]
async fn everybody_is_told_everything_once_and_in_order_though_the_leader_dies() {
    let mut stage = stage(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    // All of them begin at the leader that will die.
    let leading_first = |address: fn(&aether_cluster::Node) -> SocketAddr| {
        let nodes = &stage.cluster.nodes;
        let others = nodes.iter().filter(|n| n.roles.voter && n.name != nodes[leader].name);
        let all = std::iter::once(&nodes[leader]).chain(others);
        all.map(address).collect::<Vec<_>>()
    };
    let grpc = leading_first(|node| node.addresses.grpc);
    let (_cli, told) = followed(&stage, &["events", "--follow", "--after", "0"], &grpc);
    let http = leading_first(|node| node.addresses.http);
    // Broken off once, it goes on at the leader, and then where it must.
    let http = [&http[..1], &http].concat();
    let (streamed, connections) = EventSource::start(http);
    // A worker has no state of its own.
    let worker = stage.cluster.nodes.iter().find(|node| !node.roles.voter).unwrap();
    let (by_worker, _) = EventSource::start(vec![worker.addresses.http]);
    until("the events that were there", || !told.positions().is_empty()).await;

    let update = update(&mut stage, leader).await;
    let rows = audit(&stage).await;
    let written: Vec<Position> = rows.iter().map(position).collect();
    let last = *written.last().unwrap();
    for (who, seen) in [("CLI", &told), ("SSE", &streamed), ("SSE of a worker", &by_worker)] {
        until(who, || seen.reached(last)).await;
        let all = seen.positions();
        let till_then: Vec<_> = all.into_iter().take_while(|at| *at <= last).collect();
        assert_eq!(till_then, written, "{who}: each once and in order");
        for ((_, event), row) in seen.0.lock().unwrap().iter().zip(&rows) {
            let (kind, id) = (event["kind"].as_str().unwrap(), event["id"].as_str().unwrap());
            // There is one cluster.
            let subject = if id.is_empty() { kind.to_owned() } else { format!("{kind}/{id}") };
            assert_eq!(
                (&row["subject"], &row["event"]),
                (&subject.into(), &event["event"]),
                "{who}"
            );
        }
    }
    assert!(*connections.lock().unwrap() >= 3, "broken off, at the leader, and elsewhere");
    one_update(&stage, &update).await;
    stage.cluster.nodes[leader].start().unwrap();
    from_one_that_was_away(&stage, leader, &written).await;
    stage.end().await;
}

/// What is asked of one update is its history.
async fn one_update(stage: &Stage, update: &str) {
    let subject = format!("update/{update}");
    let said = stage.cluster.cli(&["events", "-s", &subject, "-o", "json"]).await.unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    let events = said.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> =
        events.map(|event| (event["index"].clone(), event["event"].clone())).collect();
    let status = stage.cli(&["update", "status", update]).await.unwrap();
    let history = status["history"].as_array().unwrap().iter();
    let history: Vec<_> =
        history.map(|entry| (entry["index"].clone(), entry["event"].clone())).collect();
    assert_eq!(told, history);
    let said = stage.cluster.cli(&["events", "-s", &subject, "-n", "1"]).await.unwrap();
    assert_eq!(said.stdout.lines().count(), 1, "{said:?}");
    assert!(said.stdout.contains(&format!("  {subject}  ")), "{said:?}");
}

/// A node that was dead tells the same once it is back.
async fn from_one_that_was_away(stage: &Stage, node: usize, written: &[Position]) {
    let addresses = stage.cluster.nodes[node].addresses;
    let (first, last) = (written[0].0 - 1, written.last().unwrap().0);
    eventually("the node that was killed to have caught up", async || {
        let path = format!("/api/events?after={first}&follow=false");
        let Ok(answer) = rest::get(addresses.http, &path).await else { return false };
        answer.text().contains(&format!("id: {last}."))
    })
    .await;
    let (grpc, after) = (addresses.grpc.to_string(), first.to_string());
    let verb = ["events", "--after", &after, "-a", &grpc, "-o", "json"];
    let said = stage.cluster.cli(&verb).await.unwrap();
    let events = said.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = events.map(|event| position(&event)).take(written.len()).collect();
    assert_eq!(told, written);

    // Positions that make no sense.
    let far = (last + 1_000_000).to_string();
    let said = stage.cluster.cli(&["events", "--after", &far]).await.unwrap();
    assert!(said.code == Some(1) && said.stderr.contains("end of the log"), "{said:?}");
    let answer = rest::get(addresses.http, &format!("/events?after={far}")).await.unwrap();
    assert_eq!((answer.status, answer.problem().unwrap().0.as_str()), (400, "future_position"));
}

#[tokio::test]
async fn records_are_watched_and_listed_while_they_change_and_a_node_dies() {
    let mut stage = stage(&[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    // It begins at the leader, which dies.
    let nodes = &stage.cluster.nodes;
    let others = nodes.iter().filter(|n| n.roles.voter && n.name != nodes[leader].name);
    let addresses: Vec<_> =
        std::iter::once(&nodes[leader]).chain(others).map(|node| node.addresses.grpc).collect();
    let (mut child, seen) = followed(&stage, &["kv", "watch", "slice/"], &addresses);
    let kinds = || {
        let changes = seen.0.lock().unwrap();
        changes
            .iter()
            .map(|(_, change)| change["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    until("what is there", || kinds() == ["PUT", "SYNCED"]).await;
    stage.cli(&["scale", EXAMPLE, "-i", "2"]).await.unwrap();
    until("the change", || kinds().len() == 3).await;
    stage.cluster.nodes[leader].kill();
    stage.cli(&["undeploy", EXAMPLE]).await.unwrap();
    until("its end", || kinds().last().is_some_and(|kind| kind == "DELETE")).await;
    assert_eq!(kinds().iter().filter(|kind| *kind == "SYNCED").count(), 1, "also of two nodes");
    let changes = seen.0.lock().unwrap().clone();
    let key = format!("slice/{EXAMPLE}");
    assert!(
        changes.iter().all(|(_, c)| c["kind"] == "SYNCED" || c["key"] == key.as_str()),
        "{changes:?}"
    );
    assert_eq!(changes[2].1["value"]["instances"], 2);
    assert!(changes.windows(2).all(|pair| pair[0].0 <= pair[1].0), "indices never fall");

    let told = changes.windows(2).filter(|pair| pair[0].1["value"] == pair[1].1["value"]);
    assert_eq!(told.count(), 0, "nothing is told twice: {changes:?}");

    let live = stage.cluster.nodes.iter().position(|node| node.addresses.grpc == addresses[1]);
    let address = stage.cluster.nodes[live.unwrap()].addresses.http;
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/kv?prefix=audit/&pageSize=3&pageToken={token}");
        let page = rest::get(address, &path).await.unwrap().json().unwrap();
        listed.extend(page["entries"].as_array().unwrap().iter().map(|e| e["value"].clone()));
        token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let rows = audit(&stage).await;
    assert_eq!(listed, rows[..listed.len()], "page by page as in one");
    child.kill().await.unwrap();
    stage.end().await;
}
