//! Running processes are told to read their files again.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aether_core::records::Configuration;
use aether_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::world::{FIXTURE, Slice, World, is_alive, until};

const ID: &str = "a-1-0";
const MANIFEST: &str = "config_files=['app.conf']\nreload_signal='SIGHUP'\n\
                        [ready]\ninterval='100ms'\n";

fn config(value: &str) -> Configuration {
    let files = [("app.conf".to_owned(), format!("{value} on ${{PORT}}").into())].into();
    Configuration { files, env: Default::default() }
}

fn sent(config: &Configuration) -> v1::InstanceConfig {
    v1::InstanceConfig {
        sha256: config.digest(),
        files: config.files.iter().map(|(path, text)| (path.clone(), text.to_string())).collect(),
        env: Default::default(),
    }
}

/// Wants one instance with this value, which it is to have by this reload.
fn want(world: &World, slice: &Slice, index: u64, value: &str, reload: u64) {
    world.plane.configs(["one", "two"].map(|value| sent(&config(value))).into());
    let assignment = v1::Assignment {
        config_sha256: config(value).digest(),
        reload,
        ..slice.assign(ID, "RUN", world.plane.address)
    };
    world.plane.want(index, vec![assignment]);
}

/// A world in which one instance of the fixture with these switches is ready with "one".
async fn with_one(switches: &[&str]) -> (World, Slice) {
    let world = World::new().await;
    let slice = world.fixture(switches, MANIFEST);
    want(&world, &slice, 5, "one", 0);
    world.plane.observed(ID, "READY").await;
    (world, slice)
}

async fn reloaded(world: &World, reload: u64) -> v1::InstanceObservation {
    let what = format!("has reload {reload}");
    world
        .plane
        .instance(ID, &what, |seen| seen.reloaded == reload && seen.observed == "READY")
        .await
}

/// What the process has said that it read, in order.
fn read(world: &World) -> Vec<String> {
    let log = world.log(ID, "stdout");
    let lines = log.lines().filter(|line| line.starts_with("read") || line.starts_with("reload"));
    lines.map(|line| line.rsplit_once(" on ").map_or(line, |(said, _)| said).to_owned()).collect()
}

#[tokio::test]
async fn files_are_laid_then_the_process_is_told_and_stays() {
    let world = World::new().await;
    let slice = world.fixture(&["--reload"], MANIFEST);
    want(&world, &slice, 5, "one", 0);
    let before = world.plane.observed(ID, "READY").await;
    assert_eq!(before.reloaded, 0);
    let pids = world.pids(ID);
    want(&world, &slice, 6, "two", 6);
    let after = reloaded(&world, 6).await;
    assert_eq!((after.endpoint, after.restarts), (before.endpoint.clone(), 0));
    until("it has read them", || read(&world) == ["read one", "reloaded two"]).await;
    let port = before.endpoint.rsplit_once(':').unwrap().1;
    let file = fs::read_to_string(world.instance_dir(ID).join("work/app.conf")).unwrap();
    assert_eq!(file, format!("two on {port}"));
    // And back. What is told again is not done again.
    want(&world, &slice, 7, "one", 7);
    reloaded(&world, 7).await;
    want(&world, &slice, 8, "one", 7);
    world.plane.reports_after_now(2).await;
    until("it has read them", || read(&world).len() == 3).await;
    assert_eq!(read(&world), ["read one", "reloaded two", "reloaded one"]);
    assert_eq!(world.pids(ID), pids);
}

#[tokio::test]
async fn an_agent_that_ends_before_the_signal_is_followed_by_one_that_sends_it() {
    let mut world = World::new().await;
    let slice = world.fixture(&["--reload"], MANIFEST);
    want(&world, &slice, 5, "one", 0);
    world.plane.observed(ID, "READY").await;
    let pids = world.pids(ID);
    want(&world, &slice, 6, "two", 6);
    reloaded(&world, 6).await;
    until("it has read them", || read(&world).len() == 2).await;
    world.stop_agent().await;
    // As it would be had it been killed between its note and the signal.
    let kept = world.instance_dir(ID).join("reload.json");
    let mut note: serde_json::Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(note["done"], true);
    note["done"] = json!(false);
    fs::write(&kept, note.to_string()).unwrap();
    world.agent = Some(world.start_agent(|_| {}).await);
    reloaded(&world, 6).await;
    until("it has read them again", || read(&world).len() == 3).await;
    // One that comes after the signal only says so.
    world.stop_agent().await;
    world.agent = Some(world.start_agent(|_| {}).await);
    reloaded(&world, 6).await;
    assert_eq!(read(&world), ["read one", "reloaded two", "reloaded two"]);
    assert_eq!(world.pids(ID), pids);
}

#[tokio::test]
async fn what_was_told_while_no_agent_was_there_is_done_by_the_next() {
    let mut world = World::new().await;
    let slice = world.fixture(&["--reload"], MANIFEST);
    want(&world, &slice, 5, "one", 0);
    world.plane.observed(ID, "READY").await;
    let pids = world.pids(ID);
    world.stop_agent().await;
    want(&world, &slice, 6, "two", 6);
    world.agent = Some(world.start_agent(|_| {}).await);
    reloaded(&world, 6).await;
    until("it has read them", || read(&world) == ["read one", "reloaded two"]).await;
    assert_eq!(world.pids(ID), pids);
}

