//! Logs, read over the wire from real files.

use std::fs;

use aether_proto::v1::agent_logs_client::AgentLogsClient;
use aether_proto::v1::{FindLogsRequest, ReadAfter, ReadLogsRequest, ReadLogsResponse};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::plane::LIMIT;
use crate::world::{World, until};

async fn client(world: &World) -> AgentLogsClient<Channel> {
    let service = world.agent.as_ref().unwrap().logs_service();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    AgentLogsClient::connect(format!("http://{address}")).await.unwrap()
}

fn request(instances: &[&str], tail: u32, follow: bool) -> ReadLogsRequest {
    let instance_ids = instances.iter().map(|id| (*id).to_owned()).collect();
    ReadLogsRequest { instance_ids, follow, tail, after: vec![] }
}

fn from_the_first_line(instance: &str, stream: &str) -> ReadAfter {
    let (instance_id, stream) = (instance.to_owned(), stream.to_owned());
    ReadAfter { instance_id, stream, position: None }
}

async fn message(stream: &mut Streaming<ReadLogsResponse>) -> Option<ReadLogsResponse> {
    tokio::time::timeout(LIMIT, stream.message()).await.expect("a message or the end").unwrap()
}

/// The next message with a line.
async fn line(stream: &mut Streaming<ReadLogsResponse>) -> Option<ReadLogsResponse> {
    loop {
        let message = message(stream).await?;
        if message.line.is_some() {
            return Some(message);
        }
    }
}

#[tokio::test]
async fn last_lines_of_both_streams_come_first_and_new_ones_follow() {
    let world = World::new().await;
    let script = "echo one; echo two; echo wrong >&2; while [ ! -e go ]; do sleep 0.01; done; \
                  echo three; sleep 1000";
    let slice = world.slice(&["/bin/sh", "-c", script], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    until("it writes", || {
        world.log("a-1-0", "stdout").contains("two")
            && world.log("a-1-0", "stderr").contains("wrong")
    })
    .await;
    let mut client = client(&world).await;
    let mut stream = client.read(request(&["a-1-0"], 1, true)).await.unwrap().into_inner();
    for (name, text) in [("stdout", "two"), ("stderr", "wrong")] {
        let line = line(&mut stream).await.unwrap();
        assert_eq!((line.stream.as_str(), line.line.as_deref()), (name, Some(text)));
        assert_eq!(line.instance_id, "a-1-0");
    }
    fs::write(world.instance_dir("a-1-0").join("work/go"), "").unwrap();
    assert_eq!(line(&mut stream).await.unwrap().line.as_deref(), Some("three"));

    let mut stream = client.read(request(&["a-1-0", "gone"], 9, false)).await.unwrap().into_inner();
    assert_eq!(rest(&mut stream).await, ["one", "two", "three", "wrong"]);
    let refused = client.read(request(&["gone"], 1, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let refused = client.read(request(&["../x"], 1, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = client.read(request(&["a-1-0"], 1_000_000, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_flood_of_logs_is_rotated_and_costs_the_shim_no_memory() {
    let world = World::new().await;
    // 110 bytes a line: about 110 MB, of which 4 files of 8 MiB stay.
    let slice = world.fixture(&["--write", "1000000"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let logs = world.instance_dir("a-1-0").join("logs");
    let entries = fs::read_dir(&logs).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_name().to_str().unwrap().contains(".log"));
    let sizes: Vec<u64> = files.map(|file| file.metadata().unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size <= 8 << 20), "{sizes:?}");
    assert!(sizes.iter().filter(|size| **size > 0).count() <= 4, "{sizes:?}");
    let shim = world.pids("a-1-0").0;
    let status = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 32 * 1024, "{peak}");
    let mut client = client(&world).await;
    let stream = client.read(request(&["a-1-0"], 10_000, false)).await.unwrap();
    let mut stream = stream.into_inner();
    let mut numbers = Vec::new();
    for line in rest(&mut stream).await {
        numbers.extend(line.strip_prefix("line ").and_then(|l| l[..8].parse::<u64>().ok()));
    }
    assert_eq!(numbers.last(), Some(&999_999));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "whole and in order");
    assert!(numbers.len() > 9_900);
}

/// Every line of a message that has one, until the answer ends.
async fn rest(stream: &mut Streaming<ReadLogsResponse>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(message) = message(stream).await {
        lines.extend(message.line);
    }
    lines
}

#[tokio::test]
async fn following_ends_with_the_last_line_of_an_instance_that_goes() {
    let world = World::new().await;
    let script = "trap 'echo last; printf unfinished; exit' TERM; echo first; \
                  while :; do sleep 0.01; done";
    let slice = world.slice(&["/bin/sh", "-c", script], "");
    let mut client = client(&world).await;
    // Before the node has got it, beside one that it never gets.
    let asked = request(&["a-1-0", "never"], 0, true);
    let asked = ReadLogsRequest { after: vec![from_the_first_line("a-1-0", "stdout")], ..asked };
    let mut stream = client.read(asked).await.unwrap().into_inner();
    let assign = |desired| vec![slice.assign("a-1-0", desired, world.plane.address)];
    world.plane.want(5, assign("RUN"));
    assert_eq!(line(&mut stream).await.unwrap().line.as_deref(), Some("first"));
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    assert_eq!(line(&mut stream).await.unwrap().line.as_deref(), Some("last"));
    world.plane.want(7, vec![]);
    assert_eq!(line(&mut stream).await.unwrap().line.as_deref(), Some("unfinished"));
    let end = message(&mut stream).await.unwrap();
    assert!(end.ended && end.instance_id == "a-1-0", "{end:?}");

    // They are kept, and known by id and by version.
    let gone = client.read(request(&["a-1-0"], 9, true)).await.unwrap();
    assert_eq!(rest(&mut gone.into_inner()).await, ["first", "last", "unfinished"]);
    let by_id = FindLogsRequest { instance_id: "a-1-0".to_owned(), ..Default::default() };
    let by_version = |version: &str| FindLogsRequest {
        slice: "org.example:a".to_owned(),
        version: version.to_owned(),
        ..Default::default()
    };
    for (asked, count) in [(by_id, 1), (by_version("1.0.0"), 1), (by_version("2.0.0"), 0)] {
        let found = client.find(asked).await.unwrap().into_inner().found;
        assert_eq!(found.len(), count, "{found:?}");
        for found in found {
            assert_eq!((found.slice.as_str(), found.version.as_str()), ("org.example:a", "1.0.0"));
            assert!(found.instance_id == "a-1-0" && found.gone_ms.is_some());
        }
    }
    let refused = client.find(by_version("../x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_reader_goes_on_at_the_next_agent_where_it_was_at_the_last_one() {
    let mut world = World::new().await;
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done";
    let slice = world.slice(&["/bin/sh", "-c", script], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let mut seen = Vec::new();
    let mut after = vec![from_the_first_line("a-1-0", "stdout")];
    for _ in 0..3 {
        let enough = seen.len() + 20;
        let mut client = client(&world).await;
        let asked = ReadLogsRequest { after: after.clone(), ..request(&["a-1-0"], 0, true) };
        let mut stream = client.read(asked).await.unwrap().into_inner();
        while seen.len() < enough {
            let message = line(&mut stream).await.unwrap();
            seen.push(message.line.unwrap().parse::<usize>().unwrap());
            after[0].position = message.position;
        }
        world.stop_agent().await;
        world.agent = Some(world.start_agent(|_| {}).await);
    }
    assert_eq!(seen, (1..=60).collect::<Vec<_>>(), "none twice, none left out");
}
