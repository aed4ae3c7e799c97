//! Logs, read over the wire from real files.

use std::fs;

use aether_proto::v1::agent_logs_client::AgentLogsClient;
use aether_proto::v1::{LogLine, ReadLogsRequest};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Channel;

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
    ReadLogsRequest { instance_ids, follow, tail }
}

async fn next(stream: &mut tonic::Streaming<LogLine>) -> Option<LogLine> {
    tokio::time::timeout(LIMIT, stream.message()).await.expect("a line or the end").unwrap()
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
    let line = next(&mut stream).await.unwrap();
    assert_eq!((line.stream.as_str(), line.line.as_str()), ("stdout", "two"));
    assert_eq!((line.instance_id.as_str(), line.node.as_str()), ("a-1-0", "node-1"));
    let line = next(&mut stream).await.unwrap();
    assert_eq!((line.stream.as_str(), line.line.as_str()), ("stderr", "wrong"));
    fs::write(world.instance_dir("a-1-0").join("work/go"), "").unwrap();
    assert_eq!(next(&mut stream).await.unwrap().line, "three");

    let mut stream = client.read(request(&["a-1-0", "gone"], 9, false)).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(line) = next(&mut stream).await {
        lines.push(line.line);
    }
    assert_eq!(lines, ["one", "two", "three", "wrong"]);
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
    let sizes: Vec<u64> = fs::read_dir(&logs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
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
    while let Some(line) = next(&mut stream).await {
        numbers.extend(line.line.strip_prefix("line ").and_then(|l| l[..8].parse::<u64>().ok()));
    }
    assert_eq!(numbers.last(), Some(&999_999));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "whole and in order");
    assert!(numbers.len() > 9_900);
}
