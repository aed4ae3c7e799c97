//! Instances that do not come up: each failure has a name and a sentence.

use aether_agent::{Agent, AgentError, Config};

use crate::world::{FIXTURE, World};

#[tokio::test]
async fn a_process_that_keeps_ending_is_a_crash_loop_with_its_last_words() {
    let world = World::new().await;
    let slice = world.fixture(&["--exit", "3"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world
        .plane
        .instance("a-1-0", "crashed 4 times", |seen| {
            seen.observed == "CRASHED" && seen.reason_message.contains("4 times in a row")
        })
        .await;
    assert_eq!(seen.reason_code, "crash_loop");
    assert_eq!(seen.restarts, 3);
    for part in ["exited with status 3", "fatal: no database"] {
        assert!(seen.reason_message.contains(part), "{}", seen.reason_message);
    }
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
}

#[tokio::test]
async fn a_signal_that_ended_the_process_is_named() {
    let world = World::new().await;
    let slice = world.slice(&["/bin/sh", "-c", "kill -SEGV $$"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "crashed").await;
    assert!(seen.reason_message.contains("ended by signal SIGSEGV"), "{}", seen.reason_message);
}

#[tokio::test]
async fn a_program_that_is_not_there_or_not_executable_is_named() {
    let world = World::new().await;
    let gone = world.slice(&["bin/gone"], "");
    let text = world.slice(&["./slice.toml"], "");
    world.plane.want(
        5,
        vec![
            gone.assign("a-1-0", "RUN", world.plane.address),
            text.assign("a-1-1", "RUN", world.plane.address),
        ],
    );
    let seen = world.plane.reason("a-1-0", "exec_failed").await;
    assert_eq!(seen.observed, "CRASHED");
    assert!(seen.reason_message.contains("bin/gone"), "{}", seen.reason_message);
    let seen = world.plane.reason("a-1-1", "exec_failed").await;
    assert!(seen.reason_message.contains("Permission denied"), "{}", seen.reason_message);
}

#[tokio::test]
async fn a_port_that_never_opens_is_said_so() {
    let world = World::new().await;
    let slice = world.fixture(&["--no-listen"], "");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "port_closed").await;
    assert_eq!(seen.observed, "STARTING");
    assert!(seen.reason_message.contains(&seen.endpoint), "{}", seen.reason_message);
}

#[tokio::test]
async fn an_archive_that_nobody_has_or_that_differs_is_fetched_when_it_is_there() {
    let world = World::new().await;
    let slice = world.fixture(&[], "");
    let other = world.fixture(&["--no-listen"], "");
    world.plane.publish(&slice.digest, other.archive.clone());
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "digest_mismatch").await;
    assert_eq!(seen.observed, "FETCHING");
    let mut unknown = slice.clone();
    unknown.digest = "0".repeat(64);
    let address = world.plane.address;
    world.plane.want(
        6,
        vec![slice.assign("a-1-0", "RUN", address), unknown.assign("a-1-1", "RUN", address)],
    );
    let seen = world.plane.reason("a-1-1", "fetch_failed").await;
    assert!(seen.reason_message.contains("nobody holds it"), "{}", seen.reason_message);
    world.plane.publish(&slice.digest, slice.archive.clone());
    world.plane.observed("a-1-0", "READY").await;
}

#[tokio::test]
async fn an_archive_that_is_none_is_an_unpack_failure() {
    let world = World::new().await;
    let mut slice = world.fixture(&[], "");
    let junk = b"no archive".to_vec();
    slice.digest = aether_agent::artifact::Digest::of(&junk).to_string();
    world.plane.publish(&slice.digest, junk);
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.reason("a-1-0", "unpack_failed").await;
}

#[tokio::test]
async fn an_assignment_that_cannot_be_read_is_reported_and_can_be_stopped() {
    let world = World::new().await;
    let slice = world.fixture(&[], "");
    let mut bad = slice.assign("a-1-0", "RUN", world.plane.address);
    bad.manifest_json = r#"{"colour":"red"}"#.to_owned();
    world.plane.want(5, vec![bad.clone(), slice.assign("a-1-1", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "bad_assignment").await;
    assert!(seen.reason_message.contains("colour"), "{}", seen.reason_message);
    world.plane.observed("a-1-1", "READY").await;
    bad.desired = "STOP".to_owned();
    world.plane.want(6, vec![bad, slice.assign("a-1-1", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPED").await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let world = World::new().await;
    let config = Config::new(
        "node-2".parse().unwrap(),
        world.data_dir(),
        vec![world.plane.address],
        world.plane.address,
        vec![FIXTURE.into(), "shim".into()],
    );
    let error = Agent::start(config).await.expect_err("it is refused");
    assert!(matches!(error, AgentError::Locked(_)), "{error}");
}
