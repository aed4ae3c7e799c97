//! What nodes do for instances and archives: probes by command, liveness,
//! pushes that need a majority, and removal.

use aether_cluster::Said;
use aether_cluster::artifacts::{EXAMPLE, example_slice, write};
use aether_tests::{PATIENCE, Stage, Topology, stage_with};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use serde_json::Value;

/// Three voters that also run instances.
async fn three() -> Stage {
    stage_with(&Topology::all_in_one(3), &[]).await
}

/// A directory of a version of the example with more in its `slice.toml`.
fn example_with(stage: &Stage, version: &str, more: &str) -> std::path::PathBuf {
    let dir = example_slice(stage.scratch(), stage.cluster.binary(), version, &[]).unwrap();
    let manifest = dir.join("slice.toml");
    let text = std::fs::read_to_string(&manifest)
        .unwrap()
        .replace("[[ingress]]", &format!("{more}\n[[ingress]]"));
    std::fs::write(manifest, text).unwrap();
    dir
}

/// Asks one node only.
async fn ask(stage: &Stage, node: usize, verb: &[&str], timeout: &str) -> Said {
    let address = stage.cluster.nodes[node].addresses.grpc.to_string();
    let arguments = [verb, &["--addr", &address, "--timeout", timeout]].concat();
    stage.cluster.cli(&arguments).await.unwrap()
}

fn holders(list: &Value, artifact: &str) -> Option<usize> {
    let all = list["artifacts"].as_array()?;
    let one = all.iter().find(|known| known["artifact"] == artifact)?;
    one["heldBy"].as_array().map(Vec::len)
}

