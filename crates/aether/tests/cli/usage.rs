//! Help, and what a person may type by mistake.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::answers::not_there;
use super::scene::Scene;

#[tokio::test]
async fn help_and_version() {
    let mut scene = Scene::new().await;
    scene
        .run_all(&[
            "--help",
            "-h",
            "--version",
            "help update",
            "update --help",
            "update start --help",
            "context set -h",
            "--color always update resume --help",
        ])
        .await;
    scene.ends("help");
}

#[tokio::test]
async fn what_makes_no_sense() {
    let mut scene = Scene::new().await;
    scene
        .run_all(&[
            "",
            "frobnicate",
            "updat list",
            "update",
            "update routing current",
            "update routing current -r 101",
            "update routing current -r=-1:2",
            "update routing current -r 0:0",
            "update routing current -r 1:x",
            "update routing current -r NaN",
            "update routing current -r 1e309",
            "update routing current -r 10001:1",
            "update routing ../x -r 1:1",
            "update status U1A",
            "update start org.example:my-slice",
            "update start my-slice 2.0.0",
            "update start org.example:my-slice two",
            "update start org.example:my-slice 2.0.0 --max-error-rate NaN",
            "update start org.example:my-slice 2.0.0 --max-error-rate 1e309",
            "update start org.example:my-slice 2.0.0 --max-latency-ms 0",
            "update start org.example:my-slice 2.0.0 --cleanup SOMETIMES",
            "update start org.example:my-slice 2.0.0 --grace 5",
            "update start org.example:my-slice 2.0.0 --wait-timeout 1h",
            "deploy org.example:my-slice",
            "deploy org.example:my-slice:1.0.0 -n 0",
            "scale org.example:my-slice",
            "deploy org.example:my-slice:1.0.0 -n 10001",
            "update start org.example:my-slice 2.0.0 -n 0",
            "update plan org.example:my-slice 2.0.0 -n 10001",
            "scale org.example:my-slice -n 4294967295",
            "undeploy my-slice",
            "logs ../x",
            "artifact info org.example:my-slice",
            "kv get",
            "dev --http 70000",
            "dev --nodes 2",
            "dev --nodes 7",
            "node",
            "node --config /nowhere.toml",
            "status -o xml",
            "status --color red",
            "status --timeout 5",
            "status --timeout 0s",
            "status --addr 127.0.0.1:70000",
            "status --addr nowhere",
            "status --actor ",
            "status extra",
            "completions tcsh",
        ])
        .await;
    assert!(!scene.transcript().contains("\nasked "), "something of it reached the node");
    scene.ends("usage");
}

#[tokio::test]
async fn bytes_that_are_no_text_and_words_without_end() {
    let scene = Scene::new().await;
    scene.node.will_refuse(not_there());
    let bad = || OsString::from_vec(vec![b'u', 0xff, 0xfe]);
    // The kernel takes at most 128 KiB in one argument, and 1 MiB and more in all.
    let long = || OsString::from("9".repeat(128 * 1024 - 1));
    for before in ["", "update", "update status", "kv get", "--actor", "logs", "context use"] {
        let words: Vec<OsString> = before.split_whitespace().map(OsString::from).collect();
        let many = std::iter::repeat_with(long).take(8).collect();
        for (what, last) in [("bytes", vec![bad()]), ("long", vec![long()]), ("many", many)] {
            let mut command = scene.command(words.iter().cloned().chain(last));
            let output = command.output().await.unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!stderr.contains("panicked"), "'{before}' {what}: {stderr}");
            assert!(stderr.len() < 8_000, "'{before}' {what}: {} bytes", stderr.len());
            // A key is anything; it is the node that says there is no such thing.
            let is_key = before == "kv get" && what == "long";
            let expected = if is_key { Some(4) } else { Some(2) };
            assert_eq!(output.status.code(), expected, "'{before}' {what}: {stderr}");
            assert!(output.stdout.is_empty(), "'{before}' {what}");
        }
    }
}
