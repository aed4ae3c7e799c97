//! Limits on what an instance uses, where this machine can enforce them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::world::{World, until};

/// Whether limits were enforced for the instance. Where they cannot be, that
/// has to be said of it, and there is nothing more to test.
async fn are_enforced(world: &World, instance: &str) -> bool {
    let seen = world
        .plane
        .instance(instance, "up, or ended", |seen| {
            seen.observed == "READY" || !seen.reason_code.is_empty()
        })
        .await;
    if seen.reason_code == "limits_not_enforced" {
        println!("skipped: this machine enforces no limits: {}", seen.reason_message);
        assert!(!seen.reason_message.is_empty());
        return false;
    }
    true
}

/// The control groups of an instance, as its shim noted them.
fn groups(world: &World, instance: &str) -> Vec<PathBuf> {
    let state = fs::read(world.instance_dir(instance).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let groups = state["cgroups"].as_array().unwrap();
    groups.iter().map(|group| PathBuf::from(group.as_str().unwrap())).collect()
}

/// The first of these files that one of the groups has.
fn value(groups: &[PathBuf], files: &[&str]) -> String {
    let all = groups.iter().flat_map(|group| files.iter().map(|file| group.join(file)));
    let found = all.filter_map(|file| fs::read_to_string(file).ok()).next();
    found.unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn a_process_is_in_groups_with_its_limits_and_they_go_with_it() {
    let world = World::new().await;
    let slice =
        world.fixture(&["--grandchildren"], "[resources]\nmemory='256MiB'\ncpu=0.5\nprocesses=100");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    if !are_enforced(&world, "a-1-0").await {
        return;
    }
    let seen = world.plane.observed("a-1-0", "READY").await;
    assert_eq!(seen.reason_code, "");
    let groups = groups(&world, "a-1-0");
    let memory = value(&groups, &["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, (256 << 20).to_string());
    let cpu = value(&groups, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(["50000 100000", "50000"].contains(&cpu.as_str()), "{cpu}");
    assert_eq!(value(&groups, &["pids.max"]), "100");
    let (shim, child) = world.pids("a-1-0");
    let log = world.log("a-1-0", "stdout");
    let line = log.lines().find_map(|line| line.strip_prefix("grandchildren ")).unwrap();
    for group in &groups {
        let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let inside: Vec<&str> = inside.lines().collect();
        assert!(inside.contains(&child.to_string().as_str()), "{}", group.display());
        assert!(line.split(' ').all(|pid| inside.contains(&pid)), "{line}: {inside:?}");
        assert!(!inside.contains(&shim.to_string().as_str()), "the shim is outside");
    }
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_instance_that_takes_too_much_memory_is_killed_by_that_name() {
    let world = World::new().await;
    let slice = world.fixture(&["--take-mib", "96"], "[resources]\nmemory='48MiB'");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    if !are_enforced(&world, "a-1-0").await {
        return;
    }
    let seen = world.plane.reason("a-1-0", "oom_killed").await;
    assert!(seen.reason_message.contains("48MiB of resources.memory"), "{}", seen.reason_message);
    world.plane.instance("a-1-0", "restarted", |seen| seen.restarts > 0).await;
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
}

#[tokio::test]
async fn an_instance_cannot_start_more_processes_than_it_may() {
    let world = World::new().await;
    let slice = world
        .slice(&["/bin/sh", "-c", "sleep 1000 & echo started a child"], "[resources]\nprocesses=1");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.reason("a-1-0", "crashed").await;
    let state = fs::read_to_string(world.instance_dir("a-1-0").join("state.json")).unwrap();
    if !state.contains(r#""unenforced":null"#) {
        println!("skipped: this machine enforces no limits: {state}");
        return;
    }
    let said = world.log("a-1-0", "stdout");
    assert!(!said.contains("started a child"), "{said}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named_with_limits_too() {
    let world = World::new().await;
    let slice = world.slice(&["bin/gone"], "[resources]\nprocesses=100");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "exec_failed").await;
    for part in ["bin/gone", "No such file"] {
        assert!(seen.reason_message.contains(part), "{}", seen.reason_message);
    }
}

#[tokio::test]
async fn groups_that_a_killed_shim_left_are_removed() {
    let world = World::new().await;
    let slice = world.fixture(&[], "[resources]\nprocesses=100");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    if !are_enforced(&world, "a-1-0").await {
        return;
    }
    world.plane.observed("a-1-0", "READY").await;
    let groups = groups(&world, "a-1-0");
    assert!(!groups.is_empty() && groups.iter().all(|group| Path::exists(group)));
    // Nobody starts it again: what is left is cleaned up all the same.
    world.plane.want(6, vec![slice.assign("a-1-0", "DRAIN", world.plane.address)]);
    let (shim, _) = world.pids("a-1-0");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    until("the groups go", || groups.iter().all(|group| !group.exists())).await;
}
