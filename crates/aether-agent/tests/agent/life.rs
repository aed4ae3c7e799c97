//! An instance from its assignment to its end.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aether_proto::v1::{self, InstanceObservation};

use crate::plane::Plane;
use crate::world::{World, is_alive, until};

#[tokio::test]
async fn an_assigned_instance_becomes_ready_with_a_port_and_a_clean_environment() {
    let world = World::new().await;
    let slice =
        world.fixture(&[], "env={ GREETING='${VERSION} on ${PORT}' }\n[ready]\nhttp='/ready'");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    let seen = world.plane.observed("a-1-0", "READY").await;
    let endpoint: std::net::SocketAddr = seen.endpoint.parse().unwrap();
    assert!((10_000..30_000).contains(&endpoint.port()), "{endpoint}");
    assert!(TcpStream::connect(endpoint).is_ok());
    assert_eq!((seen.restarts, seen.reason_code.as_str()), (0, ""));
    assert_eq!(world.plane.last_report().holds_sha256, std::slice::from_ref(&slice.digest));
    assert_eq!(world.plane.hello().node, "node-1");
    assert_eq!(world.plane.hello().protocol, 1);

    let log = world.log("a-1-0", "stdout");
    let mut names: Vec<_> =
        log.lines().filter_map(|line| line.strip_prefix("env ")?.split('=').next()).collect();
    names.sort_unstable();
    let expected =
        ["AETHER_INSTANCE", "AETHER_SLICE", "AETHER_VERSION", "GREETING", "HOST", "PATH", "PORT"];
    assert_eq!(names, expected);
    assert!(log.contains(&format!("env GREETING=1.0.0 on {}", endpoint.port())), "{log}");
}

#[tokio::test]
async fn an_instance_runs_with_the_configuration_that_it_is_assigned() {
    let world = World::new().await;
    let slice = world.fixture(&[], "config_files=['app.conf']\nenv={ MODE='manifest' }");
    let config = |value: &str| {
        let files = [("app.conf".to_owned(), format!("{value} on ${{PORT}}").into())].into();
        let env = [("MODE".to_owned(), value.to_owned())].into();
        aether_core::records::Configuration { files, env }
    };
    let sent = |config: &aether_core::records::Configuration| v1::InstanceConfig {
        sha256: config.digest(),
        files: config.files.iter().map(|(path, text)| (path.clone(), text.to_string())).collect(),
        env: config.env.clone(),
    };
    let (one, two) = (config("one"), config("two"));
    world.plane.configs(vec![sent(&one), sent(&two)]);
    let assign = |id: &str, config: &aether_core::records::Configuration| v1::Assignment {
        config_sha256: config.digest(),
        ..slice.assign(id, "RUN", world.plane.address)
    };
    world.plane.want(5, vec![assign("a-1-0", &one), assign("a-1-1", &two)]);
    for (id, value) in [("a-1-0", "one"), ("a-1-1", "two")] {
        let seen = world.plane.observed(id, "READY").await;
        let port = seen.endpoint.rsplit_once(':').unwrap().1.to_owned();
        let file = fs::read_to_string(world.instance_dir(id).join("work/app.conf")).unwrap();
        assert_eq!(file, format!("{value} on {port}"), "though the artifact has no such file");
        let log = world.log(id, "stdout");
        assert!(log.contains(&format!("env MODE={value}")), "{log}");
    }
    assert!(world.plane.hello().takes_configs);
}

#[tokio::test]
async fn many_instances_of_one_archive_start_side_by_side() {
    let world = World::new().await;
    let slice = world.fixture(&[], "");
    let names: Vec<_> = (0..8).map(|n| format!("a-1-{n}")).collect();
    let assign = |name: &String| slice.assign(name, "RUN", world.plane.address);
    world.plane.want(5, names.iter().map(assign).collect());
    let mut ports = Vec::new();
    for name in &names {
        ports.push(world.plane.observed(name, "READY").await.endpoint);
    }
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), names.len(), "each has a port of its own");
}

#[tokio::test]
async fn drain_changes_nothing_and_stop_ends_in_stopped_until_it_is_forgotten() {
    let world = World::new().await;
    let slice = world.fixture(&[], "");
    let say = |index, desired| {
        world.plane.want(index, vec![slice.assign("a-1-0", desired, world.plane.address)]);
    };
    say(5, "RUN");
    let endpoint = world.plane.observed("a-1-0", "READY").await.endpoint;
    let (shim, child) = world.pids("a-1-0");
    assert!(world.data_dir().join("unpacked").join(&slice.digest).exists());
    say(6, "DRAIN");
    let report = world.plane.reports_after_now(1).await;
    assert_eq!(report.instances[0].observed, "READY");
    assert!(is_alive(child));
    say(7, "STOP");
    let seen = world.plane.observed("a-1-0", "STOPPED").await;
    assert_eq!(seen.endpoint, endpoint);
    assert!(!is_alive(child), "gone before it is reported");
    until("the shim ends", || !is_alive(shim)).await;
    let report = world.plane.reports_after_now(2).await;
    assert_eq!(report.instances[0].observed, "STOPPED", "as long as it is named");
    world.plane.want(8, vec![]);
    world.plane.report("nothing", |report| report.instances.is_empty()).await;
    until("its files go", || !world.instance_dir("a-1-0").exists()).await;
    let unpacked = world.data_dir().join("unpacked").join(&slice.digest);
    until("its unpacked tree goes", || !unpacked.exists()).await;
    let kept = fs::read_to_string(world.data_dir().join("logs/a-1-0/stdout.log")).unwrap();
    assert!(kept.contains("up "), "{kept}");
}