#[tokio::test]
async fn a_command_decides_on_readiness_and_another_on_life() {
    let stage = three().await;
    let flags = stage.scratch().join("flags");
    std::fs::create_dir(&flags).unwrap();
    let flag = |name: &str| flags.join(name);
    let dir = example_with(
        &stage,
        "1.0.0",
        &format!(
            "[live]\ninterval = '50ms'\nfailures = 2\n\
             exec = ['/bin/sh', '-c', 'test ! -e {0}/dead || {{ echo deadlock; exit 1; }}']\n",
            flags.display()
        ),
    );
    let manifest = dir.join("slice.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let exec = format!("exec = ['/bin/test', '-e', '{}/go']", flags.display());
    std::fs::write(&manifest, text.replace("http = '/ready'", &exec)).unwrap();
    stage.push_dir(&dir).await.unwrap();
    stage.cli(&["deploy", &format!("{EXAMPLE}:1.0.0"), "-n", "1"]).await.unwrap();
    let instance = |seen: &Value| seen["slices"][0]["instancesState"][0].clone();
    let unready = |seen: &Value| {
        instance(seen)["reason"]["message"].as_str().is_some_and(|text| text.contains("/go'"))
    };
    stage.until_verb(&["slices"], "its probe to be named", unready).await.unwrap();
    std::fs::write(flag("go"), "").unwrap();
    let ready = |seen: &Value| seen["slices"][0]["ready"] == 1;
    stage.until_verb(&["slices"], "it to be ready", ready).await.unwrap();

    std::fs::write(flag("dead"), "").unwrap();
    let dead = |seen: &Value| instance(seen)["reason"]["code"] == "liveness_failed";
    let seen = stage.until_verb(&["slices"], "its death to be named", dead).await.unwrap();
    let message = instance(&seen)["reason"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("deadlock"), "{message}");
    std::fs::remove_file(flag("dead")).unwrap();
    let again = |seen: &Value| ready(seen) && instance(seen)["restarts"].as_u64() > Some(0);
    stage.until_verb(&["slices"], "it to be ready again", again).await.unwrap();
    stage.end().await;
}

#[tokio::test]
async fn a_push_needs_a_majority_of_the_voters_and_no_more() {
    let mut stage = three().await;
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    let [one, other] = [(leader + 1) % 3, (leader + 2) % 3];
    let push = |version: &str| {
        let dir = example_slice(stage.scratch(), stage.cluster.binary(), version, &[]).unwrap();
        dir.to_str().unwrap().to_owned()
    };
    let (first, second, third) = (push("1.0.0"), push("2.0.0"), push("3.0.0"));
    let named = |version: &str| format!("{EXAMPLE}:{version}");

    // A frozen voter: the other two are enough.
    stage.cluster.nodes[one].signal(SIGSTOP);
    let said = ask(&stage, leader, &["artifact", "push", &first], "20s").await;
    stage.cluster.nodes[one].signal(SIGCONT);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let two = |list: &Value| holders(list, &named("1.0.0")) >= Some(2);
    assert!(two(&stage.cli(&["artifact", "list"]).await.unwrap()));
    let three = |list: &Value| holders(list, &named("1.0.0")) == Some(3);
    stage.until_verb(&["artifact", "list"], "the one that slept", three).await.unwrap();

    // A dead one.
    stage.cluster.nodes[one].kill();
    let said = ask(&stage, leader, &["artifact", "push", &second], "20s").await;
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let list = stage.cli(&["artifact", "list"]).await.unwrap();
    assert_eq!(holders(&list, &named("2.0.0")), Some(2), "{list:#}");

    stage.cluster.nodes[one].start().unwrap();
    let healed = |list: &Value| holders(list, &named("2.0.0")) == Some(3);
    stage.until_verb(&["artifact", "list"], "the dead one", healed).await.unwrap();

    // Two that vote, and cannot keep an archive.
    let kept = |node: usize| stage.cluster.nodes[node].data_dir().join("artifacts");
    for node in [one, other] {
        std::fs::rename(kept(node), kept(node).with_extension("away")).unwrap();
        std::fs::write(kept(node), "").unwrap();
    }
    let said = ask(&stage, leader, &["artifact", "push", &third], "3s").await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let few = "1 of 3 voters hold its archive, 2 have to";
    assert!(said.stderr.contains(few), "{}", said.stderr);
    for node in [one, other] {
        std::fs::remove_file(kept(node)).unwrap();
        std::fs::rename(kept(node).with_extension("away"), kept(node)).unwrap();
    }
    stage.cluster.nodes[one].kill();

    // Two dead ones: it is not done, and that is said.
    stage.cluster.nodes[other].kill();
    let said = ask(&stage, leader, &["artifact", "push", &third], "5s").await;
    assert_eq!(said.code, Some(3), "{}", said.stderr);

    // All are back: nothing of it was registered, and now it can be.
    stage.cluster.nodes[one].start().unwrap();
    stage.cluster.nodes[other].start().unwrap();
    stage.cluster.leader(PATIENCE).await.unwrap();
    let list = stage.cli(&["artifact", "list"]).await.unwrap();
    assert_eq!(holders(&list, &named("3.0.0")), None, "{list:#}");
    for _ in 0..2 {
        // Also when it was done already.
        stage.cli(&["artifact", "push", &third]).await.unwrap();
    }
    let list = stage.cli(&["artifact", "list"]).await.unwrap();
    assert!(holders(&list, &named("3.0.0")) >= Some(2), "{list:#}");
    stage.end().await;
}

#[tokio::test]
async fn an_artifact_is_removed_when_nothing_needs_it_any_more() {
    let stage = three().await;
    stage.push("1.0.0", &[]).await.unwrap();
    stage.push("2.0.0", &[]).await.unwrap();
    stage.deploy("1.0.0", 1).await.unwrap();
    let (first, second) = (format!("{EXAMPLE}:1.0.0"), format!("{EXAMPLE}:2.0.0"));
    let why = stage.refused(&["artifact", "remove", &first]).await.unwrap();
    assert!(why.contains(&format!("slice {EXAMPLE} runs it")), "{why}");
    let update = stage.start("2.0.0", &["--latency-ms", "60000"]).await.unwrap();
    let why = stage.refused(&["artifact", "remove", &second]).await.unwrap();
    assert!(why.contains(&update), "{why}");
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.cli(&["update", "rollback", "current"]).await.unwrap();
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    stage.cli(&["artifact", "remove", &second]).await.unwrap();
    let gone = ask(&stage, 0, &["artifact", "remove", &second], "20s").await;
    assert_eq!(gone.code, Some(4), "{}", gone.stderr);
    let gone = ask(&stage, 0, &["artifact", "info", &second], "20s").await;
    assert_eq!(gone.code, Some(4), "{}", gone.stderr);
    // The name is free again, for any archive.
    let text = format!("artifact = '{second}'\n[run]\ncommand = ['/bin/sleep', '1000']\n");
    let dir = write(&stage.scratch().join("anew"), "2", &[("slice.toml", &text)]).unwrap();
    stage.push_dir(&dir).await.unwrap();
    stage.end().await;
}
