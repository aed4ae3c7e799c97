//! What every verb makes of a refusal, of silence, and of an outcome that is
//! not known.

use std::process::Output;

use tonic::Status;

use super::answers::{lost, not_there, refused};
use super::fake::Fake;
use super::scene::{Scene, exit_code};

/// Every verb that asks a cluster, with whether it may change something.
const VERBS: &[(&str, bool)] = &[
    ("update start org.example:my-slice 2.0.0", true),
    ("update routing current -r 1:3", true),
    ("update status current", false),
    ("update list", false),
    ("update health current", false),
    ("update complete current", true),
    ("update rollback current", true),
    ("update pause current", true),
    ("update resume current", true),
    ("update promote current", true),
    ("update approve current", true),
    ("update watch current", false),
    ("update explain current", false),
    ("update set current --preset strict", true),
    ("update undo current", true),
    ("update cleanup current", true),
    ("update plan org.example:my-slice 2.0.0", false),
    ("update history current", false),
    ("update diff current", false),
    ("artifact push DIR/slice", true),
    ("artifact list", false),
    ("artifact info org.example:my-slice:1.0.0", false),
    ("deploy org.example:my-slice:1.0.0", true),
    ("scale org.example:my-slice -n 2", true),
    ("undeploy org.example:my-slice", true),
    ("status", false),
    ("nodes", false),
    ("node drain w1", true),
    ("node cordon w1", true),
    ("node uncordon w1", true),
    ("node forget w1", true),
    ("node add n4 --peer h:8091", true),
    ("node replace n2 --peer h:8091", true),
    ("node remove n4", true),
    ("node transfer-leader", true),
    ("slices", false),
    ("env status", false),
    // These look at the slice first.
    ("env refresh org.example:my-slice", false),
    ("env rollback org.example:my-slice", false),
    ("env set-current org.example:my-slice 2.0.0", true),
    ("config push org.example:my-slice --env A=1", true),
    ("config show org.example:my-slice", false),
    ("config history org.example:my-slice", false),
    ("logs org.example:my-slice", false),
    ("kv get x", false),
    ("kv put config/x 1", true),
    ("kv delete config/x", true),
    ("kv list", false),
    ("kv watch", false),
    ("events", false),
    ("snapshot save DIR/backup", false),
    ("artifact remove org.example:my-slice:1.0.0", true),
];

async fn scene() -> Scene {
    let scene = Scene::new().await;
    let manifest = "artifact = 'org.example:my-slice:1.0.0'\n[run]\ncommand = ['./server']\n";
    scene.file("slice/slice.toml", manifest);
    scene.file("slice/server", "#!/bin/sh\n");
    scene
}

async fn run(scene: &Scene, line: &str, timeout: &str) -> Output {
    let line = line.replace("DIR", &scene.dir().display().to_string());
    let mut command = scene.command(line.split_whitespace());
    command.env("AETHER_TIMEOUT", timeout);
    tokio::time::timeout(super::scene::PATIENCE, command.output()).await.unwrap().unwrap()
}

/// Runs a line against a node that refuses it so, once.
async fn run_at_one(scene: &Scene, line: &str, timeout: &str, status: &Status) -> Output {
    let node = Fake::default();
    node.will_refuse(status.clone());
    run(scene, &format!("--addr {} {line}", node.serve_one().await), timeout).await
}

/// A verb that is added must be in the list above.
#[tokio::test]
async fn the_list_of_verbs_is_complete() {
    let scene = Scene::new().await;
    let reference = String::from_utf8(run(&scene, "reference", "1s").await.stdout).unwrap();
    let asks_nobody =
        ["node", "dev", "demo", "completions", "man", "snapshot inspect", "snapshot restore"];
    let mut verbs: Vec<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("## aether ")).collect();
    let groups: Vec<&str> = verbs.iter().filter_map(|verb| Some(verb.split_once(' ')?.0)).collect();
    verbs.retain(|verb| {
        !groups.contains(verb) && !asks_nobody.contains(verb) && !verb.starts_with("context ")
    });
    assert!(verbs.len() >= 20, "{verbs:?}");
    for verb in verbs {
        let known = VERBS.iter().any(|(line, _)| line.strip_prefix(verb).is_some());
        assert!(known, "'aether {verb}' is not tried: add it to VERBS");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code() {
    let scene = scene().await;
    let mut text = String::new();
    let invalid = Status::invalid_argument("this makes no sense to the node; see 'aether --help'");
    let full = Status::resource_exhausted("");
    for status in [not_there(), refused(), invalid, full] {
        scene.node.will_refuse(status.clone());
        text.push_str(&format!("{:?}: {}\n", status.code(), status.message()));
        for (line, _) in VERBS {
            let output = run(&scene, line, "30s").await;
            assert_eq!(output.stdout, b"", "'{line}'");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let same = format!("error: {}\n", status.message());
            let said = if stderr == same { "(the same)\n" } else { &stderr };
            text.push_str(&format!("  aether {line}: exit {}: {said}", exit_code(&output)));
        }
        text.push('\n');
    }
    let mut scene = scene;
    scene.note(&text);
    scene.ends("refusals");
}

#[tokio::test]
async fn nobody_there_changes_nothing() {
    let mut scene = scene().await;
    let nobody = scene.nobody().to_owned();
    for (line, _) in VERBS {
        let output = run(&scene, &format!("--addr {nobody} {line}"), "30s").await;
        assert_eq!(exit_code(&output), "3", "'{line}': {output:?}");
        assert_eq!(output.stdout, b"", "'{line}'");
    }
    scene.run(&format!("status --addr {nobody},{nobody}")).await;
    scene.ends("unreachable");
}

/// Each verb has a node of its own that answers once and is gone: so nothing is
/// tried again that could be cut off by the deadline. Only a write that is left
/// open is, until then, to make it certain.
#[tokio::test]
async fn no_answer_and_an_unknown_outcome_are_told_apart() {
    let (no_leader, lost_write) = (Status::unavailable("no leader"), lost());
    let scene = scene().await;
    for (status, write, of_write) in [(&no_leader, "3", "60s"), (&lost_write, "6", "2s")] {
        let outputs = VERBS.iter().map(|(line, changes)| {
            // A read ends with the same, cut off or not.
            let timeout = if *changes { of_write } else { "2s" };
            run_at_one(&scene, line, timeout, status)
        });
        let outputs = futures::future::join_all(outputs).await;
        for ((line, changes), output) in VERBS.iter().zip(outputs) {
            let expected = if *changes { write } else { "3" };
            // A machine that stands still may not get there in that time.
            let late = String::from_utf8_lossy(&output.stderr).contains("no node answers");
            let output = match late {
                true => run_at_one(&scene, line, "20s", status).await,
                false => output,
            };
            let what = format!("'{line}' on {:?}: {output:?}", status.code());
            assert_eq!(exit_code(&output), expected, "{what}");
            assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{what}");
        }
    }
    let mut scene = scene;
    scene.node.will_refuse(lost());
    for line in ["update routing current -r 1:3", "slices"] {
        let output = run(&scene, line, "2s").await;
        scene.note(&format!("aether {line}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    scene.ends("unknown_outcome");
}
