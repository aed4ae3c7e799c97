//! Agents that end, however they end, and agents that come after them.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plane::LIMIT;
use crate::world::{FIXTURE, World, is_alive, until};

fn agent_process(world: &World) -> Child {
    Command::new(FIXTURE)
        .args(["agent", "node-1"])
        .arg(world.data_dir())
        .arg(world.plane.address.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_agent_leaves_its_instances_to_the_next_one() {
    let world = World::without_agent().await;
    let slice = world.fixture(&[], "");
    let crashing = world.fixture(&["--exit", "1"], "");
    let assign = |desired| {
        vec![
            slice.assign("a-1-0", desired, world.plane.address),
            crashing.assign("a-1-1", desired, world.plane.address),
        ]
    };
    let mut agent = agent_process(&world);
    world.plane.want(5, assign("RUN"));
    let before = world.plane.observed("a-1-0", "READY").await;
    let pids = world.pids("a-1-0");
    world.plane.reason("a-1-1", "crashed").await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    // The crashing one is restarted meanwhile: that is the shim's business.
    let crashed = || {
        let log = world.log("a-1-1", "stdout");
        log.lines().filter(|line| *line == "about to end").count()
    };
    let seen = crashed();
    until("a restart without an agent", || crashed() > seen).await;

    let next = world.start_agent(|_| {}).await;
    let report = world.plane.reports_after_now(1).await;
    let first = report.instances.iter().find(|seen| seen.instance_id == "a-1-0").unwrap();
    assert_eq!(*first, before, "the very first report says what was so before");
    assert_eq!(world.pids("a-1-0"), pids);
    assert!(is_alive(pids.1));
    let log = world.log("a-1-0", "stdout");
    assert_eq!(log.lines().filter(|line| line.starts_with("up ")).count(), 1, "started once");
    let seen = world.plane.instance("a-1-1", "restarts", |seen| seen.restarts > 0).await;
    assert!(["crashed", "crash_loop"].contains(&seen.reason_code.as_str()), "{seen:?}");
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    world.plane.observed("a-1-1", "STOPPED").await;
    next.shutdown().await;
}

#[tokio::test]
async fn an_older_fence_is_refused_also_by_the_next_agent() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    world.plane.want(50, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let pids = world.pids("a-1-0");
    world.plane.want(49, vec![]);
    let report = world.plane.reports_after_now(2).await;
    assert_eq!(report.instances[0].observed, "READY");
    world.stop_agent().await;
    world.agent = Some(world.start_agent(|_| {}).await);
    let report = world.plane.reports_after_now(3).await;
    assert_eq!(report.instances[0].observed, "READY");
    assert_eq!(world.pids("a-1-0"), pids);
    world.plane.want(51, vec![]);
    world.plane.report("nothing", |report| report.instances.is_empty()).await;
}

#[tokio::test]
async fn an_orphan_is_stopped_and_forgotten() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    let assign = |name| slice.assign(name, "RUN", world.plane.address);
    world.plane.want(5, vec![assign("a-1-0"), assign("a-1-1")]);
    world.plane.observed("a-1-0", "READY").await;
    world.plane.observed("a-1-1", "READY").await;
    let (orphan, other) = (world.pids("a-1-0").1, world.pids("a-1-1").1);
    world.plane.want(6, vec![assign("a-1-1")]);
    world.plane.report("one left", |report| report.instances.len() == 1).await;
    assert!(!is_alive(orphan));
    assert!(is_alive(other));
    until("its files go", || !world.instance_dir("a-1-0").exists()).await;

    // Also one that became an orphan while no agent was there.
    world.stop_agent().await;
    world.plane.want(7, vec![]);
    world.agent = Some(world.start_agent(|_| {}).await);
    world.plane.report("none left", |report| report.instances.is_empty()).await;
    assert!(!is_alive(other));
}

#[tokio::test]
async fn a_killed_shim_is_replaced_after_its_slice_was_cleaned_up() {
    let world = World::new().await;
    let slice = world.fixture(&["--ignore-term", "--grandchildren"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let before = world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    let after = world
        .plane
        .instance("a-1-0", "ready again", |seen| seen.observed == "READY" && seen.restarts == 1)
        .await;
    assert_eq!(after.endpoint, before.endpoint, "the same instance keeps its port");
    assert!(!is_alive(child));
    let log = world.log("a-1-0", "stdout");
    let line = log.lines().find_map(|line| line.strip_prefix("grandchildren ")).unwrap();
    for pid in line.split(' ') {
        assert!(!is_alive(pid.parse().unwrap()), "{line}");
    }
}

#[tokio::test]
async fn a_shim_killed_while_no_agent_was_there_is_replaced_too() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    world.stop_agent().await;
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    until("the shim is gone", || !is_alive(shim)).await;
    assert!(is_alive(child));
    world.agent = Some(world.start_agent(|_| {}).await);
    let again = |seen: &aether_proto::v1::InstanceObservation| {
        seen.observed == "READY" && seen.restarts == 1
    };
    world.plane.instance("a-1-0", "ready again", again).await;
    assert!(!is_alive(child));
    assert_ne!(world.pids("a-1-0").1, child);
}

#[tokio::test]
async fn a_node_that_is_put_away_ends_its_instances_and_starts_them_anew() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    let mut agent = world.agent.take().unwrap();
    agent.leave().await;
    // Out of the tables first, and only then stopped.
    let last = world.plane.last_report().instances.remove(0);
    assert_eq!((&*last.observed, &*last.reason_code), ("STOPPING", "node_stopped"));
    assert!(is_alive(child) && is_alive(shim));
    agent.shutdown_with_instances().await;
    assert!(!is_alive(child) && !is_alive(shim));
    let last = world.plane.last_report().instances.remove(0);
    assert_eq!((&*last.observed, &*last.reason_code), ("STOPPED", "node_stopped"));

    world.agent = Some(world.start_agent(|_| {}).await);
    until("it runs again", || world.log("a-1-0", "stdout").matches("up ").count() == 2).await;
    let seen = world.plane.observed("a-1-0", "READY").await;
    assert_eq!((seen.restarts, &*seen.reason_code), (0, ""), "that was no crash");
}

#[tokio::test]
async fn a_node_that_nobody_hears_is_put_away_all_the_same() {
    let mut world = World::new().await;
    let heard = world.agent.as_ref().unwrap().was_heard();
    let slice = world.fixture(&[], "");
    world.plane.take_nothing();
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    assert!(!heard(), "nothing was confirmed");
    let (shim, child) = world.pids("a-1-0");
    let put_away = world.agent.take().unwrap().shutdown_with_instances();
    tokio::time::timeout(LIMIT, put_away).await.unwrap();
    assert!(!is_alive(child) && !is_alive(shim));
}

#[tokio::test]
async fn a_node_is_heard_with_its_first_report() {
    let mut world = World::without_agent().await;
    world.plane.want(5, vec![]);
    world.agent = Some(world.start_agent(|_| {}).await);
    let heard = world.agent.as_ref().unwrap().was_heard();
    until("the first report is confirmed", &heard).await;
}

#[tokio::test]
async fn killed_instances_leave_nothing_behind_and_count_as_crashed() {
    let mut world = World::new().await;
    let slice = world.fixture(&["--ignore-term", "--grandchildren"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    world.stop_agent().await;
    aether_agent::kill_instances(&world.data_dir()).await;
    assert!(!is_alive(child) && !is_alive(shim));
    let log = world.log("a-1-0", "stdout");
    let line = log.lines().find_map(|line| line.strip_prefix("grandchildren ")).unwrap();
    assert!(line.split(' ').all(|pid| !is_alive(pid.parse().unwrap())), "{line}");
    world.agent = Some(world.start_agent(|_| {}).await);
    let again = |seen: &aether_proto::v1::InstanceObservation| {
        seen.observed == "READY" && seen.restarts == 1
    };
    world.plane.instance("a-1-0", "ready again", again).await;
}

#[tokio::test]
#[ignore = "takes the 15 s that a hung shim is given"]
async fn a_hung_shim_is_killed_with_its_slice_when_it_has_to_stop() {
    let world = World::new().await;
    let slice = world.fixture(&["--grandchildren"], "grace='100ms'");
    let assign = |desired| vec![slice.assign("a-1-0", desired, world.plane.address)];
    world.plane.want(5, assign("RUN"));
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    kill(Pid::from_raw(shim), Signal::SIGSTOP).unwrap();
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    assert!(!is_alive(child) && !is_alive(shim));
}

#[tokio::test]
#[ignore = "takes the 15 s that a hung shim is given"]
async fn a_shim_that_was_hung_before_the_agent_came_is_killed_too() {
    let mut world = World::new().await;
    let slice = world.fixture(&[], "");
    let address = world.plane.address;
    let assign = |desired| vec![slice.assign("a-1-0", desired, address)];
    world.plane.want(5, assign("RUN"));
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    world.stop_agent().await;
    kill(Pid::from_raw(shim), Signal::SIGSTOP).unwrap();
    world.agent = Some(world.start_agent(|_| {}).await);
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    assert!(!is_alive(child) && !is_alive(shim));
}
