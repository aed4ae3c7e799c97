//! What the end-to-end tests share. Every test runs real processes of the
//! `aether` binary, on free ports and in temporary directories.

pub mod evidence;
pub mod rest;

use std::path::PathBuf;

use aether_cluster::load::Phase;
pub use aether_cluster::{Cluster, PATIENCE, Roles, Stage, Topology, Versions};

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
