//! What the end-to-end tests share. Every test runs real processes of the
//! `aether` binary, on free ports and in temporary directories.

pub mod rest;

use std::path::PathBuf;

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
