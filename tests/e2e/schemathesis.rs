//! The OpenAPI document against the gateway, by a tool that nobody here wrote:
//! Schemathesis makes requests from the document, right and wrong ones, and looks
//! whether every answer is one that the document describes.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use aether_tests::{Topology, binary, stage_with};

/// Requests per operation and kind of request. Enough to reach every member of
/// every body; the run takes about a minute.
const EXAMPLES: &str = "4";
/// The run is given up after this long.
const PATIENCE: Duration = Duration::from_secs(300);
/// The same requests in each run.
const SEED: &str = "1";

/// What is expected where the tool's own idea is narrower than HTTP's.
const CONFIG: &str = "\
# A request that fits the document may still be refused because of the state, and
# a GET of what the caller has is answered without it.
[checks.positive_data_acceptance]
expected-statuses = ['2xx', '304', '404', '409', '412']

# In a sequence what was made invalid may be overwritten by what an answer had, and is
# then accepted rightly ('Invalid component: positive test case').
[[operations]]
include-operation-id = 'addVoter'
checks.negative_data_rejection.expected-statuses = ['2xx', '4xx']

# No archive is made by chance, and what is sent has another digest than a random one.
[[operations]]
include-operation-id = 'pushArtifact'
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '409']

# Only tokens that a list has given are taken, and no schema can know them.
[[operations]]
include-operation-id = ['listArtifacts', 'listNodes', 'listRecords', 'listSlices', 'listUpdates']
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '404']

# Only keys under config/ may be written, and a random one is not.
[[operations]]
include-operation-id = ['putRecord', 'deleteRecord']
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '404', '412']

# A slice and a version fit alone, and may be too long together.
[[operations]]
include-operation-id = ['undeploySlice', 'sliceLogs']
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '404', '409']

# The tool sends an empty If-Match or If-None-Match, which the pattern excludes: to
# ignore it would do what its sender may have wanted refused.
[[operations]]
include-operation-id = [
  'approveUpdate', 'cleanUpUpdate', 'completeUpdate', 'pauseUpdate', 'promoteUpdate', 'resumeUpdate',
  'rollbackUpdate', 'setRouting', 'undoUpdate',
  'downloadArtifact', 'getUpdate',
]
checks.positive_data_acceptance.expected-statuses = ['2xx', '304', '400', '404', '409', '412']

# To JSON Schema 340.0 is an integer; to us it is a mistake.
[[operations]]
include-operation-id = ['scaleSlice', 'deploySlice']
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '404', '409']

# That deployTimeoutMs is above healthyMs cannot be said in a schema.
[[operations]]
include-operation-id = ['startUpdate', 'planUpdate', 'setUpdateOptions']
checks.positive_data_acceptance.expected-statuses = ['2xx', '400', '404', '409']
";

/// Where `cargo xtask test` installs it.
fn program() -> Option<PathBuf> {
    let target = binary().parent()?.parent()?.to_owned();
    Some(target.join("schemathesis/bin/schemathesis")).filter(|path| path.is_file())
}

#[tokio::test]
async fn every_answer_is_one_that_the_document_describes() {
    let Some(program) = program() else {
        println!("skipped: target/schemathesis is not there; 'cargo xtask test' installs it");
        return;
    };
    let topology =
        Topology { extra: "\n[agent]\ninstances_max = 12\n".to_owned(), ..Topology::all_in_one(1) };
    let stage = stage_with(&topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await;
    stage.start("2.0.0", &[]).await.unwrap();
    let dir = stage.scratch().join("schemathesis");
    std::fs::create_dir_all(&dir).unwrap();
    let config = dir.join("schemathesis.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let to = stage.cluster.nodes[0].addresses.http;
    let run = tokio::process::Command::new(program)
        .args(["--config-file".as_ref(), config.as_os_str()])
        .args(["run", &format!("http://{to}/openapi.json")])
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED, "--request-timeout", "30"])
        // The same handlers as at the root.
        // A stream of events has no end to wait for; it has tests of its own.
        .args(["--exclude-operation-id-regex", "UnderApi$|^events$"])
        .args(["--no-shrink", "--continue-on-failure", "--warnings", "off"])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = tokio::time::timeout(PATIENCE, run).await.expect("it ends in time").unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}\n{errors}", done.status);
    let log = std::fs::read_to_string(stage.cluster.nodes[0].log()).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    println!("{said}");
    stage.end().await;
}