#[tokio::test]
async fn a_port_is_not_given_out_again_soon() {
    // Neither in the range of agents nor in that of Linux, and still another
    // process may have one of the two, or have had it a minute ago.
    for attempt in 0..50 {
        let first = 30_000 + 2 * ((std::process::id() + 97 * attempt) % 1_384);
        if a_port_rests(u16::try_from(first).unwrap()).await {
            return;
        }
    }
    panic!("of 50 pairs of ports none was free");
}

/// False if one of the two ports from `first` on is not to be had.
async fn a_port_rests(first: u16) -> bool {
    let world = World::without_agent().await;
    let agent = world.start_agent(|config| config.ports = first..=first + 1).await;
    let slice = world.fixture(&[], "");
    let assign = |name, desired| slice.assign(name, desired, world.plane.address);
    let start = async |name| {
        let started =
            |seen: &InstanceObservation| seen.observed == "READY" || seen.reason_code == "no_port";
        let seen = world.plane.instance(name, "READY, or without a port", started).await;
        (seen.observed == "READY").then_some(seen.endpoint)
    };
    world.plane.want(5, vec![assign("a-1-0", "RUN")]);
    let Some(one) = start("a-1-0").await else { return false };
    world.plane.want(6, vec![assign("a-1-0", "STOP")]);
    world.plane.observed("a-1-0", "STOPPED").await;
    world.plane.want(7, vec![assign("a-1-1", "RUN")]);
    let Some(two) = start("a-1-1").await else { return false };
    assert_ne!(one, two);
    world.plane.want(8, vec![assign("a-1-1", "RUN"), assign("a-1-2", "RUN")]);
    let seen = world.plane.reason("a-1-2", "no_port").await;
    assert_eq!(seen.observed, "STARTING");
    assert!(seen.reason_message.contains("wider range"), "{}", seen.reason_message);
    agent.shutdown().await;
    true
}

#[tokio::test]
async fn stop_is_signal_then_grace_then_kill_of_everything_it_started() {
    let world = World::new().await;
    let slice = world.fixture(&["--ignore-term", "--grandchildren"], "grace='300ms'");
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    let log = world.log("a-1-0", "stdout");
    let line = log.lines().find_map(|line| line.strip_prefix("grandchildren ")).unwrap();
    let mut pids: Vec<i32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    pids.push(world.pids("a-1-0").1);
    assert!(pids.iter().all(|pid| is_alive(*pid)));

    let asked = Instant::now();
    world.plane.want(6, vec![slice.assign("a-1-0", "STOP", world.plane.address)]);
    world.plane.observed("a-1-0", "STOPPING").await;
    let stopped = world.plane.observed("a-1-0", "STOPPED").await;
    let how = "it did not end within 300ms of SIGTERM and was killed";
    assert_eq!((&*stopped.reason_code, &*stopped.reason_message), ("killed", how));
    assert!(asked.elapsed() >= Duration::from_millis(300), "it had its grace time");
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "also the one that left the group");
}

#[tokio::test]
async fn a_change_of_readiness_is_reported_at_once() {
    let world = World::new().await;
    let unready = world.dir.path().join("unready");
    let slice = world.fixture(
        &["--unready-file", unready.to_str().unwrap()],
        "[ready]\nhttp='/'\ninterval='20ms'\nfailures=1",
    );
    world.plane.want(5, vec![slice.assign("a-1-0", "RUN", world.plane.address)]);
    world.plane.observed("a-1-0", "READY").await;
    fs::write(&unready, "").unwrap();
    let seen = world.plane.observed("a-1-0", "UNREADY").await;
    assert_eq!(seen.reason_code, "probe_failed");
    assert!(seen.reason_message.contains("http status 503"), "{}", seen.reason_message);
    let mut delays = Vec::new();
    for _ in 0..5 {
        fs::remove_file(&unready).unwrap();
        let changed = Instant::now();
        world.plane.observed("a-1-0", "READY").await;
        delays.push(changed.elapsed());
        fs::write(&unready, "").unwrap();
        world.plane.observed("a-1-0", "UNREADY").await;
    }
    delays.sort();
    // A probe interval, a probe and a report. The median: the machine is shared.
    assert!(delays[2] < Duration::from_millis(100), "{delays:?}");
}

#[tokio::test]
async fn without_a_control_plane_all_goes_on_and_another_voter_is_found() {
    let mut world = World::without_agent().await;
    let other = Plane::start(None).await;
    let voters = vec![other.address, world.plane.address];
    let agent = world.start_agent(|config| config.control_plane = voters).await;
    let slice = world.fixture(&[], "");
    let assign = |desired| vec![slice.assign("a-1-0", desired, world.plane.address)];
    other.want(5, assign("RUN"));
    other.observed("a-1-0", "READY").await;
    let pids = world.pids("a-1-0");
    drop(other);
    let seen = world.plane.observed("a-1-0", "READY").await;
    assert_eq!((seen.restarts, world.pids("a-1-0")), (0, pids), "nothing happened to it");
    world.plane.want(6, assign("STOP"));
    world.plane.observed("a-1-0", "STOPPED").await;
    agent.shutdown().await;
    world.agent = None;
}