#[tokio::test]
async fn a_process_that_does_not_catch_the_signal_is_spared_and_named() {
    let (world, slice) = with_one(&[]).await;
    let pids = world.pids(ID);
    want(&world, &slice, 6, "two", 6);
    let seen = world.plane.reason(ID, "reload_failed").await;
    assert_eq!((&*seen.observed, seen.reloaded), ("READY", 0));
    assert!(seen.reason_message.contains("does not catch SIGHUP"), "{}", seen.reason_message);
    // It never had another configuration, so that going back needs no signal.
    want(&world, &slice, 7, "one", 7);
    let seen = reloaded(&world, 7).await;
    assert_eq!(seen.reason_code, "");
    assert_eq!(world.pids(ID), pids);
    assert!(is_alive(pids.1));
}

#[tokio::test]
async fn a_process_that_ends_at_the_signal_is_started_with_the_new_files() {
    let (world, slice) = with_one(&["--exit-at-reload"]).await;
    want(&world, &slice, 6, "two", 6);
    let seen = world.plane.instance(ID, "restarted", |seen| {
        seen.reloaded == 6 && seen.restarts == 1 && seen.observed == "READY"
    });
    seen.await;
    assert_eq!(read(&world), ["read one", "reloaded two", "read two"]);
}

#[tokio::test]
async fn a_killed_shim_is_replaced_by_one_with_the_files_of_the_last_reload() {
    let (world, slice) = with_one(&["--reload"]).await;
    want(&world, &slice, 6, "two", 6);
    reloaded(&world, 6).await;
    kill(Pid::from_raw(world.pids(ID).0), Signal::SIGKILL).unwrap();
    let again = world.plane.instance(ID, "started again", |seen| {
        seen.reloaded == 6 && seen.restarts == 1 && seen.observed == "READY"
    });
    again.await;
    assert_eq!(read(&world).last().unwrap(), "read two");
}

/// The slice of a shim of the first release, which does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // proc(5): starttime is field 22, the name ends field 2.
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_ascii_whitespace().nth(19).unwrap().parse().unwrap()
}

