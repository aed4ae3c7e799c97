//! What a person may type by mistake: an exit code and a sentence, no panic,
//! and nothing changes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use aether_cluster::{Said, artifacts};
use tokio::process::Command;

use super::asking::Desk;
use super::desk;

impl Desk {
    fn aether(&self, arguments: impl IntoIterator<Item = OsString>) -> Command {
        let mut command = Command::new(self.stage.cluster.binary());
        let address = self.stage.cluster.control_plane()[0].to_string();
        // The contexts of whoever runs this are no part of it.
        command.args(arguments).env("AETHER_ADDR", address).env("AETHER_CONFIG", "/dev/null");
        command.stdin(Stdio::null());
        command
    }
}

/// What it said, how it ended, and that it did not panic.
async fn ended(what: &str, mut command: Command) -> Said {
    let said = Said::from(command.output().await.unwrap_or_else(|e| panic!("{what}: {e}")));
    let panicked = said.stderr.contains("panicked") || said.code == Some(101);
    assert!(!panicked && said.code.is_some(), "{what}: {said:?}");
    said
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[tokio::test]
async fn what_makes_no_sense_is_a_usage_error() {
    let desk = desk(&[("1.0.0", &[])]).await;
    let before = desk.rows().await;
    let start = "update start org.example:hello 1.0.0";
    let of_start = |option: &str| format!("{start} {option}");
    let mut lines: Vec<String> = [
        "",
        "frobnicate",
        "update",
        "update frobnicate",
        "update routing current",
        "update routing current -r 101",
        "update routing current -r=-1:2",
        "update routing current -r 0:0",
        "update routing current -r 1:x",
        "update routing current -r NaN",
        "update routing current -r 1e309",
        "update routing current -r 10001:1",
        "update start org.example:hello 2.0.0 -i 10001",
        "scale org.example:hello -i 10001",
        "update routing current -r 99999999999999999999:1",
        "update routing ../x -r 1:1",
        "update status a/b",
        "update start org.example:hello",
        "update start hello 1.0.0",
        "update start org.example:hello one",
        "deploy org.example:hello",
        "deploy org.example:hello:1.0.0@green -n 0",
        "scale org.example:hello -i 0",
        "scale org.example:hello -i -1",
        "scale org.example:hello -i 4294967296",
        "undeploy hello",
        "artifact info org.example:hello",
        "artifact push /nowhere",
        "logs ../x",
        "logs org.example:hello --tail 10001",
        "dev --http 70000",
        "dev --nodes 0",
        "node",
        "node --config /nowhere.toml",
        "--addr nowhere status",
        "--addr 127.0.0.1:70000 status",
        "status -o xml",
        "status --timeout 5",
        "status --timeout 0s",
        "status extra",
        "kv get",
        "update status U1A",
    ]
    .map(str::to_owned)
    .into();
    for option in [
        "--max-error-rate NaN",
        "--max-error-rate 1e309",
        "--max-error-rate=-0.1",
        "--max-error-rate 1.01",
        "--max-latency-ms 0",
        "--max-latency-ms 4294967296",
        "--cleanup SOMETIMES",
        "--on-failure explode",
        "--grace 5",
        "-i 0",
        "--colour red",
    ] {
        lines.push(of_start(option));
    }
    for line in lines {
        let said = ended(&line, desk.aether(words(&line))).await;
        assert_eq!(said.code, Some(2), "'aether {line}': {said:?}");
        assert!(!said.stderr.trim().is_empty() && said.stdout.is_empty(), "'{line}': {said:?}");
    }
    bytes_and_lengths(&desk).await;
    nobody_reads(&desk).await;
    assert_eq!(desk.rows().await, before, "something changed");
    desk.stage.end().await;
}

async fn bytes_and_lengths(desk: &Desk) {
    // Not UTF-8, in every place.
    let bad = || OsString::from_vec(vec![b'u', 0xff, 0xfe]);
    for before in ["", "update", "update status", "kv get", "--actor", "logs"] {
        let arguments = words(before).into_iter().chain([bad()]);
        let said = ended(before, desk.aether(arguments)).await;
        assert_eq!(said.code, Some(2), "'aether {before} \u{fffd}': {said:?}");
    }
    // The kernel takes at most 128 KiB in one argument.
    let long = || OsString::from("9".repeat(128 * 1024 - 1));
    let one = [words("update routing current -r"), vec![long()]].concat();
    let many = [words("update status"), std::iter::repeat_with(long).take(8).collect()].concat();
    for arguments in [one, many, vec![long()]] {
        let said = ended("a long line", desk.aether(arguments)).await;
        assert_eq!(said.code, Some(2), "{}", said.stderr.len());
        assert!(said.stderr.len() < 8_000, "{} bytes were said", said.stderr.len());
    }
    // Long, and yet what it should be: it is looked for.
    let key = words("kv get").into_iter().chain([OsString::from("k".repeat(100_000))]);
    assert_eq!(ended("a long key", desk.aether(key)).await.code, Some(2));
}

/// Stdout is closed before anything is written, as by `| head -0`.
async fn nobody_reads(desk: &Desk) {
    let lines =
        ["--help", "--version", "status", "status -o json", "slices", "artifact list", "nodes"];
    for line in lines {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = desk.aether(words(line));
        command.stdout(writer).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let said = Said::from(child.wait_with_output().await.unwrap());
        assert_eq!(said.code, Some(0), "'aether {line}' without a reader: {said:?}");
        assert!(said.stderr.is_empty(), "'aether {line}' without a reader: {said:?}");
    }
}

#[tokio::test]
async fn nobody_to_ask_is_not_a_refusal() {
    let dir = tempfile::TempDir::new().unwrap();
    let slice = artifacts::example_slice(dir.path(), &aether_tests::binary(), "1.0.0", &[]);
    let push = format!("artifact push {}", slice.unwrap().display());
    let (address, _lease) = aether_cluster::free_address().unwrap();
    for line in ["status", "update complete u1", "deploy a.b:c:1.0.0", "kv get x", &push] {
        let mut command = Command::new(aether_tests::binary());
        command.args(words(line)).env("AETHER_ADDR", address.to_string());
        command.env("AETHER_CONFIG", "/dev/null").stdin(Stdio::null());
        let said = ended(line, command).await;
        assert_eq!(said.code, Some(3), "'aether {line}': {said:?}");
        assert!(said.stderr.contains("aether dev"), "'aether {line}': {said:?}");
    }
}
