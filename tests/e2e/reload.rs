//! Processes read another configuration without being replaced, batch by batch and
//! under load: none of them ends, and no request fails, forward and back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aether_cluster::artifacts::{EXAMPLE, write};
use aether_cluster::load::Load;
use aether_tests::evidence::equal_hashes;
use aether_tests::rest::get;
use aether_tests::{PATIENCE, Stage, assert_none_failed, binary, phase, stage};
use serde_json::Value;

/// Requests per second.
const RATE: u32 = 150;
/// Requests of each step.
const ENOUGH: u64 = 150;
const INSTANCES: usize = 6;

/// The example slice, which says the word in its file, and reads it at SIGHUP again.
fn artifact(stage: &Stage) -> PathBuf {
    let manifest = format!(
        "artifact = '{EXAMPLE}:1.0.0'\n\n\
         [run]\n\
         command = ['{}', 'example-slice', '--version-file', 'app.conf']\n\
         config_files = ['app.conf']\n\
         reload_signal = 'SIGHUP'\n\
         grace = '5s'\ndrain = '10s'\n\n\
         [ready]\nhttp = '/ready'\ninterval = '100ms'\n\n\
         [[ingress]]\npath = '/'\n",
        binary().display()
    );
    let files = [("slice.toml", &*manifest), ("app.conf", "zero\n")];
    write(stage.scratch(), "reloading", &files).unwrap()
}

/// Pushes a configuration with this word, and more of it; gives its number.
async fn push(stage: &Stage, word: &str, more: &[&str]) -> String {
    let path = stage.scratch().join(format!("{}.conf", word.replace(' ', "-")));
    std::fs::write(&path, format!("{word}\n")).unwrap();
    let file = format!("app.conf={}", path.display());
    let verb = [&["config", "push", EXAMPLE, "--file", &file], more].concat();
    stage.cli(&verb).await.unwrap()["number"].to_string()
}

/// What each instance answers itself, asked past every table, by its name: the process,
/// and the word.
async fn answers(stage: &Stage) -> BTreeMap<String, (u64, String)> {
    let slice = stage.cli(&["slices", EXAMPLE]).await.unwrap();
    let mut answers = BTreeMap::new();
    for instance in slice["instancesState"].as_array().unwrap() {
        assert_eq!(instance["restarts"].as_u64().unwrap_or(0), 0, "{slice:#}");
        let endpoint = instance["endpoint"].as_str().unwrap();
        let answer = get(endpoint.parse().unwrap(), "/").await.unwrap();
        let said: Value = serde_json::from_str(&answer.text()).unwrap();
        let word = said["version"].as_str().unwrap().to_owned();
        let name = said["instance"].as_str().unwrap().to_owned();
        answers.insert(name, (said["pid"].as_u64().unwrap(), word));
    }
    answers
}

/// All instances have this word, and none of them has ended since `before`.
async fn all_say(stage: &Stage, word: &str, before: &BTreeMap<String, (u64, String)>) {
    let now = answers(stage).await;
    let of = |answers: &BTreeMap<String, (u64, String)>| -> Vec<(String, u64)> {
        answers.iter().map(|(name, (pid, _))| (name.clone(), *pid)).collect()
    };
    assert_eq!(of(&now), of(before), "the same processes");
    assert!(now.values().all(|(_, said)| said == word), "{word}: {now:?}");
}

const RELOAD: [&str; 11] = [
    "--strategy",
    "rolling",
    "--reload",
    "--max-unavailable",
    "2",
    "--batches",
    "1, 2",
    "--healthy-time",
    "300ms",
    "--max-latency-ms",
    "60000",
];

#[tokio::test(flavor = "multi_thread")]
async fn processes_read_another_configuration_under_load_while_the_leader_dies_and_go_back() {
    let mut stage = stage(&[]).await;
    stage.push_dir(&artifact(&stage)).await.unwrap();
    let one = push(&stage, "one", &[]).await;
    stage.deploy("1.0.0", INSTANCES as u32).await.unwrap();
    let first = answers(&stage).await;
    all_say(&stage, "one", &first).await;
    let invoker = stage.invoker("caller").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE, "one");
    load.until_requests(ENOUGH).await;

    let two = push(&stage, "two", &[]).await;
    let options = [&["--config", &*two], &RELOAD[..]].concat();
    let plan = [&["update", "plan", EXAMPLE, "1.0.0"], &options[..]].concat();
    let plan = stage.cli(&plan).await.unwrap();
    assert_eq!((&plan["refused"], &plan["instancesPeak"]), (&Value::Null, &INSTANCES.into()));
    load.phase("to two");
    let update = stage.start("1.0.0", &options).await.unwrap();
    stage.until(&update, |update| update["progress"]["step"].as_u64() >= Some(1)).await.unwrap();
    let leader = stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].kill();
    stage.cluster.leader(PATIENCE).await.unwrap();
    stage.cluster.nodes[leader].start().unwrap();
    let ended = stage.until_state(&update, "COMPLETED").await.unwrap();
    assert_eq!(ended["progress"]["reload"], true, "{ended:#}");
    all_say(&stage, "two", &first).await;
    load.phase("two");
    load.until_requests(ENOUGH).await;

    // Back from the middle.
    let three = push(&stage, "three", &[]).await;
    load.phase("to three and back");
    let options = [&["--config", &*three, "--stagger", "10m"], &RELOAD[..]].concat();
    let update = stage.start("1.0.0", &options).await.unwrap();
    stage.until(&update, |update| update["progress"]["step"].as_u64() >= Some(1)).await.unwrap();
    let words = answers(&stage).await;
    assert_eq!(words.values().filter(|(_, word)| word == "three").count(), 1, "{words:?}");
    stage.cli(&["update", "rollback", &update]).await.unwrap();
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    all_say(&stage, "two", &first).await;

    // One that the process does not understand: it is not ready with it, and goes back.
    let bad = push(&stage, "no good", &[]).await;
    load.phase("to no good and back");
    let options = ["--config", &bad, "--on-failure", "rollback", "--deploy-timeout", "4s"];
    let update = stage.start("1.0.0", &[&options, &RELOAD[..]].concat()).await.unwrap();
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    all_say(&stage, "two", &first).await;

    // And back to what there was at first, which is a reload like any other.
    load.phase("to one");
    let update = stage.start("1.0.0", &[&["--config", &*one], &RELOAD[..]].concat()).await.unwrap();
    stage.until_state(&update, "COMPLETED").await.unwrap();
    all_say(&stage, "one", &first).await;
    load.phase("one again");
    load.until_requests(ENOUGH).await;

    let mode = push(&stage, "two", &["--env", "MODE=fast"]).await;
    let verb = [&["update", "start", EXAMPLE, "1.0.0", "--config", &mode], &RELOAD[..]].concat();
    let refused = stage.refused(&verb).await.unwrap();
    assert!(refused.contains("MODE would differ"), "{refused}");

    let phases = load.stop().await;
    assert_none_failed(&phases);
    for (name, word) in [("one", "one"), ("two", "two"), ("one again", "one")] {
        let phase = phase(&phases, name);
        assert_eq!(phase.answers(word), phase.requests, "{name}: {:?}", phase.versions);
    }
    equal_hashes(&stage).await;
    invoker.close().await;
    stage.end().await;
}
