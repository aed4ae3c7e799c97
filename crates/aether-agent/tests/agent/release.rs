//! Agents with what another release has left.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::world::{World, is_alive};

/// Adds to a file what only a newer release writes there.
fn add(path: &Path, pointer: &str) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let at = value.pointer_mut(pointer).and_then(Value::as_object_mut);
    at.expect("an object").insert("newer".into(), json!([1]));
    fs::write(path, value.to_string()).unwrap();
}

#[tokio::test]
async fn a_node_that_is_set_back_goes_on_with_the_instances_of_the_newer_release() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let pids = world.pids("a-1-0");
    world.stop_agent().await;
    // As after a slice was pushed whose manifest says more.
    add(&world.data_dir().join("directive.json"), "/assignments/a-1-0/work/Ok/manifest");
    add(&world.instance_dir("a-1-0").join("spec.json"), "/manifest");
    world.agent = Some(world.start_agent(|_| {}).await);
    let first = world.plane.reports_after_now(1).await.instances.remove(0);
    assert_eq!((&*first.observed, &*first.reason_code), ("READY", ""));
    assert_eq!(world.pids("a-1-0"), pids);
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
    assert!(!is_alive(pids.0) && !is_alive(pids.1));
}

#[tokio::test]
async fn an_instance_that_cannot_be_understood_is_reported_left_alone_and_stopped_when_told() {
    let mut world = World::new().await;
    let (slice, other) = (world.fixture(&[], ""), world.fixture(&["--other"], ""));
    let address = world.plane.address;
    let assign = |desired| {
        vec![slice.assign("a-1-0", desired, address), other.assign("a-1-1", desired, address)]
    };
    world.plane.want(5, assign("RUN"));
    world.plane.observed("a-1-0", "READY").await;
    world.plane.observed("a-1-1", "READY").await;
    let pids = ["a-1-0", "a-1-1"].map(|id| world.pids(id));
    world.stop_agent().await;
    // One that is asked in a way that nobody here knows, and one that is damaged.
    add(&world.instance_dir("a-1-0").join("spec.json"), "/manifest/ready");
    let directive = world.data_dir().join("directive.json");
    add(&directive, "/assignments/a-1-0/work/Ok/manifest/ready");
    fs::write(world.instance_dir("a-1-1").join("spec.json"), "{").unwrap();
    world.agent = Some(world.start_agent(|_| {}).await);
    // In the first report: the node does not look as if they were gone.
    let report = world.plane.reports_after_now(1).await;
    assert_eq!(report.instances.len(), 2);
    for seen in &report.instances {
        assert_eq!((&*seen.observed, &*seen.reason_code), ("STARTING", "shim_failed"));
        assert!(seen.reason_message.contains("cannot be read by this release"), "{seen:?}");
    }
    assert_eq!(["a-1-0", "a-1-1"].map(|id| world.pids(id)), pids);
    assert!(pids.iter().all(|(shim, child)| is_alive(*shim) && is_alive(*child)));
    for digest in [&slice.digest, &other.digest] {
        let tree = world.data_dir().join("unpacked").join(digest);
        assert!(tree.is_dir(), "it runs from there");
    }
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    world.plane.observed("a-1-1", "STOPPED").await;
    assert!(pids.iter().all(|(shim, child)| !is_alive(*shim) && !is_alive(*child)));
}
