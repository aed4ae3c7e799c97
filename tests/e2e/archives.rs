//! Unpacked trees that are changed, and archives that are lost, on the disks of
//! nodes that need them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aether_cluster::artifacts::{EXAMPLE, Variant};
use aether_cluster::load::Load;
use aether_invoker::SliceHandle;
use aether_tests::evidence::LongCall;
use aether_tests::{Stage, Topology, assert_none_failed, stage_with, states, until, until_alone};
use serde_json::Value;

/// Requests per second, all through the test.
const RATE: u32 = 50;
/// Requests that are looked at after each step.
const ENOUGH: u64 = 25;
/// What the script of 1.0.0 is called in its archive.
const SCRIPT: &str = "bin/hello";

/// A directory of 1.0.0 whose command is a script of the archive.
fn with_a_script(stage: &Stage) -> PathBuf {
    let binary = stage.cluster.binary();
    let artifact = format!("{EXAMPLE}:1.0.0");
    let variant = Variant { drain: "100s", ..Variant::new(&artifact, "/") };
    let dir = variant.write(stage.scratch(), binary).unwrap();
    let manifest = dir.join("slice.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replacen(&format!("'{}'", binary.display()), &format!("'{SCRIPT}'"), 1);
    std::fs::write(manifest, text).unwrap();
    std::fs::create_dir(dir.join("bin")).unwrap();
    write_script(&dir.join(SCRIPT), &format!("exec '{}' \"$@\"", binary.display()));
    dir
}

fn write_script(path: &Path, command: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{command}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Where a node keeps an archive, and the script of its unpacked tree.
fn places(stage: &Stage, node: usize, digest: &str) -> (PathBuf, PathBuf) {
    let data = stage.cluster.nodes[node].data_dir();
    let archive = data.join("artifacts").join(format!("{digest}.tar.gz"));
    (archive, data.join("unpacked").join(digest).join(SCRIPT))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_is_not_run_and_what_is_lost_is_fetched_or_named() {
    let stage = stage_with(&Topology::all_in_one(3), &[]).await;
    let dir = with_a_script(&stage);
    stage.push_dir(&dir).await.unwrap();
    stage.push("2.0.0", &[]).await.unwrap();
    stage.deploy("1.0.0", 3).await.unwrap();
    let listed = stage.cli(&["artifact", "info", &format!("{EXAMPLE}:1.0.0")]).await.unwrap();
    let digest = listed["sha256"].as_str().expect("an artifact has a digest").to_owned();
    let invoker = stage.invoker("caller").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE, "1.0.0");
    let slice = stage.slice(&invoker);

    load.phase("scaled over changed trees");
    swapped(&stage, &dir, &digest).await;
    load.until_requests(ENOUGH).await;
    load.phase("a holder is left");
    one_holder_left(&stage, &slice, &digest).await;
    load.until_requests(ENOUGH).await;
    load.phase("no holder is left");
    none_left(&stage, &slice, &digest, &dir, &load).await;
    load.until_requests(ENOUGH).await;

    assert_none_failed(&load.stop().await);
    invoker.close().await;
    stage.end().await;
}

/// The script of every tree is replaced: the next instance runs the true one.
async fn swapped(stage: &Stage, dir: &Path, digest: &str) {
    let nodes = 0..stage.cluster.nodes.len();
    let scripts: Vec<PathBuf> = nodes.map(|node| places(stage, node, digest).1).collect();
    for script in scripts.iter().filter(|script| script.exists()) {
        std::fs::remove_file(script).unwrap();
        write_script(script, "exit 66");
    }
    stage.cli(&["scale", EXAMPLE, "-i", "4"]).await.unwrap();
    until_alone(stage, "1.0.0", 4).await;
    let original = std::fs::read(dir.join(SCRIPT)).unwrap();
    let mended = (0..).zip(&scripts).find(|(node, script)| {
        let log = std::fs::read_to_string(stage.cluster.nodes[*node].log()).unwrap();
        let told = log.contains("was changed on the disk") && log.contains(SCRIPT);
        told && std::fs::read(script).is_ok_and(|text| text == original)
    });
    assert!(mended.is_some(), "no node says that it unpacked the archive afresh");
}

/// Takes an update so far that one old instance is left, busy with a call.
async fn with_one_old_left(stage: &Stage, slice: &SliceHandle) -> (String, Value, LongCall) {
    let call = LongCall::start(slice).await;
    assert_eq!(call.version(), "1.0.0");
    let update = stage.start("2.0.0", &[]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:0").await.unwrap();
    stage.cli(&["update", "complete", &update]).await.unwrap();
    let one_left = |seen: &Value| states(&seen["oldInstancesState"]) == ["DRAINING"];
    let seen = stage.until(&update, one_left).await.unwrap();
    (update, seen["oldInstancesState"][0].clone(), call)
}

async fn one_holder_left(stage: &Stage, slice: &SliceHandle, digest: &str) {
    let (update, left, call) = with_one_old_left(stage, slice).await;
    let holder = stage.cluster.position(left["node"].as_str().unwrap()).unwrap();
    let others = (0..stage.cluster.nodes.len()).filter(|node| *node != holder);
    let lost: Vec<PathBuf> = others.map(|node| places(stage, node, digest).0).collect();
    for archive in &lost {
        std::fs::remove_file(archive).unwrap();
    }
    stage.cli(&["update", "rollback", &update]).await.unwrap();
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    until_alone(stage, "1.0.0", 4).await;
    until("an archive to be fetched again", || lost.iter().any(|archive| archive.exists())).await;
    call.end().await;
}

async fn none_left(stage: &Stage, slice: &SliceHandle, digest: &str, dir: &Path, load: &Load) {
    let (update, left, call) = with_one_old_left(stage, slice).await;
    for node in 0..stage.cluster.nodes.len() {
        // One may be without it since before.
        let _ = std::fs::remove_file(places(stage, node, digest).0);
    }
    stage.cli(&["update", "rollback", &update]).await.unwrap();
    let named = |seen: &Value| {
        let old = seen["oldInstancesState"].as_array().map(Vec::as_slice).unwrap_or_default();
        old.iter().any(|instance| {
            let (code, says) = (&instance["reason"]["code"], &instance["reason"]["message"]);
            code == "fetch_failed" && says.as_str().is_some_and(|text| text.contains("push it"))
        })
    };
    let seen = stage.until(&update, named).await.unwrap();
    assert_eq!(seen["state"], "ROLLING_BACK", "{seen:#}");
    let why = stage.cli(&["update", "explain", &update]).await.unwrap().to_string();
    assert!(why.contains("fetch_failed"), "{why}");
    // Both sides serve on, with all that they had.
    load.until_requests(ENOUGH).await;
    let seen = stage.cli(&["update", "status", &update]).await.unwrap();
    assert_eq!(seen["state"], "ROLLING_BACK", "{seen:#}");
    assert_eq!(states(&seen["newInstancesState"]), ["READY"; 4], "{seen:#}");
    let old = seen["oldInstancesState"].as_array().unwrap();
    let kept = old.iter().find(|instance| instance["instanceId"] == left["instanceId"]);
    assert_eq!(kept.expect("it is still there")["state"], "READY", "{seen:#}");

    // What the reason says to do.
    stage.push_dir(dir).await.unwrap();
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    until_alone(stage, "1.0.0", 4).await;
    call.end().await;
}
