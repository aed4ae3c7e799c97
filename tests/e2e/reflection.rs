//! A client that knows nothing of us: Python finds every service by server
//! reflection, and calls every method with sense, without and with nonsense.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aether_tests::{Roles, Topology, binary};

use super::refusals::desk_on;

/// What the script needs, from the Python package index.
const PACKAGES: [&str; 3] = ["grpcio", "grpcio-reflection", "grpcio-status"];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python/reflection.py")
}

fn run(program: &Path, arguments: &[&str]) -> Result<Output, String> {
    let said = Command::new(program).args(arguments).output().map_err(|e| e.to_string())?;
    match said.status.success() {
        true => Ok(said),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
    }
}

/// A Python with the packages, in the build directory so that it is made once;
/// or why there is none.
fn python() -> Result<PathBuf, String> {
    let dir = binary().with_file_name("python-grpc");
    let python = dir.join("bin/python");
    let imports = ["-c", "import grpc, grpc_reflection, grpc_status"];
    if run(&python, &imports).is_err() {
        run(Path::new("python3"), &["-m", "venv", dir.to_str().ok_or("a strange path")?])?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(&python, &[&install[..], &PACKAGES].concat())?;
        run(&python, &imports)?;
    }
    Ok(python)
}

/// Runs the script, which must find nothing wrong.
async fn check(python: &Path, address: &str, what: &str) {
    let said = tokio::process::Command::new(python)
        .arg(script())
        .args([address, what])
        .output()
        .await
        .expect("it was run before");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    println!("{out}{err}");
    assert!(said.status.success(), "python {} {address} {what}", script().display());
}

#[tokio::test]
async fn python_calls_every_method_that_reflection_shows() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return println!("skipped: Python or its packages cannot be had: {why}"),
    };
    // A worker answers as the voter does to which it passes most calls on.
    let topology = Topology {
        nodes: vec![Roles::ALL, Roles::WORKER],
        extra: "\n[agent]\ninstances_max = 12\n".to_owned(),
        ..Topology::all_in_one(1)
    };
    let desk = desk_on(&topology, &[("1.0.0", &[]), ("2.0.0", &[])]).await;
    let nodes = desk.stage.cluster.nodes.iter();
    let addresses: Vec<String> = nodes.map(|node| node.addresses.grpc.to_string()).collect();
    desk.unchanged_by("every method with nonsense", async || {
        for address in &addresses {
            check(&python, address, "refused").await;
        }
    })
    .await;
    check(&python, &addresses[0], "sensible").await;
    desk.assert_well();
    desk.stage.end().await;
}
