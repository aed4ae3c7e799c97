//! Readiness and liveness by other means than a connection.

use std::fs;

use crate::world::{World, is_alive, until};

#[tokio::test]
async fn a_command_says_when_an_instance_is_ready() {
    let world = World::new().await;
    let slice = world.fixture(
        &[],
        "env={ GREETING='hello' }\n[ready]\ninterval='20ms'\nfailures=1\n\
         exec=['/bin/sh', '-c', 'test \"$GREETING $PORT $PWD\" = \"hello ${PORT} ${INSTANCE_DIR}\" || exit 2; test -e go || { echo not yet; exit 3; }']",
    );
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.reason("a-1-0", "probe_failed").await;
    assert_eq!(seen.observed, "STARTING");
    let expected = "exited with status 3; its last line: not yet";
    assert!(seen.reason_message.ends_with(expected), "{}", seen.reason_message);
    let go = world.instance_dir("a-1-0").join("work/go");
    fs::write(&go, "").unwrap();
    world.plane.observed("a-1-0", "READY").await;
    fs::remove_file(&go).unwrap();
    world.plane.observed("a-1-0", "UNREADY").await;
    assert_eq!(world.plane.last_report().instances[0].restarts, 0, "it is left alone");
}

#[tokio::test]
async fn an_instance_that_is_not_alive_is_stopped_killed_and_started_again() {
    let world = World::new().await;
    let slice = world.fixture(
        &["--ignore-term", "--grandchildren"],
        "grace='300ms'\n[live]\ninterval='20ms'\nfailures=2\n\
         exec=['/bin/sh', '-c', 'test ! -e dead || { echo deadlock; exit 1; }']",
    );
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let (shim, child) = world.pids("a-1-0");
    let log = world.log("a-1-0", "stdout");
    let line = log.lines().find_map(|line| line.strip_prefix("grandchildren ")).unwrap();
    let mut pids: Vec<i32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    pids.push(child);
    let dead = world.instance_dir("a-1-0").join("work/dead");
    fs::write(&dead, "").unwrap();
    let seen = world.plane.reason("a-1-0", "liveness_failed").await;
    for part in ["2 liveness probes in a row failed", "exited with status 1", "deadlock"] {
        assert!(seen.reason_message.contains(part), "{}", seen.reason_message);
    }
    world.plane.instance("a-1-0", "restarted", |seen| seen.restarts > 0).await;
    fs::remove_file(&dead).unwrap();
    world.plane.instance("a-1-0", "ready anew", |seen| seen.observed == "READY").await;
    until("it and all it started is gone", || pids.iter().all(|pid| !is_alive(*pid))).await;
    until("another process runs", || {
        let (_, now) = world.pids("a-1-0");
        now != child && is_alive(now)
    })
    .await;
    assert_eq!(world.pids("a-1-0").0, shim, "under the same supervisor");
}

#[tokio::test]
async fn an_order_to_stop_reaches_an_instance_that_is_being_restarted() {
    let world = World::new().await;
    let slice = world.fixture(
        &["--ignore-term"],
        "grace='2s'\n[live]\ninterval='20ms'\nfailures=1\nexec=['/bin/false']",
    );
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.reason("a-1-0", "liveness_failed").await;
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    let seen = world.plane.observed("a-1-0", "STOPPED").await;
    let (shim, _) = world.pids("a-1-0");
    until("its shim ends", || !is_alive(shim)).await;
    let state = fs::read_to_string(world.instance_dir("a-1-0").join("state.json")).unwrap();
    assert!(state.contains(r#""phase":"stopped""#), "{state}");
    assert!(seen.restarts <= 1, "{seen:?}");
}

#[tokio::test]
async fn an_instance_that_never_came_up_is_given_its_start_period() {
    let world = World::new().await;
    let more = |start_period: &str| {
        format!(
            "[ready]\nexec=['/bin/false']\n[live]\ninterval='20ms'\nfailures=1\n\
             exec=['/bin/false']\nstart_period='{start_period}'"
        )
    };
    let patient = world.fixture(&[], &more("1h"));
    let hasty = world.fixture(&["--"], &more("0s"));
    world.plane.want(
        5,
        vec![
            patient.assign("a-1-0", "RUN", world.plane.address),
            hasty.assign("a-1-1", "RUN", world.plane.address),
        ],
    );
    world.plane.instance("a-1-1", "restarted", |seen| seen.restarts >= 2).await;
    let seen = world.plane.instance("a-1-0", "seen", |_| true).await;
    assert_eq!(seen.restarts, 0, "{seen:?}");
}
