//! What the end-to-end tests share. Every test runs real processes of the
//! `aether` binary, on free ports and in temporary directories.

pub mod acknowledged;
pub mod evidence;
pub mod grpc;
pub mod judge;
pub mod linearizability;
pub mod links;
pub mod proxy;
pub mod rest;

use std::path::PathBuf;
use std::time::Instant;

use aether_cluster::artifacts::EXAMPLE;
use aether_cluster::load::Phase;

pub use aether_cluster::{Cluster, PATIENCE, Roles, Stage, Topology, Versions};
use serde_json::Value;

/// The `aether` binary of this build. `cargo xtask test` builds it first.
///
/// # Panics
/// When it is not there; says how to build it.
pub fn binary() -> PathBuf {
    // A test lies in target/<profile>/deps, another program in target/<profile>.
    let own = std::env::current_exe().expect("a running program has a path");
    let mut candidates = own.ancestors().skip(1).take(2).map(|dir| dir.join("aether"));
    let Some(binary) = candidates.find(|path| path.is_file()) else {
        panic!(
            "no 'aether' beside {}: run 'cargo build --package aether', or 'cargo xtask test'",
            own.display()
        )
    };
    binary
}

/// A demo-like cluster, three voters and two workers, with these versions of
/// the example slice pushed and the first one deployed on three instances.
///
/// # Panics
/// When it cannot be set up.
pub async fn stage(versions: Versions<'_>) -> Stage {
    stage_with(&Topology::split(3, 2), versions).await
}

/// Likewise with another topology.
///
/// # Panics
/// When it cannot be set up.
pub async fn stage_with(topology: &Topology, versions: Versions<'_>) -> Stage {
    let stage = Stage::set(&binary(), topology, versions).await.expect("the cluster starts");
    if let Some((first, _)) = versions.first() {
        stage.deploy(first, 3).await.expect("the first version is deployed");
    }
    stage
}

/// Every request of these phases was answered, and none with a 5xx. Prints
/// what each phase counted.
///
/// # Panics
/// When a request failed; shows the first failures of each phase.
pub fn assert_none_failed(phases: &[Phase]) {
    for phase in phases {
        let by_version: Vec<String> =
            phase.versions.iter().map(|(v, count)| format!("{v}: {}", count.requests)).collect();
        println!(
            "{:<28} {:>6} requests, {} failed, p99 {:.1} ms; {}",
            phase.name,
            phase.requests,
            phase.failed,
            phase.latency_us.value_at_quantile(0.99) as f64 / 1_000.0,
            by_version.join(", ")
        );
    }
    for phase in phases {
        let errors: u64 = phase.versions.values().map(|count| count.errors).sum();
        assert_eq!(
            (phase.failed, errors),
            (0, 0),
            "requests without an answer and 5xx answers in '{}': {:?}",
            phase.name,
            phase.failures
        );
    }
}

/// The phase with a name.
///
/// # Panics
/// When there is none.
pub fn phase<'a>(phases: &'a [Phase], name: &str) -> &'a Phase {
    let found = phases.iter().find(|phase| phase.name == name);
    found.unwrap_or_else(|| panic!("no phase is called '{name}'"))
}

/// Instances of the example slice.
///
/// # Panics
/// When the cluster does not answer.
pub async fn ids(stage: &Stage) -> Vec<String> {
    let slice = stage.cli(&["slices", EXAMPLE]).await.expect("the cluster answers");
    let instances = slice["instancesState"].as_array().map(Vec::as_slice).unwrap_or_default();
    instances.iter().map(|i| i["instanceId"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until one version of the example slice runs alone, all of its
/// instances are ready, and none of them ended by itself meanwhile.
///
/// # Panics
/// When it does not within [`PATIENCE`], or an instance was restarted.
pub async fn until_alone(stage: &Stage, version: &str, instances: usize) {
    let alone = |slice: &Value| {
        slice["version"] == version
            && slice["ready"] == instances
            && states(&slice["instancesState"]) == vec!["READY"; instances]
    };
    let what = format!("{version} to run alone and whole");
    let slice = stage.until_verb(&["slices", EXAMPLE], &what, alone).await.unwrap();
    for instance in slice["instancesState"].as_array().expect("it was just looked at") {
        assert_eq!(instance["restarts"].as_u64().unwrap_or(0), 0, "{slice:#}");
        assert_eq!(instance["version"], version, "{slice:#}");
    }
}

/// States of the instances in a list as `update status` prints it.
pub fn states(instances: &Value) -> Vec<&str> {
    let instances = instances.as_array().map(Vec::as_slice).unwrap_or_default();
    instances.iter().filter_map(|instance| instance["state"].as_str()).collect()
}

/// Waits until a condition holds that is not a verb's.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