fn frozen(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen").join(name);
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn the_process_of_a_shim_of_the_first_release_is_told_too() {
    let world = World::without_agent().await;
    let dir = world.instance_dir(ID);
    let work = dir.join("work");
    fs::create_dir_all(&work).unwrap();
    let slice = world.fixture(&["--reload"], MANIFEST);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(work.join("app.conf"), "one on 1").unwrap();
    let log = fs::File::create(dir.join("said")).unwrap();
    let child = Command::new(FIXTURE)
        .args(["slice", "--reload"])
        .env("PORT", port.port().to_string())
        .current_dir(&work)
        .stdout(Stdio::from(log))
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let pid = process.0.id();
    let mut spec: serde_json::Value = serde_json::from_str(&frozen("spec-bare.json")).unwrap();
    spec["listen"] = json!(port);
    spec["work_dir"] = json!(work);
    spec["digest"] = json!(slice.digest);
    fs::write(dir.join("spec.json"), spec.to_string()).unwrap();
    let running = frozen("states.txt").lines().next().unwrap().to_owned();
    let mut running: serde_json::Value = serde_json::from_str(&running).unwrap();
    running["child"] = json!({ "pid": pid, "start_ticks": start_ticks(pid) });
    fs::write(dir.join("state.json"), running.to_string()).unwrap();
    let lock = fs::File::create(dir.join("shim.lock")).unwrap();
    #[allow(deprecated)] // `Flock` unlocks on drop.
    nix::fcntl::flock(lock.as_raw_fd(), nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let socket = UnixListener::bind(dir.join("shim.sock")).unwrap();
    let stopped = frozen("states.txt").lines().last().unwrap().to_owned();
    let (state, end) = (running.to_string(), dir.join("state.json"));
    let shim = std::thread::spawn(move || {
        let (mut agent, _) = socket.accept().unwrap();
        agent.write_all(format!("{state}\n").as_bytes()).unwrap();
        let mut told = String::new();
        BufReader::new(&agent).read_line(&mut told).unwrap();
        fs::write(end, &stopped).unwrap();
        agent.write_all(format!("{stopped}\n").as_bytes()).unwrap();
        drop(lock);
        told
    });
    // Its tree, which an agent of then has unpacked.
    let tree = world.data_dir().join("unpacked").join(&slice.digest);
    fs::create_dir_all(&tree).unwrap();
    let agent = world.start_agent(|_| {}).await;
    want(&world, &slice, 6, "two", 6);
    reloaded(&world, 6).await;
    let said = || fs::read_to_string(dir.join("said")).unwrap();
    until("it has read them", || said().contains("reloaded two on")).await;
    assert!(process.0.try_wait().unwrap().is_none());
    let stop = slice.assign(ID, "STOP", world.plane.address);
    world.plane.want(7, vec![stop]);
    world.plane.observed(ID, "STOPPED").await;
    assert_eq!(shim.join().unwrap(), "stop\n", "it was asked for nothing else");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_deaf_process_that_was_restarted_once_goes_back_to_what_it_never_left() {
    let (world, slice) = with_one(&[]).await;
    kill(Pid::from_raw(world.pids(ID).1), Signal::SIGKILL).unwrap();
    let again = |seen: &v1::InstanceObservation| seen.restarts == 1 && seen.observed == "READY";
    world.plane.instance(ID, "restarted", again).await;
    let pids = world.pids(ID);
    want(&world, &slice, 6, "two", 6);
    world.plane.reason(ID, "reload_failed").await;
    want(&world, &slice, 7, "one", 7);
    assert_eq!(reloaded(&world, 7).await.reason_code, "");
    assert_eq!(world.pids(ID), pids);
}

#[tokio::test]
async fn a_restored_cluster_that_knows_of_no_reload_gets_its_files_back() {
    let (world, slice) = with_one(&["--reload"]).await;
    want(&world, &slice, 6, "two", 6);
    reloaded(&world, 6).await;
    until("it has read them", || read(&world).len() == 2).await;
    // The next incarnation began with a backup from before the reload.
    want(&world, &slice, 7, "one", 0);
    until("it has read them", || read(&world).last().unwrap() == "reloaded one").await;
    reloaded(&world, 0).await;
    world.plane.reports_after_now(2).await;
    assert_eq!(read(&world), ["read one", "reloaded two", "reloaded one"]);
}

#[tokio::test]
async fn files_that_cannot_be_laid_for_a_moment_are_no_failure() {
    let (world, slice) = with_one(&["--reload"]).await;
    // Where each file is written before it is put in its place.
    let in_the_way = world.instance_dir(ID).join("work.new");
    fs::create_dir(&in_the_way).unwrap();
    want(&world, &slice, 6, "two", 6);
    until("it is tried", || world.instance_dir(ID).join("reload.json").exists()).await;
    for _ in 0..5 {
        let report = world.plane.reports_after_now(1).await;
        assert_eq!(report.instances[0].reason_code, "");
    }
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(reloaded(&world, 6).await.reason_code, "");
    // And one that lasts is.
    fs::create_dir(&in_the_way).unwrap();
    want(&world, &slice, 7, "one", 7);
    let seen = world.plane.reason(ID, "reload_failed").await;
    assert!(seen.reason_message.contains("app.conf"), "{}", seen.reason_message);
}

#[tokio::test]
async fn a_reload_that_cannot_be_read_is_reported() {
    let (world, slice) = with_one(&["--reload"]).await;
    want(&world, &slice, 6, "never sent", 6);
    let seen = world.plane.reason(ID, "reload_failed").await;
    assert!(seen.reason_message.contains("configuration was not sent"), "{}", seen.reason_message);
    want(&world, &slice, 7, "two", 6);
    assert_eq!(reloaded(&world, 6).await.reason_code, "");
}

/// Has whoever opens a file wait for as long as it lives: fcntl(2), leases.
struct Held(fs::File);

impl Held {
    #[allow(unsafe_code)] // Nobody else wraps it.
    fn of(path: &Path) -> Self {
        use nix::libc;
        let file = fs::File::open(path).unwrap();
        // SAFETY: both take numbers only. Who waits is told by a signal, which would end us.
        let held = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
        };
        assert_eq!(held, 0, "{}", std::io::Error::last_os_error());
        Self(file)
    }
}

#[tokio::test]
async fn an_instance_whose_disk_hangs_is_stopped_and_told_something_else() {
    let world = World::new().await;
    let manifest = MANIFEST.replace("'app.conf'", "'app.conf','slice.toml'");
    let slice = world.fixture(&["--reload"], &manifest);
    want(&world, &slice, 5, "one", 0);
    world.plane.observed(ID, "READY").await;
    let listed = world.data_dir().join("unpacked").join(&slice.digest).join("slice.toml");
    let held = Held::of(&listed);
    let laid = || fs::read_to_string(world.instance_dir(ID).join("work/app.conf")).unwrap();
    want(&world, &slice, 6, "two", 6);
    until("the first file is laid", || laid().starts_with("two")).await;
    // It goes back before the other one is: nobody is told of the first.
    want(&world, &slice, 7, "one", 7);
    world.plane.reports_after_now(2).await;
    drop(held);
    reloaded(&world, 7).await;
    assert_eq!(read(&world), ["read one"]);
    // And the process is stopped while another hangs.
    let held = Held::of(&listed);
    want(&world, &slice, 8, "two", 8);
    until("the first file is laid", || laid().starts_with("two")).await;
    let process = world.pids(ID).1;
    world.plane.want(9, vec![slice.assign(ID, "STOP", world.plane.address)]);
    until("it is stopped", || !is_alive(process)).await;
    drop(held.0);
    world.plane.observed(ID, "STOPPED").await;
}
